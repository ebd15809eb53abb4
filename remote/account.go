// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"

	"github.com/ntap-project/ntap/perf"
)

// An Account says what became of every frame that the kernel counted, or that
// a capture file holds. It is kept up to date while the remote runs; once Run
// has returned it is final.
type Account struct {
	Tap       uint32
	Name      string
	Session   uint64
	Suite     string
	Collector netip.AddrPort
	Shards    []*ShardAccount

	// Also are the accounts towards further collectors: each has a session of
	// its own. What was captured is the same in all.
	Also []*Account

	tap *tap
}

// An InterfaceCount counts the frames taken of one interface of a set, which
// has the ring in common with the others: what the kernel dropped there is not
// known by interface.
type InterfaceCount struct {
	Frames, Bytes perf.Counter
}

// An InterfaceTotal is the sum of those over the shards.
type InterfaceTotal struct {
	Name          string
	Frames, Bytes uint64
}

// A ShardAccount counts for one shard towards one collector. Frames: Captured =
// KernelDrops + TooLong + Sampled + Duplicates + OverRate + Broken + Elsewhere +
// Sealed once the shard has ended.
type ShardAccount struct {
	*CaptureAccount // the same for all collectors

	Elsewhere   perf.Counter // frames that went to other collectors, which share them
	Sealed      perf.Counter // frames in sealed datagrams
	SealedBytes perf.Counter // bytes of those frames
	Datagrams   perf.Counter // data datagrams sealed
	Sent        perf.Counter // datagrams of all kinds that the kernel took
	SentBytes   perf.Counter // UDP payload bytes of those
	Unsent      perf.Counter // datagrams that the kernel did not take
	Refused     perf.Counter // answers that nobody listens at the collector's port
	_           perf.Pad

	Tunnel *TunnelAccount // nil: there is a collector; then Captured = KernelDrops + shed + Tunnel.Taken
}

// A CaptureAccount counts what a shard captured, whoever gets it.
type CaptureAccount struct {
	Interface  string           // or the patterns of a set, or the capture file's path
	Interfaces []InterfaceCount // of a set, by number in the announce; none otherwise
	renamed    atomic.Pointer[string]

	Captured    perf.Counter // frames that the kernel counted behind the filter, or that the file gave
	LeftOut     perf.Counter // frames of the file that the filter did not take; not among Captured
	KernelDrops perf.Counter // frames dropped by the kernel: the ring was full
	Freezes     perf.Counter // times the ring was full
	TooLong     perf.Counter // frames longer than a record can carry
	Sampled     perf.Counter // frames of flows that sampling leaves out
	Duplicates  perf.Counter // frames seen before on another interface
	OverRate    perf.Counter // frames beyond the rate limit
	Broken      perf.Counter // frames while the breaker was open
	Sliced      perf.Counter // frames cut behind their headers
	Masked      perf.Counter // frames whose payload was masked
	Unsummed    perf.Counter // of those, with a checksum that cannot be known
	Evened      perf.Counter // frames stamped before the one ahead of them, which got its time
	Clamped     perf.Counter // frames sent cut, though nobody asked for that: they fit no block
	Unstamped   perf.Counter // frames received with the kernel's time, though the network card's was asked for
	SetBack     perf.Counter // times the clock that stamps frames was set back
	Reopened    perf.Counter // times the capture was opened anew: its interface, or its namespace, was replaced
	_           perf.Pad
}

// Name returns what was captured, with the name that it has by now if it is an
// interface that was renamed.
func (a *CaptureAccount) Name() string {
	if now := a.renamed.Load(); now != nil {
		return a.Interface + ", now " + *now + ","
	}
	return a.Interface
}

// left returns the frames captured that no collector got.
func (a *CaptureAccount) left() uint64 {
	return a.KernelDrops.Load() + a.TooLong.Load() + a.shed()
}

// shed returns those that were left out as the Shape has it.
func (a *CaptureAccount) shed() uint64 {
	return a.Sampled.Load() + a.Duplicates.Load() + a.OverRate.Load() + a.Broken.Load()
}

