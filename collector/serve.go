// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// A Serve is an address at which programs read frames over TCP: PCAP over IP,
// as Wireshark (-i TCP@HOST:PORT), Arkime, Zeek's scripts and others do. Each
// client gets what comes from when it connects.
//
// A client may first send one line that says what it wants of what the output
// gets, in the words of ParseSelection and format=pcap or format=pcapng:
//
//	taps=1,3 snaplen=96 format=pcap filter=udp port 53
//
// One that sends nothing gets all. Names of hosts in a client's filter are not
// looked up.
type Serve struct {
	Addr    string    // HOST:PORT; port 0: the kernel's choice
	TLS     *TLSFiles // nil: plain, which is for loopback only
	Pcap    bool      // as pcap with ns, of Ethernet frames, where the client does not say; else pcapng
	Clients int       // at once; 0: 64
	Queue   int       // bytes that wait for a client that is slow: the rest is dropped; 0: 8 MiB
	Select  Selection // the most that a client gets
}

// ServePort is where programs look for PCAP over IP.
const ServePort = 57012

// Chosen.
const (
	serveClients = 64
	serveQueue   = 8 << 20
	minQueue     = 1 << 20                // bytes: a frame has up to 256 KiB
	serveChunk   = 16 << 10               // bytes that a worker encodes for a client before they are put into its queue
	serveEnd     = 5 * time.Second        // for clients to take what is left, when the collector ends
	requestWait  = 100 * time.Millisecond // for the first byte of a client's line
	requestLook  = 20 * time.Millisecond  // once more, for one that came in time
	requestTime  = 5 * time.Second        // for the rest of it
	requestLen   = 128 << 10              // bytes: 4,096 instructions in decimal
	tlsTime      = 10 * time.Second       // for a handshake

	acceptWait  = 50 * time.Millisecond // between two attempts to take a connection that failed
	acceptAgain = 10 * time.Second      // that it fails is told this often

	maxStrangers     = 64 // connections at once that have not proved who they are
	maxStrangersFrom = 16 // of those from one address
)

// A server is one Serve.
type server struct {
	how    atomic.Pointer[Serve] // which alter replaces: new clients get what it says
	addr   string
	listen net.Listener
	tls    *tlsSource // nil: plain
	log    zerolog.Logger

	clients atomic.Pointer[[]*client] // those that frames are given to; replaced whole

	mu      sync.Mutex // guards changes of clients
	closed  bool
	pending []*pending // the oldest first
	late    *SinkCounts
	running sync.WaitGroup
	lines   logLimit
}

// check says what is wrong with the configuration, whatever the host.
func (c *Serve) check() error {
	if c.Clients < 0 || c.Queue != 0 && c.Queue < minQueue {
		return fmt.Errorf("%d clients with %d bytes each: 1 or more, and %d or more", c.Clients, c.Queue, minQueue)
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return fmt.Errorf("%w; want HOST:PORT, as in 127.0.0.1:%d", err, ServePort)
	}
	if ip := net.ParseIP(host); c.TLS == nil && (host == "" || ip != nil && !ip.IsLoopback()) {
		return errNoTLS
	}
	return nil
}

var errNoTLS = errors.New("without TLS it would give what was captured to everybody who can connect: give a certificate, its key, and the CA of the clients' certificates, or listen on 127.0.0.1")

func newServer(c Serve, log zerolog.Logger) (*server, error) {
	a, err := net.ResolveTCPAddr("tcp", c.Addr)
	if err != nil {
		return nil, fmt.Errorf("%w; want HOST:PORT, as in 127.0.0.1:%d", err, ServePort)
	}
	s := &server{late: new(SinkCounts), log: log}
	s.set(c)
	s.clients.Store(new([]*client))
	if c.TLS != nil {
		if s.tls, err = newTLSSource(*c.TLS, log); err != nil {
			return nil, err
		}
	} else if !a.IP.IsLoopback() {
		return nil, errNoTLS
	}
	network := "tcp"
	if a.IP.To4() != nil {
		network = "tcp4" // else 0.0.0.0 would be [::]
	}
	if s.listen, err = net.ListenTCP(network, a); errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %d is taken by another program (ss -tlpn sport = :%d shows which): %w; stop it, or give another port", a.Port, a.Port, err)
	} else if err != nil {
		return nil, err
	}
	s.addr = s.listen.Addr().String()
	s.log.Info().Str("address", s.addr).Bool("tls", s.tls != nil).Msg("pcap over IP")
	s.running.Go(s.accept)
	return s, nil
}

