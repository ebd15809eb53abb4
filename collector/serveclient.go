// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/proto"
)

// A client is one program that reads frames.
type client struct {
	srv    *server
	conn   net.Conn
	name   string // its address and, with TLS, whom its certificate names
	takes  choice
	format captureFormat
	file   *pcapngFile // over queue
	queue  *queue
	head   []byte      // before all blocks
	half   atomic.Bool // it has closed its side, and may be gone

	once sync.Once
	gone chan struct{} // closed when it is to go
	why  error         // then; nil: the collector ends
	ends sync.WaitGroup

	mu     sync.Mutex
	going  bool        // no worker takes it up any more
	totals OutputTotal // of workers that are done with it
}

// newClient makes a client that wants what its line says.
func newClient(s *server, conn net.Conn, who, line string) (c *client, err error) {
	c = &client{srv: s, conn: conn, name: conn.RemoteAddr().String(), gone: make(chan struct{})}
	if who != "" {
		c.name += " " + who
	}
	if s.how.Load().Pcap {
		c.format = formatPcap
	}
	head, filter, hasFilter := strings.Cut(line, "filter=")
	var words []string
	for _, word := range strings.Fields(head) {
		switch word {
		case "format=pcap":
			c.format = formatPcap
		case "format=pcapng":
			c.format = formatPcapng
		default:
			words = append(words, word)
		}
	}
	if line = strings.Join(words, " "); hasFilter {
		line += " filter=" + filter
	}
	want, err := ParseSelection(line)
	if err == nil {
		c.takes, err = want.choose(false)
	}
	if err != nil {
		return nil, err
	}
	snap := c.takes.SnapLen
	if most := s.how.Load().Select.SnapLen; most != 0 && (snap == 0 || most < snap) {
		snap = most
	}
	c.queue = newQueue(conn, c.format, s.how.Load().Queue, func(err error) { c.leave(err) })
	c.file = &pcapngFile{
		cfg: pcapngConfig{
			Format: c.format, Link: proto.LinkTypeEthernet, SnapLen: snap, Chunk: serveChunk,
			Warn: func(err error) { s.say(zerolog.WarnLevel, c.name, err, "pcap over IP: slow client") },
		},
		name: c.name, out: c.queue,
	}
	c.file.begin(time.Now())
	if c.head = sectionHead(""); c.format == formatPcap {
		c.head = proto.AppendPcapHeader(nil, proto.LinkTypeEthernet, proto.MaxFrame)
	}
	return c, nil
}

// wants says what the client wants, for the log.
func (c *client) wants() string {
	text := map[captureFormat]string{formatPcap: "of pcap", formatPcapng: "of pcapng"}[c.format]
	if c.takes.Taps != nil {
		text += ", taps " + c.takes.Taps.String()
	}
	if c.takes.SnapLen != 0 {
		text += fmt.Sprintf(", cut at %d bytes", c.takes.SnapLen)
	}
	if c.takes.Filter != "" {
		text += fmt.Sprintf(", filter %q", clip(c.takes.Filter))
	}
	return text
}

// leave begins the client's end.
func (c *client) leave(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.gone)
	})
}

// run serves the client until it goes or the server ends, and accounts for what
// it did not take. It is in the list already: what comes while the head is
// written follows it.
func (c *client) run() {
	if _, err := c.conn.Write(c.head); err != nil {
		c.leave(err)
	}
	c.queue.start()
	go c.listen()
	<-c.gone
	most := time.Millisecond
	if c.why == nil {
		most = serveEnd
	}
	c.srv.remove(c)
	c.mu.Lock()
	c.going = true
	c.mu.Unlock()
	c.ends.Wait() // workers are done with it, at their next batch
	c.queue.drain(most)
	err := c.file.Close()
	frames, bytes := c.queue.close(most, c.conn)
	c.conn.Close()
	c.srv.mu.Lock()
	c.srv.late.Unsent.Add(frames)
	c.srv.late.UnsentBytes.Add(bytes)
	c.srv.mu.Unlock()
	if c.why == nil && !isGone(err) {
		c.why = err
	}
	t := &c.totals
	if n, ok := c.srv.lines.line(time.Now()); ok {
		c.srv.log.Info().Str("address", c.srv.addr).Str("client", c.name).Uint64("frames", t.Delivered-frames).Uint64("unsent", frames).
			Uint64("dropped", t.Full+t.Refused).Uint64("not_ethernet", t.NotEthernet).Uint64("left_out", t.LeftOut).
			Int("lines_left_out", n).AnErr("why", c.why).Msg("pcap over IP: client gone")
	}
}

