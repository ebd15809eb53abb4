// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// receive returns a Receiver on loopback.
func receive(t *testing.T, ctx context.Context, cfg Config) *Receiver {
	t.Helper()
	t.Cleanup(func() { noneLeft(t) })
	cfg.Listen, cfg.Log = "127.0.0.9:0", zerolog.Nop() // where no other program takes the port once it is free
	r, err := Listen(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// readable returns the packets of n captures.
func readable(t *testing.T, n int) (all [][]testnet.Packet) {
	t.Helper()
	for _, file := range testnet.Captures(t) {
		if p, err := testnet.ReadGopacket(file); err == nil && len(p) > 0 { // which some are too strange for
			all = append(all, p)
		}
	}
	if len(all) < n {
		t.Fatalf("%d captures of %d can be read", len(all), n)
	}
	return all[:n]
}

// play sends captures, the first as tap 1, and does not wait. Every tap has sent
// something before one of them ends: with Once the end of all that were heard is
// the Receiver's.
func play(t *testing.T, keys *crypto.KeyFile, to *Receiver, captures [][]testnet.Packet) (wait func()) {
	t.Helper()
	var all sync.WaitGroup
	var begin []func()
	for i, packets := range captures {
		datagrams := playback(t, keys, uint32(i+1), packets)
		conn, err := net.Dial("udp", to.Addr().String())
		if err == nil {
			_, err = conn.Write(datagrams[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		begin = append(begin, func() {
			defer conn.Close()
			for _, d := range datagrams[1:] {
				if _, err := conn.Write(d); err != nil {
					return // the Receiver is gone
				}
			}
		})
	}
	for _, do := range begin {
		all.Go(do)
	}
	return all.Wait
}

// sameFrames says where frames differ from a capture's; times are of their own.
func sameFrames(got []Frame, want []testnet.Packet) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d frames, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := &got[i], &want[i]
		if !bytes.Equal(g.Data, w.Data) || g.OrigLen != w.OrigLen || uint16(g.LinkType) != w.LinkType || int(g.Interface) != w.Interface || uint8(g.Direction) != w.Direction {
			return fmt.Sprintf("frame %d: %d bytes of %d, link type %d; want %d of %d, %d", i, len(g.Data), g.OrigLen, g.LinkType, len(w.Data), w.OrigLen, w.LinkType)
		}
	}
	return ""
}

// Every frame of every tap comes to the function once, in the order of its tap,
// always on the same worker; other outputs get them, too.
func TestReceiverRun(t *testing.T) {
	for _, file := range []string{"", filepath.Join(t.TempDir(), "beside.pcapng")} {
		t.Run("file="+filepath.Base(file), func(t *testing.T) {
			keys, captures := testKeys(t), readable(t, 120)
			r := receive(t, t.Context(), Config{Keys: keys, Workers: 3, Once: true, Write: file})
			wait := play(t, keys, r, captures)
			var mu sync.Mutex
			got, worker := map[uint32][]Frame{}, map[uint32]int{}
			if err := r.Run(func(b *Batch) error {
				mu.Lock()
				defer mu.Unlock()
				if w, known := worker[b.Tap]; known && w != b.Worker || len(b.Frames) == 0 {
					t.Errorf("%d frames of tap %d came from worker %d, those before from %d", len(b.Frames), b.Tap, b.Worker, w)
				}
				worker[b.Tap] = b.Worker
				got[b.Tap] = append(got[b.Tap], cloneFrames(b)...)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			wait()
			all, byWorker := 0, map[int]int{}
			for i, want := range captures {
				tap := uint32(i + 1)
				if d := sameFrames(got[tap], want); d != "" {
					t.Errorf("tap %d: %s", tap, d)
				}
				all += len(want)
				byWorker[worker[tap]]++
			}
			if len(byWorker) != 3 {
				t.Errorf("taps by worker: %v", byWorker)
			}
			for _, o := range r.Account().Outputs() {
				if s := o.Sum(); s.Delivered != uint64(all) || s.DeliveredBytes == 0 {
					t.Errorf("%+v, want %d", s, all)
				}
			}
		})
	}
}

// Frames of the loop are the program's: they keep what they were while more
// comes.
func TestReceiverFrames(t *testing.T) {
	keys, captures := testKeys(t), readable(t, 200)[100:]
	r := receive(t, t.Context(), Config{Keys: keys, Workers: 2, Once: true})
	wait := play(t, keys, r, captures)
	got := map[uint32][]Frame{}
	for f := range r.Frames() {
		if i, ok := f.Via(); ok && i.Name == "" { // a sim announces none
			t.Errorf("interface %+v", i)
		}
		got[f.Tap] = append(got[f.Tap], f)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	wait()
	for i, want := range captures {
		if d := sameFrames(got[uint32(i+1)], want); d != "" {
			t.Errorf("tap %d: %s", i+1, d)
		}
	}
	for range r.Frames() {
		t.Fatal("frames after the end")
	}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "runs once") {
		t.Errorf("run twice: %v", err)
	}
}

// A loop may be left, a context may end, a function may fail: the Receiver is
// closed then, says so, and its account adds up.
func TestReceiverEnds(t *testing.T) {
	keys, captures := testKeys(t), readable(t, 40)
	broken := errors.New("broken")
	for name, end := range map[string]func(r *Receiver, stop func()) (error, error){
		"the loop is left": func(r *Receiver, _ func()) (error, error) {
			for range r.Frames() {
				break
			}
			return r.Err(), nil
		},
		"the loop is left by a panic": func(r *Receiver, _ func()) (error, error) {
			func() {
				defer func() { _ = recover() }()
				for range r.Frames() {
					panic("in the loop")
				}
			}()
			return r.Err(), nil
		},
		"the context ends in the loop": func(r *Receiver, stop func()) (error, error) {
			for range r.Frames() {
				stop()
			}
			return r.Err(), nil
		},
		"the context ends": func(r *Receiver, stop func()) (error, error) {
			return r.Run(func(*Batch) error { stop(); return nil }), nil
		},
		"the function has enough": func(r *Receiver, _ func()) (error, error) {
			return r.Run(func(*Batch) error { return ErrStop }), nil
		},
		"the function fails": func(r *Receiver, _ func()) (error, error) {
			return r.Run(func(*Batch) error { return broken }), broken
		},
		"it is closed": func(r *Receiver, _ func()) (error, error) {
			return errors.Join(r.Close(), r.Close()), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			r := receive(t, ctx, Config{Keys: keys, Workers: 2})
			wait := play(t, keys, r, captures)
			if got, want := end(r, stop); !errors.Is(got, want) || want == nil && got != nil {
				t.Errorf("%v, want %v", got, want)
			}
			wait()
			stop()
			if err := r.Account().Check(); err != nil {
				t.Error(err)
			}
			again, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(r.Addr()))
			if err != nil {
				t.Fatalf("the port is still taken: %v", err)
			}
			again.Close()
		})
	}
}

// What is selected comes, and the rest is counted.
func TestReceiverSelects(t *testing.T) {
	keys, captures := testKeys(t), readable(t, 20)
	r := receive(t, t.Context(), Config{Keys: keys, Once: true, ReceiveSelect: Selection{Taps: TapSet{{1, 3}}, SnapLen: 20}})
	wait := play(t, keys, r, captures)
	taps, n := map[uint32]bool{}, uint64(0)
	for f := range r.Frames() {
		taps[f.Tap] = true
		if n++; len(f.Data) > 20 {
			t.Fatalf("a frame of %d bytes", len(f.Data))
		}
	}
	wait()
	s := r.Account().Outputs()[0].Sum()
	if err := r.Err(); err != nil || len(taps) != 3 || !taps[1] || !taps[2] || !taps[3] || s.Delivered != n || s.LeftOut == 0 {
		t.Errorf("%v: taps %v, %d frames, %+v", err, taps, n, s)
	}
}

// With frames unpacked right into the batch comes the same as by any sink: of
// all captures, and of GSO frames that are cut on the way.
func TestReceiverDirect(t *testing.T) {
	keys := testKeys(t)
	var want []proto.Record
	for _, direct := range []bool{false, true} {
		d := newDesk(t, keys, "")
		var got []proto.Record
		b := &batchSink{take: func(b *Batch) error {
			for _, f := range cloneFrames(b) {
				got = append(got, f.Record)
			}
			return nil
		}}
		if d.sinks = []sink{b}; direct {
			d.direct = b
		}
		s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
		s.say(t, false)
		for i, file := range testnet.Captures(t)[:200] {
			for _, p := range known(t, file) {
				r := record(&p)
				if r.Time = int64(i); strings.Contains(file, "tso") && len(p.Data) > 1514 {
					r.GSOType, r.GSOSize, r.NeedsCsum, r.CsumStart, r.CsumOffset = 1, 1448, true, 34, 16
				}
				for rest := s.pack.Add(r); rest != nil; rest = s.pack.Continue(rest) {
					s.flush()
				}
			}
		}
		s.flush()
		for i, o := range s.out {
			if err := d.feed(o); err != nil {
				t.Fatal(err)
			}
			if i%30 == 29 {
				d.batchEnd(t, 0)
			}
		}
		d.batchEnd(t, 0)
		if cut := d.account.Cut.Load(); cut == 0 {
			t.Error("no GSO frame was cut")
		}
		if !direct {
			want = got
			continue
		}
		if len(got) != len(want) {
			t.Fatalf("%d frames, want %d", len(got), len(want))
		}
		for i := range got {
			if g, w := got[i], want[i]; !bytes.Equal(g.Data, w.Data) || g.OrigLen != w.OrigLen || g.Time != w.Time || g.Interface != w.Interface || g.LinkType != w.LinkType || g.Direction != w.Direction {
				t.Fatalf("frame %d: %+v, want %+v", i, g, w)
			}
		}
	}
}

func TestReceiverAllocates(t *testing.T) {
	keys := testKeys(t)
	d := newDesk(t, keys, "")
	frames := 0
	b := &batchSink{take: func(b *Batch) error { frames += len(b.Frames); return nil }}
	d.sinks, d.direct = []sink{b}, b
	s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
	for range 3000 {
		s.frame(700)
	}
	i := 0
	one := func() {
		st, kind, counter, plaintext, drop := d.open(s.out[i])
		if drop == nil {
			drop = d.take(st, kind, counter, plaintext)
		}
		if drop != nil {
			t.Fatal(drop)
		}
		if i++; i%44 == 0 {
			d.flush()
		}
	}
	for range 100 {
		one()
	}
	if n := testing.AllocsPerRun(1000, one); n != 0 {
		t.Errorf("%v allocations a datagram", n)
	}
	if frames < 1000 {
		t.Errorf("%d frames", frames)
	}
}
