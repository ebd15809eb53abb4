// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/ring"
)

// How datagrams get to the kernel: Config.IO. Auto is mmsg: with flights of
// 64 KB io_uring saves nothing, and whether a copy can be saved is a matter of
// the card and of who else captures there (docs/TUNING.md, "System calls").
const (
	ioAuto     = "auto"
	ioUring    = "uring"    // io_uring, several flights in a system call; or an error
	ioMmsg     = "mmsg"     // sendmsg, a flight in a system call; sendmmsg without UDP_SEGMENT
	ioZeroCopy = "zerocopy" // io_uring, a flight in a system call, without a copy where that can be; or an error
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
	case ioZeroCopy:
		if ok, why := ring.UringSendsZeroCopy(batch.ZeroCopyMemory); !ok {
			return fmt.Errorf("remote: --io %s: %s; or use --io %s", ioZeroCopy, why, ioMmsg)
		}
		return nil
	}
	return fmt.Errorf("remote: no way to send called %q; there are %s, %s, %s, %s", io, ioAuto, ioUring, ioMmsg, ioZeroCopy)
}

// enter does what belongs to the shard's own thread, which calls it; end undoes
// it there.
func (s *shard) enter() (end func(), err error) {
	var ends []func()
	end = func() {
		for _, f := range ends {
			f()
		}
	}
	if io := s.tap.cfg.IO; s.tunnel != nil || io != ioUring && io != ioZeroCopy {
		return end, nil
	}
	for _, l := range s.all {
		leave, err := l.enter()
		if err != nil {
			end()
			return nil, err
		}
		ends = append(ends, leave)
	}
	return end, nil
}

// enter gives the lane an io_uring of its own; leave takes it back.
func (l *lane) enter() (leave func(), err error) {
	entries := uint32(batch.RingFlights)
	if l.tap.cfg.IO == ioZeroCopy {
		entries = batch.ZeroCopyFlights
	}
	u, err := ring.SetupUring(entries)
	if err == nil {
		if l.tap.cfg.IO == ioUring {
			err = l.out.UseRing(u)
		} else {
			err = l.out.UseZeroCopy(u)
		}
		if err != nil {
			u.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("remote: shard %d: %s; or use --io %s", l.number, ring.UringRefusal(err), ioMmsg)
	}
	return func() {
		if l.tap.cfg.IO == ioUring {
			_ = l.out.UseRing(nil)
		} else {
			_ = l.out.UseZeroCopy(nil)
			n := l.out.Stats()
			l.tap.log.Info().Stringer("collector", l.out.Collector()).Uint16("shard", l.number).Uint64("lent", n.Lent.Load()).
				Uint64("copied", n.Copied.Load()).Uint64("none_free", n.NoneFree.Load()).Msg("flights that went by --io " + ioZeroCopy)
		}
		u.Close()
	}, nil
}

// lending says in the log when the kernel begins to copy what is sent without a
// copy, and when it ceases to.
func (l *lane) lending() {
	copying := l.out.Copying()
	if copying == l.copying {
		return
	}
	l.copying = copying
	log := l.tap.log.Info().Stringer("collector", l.out.Collector()).Uint16("shard", l.number)
	if copying {
		log.Msg("the kernel copies what is sent without a copy: it goes plainly")
		return
	}
	log.Msg("the kernel no longer copies what is sent")
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
