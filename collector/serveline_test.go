// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"io"
	"net"
	"testing"
	"time"
)

// A frozen is a connection of a process that does not run between its first
// deadline and what it reads then.
type frozen struct {
	net.Conn
	once bool
}

func (f *frozen) SetReadDeadline(at time.Time) error {
	err := f.Conn.SetReadDeadline(at)
	if !f.once {
		f.once = true
		time.Sleep(2 * time.Until(at))
	}
	return err
}

// The line of a client that came at once counts, also where the collector did not
// run until the time for it was over. Such a client used to be given all frames.
func TestLineOfAClientCountsThoughNobodyLooked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := io.WriteString(client, "taps=2\n"); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, err := readRequest(&frozen{Conn: conn}); line != "taps=2" || err != nil {
		t.Errorf("the line is %q, %v", line, err)
	}
	if line, err := readRequest(conn); line != "" || err != nil { // a client that says nothing
		t.Errorf("the line is %q, %v", line, err)
	}
}