// listen notes when the client closes. What it sends after its line means
// nothing.
func (c *client) listen() {
	_, err := io.Copy(io.Discard, c.conn)
	if err == nil {
		c.half.Store(true) // it may still read
		return
	}
	if !errors.Is(err, net.ErrClosed) {
		c.leave(err)
	}
}

// A serveSink is a worker's end of all clients of a server:
//
//	record ──Write──▶ for each client: its filter ──▶ block in the worker's memory ──(16 KiB, or Flush)──▶ queue ──▶ TCP
//
// A client comes and goes between batches.
type serveSink struct {
	srv    *server
	seen   *[]*client // of which ends are the ends
	looked bool       // in this batch
	ends   []clientEnd
	pick   *selector   // what clients may get; nil: all
	past   OutputTotal // of ends that are gone
	given  uint64      // frames, once for each client
	left   uint64      // of those, not picked

	counts SinkCounts
}

// A clientEnd is a worker's end of one client.
type clientEnd struct {
	c    *client
	pick *selector // nil: it takes all
	to   *pcapngSink
	left uint64 // frames left out
}

// Write gives the record to each client that wants it, see sink.
func (s *serveSink) Write(o *Origin, r *proto.Record) {
	if !s.looked {
		s.look()
	}
	s.given += uint64(len(s.ends))
	if s.pick != nil {
		if r = s.pick.pick(o, r); r == nil {
			s.left += uint64(len(s.ends))
			return
		}
	}
	for i := range s.ends {
		e := &s.ends[i]
		p := r
		if e.pick != nil {
			if p = e.pick.pick(o, r); p == nil {
				e.left++
				continue
			}
		}
		e.to.Write(o, p)
	}
}

// choose says what clients may get.
func (s *serveSink) choose(takes *choice) {
	if s.pick = nil; !takes.all() {
		s.pick = newSelector(*takes)
	}
}

// look takes up the clients that there are now.
func (s *serveSink) look() {
	s.looked = true
	now := s.srv.clients.Load()
	if now == s.seen {
		return
	}
	old := s.ends
	s.seen, s.ends = now, nil
	for _, c := range *now {
		known := false
		for i := range old {
			if old[i].c == c {
				s.ends, old[i].c, known = append(s.ends, old[i]), nil, true
				break
			}
		}
		if known || !c.join() {
			continue
		}
		e := clientEnd{c: c, to: c.file.sink(make([]byte, 0, 2*serveChunk))}
		if !c.takes.all() {
			e.pick = newSelector(c.takes)
		}
		s.ends = append(s.ends, e)
	}
	for i := range old {
		if old[i].c != nil {
			s.part(&old[i])
		}
	}
}

// join takes up one more worker, unless the client is going.
func (c *client) join() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.going {
		c.ends.Add(1)
	}
	return !c.going
}

// part ends the worker's end of a client.
func (s *serveSink) part(e *clientEnd) {
	_ = e.to.Close() // the client's own loss
	t := e.total()
	s.past.add(t)
	e.c.mu.Lock()
	e.c.totals.add(t)
	e.c.mu.Unlock()
	e.c.ends.Done()
}

// total returns what became of the frames for a client.
func (e *clientEnd) total() (t OutputTotal) {
	t.count(e.to.Counts())
	t.LeftOut = e.left
	return t
}

// Flush puts what is encoded into the queues, see sink. What happens to clients
// is their loss.
func (s *serveSink) Flush() error {
	if !s.looked {
		s.look() // a client that goes does not wait for a frame
		if s.looked = false; len(s.ends) == 0 {
			return nil
		}
	}
	s.looked = false
	t := s.past
	for i := range s.ends {
		_ = s.ends[i].to.Flush()
		t.add(s.ends[i].total())
	}
	s.count(t)
	return nil
}

// count makes t the account.
func (s *serveSink) count(t OutputTotal) {
	c := &s.counts
	c.Given.Set(s.given)
	c.Delivered.Set(t.Delivered)
	c.DeliveredBytes.Set(t.DeliveredBytes)
	c.Refused.Set(t.Refused)
	c.Full.Set(t.Full)
	c.NotEthernet.Set(t.NotEthernet)
	c.LeftOut.Set(t.LeftOut + s.left)
}

// Counts returns the sink's accounts.
func (s *serveSink) Counts() *SinkCounts { return &s.counts }

// Close puts what is encoded into the queues.
func (s *serveSink) Close() error {
	for i := range s.ends {
		s.part(&s.ends[i])
	}
	s.ends, s.seen = nil, nil
	s.count(s.past)
	return nil
}
