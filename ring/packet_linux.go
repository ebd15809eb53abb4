// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Chosen.
const (
	lookAgain = 20 * time.Millisecond // between looks at an interface that is down: its deletion then comes unannounced
	straggle  = time.Second           // beyond twice Retire, the longest wait for a block whose frames were counted
)

// A Ring is one TPACKET_V3 ring on one interface. It belongs to one goroutine.
// The interface is that of the network namespace in which Open was called,
// wherever the ring is used.
type Ring struct {
	cfg    Config
	fd     int
	iface  Interface
	mem    []byte
	next   int    // block, or slot, that the kernel fills next
	slots  int    // of a ring with Immediate; 0: it is one of blocks
	copied []byte // room for a frame that fits no slot
	block  Block
	stats  Stats
	taken  uint64        // frames in the blocks taken so far
	dense  bool          // the last of them was
	woke   time.Time     // from the last sleep that dense blocks were worth
	sleep  unix.Timespec // in such a sleep, the time
	events [1]unix.PollFd
	quiet  time.Time            // when Quiesce was called; zero: it was not
	stamps *unix.HwTstampConfig // of the card, before they were changed; nil: they were not
	clock  error                // why frames do not have the card's time, which was asked for; nil: they should
	reset  bool                 // the card may have forgotten that it stamps: the interface was down
	down   bool                 // no frames since the interface went down
	gone   time.Time            // when the interface was seen to be gone; zero: it is there

	mu sync.Mutex // for what other goroutines may call: Swap, Promiscuous
}

// setUp makes a bound ring of a new socket, which lets nothing in yet.
func (r *Ring) setUp() error {
	// First the filter that drops all, then the rest: nothing unfiltered gets
	// in, and there is nothing to drain.
	if err := r.attach(dropAll); err != nil {
		return err
	}
	version := unix.TPACKET_V3
	if r.cfg.Immediate {
		version = unix.TPACKET_V2
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, version); err != nil {
		return r.fail("setsockopt PACKET_VERSION", err)
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_RESERVE, vlanLen); err != nil { // for putTag
		return r.fail("setsockopt PACKET_RESERVE", err)
	}
	// Before the ring is made. A kernel that refuses says nothing of unfinished
	// checksums and of frames that were several on the wire.
	err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	r.block.vnet = err == nil
	if err := r.mapBlocks(); err != nil {
		return err
	}
	if err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: r.iface.Index}); err != nil {
		return r.fail("bind", err)
	}
	if r.cfg.Hardware && !r.cfg.All {
		if err := r.stampByHardware(); err != nil {
			return err
		}
	}
	if r.cfg.Promiscuous && !r.cfg.All {
		return r.promiscuous(r.iface.Index)
	}
	return nil
}

// promiscuous makes an interface take frames for other stations too. It leaves
// that mode by itself when the socket goes, however the process ends.
func (r *Ring) promiscuous(index int) error {
	m := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
		return r.fail("setsockopt PACKET_ADD_MEMBERSHIP (promiscuous)", err)
	}
	return nil
}

// Promiscuous makes one of the interfaces of a ring on all take frames for
// other stations too, until the ring is closed or the interface goes. Any
// goroutine may call it.
func (r *Ring) Promiscuous(index int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd < 0 {
		return nil
	}
	return r.promiscuous(index)
}

// mapBlocks has the kernel make the ring, and maps it.
func (r *Ring) mapBlocks() error {
	if r.cfg.Immediate {
		return r.mapSlots()
	}
	size := r.cfg.BlockSize * r.cfg.Blocks
	req := unix.TpacketReq3{
		Block_size:     uint32(r.cfg.BlockSize),
		Block_nr:       uint32(r.cfg.Blocks),
		Frame_size:     frameUnit,
		Frame_nr:       uint32(r.cfg.BlockSize / frameUnit * r.cfg.Blocks),
		Retire_blk_tov: uint32(r.cfg.Retire.Milliseconds()),
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return r.refused("setsockopt PACKET_RX_RING", err)
	}
	mem, err := unix.Mmap(r.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return r.refused("mmap", err)
	}
	r.mem = mem
	return nil
}

