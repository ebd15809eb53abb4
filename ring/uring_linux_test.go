// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// openUring returns an io_uring of the test's own thread, or skips.
func openUring(tb testing.TB, entries uint32) *Uring {
	tb.Helper()
	if ok, why := UringSupported(); !ok {
		testnet.Missing(tb, why.String())
	}
	runtime.LockOSThread()
	u, err := SetupUring(entries)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := u.Close(); err != nil {
			tb.Error(err)
		}
		runtime.UnlockOSThread()
	})
	return u
}

// drain returns the completions that are ready, by user data.
func drain(tb testing.TB, u *Uring) map[uint64]int32 {
	tb.Helper()
	got := map[uint64]int32{}
	for c := u.PeekCQE(); c != nil; c = u.PeekCQE() {
		if _, twice := got[c.UserData]; twice {
			tb.Errorf("request %d completed twice", c.UserData)
		}
		got[c.UserData] = c.Res
		u.CQAdvance(1)
	}
	return got
}

// filesToRegister says that requests can name registered files.
const filesToRegister = Backend != "giouring"

func TestUringWritesInEveryForm(t *testing.T) {
	u := openUring(t, 8)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())
	index, fixed := fd, uint8(0)
	if filesToRegister {
		index, fixed = 1, SQEFixedFile
		if err := u.RegisterFiles([]int32{-1, int32(fd)}); err != nil {
			t.Fatal(err)
		}
	}
	region, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(region)
	if err := u.RegisterBuffers([][]byte{make([]byte, 4096), region}); err != nil {
		t.Fatal(err)
	}
	a, b, c := []byte("by descriptor,"), []byte("by index,"), region[5000:5000:6000]
	c = append(c, "from a registered buffer,"...)
	v1, v2 := []byte("in two "), []byte("vectors")
	v := []unix.Iovec{{Base: &v1[0]}, {Base: &v2[0]}}
	v[0].SetLen(len(v1))
	v[1].SetLen(len(v2))

	off := 0
	prepared := func(s *SQE, n int, flags uint8) {
		s.Off, s.Flags, s.UserData = uint64(off), flags, uint64(off)
		off += n
	}
	s := u.GetSQE()
	s.PrepWrite(fd, a)
	prepared(s, len(a), 0)
	s = u.GetSQE()
	s.PrepWrite(index, b)
	prepared(s, len(b), fixed)
	s = u.GetSQE()
	s.PrepWriteFixed(index, c, 1)
	prepared(s, len(c), fixed)
	s = u.GetSQE()
	s.PrepWritev(fd, v)
	prepared(s, len(v1)+len(v2), 0)
	if n, err := u.SubmitAndWait(4); n != 4 || err != nil {
		t.Fatalf("submitted %d, %v; want 4", n, err)
	}
	for at, res := range drain(t, u) {
		if res <= 0 {
			t.Errorf("the write at %d: %v", at, unix.Errno(-res))
		}
	}
	got, err := os.ReadFile(file.Name())
	if want := "by descriptor,by index,from a registered buffer,in two vectors"; string(got) != want || err != nil {
		t.Errorf("the file holds %q, %v; want %q", got, err, want)
	}
}

