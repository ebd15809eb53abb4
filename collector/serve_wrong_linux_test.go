// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/proto"
)

// What a client asks for in a wrong way is refused, with the reason.
func TestServeWrongRequests(t *testing.T) {
	s := newStall(t, 1, Serve{})
	for line, want := range map[string]string{
		"GET / HTTP/1.1\n":                        `ntap: "GET": want taps=`,
		"taps=x\n":                                `ntap: taps "x"`,
		"filter=tcp prot 80\n":                    `column 5`,
		"filter=host example.org\n":               "give addresses",
		"format=pcapx\n":                          "want taps=",
		"filter=1,6 0 0 1\nmore":                  "", // a good one
		strings.Repeat("x", requestLen+1):         "",
		"taps=1 snaplen=99999999 filter=x\r\n":    "snaplen=99999999",
		"filter=2,40 0 0 4294963204,6 0 0 1\r\n":  "only the kernel knows",
		"snaplen=10 filter=2,40 0 0 12,22 0 0 0 ": "",
	} {
		conn := s.dial(line)
		if !strings.Contains(line, "\n") {
			conn.(*net.TCPConn).CloseWrite()
		}
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		b := make([]byte, 1000)
		n, _ := io.ReadAtLeast(conn, b, 1)
		switch got := string(b[:n]); {
		case strings.HasSuffix(line, "more"):
			if n < 4 || binary.LittleEndian.Uint32(b) != proto.PcapngTypeSection {
				t.Errorf("%.50q: %q", line, got)
			}
		case !strings.Contains(got, want) || want != "" && !strings.HasSuffix(got, "\n"):
			t.Errorf("%.50q: %q, want %q", line, got, want)
		}
		conn.Close()
	}
	s.close()
}

// Wrong addresses are refused when the collector starts.
func TestServeErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		serve Serve
		want  string
	}{
		{Serve{Addr: taken.Addr().String()}, "taken by another program"},
		{Serve{Addr: "127.0.0.1"}, "want HOST:PORT"},
		{Serve{Addr: ":0"}, "without TLS it would give what was captured to everybody"},
		{Serve{Addr: "0.0.0.0:0"}, "without TLS"},
		{Serve{Addr: "[::]:0"}, "without TLS"},
		{Serve{Addr: "127.0.0.1:0", Queue: 1000}, "1048576 or more"},
		{Serve{Addr: "127.0.0.1:0", Clients: -1}, "-1 clients"},
		{Serve{Addr: "127.0.0.1:0", Select: Selection{Filter: "x y"}}, `not "x"`},
		{Serve{Addr: "127.0.0.1:0", TLS: &TLSFiles{}}, "wants three files"},
		{Serve{Addr: "127.0.0.1:0", TLS: &TLSFiles{"none", "none", "none"}}, "certificate none with key none"},
	} {
		if _, err := openOutputs(t.Context(), &shared{cfg: Config{Outputs: Outputs{Serve: []Serve{c.serve}}}, log: zerolog.Nop()}, new(Account)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.serve, err, c.want)
		}
	}
	noneLeft(t)
}
