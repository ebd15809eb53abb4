// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// blockedFile returns a file that takes a few KB and then blocks whoever writes
// to it: a terminal that nobody reads. free ends that.
func blockedFile(t *testing.T) (path string, free func()) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		testnet.Missing(t, err.Error())
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	return fmt.Sprintf("/dev/pts/%d", n), func() { master.Close() }
}

// A file whose writes block stops nothing: a program, a file, a VTEP and a
// client beside it get every frame, in time, and what finds no room for the file
// is counted. The collector ends. It used to stop all outputs, and never end.
func TestBlockedFile(t *testing.T) {
	testnet.RequireRoot(t)
	keys, dir := testKeys(t), t.TempDir()
	blocked, free := blockedFile(t)
	good := filepath.Join(dir, "good.pcapng")
	vtep, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer vtep.Close()
	testnet.Bound(t, vtep)
	roomy(t, vtep)
	log := new(warnings)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, err := Listen(ctx, Config{
		Listen: "127.0.0.1:0", Keys: keys, Workers: 2, Log: zerolog.New(&rerouted{log: log}),
		Outputs: Outputs{
			Files: []File{{Path: blocked, Buffer: minQueue}, {Path: good}},
			VXLAN: []VXLAN{{To: vtep.LocalAddr().String()}},
			Serve: []Serve{{Addr: "127.0.0.1:0", Queue: 64 << 20}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	sum := func(name string) OutputTotal {
		for _, o := range r.Account().Outputs() {
			if strings.Contains(o.Name, name) {
				return o.Sum()
			}
		}
		t.Fatalf("no output %s", name)
		return OutputTotal{}
	}
	var program []testnet.Packet
	ended := make(chan error, 1)
	go func() {
		for f := range r.Frames() {
			program = append(program, testnet.Packet{Data: f.Data})
		}
		ended <- r.Err()
	}()
	addr := ""
	for _, o := range r.Account().Outputs() {
		if rest, ok := strings.CutPrefix(o.Name, "pcap over IP "); ok {
			addr = rest
		}
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	testnet.Bound(t, conn)
	head := make([]byte, 4) // which comes once the client is one
	if _, err := io.ReadFull(conn, head); err != nil {
		t.Fatal(err)
	}
	client := make(chan []byte, 1)
	go func() {
		rest, _ := io.ReadAll(conn)
		client <- append(head, rest...)
	}()
	tunnel := make(chan []testnet.Packet, 1)
	go func() {
		var all []testnet.Packet
		for b := make([]byte, 1<<16); ; {
			n, err := vtep.Read(b)
			if err != nil || n == 1 {
				tunnel <- all
				return
			}
			all = append(all, testnet.Packet{Data: append([]byte(nil), b[proto.VXLANHeaderLen:n]...)})
		}
	}()

	f := flowing(t, keys, 2, r.Addr())
	testnet.Eventually(t, "the blocked file has no room", func() bool { return sum(blocked).Full > 1000 })
	all := uint64(f.end())
	for _, name := range []string{"this program", good, "VXLAN", "pcap over IP"} {
		testnet.Eventually(t, name+" has every frame while the file is blocked", func() bool { return sum(name).Delivered == all })
	}
	if w := fmt.Sprint(log.all()); !strings.Contains(w, blocked+": the disk is slower than frames come: frames are dropped until there is room") {
		t.Errorf("the log says %s", w)
	}
	begun := time.Now()
	stop()
	if err := testnet.Receive(t, "the collector's end", ended); err != nil { // which holds the account against what was given
		t.Error(err)
	}
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("the end took %v", took)
	}
	free()
	lastDatagram(t, vtep)
	if s := sum(blocked); s.Delivered+s.Full+s.Refused != all || s.Refused == 0 || s.Delivered > 1000 {
		t.Errorf("the blocked file: %d given, %+v", all, s)
	}
	inOrder(t, "the program", program, f.sent)
	inOrder(t, "the file", testnet.ReadCapture(t, good), f.sent)
	last, came := make(map[int]int), testnet.Receive(t, "the VTEP's end", tunnel) // in order within a flow
	for _, p := range came {
		flow, n := flowAndNumber(p.Data)
		if before, ok := last[flow]; ok && n <= before {
			t.Fatalf("the VTEP: frame %d of flow %d after %d", n, flow, before)
		}
		last[flow] = n
	}
	if uint64(len(came)) != all {
		t.Errorf("the VTEP: %d frames of %d", len(came), all)
	}
	_, packets, _ := blocks(t, testnet.Receive(t, "the client's end", client))
	var got []testnet.Packet
	for _, p := range packets {
		got = append(got, testnet.Packet{Data: p.Data})
	}
	inOrder(t, "the client", got, f.sent)
}

// What a blocked file had no room for, it tells once it goes on: before the next
// frame of the interface.
func TestBlockedFileTells(t *testing.T) {
	g := newReaderGate()
	q, f, _ := behind(t, g, 64<<10)
	s, o := f.sink(nil), origin(1, nil)
	put := func(n int) {
		s.Write(o, &proto.Record{Data: binary.BigEndian.AppendUint32(make([]byte, 1000), uint32(n)), LinkType: 1})
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for ; s.Counts().Full.Load() < 10; n++ {
		put(n)
	}
	g.set(func() { g.open = true })
	allWritten(t, f)
	put(n)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	q.close(0, nil)
	_, packets, _ := blocks(t, g.buf.Bytes())
	if last := packets[len(packets)-1]; last.Dropped != 10 || len(packets)+10 != n+1 {
		t.Errorf("%d packets of %d; the last one tells of %d", len(packets), n+1, last.Dropped)
	}
}