// TestUringGoesRoundTheRing uses every place of the rings many times over, and
// finds each failure at its own request.
func TestUringGoesRoundTheRing(t *testing.T) {
	u := openUring(t, 8)
	var r, w [1]int32
	p := make([]int, 2)
	if err := unix.Pipe2(p, unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	r[0], w[0] = int32(p[0]), int32(p[1])
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	index, empty, fixed := p[1], -1, uint8(0)
	if filesToRegister {
		index, empty, fixed = 1, 0, SQEFixedFile
		if err := u.RegisterFiles([]int32{-1, -1}); err != nil {
			t.Fatal(err)
		}
		if err := u.RegisterFilesUpdate(1, w[:]); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 100 {
		n := 1 + round%8
		var want []byte
		for i := range n {
			s := u.GetSQE()
			if s == nil {
				t.Fatalf("round %d: no SQE %d", round, i)
			}
			msg := fmt.Appendf(nil, "%d/%d ", round, i)
			s.PrepWrite(index, msg)
			s.Flags = fixed
			if i == 3 {
				s.PrepWrite(empty, msg) // an empty place
				s.Flags = fixed
			} else {
				want = append(want, msg...)
			}
			s.UserData = uint64(i)
		}
		if n == 8 && u.GetSQE() != nil {
			t.Fatal("a ninth SQE of eight")
		}
		if u.Pending() != n {
			t.Fatalf("pending %d, want %d", u.Pending(), n)
		}
		if m, err := u.SubmitAndWait(100); m != n || err != nil { // never more than is in flight
			t.Fatalf("round %d: submitted %d, %v; want %d", round, m, err, n)
		}
		res := drain(t, u)
		if len(res) != n {
			t.Fatalf("round %d: %d completions, want %d", round, len(res), n)
		}
		for i, code := range res {
			if (code < 0) != (i == 3) || i == 3 && unix.Errno(-code) != unix.EBADF {
				t.Errorf("round %d, request %d: %d", round, i, code)
			}
		}
		got := make([]byte, 4096)
		m, err := unix.Read(p[0], got)
		if err != nil || !bytes.Equal(got[:m], want) {
			t.Fatalf("round %d: read %q, %v; want %q", round, got[:max(m, 0)], err, want)
		}
	}
}

func TestUringDiscard(t *testing.T) {
	u := openUring(t, 4)
	for i := range 3 {
		s := u.GetSQE()
		s.PrepNop()
		s.UserData = uint64(i)
	}
	if n := u.Discard(); n != 3 || u.Pending() != 0 {
		t.Errorf("discarded %d, pending %d; want 3 and 0", n, u.Pending())
	}
	s := u.GetSQE()
	s.PrepNop()
	s.UserData = 77
	if n, err := u.SubmitAndWait(1); n != 1 || err != nil {
		t.Fatalf("submitted %d, %v", n, err)
	}
	if got := drain(t, u); len(got) != 1 || got[77] != 0 {
		t.Errorf("completions %v, want one of 77", got)
	}
	if n, err := u.SubmitAndWait(1); n != 0 || err != nil || u.PeekCQE() != nil {
		t.Errorf("with nothing queued: %d, %v", n, err)
	}
}

func TestUringProbe(t *testing.T) {
	u := openUring(t, 1)
	for _, op := range []uint8{OpNop, OpWritev, OpWriteFixed, OpWrite} {
		if !u.Probe(op) {
			t.Errorf("no opcode %d", op)
		}
	}
	if u.Probe(255) {
		t.Error("opcode 255 is known")
	}
}

func TestUringErrorsCanBeToldApart(t *testing.T) {
	openUring(t, 1)
	if _, err := SetupUring(1 << 30); !errors.Is(err, unix.EINVAL) {
		t.Errorf("2^30 entries: %v, want EINVAL", err)
	}
	for errno, want := range map[unix.Errno]string{unix.EPERM: "seccomp", unix.ENOSYS: "CONFIG_IO_URING"} {
		done := make(chan struct{})
		go func() { // on a thread that ends with its seccomp filter
			defer close(done)
			if err := testnet.Deny(unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_SETUP, errno); err != nil {
				t.Error(err)
				return
			}
			if _, err := SetupUring(8); !errors.Is(err, errno) {
				t.Errorf("SetupUring: %v, want %v", err, errno)
			}
			if ok, why := UringSupported(); ok || !strings.Contains(why.String(), want) {
				t.Errorf("UringSupported: %v, %q; want %q in it", ok, why, want)
			}
		}()
		testnet.Receive(t, "the end of the thread without io_uring", done)
	}
}

// Each way to be refused has its own remedy: what the sysctl denies is not put
// down to seccomp, what RLIMIT_MEMLOCK or an old kernel lacks to neither.
func TestUringRefusal(t *testing.T) {
	old := &oldKernel{"io_uring flies", "6.2", unix.EINVAL}
	for _, v := range []struct {
		err         error
		disabled    string // kernel.io_uring_disabled; "": a kernel without it
		cause, mend string
		not         string
	}{
		{unix.EPERM, "2", "kernel.io_uring_disabled = 2", "sysctl -w kernel.io_uring_disabled=0", "seccomp"},
		{unix.EPERM, "1", "kernel.io_uring_disabled = 1", "sysctl -w kernel.io_uring_disabled=0", "seccomp"},
		{unix.EPERM, "0", "seccomp", "io_uring_setup", "sysctl"},
		{unix.EPERM, "", "seccomp", "io_uring_setup", "sysctl"},
		{os.NewSyscallError("io_uring_setup", unix.ENOSYS), "0", "CONFIG_IO_URING", "in a container: a seccomp profile", "sysctl"},
		{os.NewSyscallError("io_uring_setup", unix.ENOMEM), "0", "RLIMIT_MEMLOCK", "LimitMEMLOCK", "seccomp"},
		{old, "0", "io_uring flies from Linux 6.2 on", "a kernel of 6.2 or newer", "seccomp"},
		{fmt.Errorf("worker 3: %w", old), "2", "from Linux 6.2 on", "a kernel of 6.2 or newer", "sysctl"},
		{errors.New("Linux 5.10: no such thing"), "0", "Linux 5.10: no such thing", "", "seccomp"},
	} {
		got := uringRefusal(v.err, v.disabled)
		if !strings.Contains(got.Cause, v.cause) || !strings.Contains(got.Mend, v.mend) || (got.Mend == "") != (v.mend == "") || strings.Contains(got.String(), v.not) {
			t.Errorf("%v with %q: %+v; want %q, mended by %q, and not %q", v.err, v.disabled, got, v.cause, v.mend, v.not)
		}
		if text := got.String(); !strings.HasPrefix(text, got.Cause) || !strings.HasSuffix(text, got.Mend) {
			t.Errorf("%+v is said as %q", got, text)
		}
	}
	for release, want := range map[string]string{"6.3.12": "a kernel of 6.4 or newer", "5.15.0-91-generic": "a kernel of 6.4 or newer", "6.4.0": "", "7.0-rc1": ""} {
		why := tooOld(release, 6, 4, "io_uring writes to a TAP without waiting")
		if (why == nil) != (want == "") || why != nil && (why.Mend != want || !strings.Contains(why.Cause, "Linux "+release)) {
			t.Errorf("Linux %s: %+v, want %q", release, why, want)
		}
	}
}

func TestUringBelongsToItsThread(t *testing.T) {
	u := openUring(t, 1)
	if u.setup&setupSingleIssuer == 0 {
		testnet.Missing(t, "Linux before 6.0: any thread may submit; run it on a newer one")
	}
	s := u.GetSQE()
	s.PrepNop()
	failed := make(chan error, 1)
	go func() {
		_, err := u.Submit()
		failed <- err
	}()
	if err := testnet.Receive(t, "another thread has submitted", failed); !errors.Is(err, unix.EEXIST) {
		t.Errorf("another thread submits: %v, want EEXIST", err)
	}
	if n, err := u.SubmitAndWait(1); n != 1 || err != nil {
		t.Errorf("its own thread: %d, %v", n, err)
	}
}

func TestUringDoesNotAllocate(t *testing.T) {
	u := openUring(t, 64)
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd, b := int(null.Fd()), make([]byte, 100)
	if n := testing.AllocsPerRun(10, func() {
		for range 64 {
			u.GetSQE().PrepWrite(fd, b)
		}
		if _, err := u.SubmitAndWait(64); err != nil {
			t.Fatal(err)
		}
		u.CQAdvance(u.CQReady())
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestKernelRelease(t *testing.T) {
	for release, want := range map[string]bool{
		"6.4.0": true, "6.18.44-fc-v595": true, "6.4-rc1": true, "7.0.1": true, "10.1": true, "6.12+": true, "next": true,
		"6.3.13": false, "5.15.0-1051-aws": false, "4.18.0-553.el8": false, "6.3-rc7": false,
	} {
		if got := atLeast(release, 6, 4); got != want {
			t.Errorf("%s: %v, want %v", release, got, want)
		}
	}
}

// BenchmarkUringNop is the layer alone: one operation is one request.
func BenchmarkUringNop(b *testing.B) {
	u := openUring(b, 64)
	b.ReportAllocs()
	for b.Loop() {
		s := u.GetSQE()
		s.PrepNop()
		if u.Pending() == 64 {
			if _, err := u.SubmitAndWait(64); err != nil {
				b.Fatal(err)
			}
			u.CQAdvance(u.CQReady())
		}
	}
	u.Discard()
}
