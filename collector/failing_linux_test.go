// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// breakFile has every write to an open file fail, and not for want of room.
func breakFile(t *testing.T, path string) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for fd := range 1024 {
		if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && name == path {
			if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s is not open", path)
}

// readFIFO opens a FIFO for reading, which takes until somebody writes to it.
func readFIFO(t *testing.T, path string) *os.File {
	t.Helper()
	var f *os.File
	var err error
	testnet.Await(t, "there is a writer of the FIFO", func() { f, err = os.Open(path) })
	if err != nil {
		t.Fatal(err)
	}
	testnet.Bound(t, f)
	return f
}

// An output that fails while others run is opened again: a FIFO once it has a
// reader, who gets a stream of his own; a file under another name, since what it
// has is kept; and a new configuration does not wait for that. They used to be
// dead until the collector was started anew.
func TestFailedOutputsComeBack(t *testing.T) {
	keys, dir := testKeys(t), t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	path, good := filepath.Join(dir, "x.pcapng"), filepath.Join(dir, "good.pcapng")
	outs := Outputs{Files: []File{{Path: fifo}, {Path: path}, {Path: good}}}
	r := reroute(t, keys, outs)
	f := flowing(t, keys, 2, r.addr)
	read := func() {
		t.Helper()
		pipe := readFIFO(t, fifo)
		defer pipe.Close()
		b := make([]byte, 10000)
		if _, err := io.ReadFull(pipe, b); err != nil || binary.LittleEndian.Uint32(b) != proto.PcapngTypeSection || binary.LittleEndian.Uint32(b[blockLen(b):]) != proto.PcapngTypeInterface {
			t.Errorf("the FIFO: %v, %x", err, b[:8])
		}
	}
	for n := range 3 {
		read()
		r.until("it is told", func() bool {
			return strings.Count(fmt.Sprint(r.log.all()), "the output fails: its frames are refused, and it is tried again") == n+1
		})
		if n == 1 {
			r.to(outs, nil)
		}
	}
	before := r.sum(path).Delivered
	breakFile(t, path)
	r.until("it goes on", func() bool {
		_, err := os.Stat(again(path, 2))
		return err == nil && r.sum(path).Delivered > before+100
	})
	breakFile(t, again(path, 2))
	r.to(outs, nil) // by a new configuration
	r.until("it goes on", func() bool {
		st, err := os.Stat(again(path, 3))
		return err == nil && st.Size() > 1000
	})
	all := f.end()
	r.until("all frames came", func() bool { return r.unpacked() == all })
	r.end()
	inOrder(t, "good", testnet.ReadCapture(t, good), f.sent)
	packets := 0
	for _, name := range []string{path, again(path, 2), again(path, 3)} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, p, _ := blocks(t, b[:wholeBlocks(b)])
		packets += len(p)
	}
	if s := r.sum(path); s.Delivered != uint64(packets) || s.Delivered+s.Refused != uint64(all) || s.Refused == 0 {
		t.Errorf("%d packets in the files, of %d given; %+v", packets, all, s)
	}
	if s := r.sum("fifo"); s.Delivered+s.Refused != uint64(all) || s.Delivered == 0 {
		t.Errorf("%d given to the FIFO, %+v", all, s)
	}
}

// The reader of the only output goes while no frame comes, and the collector
// ends. It used to notice with the next frame.
func TestQuietReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	testnet.Bound(t, r)
	ended := make(chan error, 1)
	go func() {
		_, err := Run(t.Context(), Config{Listen: "127.0.0.1:0", Keys: testKeys(t), Write: "-", Stdout: w, Log: zerolog.Nop()})
		ended <- err
	}()
	if _, err := io.ReadFull(r, make([]byte, 12)); err != nil { // it runs
		t.Fatal(err)
	}
	r.Close()
	if err := testnet.Receive(t, "the collector's end", ended); err != nil {
		t.Error(err)
	}
}
