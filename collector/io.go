// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/ring"
)

// How datagrams come in and frames get into a TAP: Config.IO. Auto is what was
// measured as faster (docs/TUNING.md, "System calls"): recvmmsg for datagrams,
// and io_uring for the TAP, or write(2) where that is not to be had.
const (
	ioAuto  = "auto"
	ioUring = "uring" // io_uring for both, or an error
	ioMmsg  = "mmsg"  // recvmmsg, and write(2): a system call for each frame
)

// inboxTrains is how many messages an io_uring may receive ahead: each has a
// buffer of 64 KiB.
const inboxTrains = 16

// checkIO says early what would keep every worker from starting.
func checkIO(io string) error {
	switch io {
	case ioAuto, ioMmsg, "":
		return nil
	case ioUring:
		if ok, why := ring.UringReceives(); !ok {
			return fmt.Errorf("collector: --io %s: %s; or use --io %s", ioUring, why, ioMmsg)
		}
		return nil
	}
	return fmt.Errorf("collector: no way to receive called %q; there are %s, %s, %s", io, ioAuto, ioUring, ioMmsg)
}

// byConfig has the datagrams of known flows come as the configuration says. The
// worker's own thread calls it, and end. Those of strangers come by recvmmsg.
func (w *worker) byConfig() (end func(), err error) {
	if w.cfg.IO != ioUring {
		return func() {}, nil
	}
	b, err := ring.NewInbox(w.home.FD(), batch.MaxPayload, inboxTrains)
	if err != nil {
		return nil, fmt.Errorf("collector: worker %d: %s; or use --io %s", w.number, ring.UringRefusal(err), ioMmsg)
	}
	w.home.UseInbox(b)
	return func() {
		w.home.UseInbox(nil)
		b.Close()
	}, nil
}

// buffered warns of a socket buffer that the kernel made smaller than asked.
func (sh *shared) buffered(in *batch.Receiver, want int) {
	if got := in.Buffer(); got < want {
		sh.log.Warn().Int("bytes", got).Int("asked", want).Str("mend", fmt.Sprintf("sysctl -w net.core.rmem_max=%d, or give CAP_NET_ADMIN", want)).
			Msg("the kernel limits the socket's buffer: bursts are lost sooner")
	}
}
