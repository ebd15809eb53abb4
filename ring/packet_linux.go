// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A Ring is one TPACKET_V3 ring on one interface. It belongs to one goroutine.
type Ring struct {
	cfg    Config
	fd     int
	iface  Interface
	mem    []byte
	next   int // block that the kernel fills next
	block  Block
	stats  Stats
	events []unix.PollFd
}

// Open opens a ring that is not part of a group.
func Open(cfg Config) (*Ring, error) {
	rings, err := OpenFanout(cfg, 1)
	if err != nil {
		return nil, err
	}
	return rings[0], nil
}

// OpenFanout opens n rings that share the frames of one interface
// (PACKET_FANOUT_HASH: the flow hash is symmetric, so both directions of a flow
// meet the same ring, in order).
func OpenFanout(cfg Config, n int) ([]*Ring, error) {
	iface, err := LookUp(cfg.Interface)
	if err != nil {
		return nil, err
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	var rings []*Ring
	group := uint16(0)
	for i := range n {
		r, err := open(cfg, iface)
		if err == nil && n > 1 {
			group, err = r.join(group, i == 0)
		}
		if err != nil {
			if r != nil {
				r.Close()
			}
			for _, r := range rings {
				r.Close()
			}
			return nil, err
		}
		rings = append(rings, r)
	}
	for _, r := range rings {
		if err := r.SetFilter(cfg.Filter); err != nil {
			for _, r := range rings {
				r.Close()
			}
			return nil, err
		}
	}
	return rings, nil
}

func (cfg *Config) check() error {
	page := os.Getpagesize()
	bad := func(what string) error {
		return fmt.Errorf("ring: %s: %d blocks of %d bytes: %s", cfg.Interface, cfg.Blocks, cfg.BlockSize, what)
	}
	switch {
	case cfg.BlockSize < page || cfg.BlockSize%page != 0:
		return bad(fmt.Sprintf("the block size has to be a multiple of the page size, %d", page))
	case cfg.Blocks < 2:
		return bad("at least 2 blocks")
	case cfg.BlockSize > 1<<30 || cfg.Blocks > (1<<32-1)/cfg.BlockSize:
		return bad("a ring has less than 4 GiB")
	case cfg.SnapLen < 0:
		return fmt.Errorf("ring: %s: snap length %d", cfg.Interface, cfg.SnapLen)
	}
	return nil
}

// open makes a bound ring that lets nothing in yet.
func open(cfg Config, iface Interface) (*Ring, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("ring: %s: capture needs CAP_NET_RAW: run as root, or give it: setcap cap_net_raw,cap_net_admin+ep $(which ntap): %w",
				cfg.Interface, os.NewSyscallError("socket AF_PACKET", err))
		}
		return nil, fmt.Errorf("ring: %s: %w", cfg.Interface, os.NewSyscallError("socket AF_PACKET", err))
	}
	r := &Ring{cfg: cfg, fd: fd, iface: iface, events: []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLERR}}}
	if err := r.setUp(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Ring) setUp() error {
	fail := func(call string, err error) error {
		return fmt.Errorf("ring: %s: %d blocks of %d bytes: %w", r.cfg.Interface, r.cfg.Blocks, r.cfg.BlockSize, os.NewSyscallError(call, err))
	}
	// First the filter that drops all, then the rest: nothing unfiltered gets in.
	if err := r.attach([]bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K}}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fail("setsockopt PACKET_VERSION", err)
	}
	// Room for the VLAN tag that is put back; a loopback shows what it sends
	// twice, so there the sent copy is left out.
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_RESERVE, vlanLen); err != nil {
		return fail("setsockopt PACKET_RESERVE", err)
	}
	if r.iface.Loopback {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return fail("setsockopt PACKET_IGNORE_OUTGOING", err)
		}
	}
	req := unix.TpacketReq3{
		Block_size:     uint32(r.cfg.BlockSize),
		Block_nr:       uint32(r.cfg.Blocks),
		Frame_size:     frameUnit,
		Frame_nr:       uint32(r.cfg.BlockSize / frameUnit * r.cfg.Blocks),
		Retire_blk_tov: uint32(max(r.cfg.Retire.Milliseconds(), 1)),
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fail("setsockopt PACKET_RX_RING", err)
	}
	mem, err := unix.Mmap(r.fd, 0, r.cfg.BlockSize*r.cfg.Blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fail("mmap", err)
	}
	r.mem = mem
	if err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: r.iface.Index}); err != nil {
		return fail("bind", err)
	}
	if r.cfg.Promiscuous {
		m := unix.PacketMreq{Ifindex: int32(r.iface.Index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return fail("setsockopt PACKET_ADD_MEMBERSHIP", err)
		}
	}
	return nil
}

