// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// suricata is the folder of a Suricata's logs.
type suricata string

// An eveEvent is what the tests need of a line of Suricata's eve.json.
type eveEvent struct {
	Type string `json:"event_type"`
	IP   string `json:"src_ip"`
	HTTP struct {
		Hostname string
		URL      string
		Status   int
		Length   int
	}
	File struct {
		Filename string
		State    string
		Size     int
	} `json:"fileinfo"`
	Stats eveStats
}

type eveStats struct {
	Capture struct {
		Drops int `json:"kernel_drops"`
	}
	Decoder struct {
		Packets int `json:"pkts"`
		Invalid int
		Longest int `json:"max_pkt_size"`
	}
	TCP struct {
		BadChecksum int `json:"invalid_checksum"`
		Gap         int `json:"reassembly_gap"`
	}
}

// engineStarted says that it captures.
func (s suricata) engineStarted() bool {
	return fileHas(filepath.Join(string(s), "suricata.log"), []byte("Engine started"))
}

// events returns all of a type that it has written by now.
func (s suricata) events(kind string) (all []eveEvent) {
	text, _ := os.ReadFile(filepath.Join(string(s), "eve.json"))
	for line := range bytes.Lines(text) {
		var e eveEvent
		if json.Unmarshal(line, &e) == nil && e.Type == kind { // the last line may not be whole yet
			all = append(all, e)
		}
	}
	return all
}

// stats returns the statistics that it wrote last.
func (s suricata) stats() (last eveStats) {
	for _, e := range s.events("stats") {
		last = e.Stats
	}
	return last
}

// Suricata on the virtual interface sees an HTTP transfer of another host, sent
// with segmentation offload, as if it were there: the request, the response, the
// whole file, no gap in the stream and no bad checksum.
func TestSuricata(t *testing.T) {
	t.Parallel()
	testnet.WantTool(t, "suricata", "sudo make suricata")
	w := newWorld(t)
	file := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("-i", "ntap0", "-w", file)
	logs := suricata(w.dir)
	s := w.start(w.collector, "suricata", "-i", "ntap0", "-k", "all", "-l", w.dir,
		"--set", "stats.interval=1", "--set", "app-layer.protocols.http.libhtp.default-config.response-body-limit=0")
	s.until("it captures", logs.engineStarted)
	r := w.startRemote("-i", "t0")

	const size = 512 << 10
	var l net.Listener
	w.inside(w.sender, func() (err error) {
		l, err = net.Listen("tcp4", "10.98.0.1:80")
		return err
	})
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Write(bytes.Repeat([]byte{0xA5}, size))
	}))
	defer l.Close()
	w.inside(w.peer, func() error {
		conn, err := net.Dial("tcp4", "10.98.0.1:80")
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprint(conn, "GET /whole HTTP/1.1\r\nHost: ntap.example\r\nConnection: close\r\n\r\n")
		n, err := io.Copy(io.Discard, conn)
		if err == nil && n < size {
			err = fmt.Errorf("%d bytes", n)
		}
		return err
	})
	w.inject(w.peer, "p0", marker("end")) // comes behind the end of the connection
	c.until("all frames came", func() bool { return fileHas(file, marker("end")) })
	r.stop()
	given := len(soFar(file))
	s.until("it logs the transfer, and counts all frames", func() bool {
		return len(logs.events("http")) > 0 && len(logs.events("fileinfo")) > 0 && logs.stats().Decoder.Packets >= given
	})
	s.cmd.Process.Signal(unix.SIGINT)
	s.end()
	if n := w.counter(w.collector, "ntap0", "rx_packets"); n != given {
		t.Errorf("%d frames came to the interface, %d into the file", n, given)
	}
	c.stop()

	if e := logs.events("http")[0]; e.HTTP.Hostname != "ntap.example" || e.HTTP.URL != "/whole" || e.HTTP.Status != 200 || e.HTTP.Length != size || e.IP != "10.98.0.2" {
		t.Errorf("the transfer: %+v", e)
	}
	if e := logs.events("fileinfo")[0]; e.File.Filename != "/whole" || e.File.Size != size || e.File.State != "CLOSED" {
		t.Errorf("the file: %+v", e)
	}
	last := logs.stats()
	if d := last.Decoder; d.Packets != given || d.Packets < size/1448 || last.Capture.Drops > 0 || d.Invalid > 0 || d.Longest > 1514 {
		t.Errorf("%d frames came to the interface; Suricata's statistics: %+v", given, last)
	}
	if last.TCP.BadChecksum > 0 || last.TCP.Gap > 0 {
		t.Errorf("the stream: %+v", last.TCP)
	}
}
