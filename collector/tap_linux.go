// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/proto"
)

// A tapDevice is one TAP device. Frames written to a queue appear as received
// by the device; what the host sends to it is dropped.
type tapDevice struct {
	name    string
	link    netlink.Link
	queues  []int   // descriptors, one for each worker
	old     [][]int // of each worker, of devices that were deleted, until it closes them
	isolate io.Closer
	mtu     int       // bytes, as far as we know
	port    bool      // of a bridge, and therefore not isolated
	tried   time.Time // to make it anew
	failed  bool      // to do so; said before
}

// tapAgainAfter is the time between attempts to make a deleted device anew.
const tapAgainAfter = time.Second

// A tapSet holds the collector's TAP devices: one for all taps, or one for
// each, made when its first frame comes.
//
// They live in the network namespace that the configuration names, or else in
// that of the thread that called newTapSet.
// Sinks are closed before their set: an io_uring holds on to the queues.
type tapSet struct {
	cfg  tapConfig
	each bool // each tap has a device: the name's pattern is not read again for each frame

	mu     sync.Mutex // held while a device is made, not for frames
	place  place
	looked time.Time    // where devices are
	unseen []*tapDevice // to be looked at, since interfaces changed
	one    *tapDevice   // if there is one for all
	taps   map[uint32]*tapDevice

	aliens atomic.Bool // frames came that no Ethernet carries; said
}

// newTapSet makes the device, or checks the pattern that devices are to be
// named by. Errors say who has the name, which right or module is missing.
func newTapSet(cfg tapConfig) (*tapSet, error) {
	cfg.Workers = max(cfg.Workers, 1)
	name, err := tapName(cfg.Name, 0) // a pattern has to do for the shortest ID at least
	if err != nil {
		return nil, err
	}
	s := &tapSet{cfg: cfg, each: cfg.perTap(), taps: map[uint32]*tapDevice{}}
	if s.place, err = findPlace(cfg.NetNS); err != nil {
		return nil, err
	}
	if s.perTap() {
		if err := probeTun(); err != nil {
			s.Close()
			return nil, err
		}
		return s, nil
	}
	if err = s.place.inside(func() (err error) { s.one, err = s.create(name); return }); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *tapSet) perTap() bool { return s.each }

// queue returns the descriptor of worker's queue of the device for tap, which
// it makes if need be, and the device's name. It warns once of one that cannot
// be made.
func (s *tapSet) queue(tap uint32, worker int) (int, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.one
	if s.perTap() {
		var known bool
		if d, known = s.taps[tap]; !known {
			name, err := tapName(s.cfg.Name, tap)
			if err == nil {
				err = s.place.inside(func() (err error) { d, err = s.create(name); return })
			}
			if err != nil {
				d = nil
				s.cfg.warn(fmt.Errorf("%w; the frames of tap %d are refused", err, tap))
			}
			s.taps[tap] = d
		}
	}
	if d == nil || worker >= len(d.queues) {
		return -1, "", fmt.Errorf("collector: TAP: no queue %d for tap %d", worker, tap)
	}
	return d.queues[worker], d.name, nil
}

// again returns worker's queue of the device for tap, of which its old one says
// that it was deleted. The first worker to ask has it made anew; made says that
// this call did. Each worker closes its own old queue: until then others use
// theirs.
func (s *tapSet) again(tap uint32, worker, old int) (fd int, made bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.one
	if s.perTap() {
		d = s.taps[tap]
	}
	if d == nil || worker >= len(d.queues) {
		return -1, false, errGone
	}
	if d.queues[worker] == old {
		if time.Since(d.tried) < tapAgainAfter {
			return -1, false, errGone
		}
		d.tried = time.Now()
		var fresh *tapDevice
		if err := s.place.inside(func() (err error) { fresh, err = s.create(d.name); return }); err != nil {
			if !d.failed {
				s.cfg.warn(fmt.Errorf("%w; it was deleted, and its frames are refused until it can be made anew", err))
			}
			d.failed = true
			return -1, false, errGone
		}
		if d.isolate != nil {
			_ = d.isolate.Close() // its device is gone
		}
		if d.old == nil {
			d.old = make([][]int, len(d.queues))
		}
		for w, fd := range d.queues {
			d.old[w] = append(d.old[w], fd)
		}
		d.queues, d.link, d.isolate, d.failed, made = fresh.queues, fresh.link, fresh.isolate, false, true
		d.mtu, d.port = fresh.mtu, fresh.port
		s.cfg.warn(fmt.Errorf("collector: TAP %s: the interface was deleted, and is made anew", d.name))
	}
	for _, fd := range d.old[worker] {
		err = errors.Join(err, unix.Close(fd))
	}
	d.old[worker] = nil
	return d.queues[worker], made, err
}

// errDeleted is what a write to a deleted TAP says (tun_get, drivers/net/tun.c).
const errDeleted = syscall.EBADFD

var errGone = errors.New("collector: the TAP was deleted")