// join puts the ring into a fanout group: a new one for the first.
func (r *Ring) join(group uint16, first bool) (uint16, error) {
	mode := unix.PACKET_FANOUT_HASH
	if first {
		mode |= unix.PACKET_FANOUT_FLAG_UNIQUEID
	}
	fail := func(call string, err error) error {
		return fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError(call+" PACKET_FANOUT", err))
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, int(group)|mode<<16); err != nil {
		return 0, fail("setsockopt", err)
	}
	if !first {
		return group, nil
	}
	v, err := unix.GetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
	if err != nil {
		return 0, fail("getsockopt", err)
	}
	return uint16(v), nil
}

// SetFilter swaps the filter in the kernel, between two frames. Nil lets
// everything through.
func (r *Ring) SetFilter(filter []bpf.RawInstruction) error {
	if len(filter) == 0 {
		filter = []bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}}
	}
	return r.attach(snapped(filter, r.cfg.SnapLen))
}

// snapped makes every program end with at most n bytes of the frame.
func snapped(filter []bpf.RawInstruction, n int) []bpf.RawInstruction {
	if n == 0 {
		return filter
	}
	out := append([]bpf.RawInstruction(nil), filter...)
	for i := range out {
		if out[i].Op == unix.BPF_RET|unix.BPF_K && out[i].K > uint32(n) {
			out[i].K = uint32(n)
		}
	}
	return out
}

func (r *Ring) attach(filter []bpf.RawInstruction) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("ring: %s: filter of %d instructions: %w", r.cfg.Interface, len(filter), os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err))
	}
	return nil
}

// Take returns the next block, or nil if none was ready within wait. ErrDown
// comes once each time that the interface goes down.
func (r *Ring) Take(wait time.Duration) (*Block, error) {
	if b := r.ready(); b != nil || wait <= 0 {
		return b, nil
	}
	n, err := unix.Poll(r.events, int((wait+time.Millisecond-1)/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError("poll", err))
	}
	if b := r.ready(); b != nil || n <= 0 {
		return b, nil
	}
	if r.events[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) == 0 {
		return nil, nil
	}
	return nil, r.trouble(wait)
}

// ready returns the next block if the kernel has handed it over.
func (r *Ring) ready() *Block {
	at := r.next * r.cfg.BlockSize
	mem := r.mem[at : at+r.cfg.BlockSize : at+r.cfg.BlockSize]
	if status := blockStatus(mem); atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
		return nil
	}
	r.next = (r.next + 1) % r.cfg.Blocks
	r.block.take(mem)
	return &r.block
}

// trouble finds out what an error on the socket means (packet_notifier,
// net/packet/af_packet.c: ENETDOWN when the interface goes down or away).
func (r *Ring) trouble(wait time.Duration) error {
	code, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError("getsockopt SO_ERROR", err))
	}
	if now, err := LookUp(r.cfg.Interface); err != nil || now.Index != r.iface.Index {
		return ErrGone
	}
	if code == int(unix.ENETDOWN) {
		return ErrDown
	}
	if code != 0 {
		return fmt.Errorf("ring: %s: %w", r.cfg.Interface, unix.Errno(code))
	}
	time.Sleep(min(wait, 10*time.Millisecond)) // nothing to tell: no spinning
	return nil
}

// Quiesce lets no more frames in. Take then returns what is left, and nil
// after no more than twice Retire when there is nothing more.
func (r *Ring) Quiesce() error {
	return r.attach([]bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K}})
}

// Stats returns the kernel's counts. The kernel forgets what it told
// (packet_getsockopt, net/packet/af_packet.c), so they are added up here.
func (r *Ring) Stats() (Stats, error) {
	s, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return r.stats, fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError("getsockopt PACKET_STATISTICS", err))
	}
	r.stats.Packets += uint64(s.Packets)
	r.stats.Drops += uint64(s.Drops)
	r.stats.Freezes += uint64(s.Freeze_q_cnt)
	return r.stats, nil
}

// Interface returns what the ring captures on, as it was at Open.
func (r *Ring) Interface() Interface { return r.iface }

// Close ends the capture. The memory of its blocks is gone.
func (r *Ring) Close() error {
	if r.fd < 0 {
		return nil
	}
	var err error
	if r.mem != nil {
		err = unix.Munmap(r.mem)
	}
	err = errors.Join(err, unix.Close(r.fd))
	r.fd, r.mem = -1, nil
	return err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
