// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A ProbeTimes is when the kernel received each probe on an interface: by its
// number, ns of the realtime clock.
type ProbeTimes map[uint64]int64

// A probeWatch is a packet socket that sees probes alone.
type probeWatch struct {
	fd   int
	mu   sync.Mutex
	seen ProbeTimes
	done chan struct{}
}

// watchProbes starts to note the probes that an interface of h receives.
func (h *Host) watchProbes(name string) (*probeWatch, error) {
	w := &probeWatch{fd: -1, seen: ProbeTimes{}, done: make(chan struct{})}
	err := h.Do(func() (err error) {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return os.NewSyscallError("socket", err)
		}
		raw, err := bpf.Assemble([]bpf.Instruction{
			bpf.LoadAbsolute{Off: 12, Size: 2}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0800, SkipTrue: 5},
			bpf.LoadAbsolute{Off: 23, Size: 1}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 3},
			bpf.LoadAbsolute{Off: 36, Size: 2}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: probePort, SkipTrue: 1},
			bpf.RetConstant{Val: probeNumber + 8}, bpf.RetConstant{Val: 0},
		})
		if err != nil {
			return err
		}
		prog := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
		tv := unix.NsecToTimeval(int64(20 * time.Millisecond))
		return errors.Join(
			unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog),
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
			unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: i.Index}), // ETH_P_ALL, big-endian
		)
	})
	if err != nil {
		if w.fd >= 0 {
			unix.Close(w.fd)
		}
		return nil, fmt.Errorf("probes on %s: %w", name, err)
	}
	return w, nil
}

// read notes probes until stop is closed and nothing more comes.
func (w *probeWatch) read(stop <-chan struct{}) {
	defer close(w.done)
	buf, oob := make([]byte, 256), make([]byte, 128)
	for {
		n, c, _, _, err := unix.Recvmsg(w.fd, buf, oob, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			select {
			case <-stop:
				return
			default:
				continue
			}
		}
		number, ok := probeOf(buf[:n])
		messages, err := unix.ParseSocketControlMessage(oob[:c])
		if !ok || err != nil {
			continue
		}
		for _, m := range messages {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
				ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
				w.mu.Lock()
				w.seen[number] = ts.Nano()
				w.mu.Unlock()
			}
		}
	}
}

// Latencies runs a trial some of whose frames are probes, and returns how long
// after the kernel had received each on the tapped interface it received it on
// the device of B that is named: ns, in no order. Both are timestamps of the
// kernel, on one clock. lost is how many probes did not come.
func (r *Rig) Latencies(ctx context.Context, o Offer, device string) (ns []int64, lost int64, t Trial, err error) {
	in, err := r.A.watchProbes(CaptureDevice)
	if err != nil {
		return nil, 0, t, err
	}
	defer unix.Close(in.fd)
	out, err := r.B.watchProbes(device)
	if err != nil {
		return nil, 0, t, err
	}
	defer unix.Close(out.fd)
	stop := make(chan struct{})
	go in.read(stop)
	go out.read(stop)
	t, err = r.Trial(ctx, o)
	close(stop)
	<-in.done
	<-out.done
	if err != nil {
		return nil, 0, t, err
	}
	for n, at := range out.seen {
		if from, ok := in.seen[n]; ok {
			ns = append(ns, at-from)
		}
	}
	return ns, int64(t.Offered.Probes) - int64(len(ns)), t, nil
}