// refused warns that a device began to refuse frames.
func (s *tapSet) refused(name string, err error) {
	switch {
	case errors.Is(err, unix.EIO):
		err = fmt.Errorf("%w: the interface is down; bring it up: ip link set %s up", err, name)
	}
	s.cfg.warn(fmt.Errorf("collector: TAP %s refuses frames: %w", name, err))
}

func (s *tapSet) warn(err error) { s.cfg.warn(err) }

// alien warns once that a TAP cannot carry frames of a kind.
func (s *tapSet) alien(link proto.LinkType) {
	if !s.aliens.Load() && !s.aliens.Swap(true) {
		s.cfg.warn(notEthernet("TAP "+s.cfg.Name, link))
	}
}

// Close removes the devices.
func (s *tapSet) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.place.inside(func() (err error) {
		if s.one != nil {
			err = s.one.close()
			s.one = nil
		}
		for tap, d := range s.taps {
			if d != nil {
				err = errors.Join(err, d.close())
			}
			delete(s.taps, tap)
		}
		return err
	})
	return errors.Join(err, s.place.close())
}

// create makes the device called name with a queue for every worker, makes it
// passive and brings it up.
func (s *tapSet) create(name string) (d *tapDevice, err error) {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if s.cfg.Workers > 1 || s.cfg.Persist { // which next time may be for more workers
		flags |= unix.IFF_MULTI_QUEUE
	}
	exclusive := uint16(unix.IFF_TUN_EXCL)
	if old, err := netlink.LinkByName(name); err == nil {
		if t, is := old.(*netlink.Tuntap); is && s.cfg.Workers == 1 { // either kind will do
			flags = flags&^unix.IFF_MULTI_QUEUE | uint16(t.Flags&netlink.TUNTAP_MULTI_QUEUE)
		}
		if err := usable(old, flags); err != nil {
			return nil, fmt.Errorf("collector: TAP %s: %w", name, err)
		}
		exclusive = 0 // made by the administrator for us, and idle
	}
	made := exclusive != 0
	d = &tapDevice{name: name}
	defer func() {
		if err != nil {
			d.close()
			d, err = nil, fmt.Errorf("collector: TAP %s: %w", name, err)
		}
	}()
	for range s.cfg.Workers {
		fd, err := openQueue(name, flags|exclusive)
		if err != nil {
			return d, err
		}
		d.queues = append(d.queues, fd)
		exclusive = 0
	}
	if d.link, err = netlink.LinkByName(name); err != nil {
		return d, fmt.Errorf("netlink RTM_GETLINK: %w", err)
	}
	if err := d.passive(s.cfg.warn); err != nil {
		return d, err
	}
	if made { // so that a remote on this host knows it (-i any), and does not send round what comes out here
		if err := netlink.LinkSetAlias(d.link, "ntap collector"); err != nil {
			s.cfg.warn(fmt.Errorf("collector: TAP %s: no alias, by which a remote on this host leaves it out: %w", name, err))
		}
	}
	d.mtu, d.port = d.link.Attrs().MTU, bridged(d.link)
	if s.cfg.Isolate && !d.port { // before it is up, so that nothing slips past
		d.isolate = s.isolated(d)
	}
	if err := netlink.LinkSetUp(d.link); err != nil {
		return d, fmt.Errorf("netlink: set up: %w", err)
	}
	if s.cfg.Persist {
		if err := unix.IoctlSetInt(d.queues[0], unix.TUNSETPERSIST, 1); err != nil {
			return d, fmt.Errorf("it would not outlive the collector: %w", os.NewSyscallError("ioctl TUNSETPERSIST", err))
		}
	}
	return d, nil
}

// passive sees to it that nothing is ever sent to the device, and that the
// kernel spends little on what is received.
func (d *tapDevice) passive(warn func(error)) error {
	// No link-local address, hence no duplicate address detection, router
	// solicitations and multicast reports. A kernel without IPv6 has none.
	genErr := netlink.LinkSetIP6AddrGenMode(d.link, 1) // IN6_ADDR_GEN_MODE_NONE
	if errors.Is(genErr, unix.EAFNOSUPPORT) || errors.Is(genErr, unix.EOPNOTSUPP) {
		genErr = nil
	}
	// Nor anything else of IPv6, if /proc/sys may be written: it shows the
	// namespace of the thread that looks.
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+d.name+"/disable_ipv6", []byte("1"), 0)
	if genErr != nil && err != nil && !errors.Is(err, os.ErrNotExist) {
		warn(fmt.Errorf("collector: TAP %s: IPv6 stays on: %w; %w", d.name, genErr, err))
	}
	if err := netlink.LinkSetARPOff(d.link); err != nil {
		return fmt.Errorf("netlink: IFF_NOARP: %w", err)
	}
	// What is sent to the device all the same is dropped there and then,
	// instead of filling queues that nobody reads.
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	if err := ioctlPointer(d.queues[0], unix.TUNATTACHFILTER, unsafe.Pointer(&unix.SockFprog{Len: 1, Filter: &drop})); err != nil {
		return os.NewSyscallError("ioctl TUNATTACHFILTER", err)
	}
	if len(d.queues) > 1 {
		// With more than one queue the kernel hashes every frame it is
		// given and keeps a table of flows, to choose queues for the way
		// back (tun_get_user, tun_flow_update). A steering program, which
		// nothing ever runs, turns that off, and with it 7 to 22 % of
		// the time for a frame.
		_ = steer(d.queues[0])
	}
	return nil
}