// refused says that the kernel did not make the ring.
func (r *Ring) refused(call string, err error) error {
	hint := ""
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN) {
		hint = fmt.Sprintf("the kernel has no %d bytes for the ring (%d available); take fewer or smaller blocks: ", r.cfg.BlockSize*r.cfg.Blocks, available())
	}
	return fmt.Errorf("ring: %s: %d blocks of %d bytes: %s%w", r.cfg.Interface, r.cfg.Blocks, r.cfg.BlockSize, hint, os.NewSyscallError(call, err))
}

// Take returns the next block, or nil if none was ready within wait, which is
// rounded up to ms; with wait 0 it only looks. The block before has to be
// released. ErrDown comes once each time that the interface goes down. ErrGone
// comes when the interface was deleted, behind the last block, and then again
// and again.
func (r *Ring) Take(wait time.Duration) (*Block, error) {
	if r.block.mem != nil {
		panic("ring: Take before the last block was released")
	}
	if b := r.ready(); b != nil || wait <= 0 {
		return b, nil
	}
	return r.wait(wait)
}

// ready returns the next block if the kernel has handed it over.
func (r *Ring) ready() *Block {
	if r.slots > 0 {
		return r.readySlots()
	}
	at := r.next * r.cfg.BlockSize
	mem := r.mem[at : at+r.cfg.BlockSize : at+r.cfg.BlockSize]
	if !blockReady(mem) {
		return nil
	}
	if r.next++; r.next == r.cfg.Blocks {
		r.next = 0
	}
	r.block.take(mem)
	r.taken += uint64(r.block.left)
	r.dense = r.cfg.Blocks >= denseBlocks && r.block.dense()
	if r.down {
		r.up()
	}
	return &r.block
}

// wait is Take where there is nothing yet.
func (r *Ring) wait(wait time.Duration) (*Block, error) {
	now := time.Now()
	deadline := now.Add(wait)
	if r.dense && r.quiet.IsZero() {
		r.dense, now = false, r.doze(now, wait)
		if b := r.ready(); b != nil {
			return b, nil
		}
	}
	for {
		left := max(deadline.Sub(now), 0)
		if r.down || !r.gone.IsZero() || !r.quiet.IsZero() {
			if err := r.look(); err != nil {
				return nil, err
			}
			left = min(left, lookAgain)
			if now.Sub(deadline) >= 0 && !r.quiet.IsZero() && now.Sub(r.quiet) < r.patience() && r.behind() {
				left = time.Millisecond // idle, but not yet empty: timers are late
			}
		}
		if left == 0 {
			return nil, nil
		}
		if r.cfg.Spin && r.quiet.IsZero() {
			if b := r.spin(min(left, spinFor)); b != nil {
				return b, nil
			}
			left = 0 // the poll tells of trouble
		}
		n, err := unix.Poll(r.events[:], int((left+time.Millisecond-1)/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) { // a signal is no reason to say that the ring is idle
			return nil, fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError("poll", err))
		}
		if b := r.ready(); b != nil {
			return b, nil
		}
		if n > 0 {
			if err := r.trouble(); err != nil {
				return nil, err
			}
		}
		now = time.Now()
	}
}

// doze sleeps until denseEvery after the last time, but at most wait.
func (r *Ring) doze(now time.Time, wait time.Duration) time.Time {
	if d := min(r.woke.Add(denseEvery).Sub(now), wait); d > 0 {
		r.sleep = unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&r.sleep, nil) // if a signal ends it, no harm is done
		now = time.Now()
	}
	r.woke = now
	return now
}

// up notes that frames come again.
func (r *Ring) up() {
	r.down = false
	r.restamp()
}

// trouble finds out what poll meant that did not bring a block.
func (r *Ring) trouble() error {
	code, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError("getsockopt SO_ERROR", err))
	}
	switch code {
	case 0:
		time.Sleep(time.Millisecond) // nothing to tell: no spinning
		return nil
	case int(unix.ENETDOWN): // packet_notifier and packet_do_bind, net/packet/af_packet.c
		r.down, r.reset = true, r.cfg.Hardware && r.clock == nil
		if err := r.look(); err != nil || !r.gone.IsZero() {
			return err
		}
		return ErrDown
	}
	return fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError("poll", unix.Errno(code)))
}