// A Total is the sum over shards.
type Total struct {
	Captured, Elsewhere, LeftOut, KernelDrops, Freezes, TooLong, Sealed, SealedBytes uint64
	Datagrams, Sent, SentBytes, Unsent, Refused, Reopened                            uint64
	Sampled, Duplicates, OverRate, Broken, Sliced, Masked, Unsummed, Evened, SetBack uint64
	Unstamped, Clamped                                                               uint64

	Unread uint64 // looks at which the breaker could not tell how busy the host is
}

// Shed returns the frames that were left out as the Shape has it.
func (t *Total) Shed() uint64 { return t.Sampled + t.Duplicates + t.OverRate + t.Broken }

// Total adds up the shards.
func (a *Account) Total() Total {
	var t Total
	for _, s := range a.Shards {
		t.Captured += s.Captured.Load()
		t.Elsewhere += s.Elsewhere.Load()
		t.LeftOut += s.LeftOut.Load()
		t.KernelDrops += s.KernelDrops.Load()
		t.Freezes += s.Freezes.Load()
		t.TooLong += s.TooLong.Load()
		t.Sealed += s.Sealed.Load()
		t.SealedBytes += s.SealedBytes.Load()
		t.Datagrams += s.Datagrams.Load()
		t.Sent += s.Sent.Load()
		t.SentBytes += s.SentBytes.Load()
		t.Unsent += s.Unsent.Load()
		t.Refused += s.Refused.Load()
		t.Reopened += s.Reopened.Load()
		t.Sampled += s.Sampled.Load()
		t.Duplicates += s.Duplicates.Load()
		t.OverRate += s.OverRate.Load()
		t.Broken += s.Broken.Load()
		t.Sliced += s.Sliced.Load()
		t.Masked += s.Masked.Load()
		t.Unsummed += s.Unsummed.Load()
		t.Evened += s.Evened.Load()
		t.SetBack += s.SetBack.Load()
		t.Unstamped += s.Unstamped.Load()
		t.Clamped += s.Clamped.Load()
	}
	if a.tap != nil && a.tap.breaker != nil {
		t.Unread = a.tap.breaker.unread.Load()
	}
	return t
}

// Interfaces returns what was taken of each interface of sets, in the order in
// which they came.
func (a *Account) Interfaces() (out []InterfaceTotal) {
	if a.tap == nil {
		return nil
	}
	a.tap.mu.Lock()
	known := a.tap.interfaces
	a.tap.mu.Unlock()
	for n, i := range known {
		t, of := InterfaceTotal{Name: i.Name}, false
		for _, s := range a.Shards {
			if n < len(s.Interfaces) {
				t.Frames += s.Interfaces[n].Frames.Load()
				t.Bytes += s.Interfaces[n].Bytes.Load()
				of = true
			}
		}
		if of && (t.Frames > 0 || a.tap.ofSet(n)) {
			out = append(out, t)
		}
	}
	return out
}

// Tunnel adds up what became of frames without a collector; nil: there is one.
func (a *Account) Tunnel() *TunnelAccount {
	var sum *TunnelAccount
	for _, s := range a.Shards {
		if s.Tunnel != nil {
			if sum == nil {
				sum = new(TunnelAccount)
			}
			sum.add(s.Tunnel)
		}
	}
	return sum
}

// Check returns an error if the account does not add up. It is meaningful once
// Run has returned: before, frames are on their way.
func (a *Account) Check() error {
	for _, a := range append([]*Account{a}, a.Also...) {
		for i, s := range a.Shards {
			if s.Tunnel != nil {
				if err := s.Tunnel.check(s.Captured.Load(), s.left()); err != nil {
					return fmt.Errorf("remote: shard %d (%s): %w", i, s.Interface, err)
				}
				continue
			}
			in := s.Captured.Load()
			out := s.left() + s.Elsewhere.Load() + s.Sealed.Load()
			if in != out {
				return fmt.Errorf("remote: to %s: shard %d (%s): %d frames captured, but %d sealed, %d for other collectors, %d dropped by the kernel, %d too long and %d shed make %d",
					a.to(), i, s.Interface, in, s.Sealed.Load(), s.Elsewhere.Load(), s.KernelDrops.Load(), s.TooLong.Load(), s.shed(), out)
			}
		}
	}
	return nil
}

