// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A stall is a server with workers that the test plays.
type stall struct {
	t       *testing.T
	outs    *outputs
	sinks   []sink
	account *Account
}

func newStall(t *testing.T, workers int, c Serve) *stall {
	t.Helper()
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	t.Cleanup(func() { noneLeft(t) })
	log := zerolog.New(zerolog.NewTestWriter(t))
	account := new(Account)
	outs, err := openOutputs(t.Context(), &shared{cfg: Config{Outputs: Outputs{Serve: []Serve{c}}}, log: log}, account)
	if err != nil {
		t.Fatal(err)
	}
	s := &stall{t: t, outs: outs, account: account}
	for n := range workers {
		r := outs.now.Load().routes[0]
		end, err := r.outs[0].sink(n)
		if err != nil {
			t.Fatal(err)
		}
		end.(*serveSink).choose(r.takes)
		s.sinks = append(s.sinks, end)
	}
	return s
}

func (s *stall) addr() string {
	return strings.TrimPrefix(s.outs.now.Load().routes[0].outs[0].output.name, "pcap over IP ")
}

// close ends the server, and holds the account against itself.
func (s *stall) close() OutputTotal {
	s.t.Helper()
	for _, w := range s.sinks {
		if err := w.Close(); err != nil {
			s.t.Error(err)
		}
	}
	if err := s.outs.close(); err != nil {
		s.t.Error(err)
	}
	sum := s.account.Outputs()[len(s.account.Outputs())-1].Sum()
	if sum.in() != sum.Given {
		s.t.Errorf("%d frames given, but delivered and dropped make %d: %+v", sum.Given, sum.in(), sum)
	}
	return sum
}

// A reader is a client of a stall.
type reader struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// connect connects a client that says line, and returns once frames are given
// to it.
func (s *stall) connect(line string) *reader {
	s.t.Helper()
	if line != "" {
		line += "\n"
	}
	return s.greet(s.dial(line))
}

// dial connects a client that says text at once: its first bytes are there before
// the server takes the connection, which waits for them for 100 ms only.
func (s *stall) dial(text string) net.Conn {
	s.t.Helper()
	first := min(len(text), 1000)
	conn := func() net.Conn {
		srv := s.server()
		srv.mu.Lock()
		defer srv.mu.Unlock()
		conn, err := net.Dial("tcp", s.addr())
		if err == nil {
			_, err = io.WriteString(conn, text[:first])
		}
		if err != nil {
			s.t.Fatal(err)
		}
		arrived(s.t, conn)
		return conn
	}()
	io.WriteString(conn, text[first:]) // what is refused is not read to its end
	return conn
}

func (s *stall) server() *server { return s.sinks[0].(*serveSink).srv }

// greet waits until frames are given to a client.
func (s *stall) greet(conn net.Conn) *reader {
	s.t.Helper()
	r := &reader{s.t, conn, bufio.NewReader(conn)}
	testnet.Bound(s.t, conn)
	if _, err := r.in.Peek(24); err != nil { // the head follows that it is a client
		s.t.Fatal(err)
	}
	return r
}

// packets reads the head, and then until n frames have come.
func (r *reader) packets(n int) (packets []testnet.Packet) {
	r.t.Helper()
	pcapng := binary.LittleEndian.Uint32(r.peek(4)) == proto.PcapngTypeSection
	if pcapng {
		r.take(blockLen(r.peek(8)))
	} else {
		r.take(proto.PcapHeaderLen)
	}
	for len(packets) < n {
		if !pcapng {
			h := r.take(proto.PcapPacketLen)
			p := testnet.Packet{Time: int64(binary.LittleEndian.Uint32(h))*1e9 + int64(binary.LittleEndian.Uint32(h[4:])), OrigLen: binary.LittleEndian.Uint32(h[12:])}
			p.Data = r.take(int(binary.LittleEndian.Uint32(h[8:])))
			packets = append(packets, p)
			continue
		}
		b := r.take(blockLen(r.peek(8)))
		if binary.LittleEndian.Uint32(b) == proto.PcapngTypeEnhanced {
			p, err := proto.ParsePcapngPacket(b, proto.LittleEndian)
			if err != nil {
				r.t.Fatal(err)
			}
			packets = append(packets, testnet.Packet{Data: p.Data, OrigLen: p.OrigLen, Time: int64(p.Ticks)})
		}
	}
	return packets
}

func (r *reader) peek(n int) []byte {
	r.t.Helper()
	b, err := r.in.Peek(n)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *reader) take(n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err != nil {
		r.t.Fatal(err)
	}
	return b
}

// all reads to the end and closes.
func (r *reader) all() []byte {
	r.t.Helper()
	b, err := io.ReadAll(r.in)
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn.Close()
	return b
}

// frame returns frame n of a tap: TCP, UDP and others in turn.
func serveFrame(n int) []byte {
	f := testnet.Numbered(n, 60+n%1000)
	f[12], f[13], f[14], f[23] = 8, 0, 0x45, []byte{6, 17, 1}[n%3]
	return f
}

