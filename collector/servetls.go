// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// TLSFiles are PEM files for TLS with certificates on both sides. They are read
// again when they change: a connection gets what is in them then.
type TLSFiles struct {
	Cert     string // the server's certificate, and those between it and its CA
	Key      string // its private key
	ClientCA string // certificates of the CAs that issue clients'
}

// tlsLook is how often the files are looked at, at most.
const tlsLook = time.Second

// A tlsSource is TLSFiles as they were last read.
type tlsSource struct {
	files TLSFiles
	log   zerolog.Logger

	mu     sync.Mutex
	looked time.Time
	age    [3]time.Time // of the files
	now    *tls.Config
}

func newTLSSource(files TLSFiles, log zerolog.Logger) (*tlsSource, error) {
	s := &tlsSource{files: files, log: log, looked: time.Now(), age: files.age()}
	var err error
	s.now, err = files.load()
	return s, err
}

// age returns when the files were changed last.
func (f *TLSFiles) age() (at [3]time.Time) {
	for i, name := range []string{f.Cert, f.Key, f.ClientCA} {
		if st, err := os.Stat(name); err == nil {
			at[i] = st.ModTime()
		}
	}
	return at
}

// Check says what is wrong with the files.
func (f *TLSFiles) Check() error {
	_, err := f.load()
	return err
}

// load reads the files.
func (f *TLSFiles) load() (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" || f.ClientCA == "" {
		return nil, errors.New("TLS wants three files: the server's certificate, its key, and the CA of the clients' certificates")
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS: certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	switch now := time.Now(); {
	case now.After(pair.Leaf.NotAfter):
		return nil, fmt.Errorf("TLS: certificate %s is not good any more: it ended on %v; renew it", f.Cert, pair.Leaf.NotAfter)
	case now.Before(pair.Leaf.NotBefore):
		return nil, fmt.Errorf("TLS: certificate %s is not good yet: it begins on %v; is this host's clock right?", f.Cert, pair.Leaf.NotBefore)
	}
	text, err := os.ReadFile(f.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("TLS: CA of clients: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("TLS: CA of clients: %s holds no certificate in PEM", f.ClientCA)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}

// config returns what a new connection gets.
func (s *tlsSource) config() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.looked) < tlsLook {
		return s.now
	}
	s.looked = now
	if age := s.files.age(); age != s.age {
		c, err := s.files.load()
		if err != nil {
			s.log.Warn().Err(err).Msg("pcap over IP: the old certificates stay in use")
			return s.now // and look again: files are replaced one after the other
		}
		s.age, s.now = age, c
		s.log.Info().Str("certificate", s.files.Cert).Msg("pcap over IP: certificates read again")
	}
	return s.now
}