// set makes what c says what new clients get.
func (s *server) set(c Serve) {
	c.Clients, c.Queue = cmp.Or(c.Clients, serveClients), cmp.Or(c.Queue, serveQueue)
	s.how.Store(&c)
}

// alter returns what makes the server another one at the same address, whose
// clients stay; nil: it has to be opened anew, since it proves itself or its
// clients in another way.
func (s *server) alter(how any) (apply func()) {
	next, now := how.(Serve), s.how.Load()
	if !reflect.DeepEqual(next.TLS, now.TLS) {
		return nil
	}
	return func() { s.set(next) }
}

// accept takes connections until the server is closed. While none can be taken,
// since there are no descriptors for instance, they wait in the kernel.
func (s *server) accept() {
	var told bool
	var said time.Time
	for {
		conn, err := s.listen.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			if time.Since(said) >= acceptAgain {
				told, said = true, time.Now()
				s.log.Warn().Str("address", s.addr).Err(withRemedy(err)).Msg("pcap over IP: connections cannot be taken, and wait")
			}
			time.Sleep(acceptWait)
			continue
		}
		if told {
			told = false
			s.log.Info().Str("address", s.addr).Msg("pcap over IP: connections are taken again")
		}
		p, err := s.enter(conn)
		if err != nil {
			s.say(zerolog.WarnLevel, conn.RemoteAddr().String(), err, "pcap over IP: client refused")
			conn.Close()
			continue
		}
		s.running.Go(func() { s.welcome(p) })
	}
}

// A pending is a connection that is no client yet.
type pending struct {
	net.Conn
	known bool // it may be one: it has proved who it is, or need not; it has a client's place
}

// enter takes one more connection, or says why it does not. Those that have not
// proved who they are take no client's place, and are few: if there are too
// many, from one address or in all, the oldest is closed, since one that can
// prove it has done so in a moment.
func (s *server) enter(conn net.Conn) (*pending, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &pending{Conn: conn}
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.tls == nil {
		if err := s.place(p); err != nil {
			return nil, err
		}
	}
	var strangers, same []*pending
	for _, x := range s.pending {
		if x.known {
			continue
		}
		if strangers = append(strangers, x); hostOf(x) == hostOf(conn) {
			same = append(same, x)
		}
	}
	switch {
	case p.known:
	case len(same) >= maxStrangersFrom:
		s.drop(same[0])
	case len(strangers) >= maxStrangers:
		s.drop(strangers[0])
	}
	s.pending = append(s.pending, p)
	return p, nil
}

// hostOf returns the address that a connection comes from, without its port.
func hostOf(c net.Conn) string {
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return host
}

// drop closes a connection that is no client. s.mu is held.
func (s *server) drop(p *pending) {
	p.Close()
	s.forget(p)
}

func (s *server) forget(p *pending) {
	s.pending = slices.DeleteFunc(s.pending, func(x *pending) bool { return x == p })
}

// place gives a connection the place of a client, or says why there is none. A
// client that has closed its side and may be gone makes way. s.mu is held.
func (s *server) place(p *pending) error {
	all, most := *s.clients.Load(), s.how.Load().Clients
	taken := len(all)
	for _, x := range s.pending {
		if x.known {
			taken++
		}
	}
	if taken >= most {
		i := slices.IndexFunc(all, func(c *client) bool { return c.half.Load() })
		if i < 0 {
			return fmt.Errorf("there are %d already", taken)
		}
		all[i].leave(errors.New("it had closed its side, and another one came"))
		all = slices.Delete(slices.Clone(all), i, i+1)
		s.clients.Store(&all)
	}
	p.known = true
	return nil
}

