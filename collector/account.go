// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ntap-project/ntap/perf"
)

// An Account says what became of every datagram that came and of every frame
// that the remotes say they sealed. It is kept up to date while the collector
// runs; once Run has returned it is final.
type Account struct {
	Workers []*WorkerAccount

	flows            perf.Counter
	reloads, refused perf.Counter // configurations that came into force, and that could not be used

	mu      sync.Mutex
	taps    map[uint32]*tap // written by workers when a tap is first heard
	outputs []*OutputAccount
}

// Outputs returns the account of every output.
func (a *Account) Outputs() []*OutputAccount {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.outputs)
}

// A WorkerAccount counts datagrams for one worker: Received = Accepted +
// all Drops.
type WorkerAccount struct {
	Received perf.Counter // datagrams of any kind
	Bytes    perf.Counter // of those, UDP payload
	Accepted perf.Counter // verified, new and in time
	Drops    [NumDrops]perf.Counter
	Unpacked perf.Counter // frames as they were captured
	Cut      perf.Counter // frames that the outputs were given beyond those, since the wire saw one frame as several
	Uncut    perf.Counter // frames given as they were captured, though the wire saw several

	// Datagrams, or trains of them, for which a socket's buffer had no room:
	// that for known flows, or that for strangers.
	Socket, Strangers perf.Counter

	_ perf.Pad
}

// output returns the account of the output of that name, which it makes if need
// be. An output that comes back has the account that it had.
func (a *Account) output(name string, each bool) *OutputAccount {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.outputs {
		if o.Name == name {
			return o
		}
	}
	o := &OutputAccount{Name: name, each: each}
	a.outputs = append(a.outputs, o)
	return o
}

// forget forgets the account of an output that has another name.
func (a *Account) forget(o *OutputAccount) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.outputs, o); i >= 0 {
		a.outputs = slices.Delete(a.outputs, i, i+1)
	}
}

// Reloads returns how many configurations came into force since the start, and
// how many could not be used.
func (a *Account) Reloads() (good, bad uint64) { return a.reloads.Load(), a.refused.Load() }

// An OutputAccount names the counts of one output.
type OutputAccount struct {
	Name string
	each bool           // frames are given to each of several clients
	of   *OutputAccount // whose part it is; nil: it is none

	mu      sync.Mutex
	given   uint64           // frames, by workers that are done with them
	past    OutputTotal      // of parts that ended
	parts   []*OutputAccount // one for each time that the output is opened
	workers []*SinkCounts    // a worker adds its own when it starts
}

func (o *OutputAccount) add(c *SinkCounts) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.workers = append(o.workers, c)
}

// part returns a new part of the account.
func (o *OutputAccount) part() *OutputAccount {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := &OutputAccount{Name: o.Name, each: o.each, of: o}
	o.parts = append(o.parts, p)
	return p
}

// fold ends a part, whose counts are final.
func (o *OutputAccount) fold() {
	sum := o.Sum()
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	if i := slices.Index(o.of.parts, o); i >= 0 {
		o.of.parts = slices.Delete(o.of.parts, i, i+1)
		o.of.past.add(sum)
	}
}

// gave notes that a worker gave the output n frames.
func (o *OutputAccount) gave(n uint64) {
	if o.of != nil {
		o = o.of
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.given += n
}

// A TapTotal is the account of one tap: frames from the remote's capture to
// the outputs, over all its sessions that this collector saw.
type TapTotal struct {
	Tap      uint32
	Name     string
	Session  uint64 // the newest
	Sessions int
	Ended    bool // said bye

	// As the remote's reports say.
	Captured    uint64 // frames
	KernelDrops uint64 // frames
	TooLong     uint64 // frames
	Shed        uint64 // frames left out by a rate limit, sampling, as seen twice, or by a breaker
	Unsent      uint64 // datagrams of all kinds that left no trace on the wire, also before this collector listened
	Sealed      uint64 // frames

	// As this side counted.
	Before        uint64 // frames sealed before the collector came
	Unpacked      uint64 // frames given to the outputs
	Unreported    uint64 // frames of those that no report has covered yet
	Lost          uint64 // frames sealed that did not come
	LostDatagrams uint64 // data datagrams that did not come
	Datagrams     uint64 // data datagrams put in order

	unexplained uint64 // of Unreported, in sessions that said bye
}

// Taps returns the account of every tap that was heard, by tap ID.
func (a *Account) Taps() []TapTotal {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]TapTotal, 0, len(a.taps))
	for _, t := range a.taps {
		out = append(out, t.total())
	}
	slices.SortFunc(out, func(x, y TapTotal) int { return int(int64(x.Tap) - int64(y.Tap)) })
	return out
}

