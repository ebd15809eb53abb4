// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
)

// A rerouted is a collector that runs, whose outputs the test changes.
type rerouted struct {
	t       *testing.T
	addr    netip.AddrPort
	account *Account
	reload  chan struct{}
	stop    context.CancelFunc
	result  chan error
	log     *warnings

	mu   sync.Mutex
	want Outputs
	err  error
}

func reroute(t *testing.T, keys *crypto.KeyFile, outs Outputs) *rerouted {
	t.Helper()
	if t.Name() != "TestRerouteSlowName" { // which looks itself
		t.Cleanup(func() { noneLeft(t) })
	}
	ctx, stop := context.WithCancel(t.Context())
	r := &rerouted{t: t, reload: make(chan struct{}), stop: stop, result: make(chan error, 1), log: new(warnings)}
	ready := make(chan struct{})
	cfg := Config{
		Listen: "127.0.0.1:0", Keys: keys, Workers: 2, Outputs: outs, Reload: r.reload, Log: zerolog.New(r),
		Ready: func(a netip.AddrPort, account *Account) { r.addr, r.account = a, account; close(ready) },
		Reroute: func() (Outputs, func(), error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.want, nil, r.err
		},
	}
	go func() {
		_, err := Run(ctx, cfg)
		r.result <- err
	}()
	select {
	case <-ready:
	case err := <-r.result:
		t.Fatal(err)
	case <-time.After(testnet.Patience):
		t.Fatal("the collector does not start")
	}
	t.Cleanup(stop)
	return r
}

// Write takes a line of the log.
func (r *rerouted) Write(b []byte) (int, error) {
	r.log.add(errors.New(string(b)))
	return len(b), nil
}

// to has the collector take up other outputs, and waits until it has.
func (r *rerouted) to(outs Outputs, err error) {
	r.t.Helper()
	good, bad := r.account.Reloads()
	r.mu.Lock()
	r.want, r.err = outs, err
	r.mu.Unlock()
	testnet.Await(r.t, "the outputs are asked for", func() { r.reload <- struct{}{} })
	r.until("it is done", func() bool { g, b := r.account.Reloads(); return g+b > good+bad })
}

func (r *rerouted) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			var account strings.Builder
			r.account.Print(&account)
			r.t.Fatalf("a minute, and not yet: %s\n%s%v", what, &account, r.log.all())
		}
	}
}

// end ends the collector, whose account has to add up.
func (r *rerouted) end() {
	r.t.Helper()
	r.stop()
	if err := testnet.Receive(r.t, "the collector's end", r.result); err != nil {
		r.t.Error(err)
	}
}

// sum returns the account of an output whose name ends so.
func (r *rerouted) sum(name string) OutputTotal {
	r.t.Helper()
	for _, o := range r.account.Outputs() {
		if strings.HasSuffix(o.Name, name) {
			return o.Sum()
		}
	}
	r.t.Fatalf("no output %s", name)
	return OutputTotal{}
}

// serves returns the address of the PCAP over IP server.
func (r *rerouted) serves() string {
	r.t.Helper()
	for _, o := range r.account.Outputs() {
		if addr, ok := strings.CutPrefix(o.Name, "pcap over IP "); ok {
			return addr
		}
	}
	r.t.Fatal("no PCAP over IP")
	return ""
}

// unpacked returns how many frames the outputs were given.
func (r *rerouted) unpacked() (n int) {
	for _, w := range r.account.Workers {
		n += int(w.Unpacked.Load())
	}
	return n
}

// A traffic is taps that send frames of flows, until it is stopped.
type traffic struct {
	t    *testing.T
	stop chan struct{}
	wait sync.WaitGroup
	sent []int // by tap; the first is tap 1
}