// Print writes the account in the manner of tcpdump.
func (a *Account) Print(w io.Writer) {
	if a.Tunnel() != nil {
		fmt.Fprintf(w, "tap %d %q to VTEP %v, %s\n", a.Tap, a.Name, a.Collector, a.Suite)
	} else {
		fmt.Fprintf(w, "tap %d %q to %s, session %016x, %s\n", a.Tap, a.Name, a.to(), a.Session, a.Suite)
	}
	for i, s := range a.Shards {
		fmt.Fprintf(w, "%10d frames captured on %s by shard %d\n", s.Captured.Load(), s.Name(), i)
	}
	for _, i := range a.Interfaces() {
		fmt.Fprintf(w, "%10d of those on %s, %d bytes\n", i.Frames, i.Name, i.Bytes)
	}
	t := a.Total()
	if t.LeftOut > 0 {
		fmt.Fprintf(w, "%10d frames of the file left out by the filter\n", t.LeftOut)
	}
	if t.Reopened > 0 {
		fmt.Fprintf(w, "%10d times a shard's capture was opened anew, since its interface or network namespace was replaced\n", t.Reopened)
	}
	fmt.Fprintf(w, "%10d frames dropped by the kernel (ring full %d times)\n", t.KernelDrops, t.Freezes)
	if t.TooLong > 0 {
		fmt.Fprintf(w, "%10d frames too long for a record\n", t.TooLong)
	}
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{t.Sampled, "frames of flows left out by sampling"}, {t.Duplicates, "frames seen before on another interface"},
		{t.OverRate, "frames beyond the rate limit"}, {t.Broken, "frames not sent while the host was too busy"},
		{t.Clamped, "frames cut, since they were longer than a block (--block)"},
		{t.Unread, "looks of the breaker that could not tell how busy the host is"},
		{t.Sliced, "frames cut behind their headers"}, {t.Masked, "frames without their payload"},
		{t.Unsummed, "of those with a checksum of 0, since theirs cannot be known"},
		{t.Evened, "frames stamped before the one ahead of them: given its time"}, {t.SetBack, "times the clock that stamps frames was set back"},
		{t.Unstamped, "frames that the network card did not stamp: they have the kernel's time"},
	} {
		if c.n > 0 {
			fmt.Fprintf(w, "%10d %s\n", c.n, c.what)
		}
	}
	if sum := a.Tunnel(); sum != nil {
		sum.print(w)
		return
	}
	a.printSent(w)
	for _, b := range a.Also {
		fmt.Fprintf(w, "and to %s, session %016x\n", b.to(), b.Session)
		b.printSent(w)
	}
}

// to says where the collector is: where it was when the remote started, or by
// its name, if that was not known.
func (a *Account) to() string {
	if !a.Collector.IsValid() && a.tap != nil {
		for _, d := range a.tap.destinations {
			if d.session == a.Session {
				return d.name
			}
		}
	}
	return a.Collector.String()
}

// printSent prints what went to the collector.
func (a *Account) printSent(w io.Writer) {
	t := a.Total()
	if t.Elsewhere > 0 {
		fmt.Fprintf(w, "%10d frames were for other collectors\n", t.Elsewhere)
	}
	fmt.Fprintf(w, "%10d frames, %d bytes, sealed in %d datagrams\n", t.Sealed, t.SealedBytes, t.Datagrams)
	fmt.Fprintf(w, "%10d datagrams of all kinds sent, %d bytes; %d not taken by the kernel; %d times nobody listened\n",
		t.Sent, t.SentBytes, t.Unsent, t.Refused)
}
