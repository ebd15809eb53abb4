// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/ring"
)

// How datagrams get to the kernel: Config.IO. Auto is mmsg: with flights of
// 64 KB io_uring saves nothing (docs/TUNING.md, "Sockets").
const (
	ioAuto  = "auto"
	ioUring = "uring" // io_uring, several flights in a system call; or an error
	ioMmsg  = "mmsg"  // sendmsg, a flight in a system call; sendmmsg without UDP_SEGMENT
)

// checkIO says early what would keep every shard from starting.
func checkIO(io string) error {
	switch io {
	case ioAuto, ioMmsg, "":
		return nil
	case ioUring:
		if ok, why := ring.UringSends(); !ok {
			return fmt.Errorf("remote: --io %s: %s; or use --io %s", ioUring, why, ioMmsg)
		}
		return nil
	}
	return fmt.Errorf("remote: no way to send called %q; there are %s, %s, %s", io, ioAuto, ioUring, ioMmsg)
}

// enter does what belongs to the shard's own thread, which calls it; end undoes
// it there.
func (s *shard) enter() (end func(), err error) {
	if s.tap.cfg.IO != ioUring || s.tunnel != nil {
		return func() {}, nil
	}
	u, err := ring.SetupUring(batch.RingFlights)
	if err != nil {
		return nil, fmt.Errorf("remote: shard %d: %s; or use --io %s", s.number, ring.UringRefusal(err), ioMmsg)
	}
	if err := s.out.UseRing(u); err != nil {
		u.Close()
		return nil, err
	}
	return func() {
		_ = s.out.UseRing(nil)
		u.Close()
	}, nil
}

// paced says in the log how the rate is kept.
func (t *tap) paced(out *batch.Sender) {
	rate, byKernel, device := out.Paced()
	switch log := t.log.Info().Str("device", device).Uint64("shard_rate", rate*8); {
	case rate == 0:
	case byKernel:
		log.Msg("the kernel paces what is sent")
	default:
		log.Str("mend", "tc qdisc replace dev "+device+" root fq").
			Msg("the device has no fq qdisc to pace what is sent: each shard waits between its flights")
	}
}