// close lets the device go: the kernel removes it with its last descriptor,
// unless an administrator made it to stay.
func (d *tapDevice) close() error {
	var err error
	if d.isolate != nil {
		err = d.isolate.Close()
	}
	for _, fds := range append(d.old, d.queues) {
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	d.queues, d.old = nil, nil
	return err
}

// openQueue opens a new queue of the TAP device called name.
func openQueue(name string, flags uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, tunError(os.NewSyscallError("open /dev/net/tun", err))
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return -1, tunError(os.NewSyscallError("ioctl TUNSETIFF", err))
	}
	return fd, nil
}

// probeTun finds out early what would keep every device from being made.
func probeTun() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("collector: TAP: %w", tunError(os.NewSyscallError("open /dev/net/tun", err)))
	}
	return unix.Close(fd)
}

// tunError adds the cure to an error of the TUN driver.
func tunError(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w; load the driver: modprobe tun; in a container: --device /dev/net/tun", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w; it takes CAP_NET_ADMIN: run as root, or: setcap cap_net_admin+ep ntap; in a container: --cap-add NET_ADMIN --device /dev/net/tun", err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: the name was just taken by another process", err)
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("%w: a TAP has at most 256 queues: use fewer workers", err)
	}
	return err
}

// usable says why the interface old, which has the name that we want, cannot
// be ours; nil if it is an idle TAP that an administrator made for us, of the
// kind that flags ask for.
func usable(old netlink.Link, flags uint16) error {
	const cure = "; choose another name, or remove it: ip link del "
	name := old.Attrs().Name
	t, ok := old.(*netlink.Tuntap)
	switch {
	case !ok:
		return fmt.Errorf("the name is taken by an interface of another kind (%s)%s%s", old.Type(), cure, name)
	case t.Mode != netlink.TUNTAP_MODE_TAP:
		return fmt.Errorf("the name is taken by a TUN device, which carries no Ethernet%s%s", cure, name)
	case t.NonPersist || t.Queues+t.DisabledQueues > 0:
		return fmt.Errorf("the name is taken by a TAP device in use by %s; choose another name, or end that", holder(name))
	case t.Flags&netlink.TUNTAP_VNET_HDR != 0 || (t.Flags&netlink.TUNTAP_MULTI_QUEUE != 0) != (flags&unix.IFF_MULTI_QUEUE != 0):
		want := "without multi_queue"
		if flags&unix.IFF_MULTI_QUEUE != 0 {
			want = "with multi_queue, for more than one worker"
		}
		return fmt.Errorf("there is a TAP device of that name, but not the kind needed: %s, without vnet_hdr%s%s", want, cure, name)
	}
	return nil
}

// holder names the process that has the TUN or TAP device called name open, as
// far as /proc tells: a line of its fdinfo says so (tun_chr_show_fdinfo).
func holder(name string) string {
	files, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	for _, file := range files {
		if to, err := os.Readlink(file); err != nil || to != "/dev/net/tun" {
			continue
		}
		dir, fd := filepath.Dir(filepath.Dir(file)), filepath.Base(file)
		info, _ := os.ReadFile(filepath.Join(dir, "fdinfo", fd))
		if !strings.Contains(string(info)+"\n", "iff:\t"+name+"\n") {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		return fmt.Sprintf("process %s (%s)", filepath.Base(dir), strings.TrimSpace(string(comm)))
	}
	return "another process"
}

// steer gives the device a program that chooses queue 0 for every frame sent.
func steer(fd int) error {
	p, err := queueZero()
	if err != nil {
		return err
	}
	defer p.Close()
	return unix.IoctlSetPointerInt(fd, unix.TUNSETSTEERINGEBPF, p.FD())
}

// ioctlPointer is ioctl(2) with the address of a structure.
func ioctlPointer(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, err := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); err != 0 {
		return err
	}
	return nil
}

// nonblock makes fd non-blocking. A TAP's send buffer has no limit, so it would
// not block either way; but write(2) is 6 to 17 % faster (Zen 3, Linux 6.18).
func nonblock(fd int) { _ = unix.SetNonblock(fd, true) }

// writeFrame is write(2) without telling the scheduler: a TAP takes a frame,
// or refuses it, in less time than that costs. EAGAIN, which a TAP does not
// give unless somebody limits its send buffer, is tried again for 30 ms.
func writeFrame(fd int, frame []byte) syscall.Errno {
	for tries := 0; ; {
		_, _, err := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)))
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN && tries < 3:
			tries++
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 10)
		default:
			return err
		}
	}
}
