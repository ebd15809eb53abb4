// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// selfSigned writes a certificate that is its own CA, and its key.
func selfSigned(t *testing.T, cert, key string) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

// A configuration that names a certificate or a key file that is not there is
// refused at SIGHUP, with its line, and the server goes on with the old one: it
// used to be closed, and one that could not be opened took its place.
func TestConfigWrongTLSAtSIGHUP(t *testing.T) {
	t.Parallel()
	dir, master, _ := keyFiles(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	cert := selfSigned(t, path("cert.pem"), path("key.pem"))
	addr := freePort(t)
	write := func(key, cert string) {
		t.Helper()
		text := fmt.Sprintf("port: 127.0.0.1:0\nkey-file: %s\nstate: none\noutputs:\n- pcap-over-ip: %s\n  tls: {cert: %s, key: %s, client-ca: %s}\n", key, addr, cert, path("key.pem"), path("cert.pem"))
		if err := os.WriteFile(path("c.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(master, path("cert.pem"))
	l := startLocal(t, "collector", "--config", path("c.yaml"))
	l.find(`pcap over IP address=(\S+) tls=true`)
	l.find(`collector started address=(\S+)`)
	good := func() {
		t.Helper()
		pool := x509.NewCertPool()
		leaf, _ := x509.ParseCertificate(cert.Certificate[0])
		pool.AddCert(leaf)
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", addr, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Read(make([]byte, 1)); err != nil { // the beginning of pcapng
			t.Fatal(err)
		}
	}
	good()
	for n, wrong := range [][2]string{{master, path("none.pem")}, {path("none.key"), path("cert.pem")}} {
		write(wrong[0], wrong[1])
		l.cmd.Process.Signal(syscall.SIGHUP)
		for deadline := time.Now().Add(time.Minute); strings.Count(l.text(), "that from before stays in force") <= n; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) || strings.Contains(l.text(), "is in force\"") {
				t.Fatalf("it is not refused:\n%s", l.text())
			}
		}
		good()
	}
	out := l.stop()
	for _, want := range []string{path("c.yaml") + ":6: outputs: pcap-over-ip: TLS: certificate " + path("none.pem"), path("c.yaml") + ":2: key-file: "} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "not opened") {
		t.Errorf("the server was opened anew:\n%s", out)
	}
}