// Check returns an error if the account does not add up. It is meaningful once
// Run has returned.
func (a *Account) Check() error {
	var unpacked, cut uint64
	for i, w := range a.Workers {
		out := w.Accepted.Load()
		for d := range w.Drops {
			out += w.Drops[d].Load()
		}
		if in := w.Received.Load(); in != out {
			return fmt.Errorf("collector: worker %d: %d datagrams received, but accepted and dropped make %d", i, in, out)
		}
		unpacked += w.Unpacked.Load()
		cut += w.Cut.Load()
	}
	var byTap uint64
	for _, t := range a.Taps() {
		byTap += t.Unpacked
		if err := t.check(); err != nil {
			return err
		}
	}
	if byTap != unpacked {
		return fmt.Errorf("collector: %d frames unpacked by the workers, but the taps' make %d", unpacked, byTap)
	}
	for _, o := range a.Outputs() {
		s, given := o.Sum(), o.given
		if o.each {
			given = s.Given
		}
		if s.in() != given {
			return fmt.Errorf("collector: %s: %d frames given, but delivered and dropped make %d", o.Name, given, s.in())
		}
	}
	return nil
}

// check holds what the remote reported against what came. Before and Lost are
// computed from the reports, so the test is that they stay possible: nothing
// came that was not sealed, and nothing is missing where no datagram is.
func (t TapTotal) check() error {
	if covered := t.Unpacked - t.Unreported; t.Before+covered > t.Sealed || t.Before+covered+t.Lost != t.Sealed {
		return fmt.Errorf("collector: tap %d: %d frames sealed, but %d before, %d unpacked and %d lost",
			t.Tap, t.Sealed, t.Before, covered, t.Lost)
	}
	if t.Lost > 0 && t.LostDatagrams == 0 {
		return fmt.Errorf("collector: tap %d: %d frames are missing though no datagram is", t.Tap, t.Lost)
	}
	if t.unexplained > 0 {
		return fmt.Errorf("collector: tap %d: %d frames came that no report covers", t.Tap, t.unexplained)
	}
	return nil
}

// An OutputTotal is the sum of one output over workers, frames.
type OutputTotal struct {
	Name                                                  string
	Delivered, DeliveredBytes, Refused, Full, NotEthernet uint64
	TooLong, NoVNI, Sliced, Nobody, LeftOut, Remade       uint64
	Late, Hurried                                         uint64
	Given                                                 uint64 // to clients, where there are several
}

func (t OutputTotal) in() uint64 {
	return t.Delivered + t.Refused + t.Full + t.NotEthernet + t.TooLong + t.NoVNI + t.LeftOut
}

// rare lists what only some outputs count, where it occurred.
func (t OutputTotal) rare() string {
	var b strings.Builder
	for _, c := range []struct {
		n    uint64
		text string
	}{
		{t.LeftOut, "not selected"}, {t.TooLong, "too long for the path"}, {t.NoVNI, "of taps without a VNI"}, {t.Sliced, "cut"},
		{t.Nobody, "times the network said that nobody got them"}, {t.Remade, "times the device was deleted, and made anew"},
		{t.Late, "late for the merge, and given behind later ones"}, {t.Hurried, "merged before they had waited, for want of room"},
	} {
		if c.n > 0 {
			fmt.Fprintf(&b, ", %d %s", c.n, c.text)
		}
	}
	return b.String()
}

// Sum adds up the workers.
func (o *OutputAccount) Sum() OutputTotal {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.past
	t.Name = o.Name
	for _, c := range o.workers {
		t.count(c)
	}
	for _, p := range o.parts {
		t.add(p.Sum())
	}
	return t
}

// count adds the counts of one sink.
func (t *OutputTotal) count(c *SinkCounts) {
	t.Given += c.Given.Load()
	t.Delivered += c.Delivered.Load() - c.Unsent.Load()
	t.DeliveredBytes += c.DeliveredBytes.Load() - c.UnsentBytes.Load()
	t.Refused += c.Refused.Load() + c.Unsent.Load()
	t.Full += c.Full.Load()
	t.NotEthernet += c.NotEthernet.Load()
	t.LeftOut += c.LeftOut.Load()
	t.TooLong += c.TooLong.Load()
	t.NoVNI += c.NoVNI.Load()
	t.Sliced += c.Sliced.Load()
	t.Nobody += c.Nobody.Load()
	t.Remade += c.Remade.Load()
	t.Late += c.Late.Load()
	t.Hurried += c.Hurried.Load()
}

// add adds another total.
func (t *OutputTotal) add(u OutputTotal) {
	t.Given += u.Given
	t.Delivered += u.Delivered
	t.DeliveredBytes += u.DeliveredBytes
	t.Refused += u.Refused
	t.Full += u.Full
	t.NotEthernet += u.NotEthernet
	t.LeftOut += u.LeftOut
	t.TooLong += u.TooLong
	t.NoVNI += u.NoVNI
	t.Sliced += u.Sliced
	t.Nobody += u.Nobody
	t.Remade += u.Remade
	t.Late += u.Late
	t.Hurried += u.Hurried
}

