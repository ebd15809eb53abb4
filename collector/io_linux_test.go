// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/ring"
)

// Trains of datagrams are opened where the kernel put them: what the unpacker
// gets lies in the memory of the receive buffers, by recvmmsg and by io_uring.
func TestTrainsAreOpenedInPlace(t *testing.T) {
	for _, io := range []string{ioMmsg, ioUring} {
		t.Run(io, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			in, err := batch.Listen(batch.ListenConfig{Addr: "127.0.0.1:0", Buffer: 16 << 20, Poll: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			defer in[0].Close()
			memory := in[0].Memory()
			if io == ioUring {
				if ok, why := ring.UringReceives(); !ok {
					testnet.Missing(t, why.String())
				}
				b, err := ring.NewInbox(in[0].FD(), batch.MaxPayload, inboxTrains)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				in[0].UseInbox(b)
				memory = b.Memory()
			}
			out, err := batch.NewSender(batch.SenderConfig{To: in[0].Addr().String(), Datagram: 1472})
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			keys := testKeys(t)
			d := newDesk(t, keys, "")
			d.in = in[0]
			null := &nullSink{}
			d.sinks = []sink{null}
			s := newSim(t, keys, 7, startedAgo(0), 0, 1472)
			for range 2000 {
				s.frame(700)
			}
			s.flush()
			opened, next := 0, 0
			for next < len(s.out) {
				for range min(300, len(s.out)-next) {
					out.Queue(copy(out.Slot(), s.out[next]))
					next++
				}
				if err := out.Flush(); err != nil {
					t.Fatal(err)
				}
				for d.account.Received.Load() < uint64(next) {
					n, err := d.in.Recv()
					if n == 0 || err != nil {
						t.Fatalf("%d datagrams of %d, %v", d.account.Received.Load(), next, err)
					}
					d.begin()
					for g, ok := d.in.Next(); ok; g, ok = d.in.Next() {
						stream, kind, counter, plaintext, drop := d.open(g)
						if drop != nil {
							t.Fatal(drop)
						}
						at := uintptr(unsafe.Pointer(unsafe.SliceData(plaintext)))
						from := uintptr(unsafe.Pointer(unsafe.SliceData(memory)))
						if at < from || at+uintptr(len(plaintext)) > from+uintptr(len(memory)) {
							t.Fatal("opened outside of the receive buffers")
						}
						opened++
						d.count(g, d.take(stream, kind, counter, plaintext))
					}
					if err := d.flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			calls := in[0].Stats().Calls.Load()
			if opened != len(s.out) || null.counts.Delivered.Load() != 2000 || calls*20 > uint64(opened) {
				t.Errorf("%d of %d datagrams in %d calls, %d frames of 2000", opened, len(s.out), calls, null.counts.Delivered.Load())
			}
			if in[0].From().Port() == 0 {
				t.Error("from nowhere")
			}
		})
	}
}

// A socket buffer that the kernel made smaller is said, with the line that
// mends it.
func TestSmallBufferIsSaid(t *testing.T) {
	in, err := batch.Listen(batch.ListenConfig{Addr: "127.0.0.1:0", Buffer: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	defer in[0].Close()
	var log bytes.Buffer
	sh := &shared{log: zerolog.New(&log)}
	sh.buffered(in[0], in[0].Buffer())
	if log.Len() != 0 {
		t.Errorf("as asked, and yet: %s", log.String())
	}
	sh.buffered(in[0], 1<<30)
	if !strings.Contains(log.String(), "sysctl -w net.core.rmem_max=1073741824") {
		t.Errorf("log: %s", log.String())
	}
}

// --io uring where io_uring is denied, and a way that there is not, end the
// collector before it begins.
func TestIORefused(t *testing.T) {
	key, err := crypto.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	run := func(io string) error {
		_, err := Run(t.Context(), Config{Listen: "127.0.0.1:0", Keys: crypto.FromMaster(key), Write: os.DevNull, IO: io, Log: zerolog.Nop()})
		return err
	}
	if err := run("carrier pigeon"); err == nil || !strings.Contains(err.Error(), "auto, uring, mmsg") {
		t.Error(err)
	}
	done := make(chan error, 1)
	go func() {
		denyUring(t, unix.SYS_IO_URING_SETUP) // on a thread that ends
		done <- run(ioUring)
	}()
	if err := testnet.Receive(t, "the collector's end", done); err == nil || !strings.Contains(err.Error(), "seccomp") || !strings.Contains(err.Error(), "--io mmsg") {
		t.Error(err)
	}
}
