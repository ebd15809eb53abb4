// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Open opens a ring that is not part of a group.
func Open(cfg Config) (*Ring, error) {
	rings, err := OpenFanout(cfg, 1)
	if err != nil {
		return nil, err
	}
	return rings[0], nil
}

// OpenFanout opens n rings that share the frames of one interface, each frame in
// one of them: cfg.Fanout says in which. The group is these rings' own.
func OpenFanout(cfg Config, n int) ([]*Ring, error) {
	if err := cfg.complete(n); err != nil {
		return nil, err
	}
	rings := make([]*Ring, 0, n)
	if err := openAll(cfg, n, &rings); err != nil {
		for _, r := range rings {
			r.Close()
		}
		return nil, err
	}
	return rings, nil
}

func openAll(cfg Config, n int, rings *[]*Ring) error {
	group := noGroup
	for member := range n {
		err := cfg.near(member, func() error {
			r, err := open(cfg)
			if err == nil {
				*rings = append(*rings, r)
			}
			return err
		})
		if err != nil {
			return err
		}
		if n > 1 {
			if group, err = (*rings)[member].join(group, n); err != nil {
				return err
			}
		}
	}
	for _, r := range *rings {
		if err := r.SetFilter(cfg.Filter); err != nil {
			return err
		}
	}
	return nil
}

// near calls open as Near says.
func (cfg *Config) near(member int, open func() error) error {
	if cfg.Near == nil {
		return open()
	}
	return cfg.Near(member, open)
}

// complete puts the defaults in, and refuses what the kernel would refuse
// without words.
func (cfg *Config) complete(n int) error {
	if cfg.BlockSize == 0 {
		cfg.BlockSize = DefaultBlockSize
	}
	if cfg.Blocks == 0 {
		cfg.Blocks = DefaultBlocks
	}
	if cfg.Retire == 0 {
		cfg.Retire = DefaultRetire
	}
	if cfg.Retire > 0 {
		cfg.Retire = max(cfg.Retire, time.Millisecond)
	}
	page := os.Getpagesize()
	blocks := func(what string, args ...any) error {
		return fmt.Errorf("ring: %s: %d blocks of %d bytes: %s", cfg.Interface, cfg.Blocks, cfg.BlockSize, fmt.Sprintf(what, args...))
	}
	switch {
	case n < 1 || n > maxMembers:
		return fmt.Errorf("ring: %s: %d rings on one interface: 1 to %d", cfg.Interface, n, maxMembers)
	case int(cfg.Fanout) >= len(fanouts):
		return fmt.Errorf("ring: %s: fanout %d: 0 to %d", cfg.Interface, uint8(cfg.Fanout), len(fanouts)-1)
	case cfg.BlockSize < page || cfg.BlockSize%page != 0:
		return blocks("the block size has to be a multiple of the page size, %d", page)
	case cfg.Blocks < 2:
		return blocks("at least 2 blocks: one to fill and one to read")
	case cfg.BlockSize > 1<<30 || cfg.Blocks > (1<<32-1)/cfg.BlockSize:
		return blocks("a block has at most 1 GiB, and a ring less than 4 GiB")
	case cfg.Retire < 0 || cfg.Retire > maxRetire*time.Millisecond:
		return fmt.Errorf("ring: %s: frames wait for at most %v: 1ms to %v", cfg.Interface, cfg.Retire, maxRetire*time.Millisecond)
	case cfg.SnapLen < 0 || int64(cfg.SnapLen) > 1<<32-1:
		return fmt.Errorf("ring: %s: snap length %d: 1 to %d bytes, 0 for all", cfg.Interface, cfg.SnapLen, uint32(1<<32-1))
	}
	// The kernel would try, and kill processes to get the memory.
	if have, want := available(), uint64(n)*uint64(cfg.Blocks)*uint64(cfg.BlockSize); have > 0 && want > have {
		return blocks("%d MiB for %d rings, but this machine has only %d MiB available; take fewer or smaller blocks", want>>20, n, have>>20)
	}
	return nil
}

// available returns the bytes of memory that can be had without swapping
// (MemAvailable of /proc/meminfo); 0: not known.
func available() uint64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib uint64
		if n, _ := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// open makes a bound ring that lets nothing in yet.