func (s *stall) write(worker int, o *Origin, n int) {
	f := serveFrame(n)
	s.sinks[worker].Write(o, &proto.Record{Data: f, OrigLen: uint32(len(f)), Time: int64(n), LinkType: 1})
}

func (s *stall) flush() {
	s.t.Helper()
	for _, w := range s.sinks {
		if err := w.Flush(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// A client gets each frame at once, in the format that it asks for, and at the
// end the statistics of what it got.
func TestServeAtOnce(t *testing.T) {
	s := newStall(t, 1, Serve{})
	o := origin(1, nil)
	ng, pcap := s.connect(""), s.connect("format=pcap")
	for n := range 5 {
		s.write(0, o, n)
		s.flush()
	}
	for _, r := range []*reader{ng, pcap} {
		for n, p := range r.packets(5) {
			if f := serveFrame(n); string(p.Data) != string(f) || p.Time != int64(n) || int(p.OrigLen) != len(f) {
				t.Errorf("frame %d: %+v", n, p)
			}
		}
	}
	// A frame of another link type is in pcapng only.
	s.sinks[0].Write(o, &proto.Record{Data: []byte{1}, LinkType: 101})
	s.flush()
	ended := make(chan OutputTotal, 1)
	go func() { ended <- s.close() }()
	rest := ng.all()
	var stats []proto.PcapngStatistics
	for b := rest; len(b) > 0; b = b[blockLen(b):] {
		if binary.LittleEndian.Uint32(b) == proto.PcapngTypeStatistics {
			st, _ := proto.ParsePcapngStatistics(b[:blockLen(b)], proto.LittleEndian)
			stats = append(stats, st)
		}
	}
	if len(stats) != 2 || stats[0].Delivered != 5 || stats[1].Delivered != 1 {
		t.Errorf("statistics at the end: %+v", stats)
	}
	if rest := pcap.all(); len(rest) > 0 {
		t.Errorf("%d bytes more of pcap", len(rest))
	}
	if sum := testnet.Receive(t, "the server's end", ended); sum.Delivered != 11 || sum.NotEthernet != 1 || sum.Given != 12 {
		t.Errorf("%+v", sum)
	}
}

// Many clients at once, each with taps, a filter and a snap length of its own,
// while workers write: each gets what it asked for.
func TestServeManyClients(t *testing.T) {
	const workers, frames = 3, 3000
	s := newStall(t, workers, Serve{Select: Selection{Taps: TapSet{{0, 1}}}})
	kinds := []struct {
		line string
		want func(tap, n int) bool
		snap int
	}{
		{"", func(tap, _ int) bool { return tap < 2 }, 1 << 20},
		{"taps=1,2", func(tap, _ int) bool { return tap == 1 }, 1 << 20},
		{"format=pcap snaplen=50 filter=" + strings.ReplaceAll(tcp, "\n", ","), func(tap, n int) bool { return tap < 2 && n%3 == 0 }, 50},
		{"snaplen=100", func(tap, _ int) bool { return tap < 2 }, 100},
	}
	var readers []*reader
	for i := range 32 {
		readers = append(readers, s.connect(kinds[i%len(kinds)].line))
	}
	var all sync.WaitGroup
	total := 0
	for i, r := range readers {
		kind := kinds[i%len(kinds)]
		want := 0
		for tap := range workers {
			for n := range frames {
				if kind.want(tap, n) {
					want++
				}
			}
		}
		total += want
		all.Go(func() {
			next := make([]int, workers)
			for _, p := range r.packets(want) {
				n := int(p.Time)
				tap := n / frames
				for ; next[tap] < n%frames; next[tap]++ {
					if kind.want(tap, next[tap]) {
						t.Errorf("client %d: frame %d of tap %d came, %d was due", i, n%frames, tap, next[tap])
						return
					}
				}
				next[tap]++
				if f := serveFrame(n); !kind.want(tap, n%frames) || int(p.OrigLen) != len(f) || string(p.Data) != string(f[:min(len(f), kind.snap)]) {
					t.Errorf("client %d: frame %d of tap %d, %d bytes of %d", i, n%frames, tap, len(p.Data), p.OrigLen)
					return
				}
			}
			r.conn.Close()
		})
	}
	var workersDone sync.WaitGroup
	for w := range workers {
		workersDone.Go(func() {
			o := origin(uint32(w), nil)
			for n := range frames {
				s.write(w, o, w*frames+n)
				if n%64 == 0 {
					s.sinks[w].Flush()
				}
			}
			s.sinks[w].Flush()
		})
	}
	testnet.Await(t, "the workers' end", workersDone.Wait)
	testnet.Await(t, "the clients' end", all.Wait)
	if sum := s.close(); sum.Delivered != uint64(total) || sum.Given != 32*workers*frames || sum.Full != 0 || sum.LeftOut != sum.Given-sum.Delivered {
		t.Errorf("%+v, %d were to be delivered", sum, total)
	}
}

// A client that does not read loses what does not fit its queue, and learns how
// much; one beside it loses nothing.
func TestServeSlowClient(t *testing.T) {
	s := newStall(t, 1, Serve{Queue: minQueue})
	slow, fast := s.connect(""), s.connect("")
	const frames = 60000
	var got []testnet.Packet
	done := make(chan bool)
	written := make(chan int, frames)
	go func() {
		// Read as it is written: the fast one is never behind.
		got = fast.packets(frames)
		close(done)
	}()
	o := origin(1, nil)
	srv := s.server()
	for n := range frames {
		s.write(0, o, n)
		if n%50 != 49 {
			continue
		}
		s.flush()
		testnet.Eventually(t, "the fast client is not far behind", func() bool {
			q := (*srv.clients.Load())[1].queue
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.held < q.limit/2
		})
	}
	close(written)
	testnet.Receive(t, "the fast client has all", done)
	for n, p := range got {
		if p.Time != int64(n) {
			t.Fatalf("the fast client got frame %d for %d", p.Time, n)
		}
	}
	ended := make(chan OutputTotal, 1)
	go func() { ended <- s.close() }()
	rest := slow.all()
	fast.all()
	sum := testnet.Receive(t, "the server's end", ended)
	_, packets, stats := blocks(t, rest)
	dropped, next := uint64(0), uint64(0)
	for _, p := range packets {
		if next += p.Dropped; p.Ticks != next {
			t.Fatalf("frame %d came, which says that %d are missing; that would be %d", p.Ticks, p.Dropped, next)
		}
		next++
		dropped += p.Dropped
	}
	missing := uint64(frames - len(packets))
	if missing == 0 || sum.Full != missing || sum.Delivered != uint64(frames+len(packets)) || len(stats) != 1 || stats[0].Accepted-stats[0].Delivered != missing {
		t.Errorf("%d frames of %d came, %d told as dropped; %+v; %+v", len(packets), frames, dropped, sum, stats)
	}
}

// Clients that go away in the middle cost the others nothing, and what waited
// for them is counted.
func TestServeClientsGo(t *testing.T) {
	s := newStall(t, 2, Serve{})
	stays := s.connect("")
	o := origin(1, nil)
	n := 0
	for round := range 20 {
		goes := s.connect("")
		for range 200 {
			s.write(n%2, o, n)
			n++
		}
		s.flush()
		if round%2 == 0 {
			goes.conn.(*net.TCPConn).SetLinger(0) // with a reset
		} else {
			goes.packets(10)
		}
		goes.conn.Close()
	}
	times := map[int64]bool{}
	for _, p := range stays.packets(n) {
		times[p.Time] = true
	}
	if len(times) != n {
		t.Errorf("%d frames of %d came to the one that stays", len(times), n)
	}
	stays.conn.Close()
	s.write(0, o, n)
	s.flush()
	sum := s.close()
	if sum.Given < uint64(n+20*200) || sum.Delivered < uint64(n) || sum.Full != 0 {
		t.Errorf("%+v", sum)
	}
}

// There are no more clients than allowed; one that has closed its side makes
// way.
func TestServeFull(t *testing.T) {
	s := newStall(t, 1, Serve{Clients: 2})
	a, b := s.connect(""), s.connect("")
	c, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	testnet.Bound(t, c)
	if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, io.ErrNoProgress) || err == nil {
		t.Errorf("a third client got %d bytes, %v", n, err)
	}
	if err := b.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	srv := s.server()
	testnet.Eventually(t, "it is seen that the client closed its side", func() bool { return (*srv.clients.Load())[1].half.Load() })
	d := s.connect("")
	s.write(0, origin(1, nil), 0)
	s.flush()
	a.packets(1)
	d.packets(1)
	for _, r := range []net.Conn{a.conn, b.conn, c, d.conn} {
		r.Close()
	}
	s.close()
}

func TestServeAllocations(t *testing.T) {
	s := newStall(t, 1, Serve{Queue: 64 << 20})
	a, b := s.connect("filter="+strings.ReplaceAll(tcp, "\n", ",")), s.connect("format=pcap")
	go io.Copy(io.Discard, a.in)
	go io.Copy(io.Discard, b.in)
	o := origin(1, nil)
	f := serveFrame(999)
	r := &proto.Record{Data: f, OrigLen: uint32(len(f)), LinkType: 1}
	n := 0
	run := func() {
		s.sinks[0].Write(o, r)
		if n++; n%100 == 0 {
			s.flush()
		}
	}
	for range 20000 {
		run()
	}
	if a := testing.AllocsPerRun(5000, run); a > 0.01 { // a queue may grow still
		t.Errorf("%v allocations a frame", a)
	}
	a.conn.Close()
	b.conn.Close()
	s.close()
}