// flowing has taps send frames of udpFlow, in both directions of eight flows
// each, with their tap and number.
func flowing(t *testing.T, keys *crypto.KeyFile, taps int, to netip.AddrPort) *traffic {
	t.Helper()
	f := &traffic{t: t, stop: make(chan struct{}), sent: make([]int, taps)}
	for i := range taps {
		s := newSim(t, keys, uint32(i+1), startedAgo(0), 0, 1472)
		conn, err := net.Dial("udp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		s.say(t, false)
		s.tell(false)
		f.wait.Go(func() {
			defer conn.Close()
			for last := false; !last; {
				select {
				case <-f.stop:
					s.tell(true)
					s.say(t, true)
					last = true
				case <-time.After(time.Millisecond):
					for range 20 {
						n := f.sent[i]
						r := ethernet(udpFlow((i+1)*100+n%8, n, 100, n/8%2 == 1))
						r.Time = time.Now().UnixNano()
						for rest := s.pack.Add(r); rest != nil; rest = s.pack.Continue(rest) {
							s.flush()
						}
						s.frames++
						f.sent[i]++
					}
					s.flush()
				}
				for _, d := range s.out {
					if _, err := conn.Write(d); err != nil {
						t.Error(err)
					}
				}
				s.out = s.out[:0]
			}
		})
	}
	return f
}

// end stops the traffic, and returns how many frames there were.
func (f *traffic) end() (all int) {
	close(f.stop)
	testnet.Await(f.t, "the taps' end", f.wait.Wait)
	for _, n := range f.sent {
		all += n
	}
	return all
}

// flowAndNumber reads what is in a frame of udpFlow.
func flowAndNumber(b []byte) (flow, n int) {
	return int(binary.BigEndian.Uint32(b[42:])), int(binary.BigEndian.Uint32(b[46:]))
}

// inOrder wants the frames of each tap in order, and, if whole, all of them.
func inOrder(t *testing.T, name string, packets []testnet.Packet, sent []int) {
	t.Helper()
	next := make([]int, len(sent)+1)
	for _, p := range packets {
		flow, n := flowAndNumber(p.Data)
		if tap := flow / 100; n != next[tap] {
			t.Errorf("%s: frame %d of tap %d, want %d", name, n, tap, next[tap])
			return
		} else {
			next[tap]++
		}
	}
	for i, n := range sent {
		if next[i+1] != n {
			t.Errorf("%s: %d frames of tap %d, want %d", name, next[i+1], i+1, n)
		}
	}
}

// Outputs come, go and change while frames come. Those that stay get every
// frame, in the file and on the connection that they had; each account adds up,
// and configurations that cannot be used change nothing.
func TestRerouteUnderTraffic(t *testing.T) {
	keys, dir := testKeys(t), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	keep, recording := File{Path: path("keep.pcapng")}, File{Path: path("rec-%n.pcapng"), Rotate: Rotation{Size: 1 << 30}}
	stays := Outputs{Files: []File{keep, recording}, Serve: []Serve{{Addr: "127.0.0.1:0", Queue: 64 << 20}}}
	r := reroute(t, keys, stays)
	conn, err := net.Dial("tcp", r.serves())
	if err != nil {
		t.Fatal(err)
	}
	client := (&stall{t: t}).greet(conn)
	read := make(chan []testnet.Packet, 1)
	f := flowing(t, keys, 4, r.addr)
	go func() {
		var got []testnet.Packet
		_, packets, _ := blocks(t, client.all())
		for _, p := range packets {
			got = append(got, testnet.Packet{Data: p.Data})
		}
		read <- got
	}()
	with := func(files ...File) Outputs {
		o := stays
		o.Files = append([]File{keep, recording}, files...)
		return o
	}
	before, _ := os.Stat(path("keep.pcapng"))
	for i := range 12 {
		tap := uint32(i%4 + 1)
		r.to(with(File{Path: path(fmt.Sprintf("some%d.pcapng", i%3)), Select: Selection{Taps: TapSet{{tap, tap}}}}, File{Path: path("last.pcapng"), Select: Selection{SnapLen: 80, Taps: TapSet{{1, tap}}}}), nil)
		n := r.unpacked()
		r.until("frames went on", func() bool { return r.unpacked() > n+100 })
		switch i % 3 {
		case 0:
			r.to(Outputs{}, errors.New("line 3: it is wrong"))
		case 1:
			r.to(with(keep), nil) // twice the same
		case 2:
			r.to(Outputs{Files: []File{{Path: keep.Path, Select: Selection{Filter: "no filter"}}}}, nil)
		}
	}
	after, _ := os.Stat(path("keep.pcapng"))
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.end()
	packets := testnet.Receive(t, "the client's end", read)
	if !os.SameFile(before, after) {
		t.Error("the file that stays is another one")
	}
	if good, bad := r.account.Reloads(); good != 12 || bad != 12 {
		t.Errorf("%d reloads, %d bad", good, bad)
	}
	inOrder(t, "keep", testnet.ReadCapture(t, path("keep.pcapng")), f.sent)
	inOrder(t, "client", packets, f.sent)
	files, _ := filepath.Glob(path("rec-*"))
	if len(files) != 1 {
		t.Errorf("the recording that stays has %v", files)
	}
	inOrder(t, "recording", testnet.ReadCapture(t, files[0]), f.sent)
	for i := range 3 {
		s := r.sum(fmt.Sprintf("some%d.pcapng", i))
		if s.Delivered == 0 || s.LeftOut == 0 || s.Refused+s.Full != 0 {
			t.Errorf("some%d: %+v", i, s)
		}
	}
	last := testnet.ReadCapture(t, path("last.pcapng")) // which was there from the first on
	if s := r.sum("last.pcapng"); uint64(len(last)) != s.Delivered || len(last[0].Data) != 80 || s.Refused+s.Full != 0 {
		t.Errorf("last: %d frames, %+v", len(last), s)
	}
	log := fmt.Sprint(r.log.all())
	for _, want := range []string{"line 3: it is wrong", "keep.pcapng is given twice", `another word that begins a condition, not \"no\"`, "that from before stays in force"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
}

// What an output says is the longest frame stays true: a plain file is not
// replaced to change it, a recording goes on in a new file.
func TestRerouteLongerFrames(t *testing.T) {
	keys, dir := testKeys(t), t.TempDir()
	outs := func(plain, recorded int) Outputs {
		return Outputs{Files: []File{
			{Path: filepath.Join(dir, "plain.pcapng"), Select: Selection{SnapLen: plain}},
			{Path: filepath.Join(dir, "rec-%n.pcapng"), Select: Selection{SnapLen: recorded}},
		}}
	}
	r := reroute(t, keys, outs(80, 80))
	r.to(outs(0, 80), nil)
	r.to(outs(60, 0), nil)
	f := flowing(t, keys, 1, r.addr)
	r.until("frames came", func() bool { return r.unpacked() > 100 })
	f.end()
	r.end()
	if good, bad := r.account.Reloads(); good != 1 || bad != 1 || !strings.Contains(fmt.Sprint(r.log.all()), "plain.pcapng: a snap length of 0 bytes (0: all) in the place of 80") {
		t.Errorf("%d reloads, %d bad: %v", good, bad, r.log.all())
	}
	if p := testnet.ReadCapture(t, filepath.Join(dir, "plain.pcapng")); len(p) < 100 || len(p[0].Data) != 60 {
		t.Errorf("%d frames", len(p))
	}
	files, _ := filepath.Glob(filepath.Join(dir, "rec-*"))
	if p := testnet.ReadCapture(t, files[len(files)-1]); len(files) != 2 || len(p) < 100 || len(p[0].Data) != 100 {
		t.Errorf("%v: %d frames", files, len(p))
	}
}

// An output that cannot be opened, or fails, is told and counted, and stops no
// other: a port that is taken, certificates that are not there, a host that is
// not known, a FIFO without a reader, a pipe whose reader goes. Those that can
// be opened later are.
func TestOutputsFailAlone(t *testing.T) {
	keys, dir := testKeys(t), t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.9:0") // where no other program takes the port once it is free
	if err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	good := File{Path: filepath.Join(dir, "good.pcapng")}
	r := reroute(t, keys, Outputs{
		Files: []File{{Path: fifo}, good, {Path: filepath.Join(dir, "none", "x.pcapng")}},
		Serve: []Serve{{Addr: taken.Addr().String()}, {Addr: "127.0.0.2:0", TLS: &TLSFiles{"none", "none", "none"}}},
		VXLAN: []VXLAN{{To: "nosuch.invalid"}},
	})
	f := flowing(t, keys, 2, r.addr)
	r.until("frames came", func() bool { return r.unpacked() > 100 })
	pipe := readFIFO(t, fifo) // as soon as there is a reader
	b := make([]byte, 10000)
	if _, err := io.ReadFull(pipe, b); err != nil || binary.LittleEndian.Uint32(b) != 0x0A0D0D0A {
		t.Errorf("the FIFO: %v, %x", err, b[:8])
	}
	pipe.Close() // and goes
	r.until("it is told", func() bool { return strings.Contains(fmt.Sprint(r.log.all()), "the output fails") })
	os.Mkdir(filepath.Join(dir, "none"), 0o700)
	taken.Close()
	r.until("they are open", func() bool {
		return strings.Count(fmt.Sprint(r.log.all()), "output: opened now") >= 3 && r.sum("none/x.pcapng").Delivered > 0
	})
	r.until("it is told that the host is not known", func() bool { return strings.Contains(fmt.Sprint(r.log.all()), "lookup nosuch.invalid") })
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.end()
	inOrder(t, "good", testnet.ReadCapture(t, good.Path), f.sent)
	log := fmt.Sprint(r.log.all())
	for _, want := range []string{
		"waiting for its reader", "taken by another program", "no such file or directory", "certificate none with key none", "lookup nosuch.invalid",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	for name, all := range map[string]bool{"nosuch.invalid:4789": true, "fifo": false, "none/x.pcapng": false} {
		if s := r.sum(name); s.Refused == 0 || (s.Delivered == 0) != all {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// A host whose name takes long to look up holds up neither the other outputs of
// a new configuration, nor the next one, nor the end.
func TestRerouteSlowName(t *testing.T) {
	asked, end := make(chan struct{}, 1000), make(chan struct{})
	old := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked <- struct{}{}
		<-end
		return nil, errors.New("no answer")
	}}
	keys, dir := testKeys(t), t.TempDir()
	files := func(names ...string) (o Outputs) {
		for _, name := range names {
			o.Files = append(o.Files, File{Path: filepath.Join(dir, name)})
		}
		return o
	}
	t.Cleanup(func() { noneLeft(t) }) // after what follows
	t.Cleanup(func() { net.DefaultResolver = old; close(end) })
	r := reroute(t, keys, files("a"))
	f := flowing(t, keys, 1, r.addr)
	slow := files("a", "b")
	slow.VXLAN = []VXLAN{{To: "slow.example.org"}}
	r.to(slow, nil)
	testnet.Receive(t, "the name is asked for", asked)
	r.to(files("a", "b", "c"), nil)
	r.until("frames are in the new files", func() bool { return r.sum("/b").Delivered > 50 && r.sum("/c").Delivered > 50 })
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	begun := time.Now()
	r.end()
	if d := time.Since(begun); d > 10*time.Second {
		t.Errorf("the end took %v", d)
	}
	inOrder(t, "a", testnet.ReadCapture(t, filepath.Join(dir, "a")), f.sent)
	if s := r.sum("slow.example.org:4789"); s.Delivered != 0 || s.Refused == 0 {
		t.Errorf("%+v", s)
	}
}
