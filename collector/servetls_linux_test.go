// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// An authority issues certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	pem  []byte

	from, until time.Duration // from now: when what it issues is good; zero: for an hour each
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	der, key := a.issue("test CA", true)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.pool.AddCert(a.cert)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// issue makes a certificate, of the CA itself if there is none yet.
func (a *authority) issue(name string, ca bool) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(cmp.Or(a.from, -time.Hour)), NotAfter: time.Now().Add(cmp.Or(a.until, time.Hour)),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: ca,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	if der, err = x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by); err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// client returns a certificate for TLS.
func (a *authority) client(name string) tls.Certificate {
	a.t.Helper()
	der, key := a.issue(name, false)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// files writes a server's certificate and key, and the CA.
func (a *authority) files(dir string) TLSFiles {
	a.t.Helper()
	der, key := a.issue("server", false)
	text, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	f := TLSFiles{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), ClientCA: filepath.Join(dir, "ca.pem")}
	for name, b := range map[string][]byte{
		f.Cert:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		f.Key:      pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: text}),
		f.ClientCA: a.pem,
	} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return f
}

// dialTLS is dial of a client with TLS: what it says is there before the server
// gives it a client's place, after the handshake.
func (s *stall) dialTLS(addr string, cfg *tls.Config, text string) *tls.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	testnet.Bound(s.t, conn)
	srv := s.server()
	testnet.Eventually(s.t, "the connection is taken", func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return slices.ContainsFunc(srv.pending, func(p *pending) bool { return p.RemoteAddr().String() == conn.LocalAddr().String() })
	})
	srv.mu.Lock()
	defer srv.mu.Unlock()
	cfg = cfg.Clone()
	cfg.ServerName = "127.0.0.1"
	client := tls.Client(conn, cfg)
	if err := client.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(client, text); err != nil {
		s.t.Fatal(err)
	}
	arrived(s.t, conn)
	return client
}

// Off the loopback only clients with a certificate of the right CA get
// anything, and files that change are read again.
func TestServeTLS(t *testing.T) {
	ca, other, dir := newAuthority(t), newAuthority(t), t.TempDir()
	files := ca.files(dir)
	s := newStall(t, 1, Serve{Addr: "0.0.0.0:0", TLS: &files})
	_, port, _ := net.SplitHostPort(s.addr())
	addr := net.JoinHostPort("127.0.0.1", port)
	o := origin(1, nil)
	dial := func(cfg *tls.Config) *tls.Conn {
		conn, err := tls.Dial("tcp", addr, cfg)
		if err != nil {
			return nil
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		return conn
	}
	gets := func(cfg *tls.Config) int {
		conn := dial(cfg)
		if conn == nil {
			return 0
		}
		defer conn.Close()
		n, _ := conn.Read(make([]byte, 1000)) // with TLS 1.3 a refusal comes here
		return n
	}
	good := &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{ca.client("analyst")}}
	ca.until = -time.Minute
	old := ca.client("analyst")
	ca.until = 0
	for name, cfg := range map[string]*tls.Config{
		"an old certificate": {RootCAs: ca.pool, Certificates: []tls.Certificate{old}},
		"no certificate":     {RootCAs: ca.pool},
		"of another CA":      {RootCAs: ca.pool, Certificates: []tls.Certificate{other.client("stranger")}},
		"an old version":     {RootCAs: ca.pool, Certificates: good.Certificates, MaxVersion: tls.VersionTLS12},
		"the wrong server":   {RootCAs: other.pool, Certificates: good.Certificates},
	} {
		if n := gets(cfg); n != 0 {
			t.Errorf("%s: %d bytes", name, n)
		}
	}
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(plain, "taps=1\n")
	plain.SetReadDeadline(time.Now().Add(time.Minute))
	b, _ := io.ReadAll(plain)
	if len(b) > 7 { // an alert at most
		t.Errorf("in clear: %q", b)
	}
	plain.Close()

	conn := s.dialTLS(addr, good, "format=pcap\n")
	r := s.greet(conn)
	s.write(0, o, 1)
	s.flush()
	if p := r.packets(1); p[0].Time != 1 {
		t.Errorf("%+v", p)
	}

	// The CA is exchanged: new clients need the new one, old connections go on.
	newFiles := other.files(t.TempDir())
	for from, to := range map[string]string{newFiles.Cert: files.Cert, newFiles.Key: files.Key, newFiles.ClientCA: files.ClientCA} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	fresh := &tls.Config{RootCAs: other.pool, Certificates: []tls.Certificate{other.client("analyst")}}
	testnet.Eventually(t, "the new certificates are used", func() bool { return gets(fresh) > 0 })
	if n := gets(good); n != 0 {
		t.Errorf("%d bytes for a certificate of the old CA", n)
	}
	if err := os.WriteFile(files.Cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(tlsLook + 100*time.Millisecond) // nonsense has been looked at then
	if gets(fresh) == 0 {
		t.Error("the old certificates were not kept when a file went bad")
	}
	s.write(0, o, 2)
	s.flush()
	h := r.take(16)
	if h[4] != 2 {
		t.Errorf("after the exchange: %x", h)
	}
	conn.Close()
	s.close()
}

// A server's certificate that no client would take is an error at once: each
// client used to be told by its own program, and the server by nobody.
func TestServeTLSOutOfDate(t *testing.T) {
	for want, times := range map[string][2]time.Duration{
		"is not good any more": {-2 * time.Hour, -time.Minute}, "is not good yet": {time.Hour, 2 * time.Hour},
	} {
		ca := newAuthority(t)
		ca.from, ca.until = times[0], times[1]
		files := ca.files(t.TempDir())
		if err := files.Check(); err == nil || !strings.Contains(err.Error(), files.Cert+" "+want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// Strangers that connect and say nothing lock out no client, also from its own
// address, and the end does not wait for them: they took the places of clients,
// 64 of them all, for the 10 seconds of a handshake, and so long the end took.
func TestServeStrangers(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	files := ca.files(dir)
	s := newStall(t, 1, Serve{Addr: "0.0.0.0:0", TLS: &files, Clients: 2})
	_, port, _ := net.SplitHostPort(s.addr())
	var all []net.Conn
	idle := func(from net.IP, n int) {
		t.Helper()
		for range n {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: time.Minute}
			conn, err := d.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, conn)
		}
	}
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	srv := s.server()
	strangers := func() int {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return len(srv.pending)
	}
	cfg := &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{ca.client("analyst")}}
	welcome := func() *tls.Conn {
		t.Helper()
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", net.JoinHostPort("127.0.0.1", port), cfg)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(conn, make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	idle(net.IPv4(127, 0, 0, 1), 64)
	testnet.Eventually(t, "strangers of one address are few", func() bool { return strangers() == maxStrangersFrom })
	defer welcome().Close()
	for i := range 8 {
		idle(net.IPv4(127, 0, 1, byte(i)), 16)
	}
	testnet.Eventually(t, "all strangers are no more than may be", func() bool { return strangers() == maxStrangers })
	defer welcome().Close()
	begun := time.Now()
	s.close()
	if d := time.Since(begun); d > tlsTime*3/4 {
		t.Errorf("the end took %v", d)
	}
}