// welcome makes a connection a client, and waits until it goes.
func (s *server) welcome(p *pending) {
	from := p.RemoteAddr().String()
	c, err := s.meet(p)
	s.mu.Lock()
	s.forget(p)
	if err == nil && s.closed {
		err = net.ErrClosed
	}
	if err == nil {
		all := append(slices.Clone(*s.clients.Load()), c)
		s.clients.Store(&all)
	}
	s.mu.Unlock()
	if err != nil {
		s.say(zerolog.WarnLevel, from, err, "pcap over IP: client refused")
		p.Close()
		return
	}
	s.say(zerolog.InfoLevel, c.name, nil, "pcap over IP: client "+c.wants())
	c.run()
}

// meet does the handshake, and reads what the client wants.
func (s *server) meet(p *pending) (*client, error) {
	who, conn := "", p.Conn
	if s.tls != nil {
		t := tls.Server(conn, s.tls.config())
		ctx, stop := context.WithTimeout(context.Background(), tlsTime)
		defer stop()
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		who = t.ConnectionState().PeerCertificates[0].Subject.String()
		conn = t
		s.mu.Lock()
		err := s.place(p)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	line, err := readRequest(conn)
	if err != nil {
		return nil, err
	}
	c, err := newClient(s, conn, who, line)
	if err != nil {
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(conn, "ntap: %v\n", err)
		return nil, err
	}
	return c, nil
}

// readRequest reads the line that a client may send first, without its end.
func readRequest(conn net.Conn) (string, error) {
	defer conn.SetReadDeadline(time.Time{})
	conn.SetReadDeadline(time.Now().Add(requestWait))
	buf := make([]byte, 0, 1024)
	for looks := 1; ; looks++ {
		n, err := conn.Read(buf[len(buf):cap(buf)])
		if buf = buf[:len(buf)+n]; n > 0 {
			if line, _, ok := strings.Cut(string(buf), "\n"); ok {
				return strings.TrimRight(line, "\r"), nil
			}
			conn.SetReadDeadline(time.Now().Add(requestTime))
		}
		switch {
		case err != nil && len(buf) > 0:
			return "", fmt.Errorf("a line that does not end: %w", err)
		case looks == 1 && errors.Is(err, os.ErrDeadlineExceeded):
			// Nothing is read behind a deadline, also of what came before it: it may
			// have passed because this process did not run.
			conn.SetReadDeadline(time.Now().Add(requestLook))
		case err != nil: // it says nothing, or has closed its side
			return "", nil
		case len(buf) == cap(buf) && cap(buf) >= requestLen:
			return "", fmt.Errorf("a line of more than %d bytes", requestLen)
		case len(buf) == cap(buf):
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
	}
}

// remove takes a client from the list.
func (s *server) remove(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(*s.clients.Load())
	all = slices.DeleteFunc(all, func(x *client) bool { return x == c })
	s.clients.Store(&all)
}

// close lets clients take what is left, and ends the connections. The sinks
// are closed.
func (s *server) close() error {
	s.mu.Lock()
	s.closed = true
	all := *s.clients.Load()
	for _, p := range s.pending {
		p.Close() // what it was about to say is not waited for
	}
	s.mu.Unlock()
	err := s.listen.Close()
	for _, c := range all {
		c.leave(nil)
	}
	s.running.Wait()
	return err
}

// sink returns a worker's end of all clients, which takes all frames: see choose.
func (s *server) sink(worker int, a *OutputAccount) (sink, error) {
	if worker == 0 {
		a.add(s.late)
	}
	return &serveSink{srv: s}, nil
}

// say logs a line, unless there were many: anybody may connect and fail.
func (s *server) say(level zerolog.Level, from string, err error, text string) {
	if n, ok := s.lines.line(time.Now()); ok {
		s.log.WithLevel(level).Str("address", s.addr).Str("client", from).Int("left_out", n).Err(err).Msg(text)
	}
}

// A logLimit keeps a log from being flooded.
type logLimit struct {
	mu   sync.Mutex
	at   time.Time
	left int // lines that may be written still in this second
	out  int // lines left out since the last
}

// logLines a second is what is written. Chosen.
const logLines = 20

// line says whether a line may be written, and how many before it were not.
func (l *logLimit) line(now time.Time) (out int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.at) >= time.Second {
		l.at, l.left = now, logLines
	}
	if l.left == 0 {
		l.out++
		return 0, false
	}
	l.left--
	out, l.out = l.out, 0
	return out, true
}