// Drops returns how many datagrams were dropped for reason d.
func (a *Account) Drops(d Drop) uint64 {
	var n uint64
	for _, w := range a.Workers {
		n += w.Drops[d].Load()
	}
	return n
}

// Received returns the datagrams that came, of any kind.
func (a *Account) Received() uint64 {
	var n uint64
	for _, w := range a.Workers {
		n += w.Received.Load()
	}
	return n
}

// cut returns the sums of Cut and Uncut.
func (a *Account) cut() (cut, uncut uint64) {
	for _, w := range a.Workers {
		cut += w.Cut.Load()
		uncut += w.Uncut.Load()
	}
	return cut, uncut
}

// SocketDrops returns how often the kernel dropped a datagram, or a train of
// them, because a socket's buffer was full. How many datagrams that were, the
// taps' LostDatagrams say.
func (a *Account) SocketDrops() uint64 {
	var n uint64
	for _, w := range a.Workers {
		n += w.Socket.Load()
	}
	return n
}

// KnownFlows returns how many addresses and ports have a socket apart from
// strangers', since a stream comes from there.
func (a *Account) KnownFlows() int { return int(a.flows.Load()) }

// StrangerDrops returns the same of the sockets for strangers, which have
// verified nothing yet.
func (a *Account) StrangerDrops() uint64 {
	var n uint64
	for _, w := range a.Workers {
		n += w.Strangers.Load()
	}
	return n
}

// Print writes the account in the manner of tcpdump.
func (a *Account) Print(w io.Writer) {
	for _, t := range a.Taps() {
		state := "running"
		if t.Ended {
			state = "ended"
		}
		fmt.Fprintf(w, "tap %d %q, session %016x, %s\n", t.Tap, t.Name, t.Session, state)
		fmt.Fprintf(w, "%10d frames captured by the remote, %d dropped by its kernel\n", t.Captured, t.KernelDrops)
		if t.Shed > 0 {
			fmt.Fprintf(w, "%10d of those left out by the remote's rate limit, sampling, dedup or breaker\n", t.Shed)
		}
		fmt.Fprintf(w, "%10d frames sealed, %d of them before this collector listened\n", t.Sealed, t.Before)
		fmt.Fprintf(w, "%10d frames lost in %d datagrams; of all kinds the remote's kernel did not take %d\n", t.Lost, t.LostDatagrams, t.Unsent)
		fmt.Fprintf(w, "%10d frames delivered to the outputs\n", t.Unpacked)
	}
	if cut, uncut := a.cut(); cut+uncut > 0 {
		fmt.Fprintf(w, "%10d frames more, since the wire saw some as several (GSO, GRO); %d of those left whole\n", cut, uncut)
	}
	for _, o := range a.Outputs() {
		s := o.Sum()
		fmt.Fprintf(w, "%10d frames written to %s, %d refused, %d without room, %d not Ethernet%s\n",
			s.Delivered, s.Name, s.Refused, s.Full, s.NotEthernet, s.rare())
	}
	if good, bad := a.Reloads(); good+bad > 0 {
		fmt.Fprintf(w, "%10d times another configuration came into force; %d could not be used\n", good, bad)
	}
	fmt.Fprintf(w, "%10d datagrams received%s; the socket was full %d times, that for strangers %d times\n",
		a.Received(), a.dropText(), a.SocketDrops(), a.StrangerDrops())
}

// printLine writes the account in one line.
func (a *Account) printLine(w io.Writer, now time.Time) {
	var t TapTotal
	taps := a.Taps()
	for _, x := range taps {
		t.Unpacked += x.Unpacked
		t.Lost += x.Lost
		t.LostDatagrams += x.LostDatagrams
	}
	fmt.Fprintf(w, "%s %d taps %d datagrams %d frames %d lost in %d datagrams, socket full %d times, for strangers %d times%s",
		now.Format(time.TimeOnly), len(taps), a.Received(), t.Unpacked, t.Lost, t.LostDatagrams, a.SocketDrops(), a.StrangerDrops(), a.dropText())
	for _, o := range a.Outputs() {
		s := o.Sum()
		fmt.Fprintf(w, ", %s %d", s.Name, s.Delivered)
	}
	fmt.Fprintln(w)
}

// dropText lists the reasons that occurred, with their counts.
func (a *Account) dropText() string {
	var b strings.Builder
	for d := range NumDrops {
		if n := a.Drops(d); n > 0 {
			fmt.Fprintf(&b, ", %d %s", n, d.text())
		}
	}
	return b.String()
}