func open(cfg Config) (*Ring, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: no frames before bind
	if errors.Is(err, unix.EPERM) {
		self, e := os.Executable()
		if e != nil {
			self = "ntap"
		}
		return nil, fmt.Errorf("ring: %s: capture needs the capability CAP_NET_RAW: run as root, or give it: setcap cap_net_raw+ep %s (systemd: AmbientCapabilities=CAP_NET_RAW; container: --cap-add NET_RAW): %w",
			cfg.Interface, self, os.NewSyscallError("socket AF_PACKET", err))
	}
	if err != nil {
		return nil, fmt.Errorf("ring: %s: %w", cfg.Interface, os.NewSyscallError("socket AF_PACKET", err))
	}
	r := &Ring{cfg: cfg, fd: fd}
	r.block.card = cfg.Hardware && !cfg.All
	r.block.look = r.block.card
	r.events[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	if cfg.All {
		r.iface, r.block.all = Interface{Name: cfg.Interface, Up: true}, true
		r.block.look = true
	} else {
		r.iface, err = lookUp(fd, cfg.Interface)
	}
	if err == nil {
		r.block.tags = r.iface.LinkType == linkEthernet
		r.block.snap = 1<<32 - 1
		if cfg.SnapLen > 0 {
			r.block.snap = uint32(cfg.SnapLen)
		}
		err = r.setUp()
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// noGroup is not the number of a fanout group: they are 16 bits.
const noGroup = -1

// join puts the ring into a fanout group, a new one if there is none yet, and
// returns the group.
func (r *Ring) join(group, n int) (int, error) {
	mode := [...]int{FanoutHash: unix.PACKET_FANOUT_HASH, FanoutCPU: unix.PACKET_FANOUT_CPU, FanoutQueue: unix.PACKET_FANOUT_QM}[r.cfg.Fanout]
	arg := mode<<16 | group
	if group == noGroup {
		arg = (mode | unix.PACKET_FANOUT_FLAG_UNIQUEID) << 16 // the kernel chooses one that nobody has
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, arg); err != nil {
		call := fmt.Sprintf("setsockopt PACKET_FANOUT by %s, group of %d", r.cfg.Fanout, n)
		if !r.iface.Up && errors.Is(err, unix.EINVAL) {
			return 0, fmt.Errorf("ring: %s: the interface is down, and before Linux 6.13 only one ring can wait for it; set it up (ip link set %s up) or take one: %w",
				r.cfg.Interface, r.cfg.Interface, os.NewSyscallError(call, err))
		}
		return 0, r.fail(call, err)
	}
	if group != noGroup {
		return group, nil
	}
	v, err := unix.GetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
	if err != nil {
		return 0, r.fail("getsockopt PACKET_FANOUT", err)
	}
	return v & 0xFFFF, nil
}

// dropAll lets nothing through.
var dropAll = []bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K}}

// program is a user's filter as the kernel gets it: nil lets everything
// through; what passes is cut to snap bytes (0: not at all; a program that
// returns its accumulator is cut by Next); and a loopback shows what it sends a
// second time as received, so there the sent copy is left out. That is not done
// by PACKET_IGNORE_OUTGOING, which does not hold for a fanout group.
func program(filter []bpf.RawInstruction, snap int, loopback bool) []bpf.RawInstruction {
	var out []bpf.RawInstruction
	if loopback {
		out = append(out,
			bpf.RawInstruction{Op: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: adPktType},
			bpf.RawInstruction{Op: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: packetOutgoing},
			dropAll[0])
	}
	if len(filter) == 0 {
		filter = []bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}}
	}
	for _, i := range filter {
		if i.Op == unix.BPF_RET|unix.BPF_K && snap > 0 {
			i.K = min(i.K, uint32(snap))
		}
		out = append(out, i)
	}
	return out
}

// attach makes the kernel run a program on each frame, in place of the one
// before.
func (r *Ring) attach(filter []bpf.RawInstruction) error {
	if len(filter) > unix.BPF_MAXINSNS {
		return fmt.Errorf("ring: %s: a filter of %d instructions; the kernel takes %d", r.cfg.Interface, len(filter), unix.BPF_MAXINSNS)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		hint := ""
		if errors.Is(err, unix.ENOMEM) { // sk_filter_charge, net/core/filter.c
			hint = "more than net.core.optmem_max allows a socket; give it more (sysctl net.core.optmem_max=131072), or shorten the filter: "
		}
		return fmt.Errorf("ring: %s: filter of %d instructions: %s%w", r.cfg.Interface, len(filter), hint, os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err))
	}
	return nil
}