// look returns ErrGone if the interface was deleted and all its frames were
// taken. A deletion is first told as ENETDOWN, and if the interface was down
// not at all; but then the socket is bound to interface -1 (packet_notifier).
func (r *Ring) look() error {
	if r.gone.IsZero() {
		at, err := unix.Getsockname(r.fd)
		if err != nil {
			return fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError("getsockname", err))
		}
		if a, ok := at.(*unix.SockaddrLinklayer); !ok || a.Ifindex == r.iface.Index {
			r.restamp()
			return nil
		}
		r.gone = time.Now()
	}
	if r.behind() && time.Since(r.gone) < r.patience() {
		return nil
	}
	return ErrGone
}

// behind reports whether frames were counted whose block was not yet taken.
func (r *Ring) behind() bool {
	s, err := r.Stats()
	return err == nil && r.taken < s.Packets-s.Drops
}

func (r *Ring) patience() time.Duration { return 2*r.cfg.Retire + straggle }

// Quiesce lets no more frames in. Take then returns what is left; it does not
// say idle (nil) before every frame that the kernel counted was in a block that
// it returned, if wait is at least twice Retire. Then that is
// Stats.Packets - Stats.Drops of them.
func (r *Ring) Quiesce() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.attach(dropAll); err != nil {
		return err
	}
	r.quiet = time.Now()
	return nil
}

// SetFilter swaps the filter in the kernel, between two frames. Nil lets
// everything through. It ends what Quiesce began.
func (r *Ring) SetFilter(filter []bpf.RawInstruction) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.attach(program(filter, r.cfg.SnapLen, r.iface.Loopback)); err != nil {
		return err
	}
	r.quiet = time.Time{}
	return nil
}

// Swap is SetFilter for other goroutines than that which the ring belongs to.
// It changes nothing once the ring was quiesced or closed.
func (r *Ring) Swap(filter []bpf.RawInstruction) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd < 0 || !r.quiet.IsZero() {
		return nil
	}
	return r.attach(program(filter, r.cfg.SnapLen, r.iface.Loopback))
}

// Stats returns the kernel's counts. The kernel forgets what it told
// (packet_getsockopt, net/packet/af_packet.c), so they are added up here: often
// enough, at 32 bits, is once in the time of 2^32 frames.
func (r *Ring) Stats() (Stats, error) {
	s, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return r.stats, fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError("getsockopt PACKET_STATISTICS", err))
	}
	r.stats.Packets += uint64(s.Packets)
	r.stats.Drops += uint64(s.Drops)
	r.stats.Freezes += uint64(s.Freeze_q_cnt)
	r.stats.Unstamped = r.block.unstamped
	return r.stats, nil
}

// Offloads reports whether frames say what of them the kernel left unfinished.
func (r *Ring) Offloads() bool { return r.block.vnet }

// Name returns the name that the interface has now. A ring stays on its
// interface whatever that is called; there is none once it was deleted, or
// moved to another namespace.
func (r *Ring) Name() (string, error) { return interfaceName(r.fd, r.iface.Index) }

// Interface returns what the ring captures on, as it was at Open.
func (r *Ring) Interface() Interface { return r.iface }

// Close ends the capture. The memory of its blocks is gone. A Ring may be
// closed twice.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd < 0 {
		return nil
	}
	var err error
	if r.mem != nil {
		err = unix.Munmap(r.mem)
	}
	if r.copied != nil {
		err = errors.Join(err, unix.Munmap(r.copied))
	}
	r.unstamp()
	err = errors.Join(err, unix.Close(r.fd))
	r.fd, r.mem, r.copied, r.block = -1, nil, nil, Block{}
	return err
}

func (r *Ring) fail(call string, err error) error {
	return fmt.Errorf("ring: %s: %w", r.cfg.Interface, os.NewSyscallError(call, err))
}
