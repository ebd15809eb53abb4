// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// A recording past the page cache is what another one is.
func TestDirectRecordingRotates(t *testing.T) { testRecordingRotates(t, true) }

// A collector that is killed while it writes past the page cache leaves what it
// was given until 100 ms before: whole blocks to any reader. The next run gives
// the file its name.
func TestDirectKilled(t *testing.T) {
	const frames = 9000 // more than two buffers
	file := File{Rotate: Rotation{Size: 1 << 30}, Direct: true}
	if dir := os.Getenv("NTAP_TEST_DIRECT"); dir != "" {
		file.Path = filepath.Join(dir, "x.pcapng")
		out, err := openFile(context.Background(), file, false, nil, func(error) {})
		if err != nil {
			os.Exit(3)
		}
		s, _ := out.sink(0, new(OutputAccount))
		for n := range frames {
			s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 1000+n%1000), Time: int64(n), LinkType: 1})
			if n%10 == 0 {
				s.Flush()
			}
		}
		s.Flush()
		fmt.Println("all")
		select {}
	}
	dir := t.TempDir()
	cmd := testnet.Command(t, os.Args[0], "-test.run=^TestDirectKilled$")
	cmd.Env = append(os.Environ(), "NTAP_TEST_DIRECT="+dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	var word string
	if _, err := fmt.Fscanln(stdout, &word); err != nil || word != "all" {
		t.Fatalf("%q, %v", word, err)
	}
	part := filepath.Join(dir, "x-00001.pcapng.part")
	testnet.Eventually(t, "all frames are in the file", func() bool {
		b, err := os.ReadFile(part)
		return err == nil && wholeBlocks(b) == len(b) && packetBlocks(b) == frames
	})
	cmd.Process.Kill()
	cmd.Wait()
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	if n := wholeBlocks(b); n != len(b) || len(b)%directAlign != 0 {
		t.Errorf("%d bytes, of which %d are whole blocks", len(b), n)
	}
	if packets := testnet.ReadCapture(t, part); len(packets) != frames { // gopacket
		t.Errorf("%d packets of %d", len(packets), frames)
	}
	if packets, err := testnet.ReadTshark(part); err != nil || len(packets) != frames {
		t.Errorf("tshark: %d packets of %d, %v", len(packets), frames, err)
	}
	if out, err := testnet.Command(t, "tcpdump", "-nr", part, "-w", "/dev/null").CombinedOutput(); err != nil {
		t.Errorf("tcpdump: %v\n%s", err, out)
	}
	file.Path = filepath.Join(dir, "x.pcapng")
	out, warned := openTestRecording(t, file)
	testnet.Eventually(t, "the file is mended", func() bool { return len(warned.all()) > 0 })
	if err := out.close(); err != nil {
		t.Fatal(err)
	}
	if packets := testnet.ReadCapture(t, filepath.Join(dir, "x-00001.pcapng")); len(packets) != frames {
		t.Errorf("%d packets in the file that was mended", len(packets))
	}
}

// A disk that is full costs what finds no buffer, and what is in the buffers if
// it stays so to the end; all of it is counted, and the file is whole. With
// room again it goes on, and nothing that was in a buffer is missing.
func TestDirectDiskFull(t *testing.T) {
	dir := tinyDisk(t, "size=12m")
	probe, err := os.Create(filepath.Join(dir, "probe"))
	if err == nil {
		err = errors.Join(setDirect(probe), probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		testnet.Missing(t, fmt.Sprintf("tmpfs of this kernel cannot be written past the page cache: %v; run it on Linux 6.6 or newer", err))
	}
	for _, stays := range []bool{false, true} {
		other := filepath.Join(dir, "other")
		if err := os.WriteFile(other, make([]byte, 6<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprintf("x%v.pcapng", stays))
		out, warned := openTestRecording(t, File{Path: path, Direct: true})
		account := new(OutputAccount)
		s, err := out.sink(0, account)
		if err != nil {
			t.Fatal(err)
		}
		account.add(s.Counts())
		given := uint64(0)
		write := func(frames int) {
			for range frames {
				s.Write(origin(1, nil), &proto.Record{Data: make([]byte, 1000), Time: int64(given), LinkType: 1})
				given++
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		for account.Sum().Full == 0 {
			if write(100); given > 100_000 {
				t.Fatal("100 MB on a disk of 12")
			}
		}
		full := account.Sum().Full
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
		if !stays {
			// 6 MB more than the buffers have: make room for those.
			if err := unix.Mount("", dir, "tmpfs", unix.MS_REMOUNT, "size=200m"); err != nil {
				t.Fatal(err)
			}
			testnet.Eventually(t, "the disk has room again", func() bool {
				before := account.Sum().Full
				write(1)
				return account.Sum().Full == before
			})
		}
		if err := errors.Join(s.Close(), out.close()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, packets, _ := blocks(t, b)
		sum := account.Sum()
		if sum.Delivered != uint64(len(packets)) || sum.Delivered+sum.Full+sum.Refused != given || sum.Full < full || (sum.Refused > 0) != stays {
			t.Errorf("stays full: %v; %d packets in the file, %d given, %+v", stays, len(packets), given, sum)
		}
		if w := strings.Join(warned.all(), "\n"); !strings.Contains(w, syscall.ENOSPC.Error()) || strings.Contains(w, "frames that waited were dropped") != stays {
			t.Errorf("stays full: %v; warned %q", stays, w)
		}
		if err := errors.Join(os.Remove(path), unix.Mount("", dir, "tmpfs", unix.MS_REMOUNT, "size=12m")); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be written past the page cache is refused, with what to do.
func TestDirectRefused(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, want string }{
		{"-", "standard output cannot be written past the page cache"},
		{fifo, "is a pipe"},
		{"/dev/null", "leave out --direct"},
	} {
		if _, err := openFile(t.Context(), File{Path: c.path, Direct: true}, false, os.Stdout, func(error) {}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
}

// A recording whose next file cannot be written past the page cache leaves nothing
// behind, and the numbers of its files go on where they were: each attempt used to take
// one.
func TestDirectRefusedTakesNoNumber(t *testing.T) {
	testnet.RequireRoot(t)
	dir := t.TempDir()
	names, err := parseNamePattern(filepath.Join(dir, "x-%n.pcapng"))
	if err != nil {
		t.Fatal(err)
	}
	r := &recording{names: names}
	e := &fileEnd{cfg: &pcapngConfig{Direct: true, Files: r}}
	next := func(number int) {
		t.Helper()
		if err := errors.Join(e.next(time.Now()), e.end(true)); err != nil || r.number != number {
			t.Fatalf("file %d, want %d: %v", r.number, number, err)
		}
	}
	next(1)
	if err := unix.Mount("", dir, "ramfs", 0, ""); err != nil { // which has no O_DIRECT
		t.Fatal(err)
	}
	unmount := sync.OnceValue(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	t.Cleanup(func() { unmount() })
	for range 3 {
		if err := e.next(time.Now()); err == nil || !strings.Contains(err.Error(), "leave out --direct") || len(listDir(t, dir)) != 0 {
			t.Errorf("%v; files %q", err, listDir(t, dir))
		}
	}
	if err := unmount(); err != nil {
		t.Fatal(err)
	}
	next(2)
	e.finish(0)
	if files := listDir(t, dir); !slices.Equal(files, []string{"x-00001.pcapng", "x-00002.pcapng"}) {
		t.Errorf("%q", files)
	}
}
