// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A TCP transfer over a veth with all offloads on is captured as frames of up
// to 64 KB with unfinished checksums. What comes out of the collector is what a
// wire would have seen: tshark, which checks every checksum, finds nothing wrong
// and no frame longer than the MTU, and the segments are all there. Their order
// is not asked for: a veth between two CPUs keeps none. It used to be given the frames as they were captured.
func TestOffloadsComeOutAsTheWireSawThem(t *testing.T) {
	testnet.RequireTool(t, "tshark")
	w := newWorld(t)
	file := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", file)
	r := w.startRemote("-i", "t0", "--ring", "268435456")
	const size = 8 << 20
	w.transfer("10.98.0.1", size)
	w.transfer("fd98::1", size)
	r.stop()
	text := c.stop()
	if account(text, "frames lost") != 0 {
		t.Fatalf("frames were lost:\n%s", text)
	}
	if account(text, "frames more") == 0 {
		t.Fatalf("no frame was cut: this kernel did not offload, or the ring does not say so:\n%s", text)
	}

	out := w.must("tshark", "-r", file, "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
		"-Y", "tcp.checksum.status==0 || ip.checksum.status==0 || udp.checksum.status==0 || frame.len > 1514")
	if out = withoutRootWarning(out); out != "" {
		t.Errorf("tshark finds wrong:\n%.2000s", out)
	}
	total := w.must("tshark", "-r", file, "-q", "-z", "io,stat,0,SUM(tcp.len)tcp.len")
	// TCP may have sent some of it twice.
	m := regexp.MustCompile(`<> [\d.]+ \|\s+(\d+) \|`).FindStringSubmatch(total)
	if m == nil {
		t.Fatalf("tshark says:\n%s", total)
	}
	if n, _ := strconv.Atoi(m[1]); n < 2*size || n > 2*size+1<<20 {
		t.Errorf("%d bytes of TCP, want two times %d:\n%s", n, size, total)
	}
}

// With --keep-gso the frames stay whole, longer than the wire had them, and all
// bytes are there.
func TestKeepGSO(t *testing.T) {
	testnet.RequireTool(t, "tshark")
	w := newWorld(t)
	file := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", file, "--keep-gso")
	r := w.startRemote("-i", "t0", "--ring", "268435456")
	const size = 4 << 20
	w.transfer("10.98.0.1", size)
	r.stop()
	text := c.stop()
	if account(text, "frames lost") != 0 {
		t.Fatalf("frames were lost:\n%s", text)
	}
	long, bytes := 0, 0
	for _, p := range testnet.ReadCapture(t, file) {
		if len(p.Data) > 1514 {
			long++
		}
		if len(p.Data) > 66 {
			bytes += len(p.Data) - 66 // Ethernet, IPv4, TCP with timestamps
		}
	}
	if long == 0 || bytes < size {
		t.Errorf("%d frames are longer than the MTU, %d bytes of %d\n%s", long, bytes, size, text)
	}
}

func withoutRootWarning(s string) string {
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(s), "\n") {
		if l != "" && !strings.Contains(l, "Running as user") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, "\n")
}

// transfer sends size bytes over TCP from the peer to host in the sender's
// namespace.
func (w *world) transfer(host string, size int) {
	w.t.Helper()
	var l net.Listener
	w.inside(w.sender, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
		return err
	})
	defer l.Close()
	sum := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		if c, err := l.Accept(); err == nil {
			io.Copy(h, c)
			c.Close()
		}
		sum <- [32]byte(h.Sum(nil))
	}()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + i>>11)
	}
	w.inside(w.peer, func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		if _, err := c.Write(data); err != nil {
			return err
		}
		return c.Close()
	})
	if got := <-sum; got != sha256.Sum256(data) {
		w.t.Errorf("the transfer itself went wrong")
	}
}

// A frame that is longer than a block of the ring is cut by the kernel, without
// a word: each is counted, and comes out with the length that it had. It used
// to be cut and not counted. One that is cut because -s says so is not one.
func TestFramesLongerThanABlock(t *testing.T) {
	testnet.RequireTool(t, "tshark")
	for _, v := range []struct {
		name string
		args []string
		want bool
	}{
		{"small blocks", []string{"--block", "16384"}, true},
		{"small blocks, a filter", []string{"--block", "16384", "tcp"}, true},
		{"small blocks, sliced", []string{"--block", "16384", "-s", "9000"}, false},
		{"usual blocks", nil, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file, "--keep-gso")
			r := w.startRemote(append([]string{"-i", "t0", "--ring", "268435456"}, v.args...)...)
			w.transfer("10.98.0.1", 4<<20)
			text := r.stop()
			c.stop()
			cut := len(strings.Fields(withoutRootWarning(w.must("tshark", "-r", file, "-Y", "frame.cap_len < frame.len && frame.cap_len > 9000", "-T", "fields", "-e", "frame.number"))))
			if n := account(text, "frames cut, since they were longer than a block"); n != cut || v.want != (n > 0) {
				t.Errorf("%d frames came out cut, %d are counted:\n%s", cut, n, text)
			}
			if v.want != strings.Contains(text, "frames are longer than a block of the ring") {
				t.Errorf("the log says:\n%s", text)
			}
			if account(text, "frames captured") != account(text, "frames, ") {
				t.Errorf("not all were sent:\n%s", text)
			}
		})
	}
}
