// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/ring"
)

// Where TAP devices are: in which network namespace, and whether as ports of a
// bridge.

// Chosen: so often a set looks where its devices are, and at so many of them.
const (
	tapLook  = time.Second
	tapLooks = 16
)

// A place is the network namespace that devices are in.
type place struct {
	path string // of the file that stands for it
	fd   int    // -1: not known, and there can be no other
	pid  bool   // path is that of a process
	away bool   // it is no longer there; said

	links *ring.Links // of what is in it; nil: not opened yet
}

// findPlace opens the namespace called name: a PID, a name of ip-netns(8), or a
// file; "" is that of the calling thread.
func findPlace(name string) (p place, err error) {
	p.path = name
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		p.path, p.pid = "/proc/"+name+"/ns/net", true
	} else if name == "" {
		p.path = "/proc/thread-self/ns/net"
	} else if !strings.Contains(name, "/") {
		p.path = "/run/netns/" + name
	}
	if p.fd, err = unix.Open(p.path, unix.O_RDONLY|unix.O_CLOEXEC, 0); name == "" {
		return p, nil
	}
	if err == nil {
		var kind int
		if kind, err = unix.IoctlRetInt(p.fd, unix.NS_GET_NSTYPE); err == nil && kind == unix.CLONE_NEWNET {
			return p, nil
		}
		unix.Close(p.fd)
		p.fd, err = -1, errors.New("it is no network namespace")
	}
	if errors.Is(err, fs.ErrPermission) {
		return p, fmt.Errorf("collector: TAP: network namespace %s: %w; it takes CAP_SYS_ADMIN, and that of another user's process CAP_SYS_PTRACE, too: run as root", name, err)
	}
	return p, fmt.Errorf("collector: TAP: network namespace %s: %w; give the name of one that ip netns shows, a file as /proc/PID/ns/net, or the PID of a process in it", name, err)
}

// is says that path stands for the namespace that is open.
func (p *place) is(path string) (same bool, err error) {
	var open, now unix.Stat_t
	if err := unix.Stat(path, &now); err != nil {
		return false, err
	}
	err = unix.Fstat(p.fd, &open)
	return err == nil && open.Ino == now.Ino && open.Dev == now.Dev, err
}

// inside calls do in the namespace: on this thread if it is there, or else on
// one that is moved there and ends with it.
func (p *place) inside(do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if p.fd < 0 {
		return do()
	}
	if here, err := p.is("/proc/thread-self/ns/net"); here || err != nil {
		return do()
	}
	return ring.Apart(func() error {
		if err := unix.Setns(p.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("collector: TAP: network namespace: %w; it takes CAP_SYS_ADMIN: run as root", os.NewSyscallError("setns", err))
		}
		return do()
	})
}

// changed says whether interfaces came, went or were changed since it was asked
// last; where nothing tells, that they may have.
func (p *place) changed() bool {
	if p.links == nil {
		_ = p.inside(func() (err error) { p.links, err = ring.OpenLinks(); return })
		return true
	}
	changed, err := p.links.Changed(0)
	if err != nil {
		_ = p.links.Close()
		p.links = nil
	}
	return changed || err != nil
}

func (p *place) close() (err error) {
	if p.links != nil {
		err = p.links.Close()
	}
	if p.fd >= 0 {
		err = errors.Join(err, unix.Close(p.fd))
	}
	p.fd, p.links = -1, nil
	return err
}

// tick looks where devices are, now and then: the namespace may be another one
// of that name, and where interfaces changed, a device the port of a bridge.
func (s *tapSet) tick(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.looked) < tapLook {
		return
	}
	s.looked = now
	if s.cfg.NetNS != "" {
		s.follow()
	}
	if !s.cfg.Isolate {
		return
	}
	if s.place.changed() {
		s.unseen = s.unseen[:0]
		if s.one != nil {
			s.unseen = append(s.unseen, s.one)
		}
		for _, d := range s.taps { // in a random order: all get their turn
			if d != nil {
				s.unseen = append(s.unseen, d)
			}
		}
	}
	look := s.unseen[:min(len(s.unseen), tapLooks)]
	if len(look) == 0 {
		return
	}
	_ = s.place.inside(func() error {
		for _, d := range look {
			s.guard(d)
		}
		return nil
	})
	s.unseen = slices.Delete(s.unseen, 0, len(look))
}

// guard keeps the host's stack from the frames of d, unless it is the port of a
// bridge: there they are for the bridge, which comes behind the drop
// (__netif_receive_skb_core, net/core/dev.c).
func (s *tapSet) guard(d *tapDevice) {
	link, err := netlink.LinkByIndex(d.link.Attrs().Index)
	if err != nil {
		return // deleted: the next frame finds out
	}
	switch port := bridged(link); {
	case port == d.port:
		return
	case port:
		if d.isolate != nil {
			_ = d.isolate.Close()
			d.isolate = nil
		}
		s.cfg.warn(fmt.Errorf("collector: TAP %s: it is the port of a bridge now, which gets its frames: nothing keeps them from this host's stack, if the bridge has an address", d.name))
	default:
		d.isolate = s.isolated(d)
	}
	d.port = !d.port
}

// bridged says that a device is the port of a bridge or of Open vSwitch. Any
// other device above it, a VRF, a bond or a team, gives its frames to the host's
// stack.
func bridged(dev netlink.Link) bool {
	above := dev.Attrs().MasterIndex
	if above == 0 {
		return false
	}
	master, err := netlink.LinkByIndex(above)
	return err == nil && bridges(master)
}

// bridges says that a device gives the frames of its ports to other ports, by its
// kind (IFLA_INFO_KIND): those of net/bridge/br_netlink.c and
// net/openvswitch/vport-internal_dev.c.
func bridges(master netlink.Link) bool {
	return master.Type() == "bridge" || master.Type() == "openvswitch"
}

// isolated keeps the host's stack from the frames of d, or warns.
func (s *tapSet) isolated(d *tapDevice) io.Closer {
	c, err := isolate(d.link)
	if err != nil {
		s.cfg.warn(fmt.Errorf("collector: TAP %s: this host's own network stack sees the captured frames: %w", d.name, err))
		return nil
	}
	return c
}

// follow goes to the namespace that has the set's name now. Devices are deleted
// where they were, and so made anew there with their next frames.
func (s *tapSet) follow() {
	same, err := s.place.is(s.place.path)
	if same {
		s.place.away = false
		return
	}
	if err != nil || s.place.pid { // a PID may be that of another process by now
		if !s.place.away {
			end := "they are made anew in one that has the name again"
			if s.place.pid {
				end = "start the collector anew with another PID"
			}
			s.cfg.warn(fmt.Errorf("collector: TAP: network namespace %s is gone, and the interfaces in it are out of reach: %s", s.cfg.NetNS, end))
		}
		s.place.away = true
		return
	}
	next, err := findPlace(s.cfg.NetNS)
	if err != nil {
		return // gone again
	}
	devices := make([]*tapDevice, 0, len(s.taps)+1)
	if s.one != nil {
		devices = append(devices, s.one)
	}
	for _, d := range s.taps {
		if d != nil {
			devices = append(devices, d)
		}
	}
	_ = s.place.inside(func() error {
		for _, d := range devices {
			_ = netlink.LinkDel(d.link)
			d.tried = time.Time{}
		}
		return nil
	})
	_ = s.place.close()
	s.place = next
	s.cfg.warn(fmt.Errorf("collector: TAP: network namespace %s is another one now: interfaces are made there, with their next frames", s.cfg.NetNS))
}

// tapMTUs are those that a device gets, bytes: Ethernet's, with two VLAN tags,
// and what jumbo frames usually have. The last is all that the kernel allows a
// TAP: MAX_MTU less an Ethernet header (tun_net_init, drivers/net/tun.c).
var tapMTUs = [...]int{1500, 1508, 2000, 4096, 9000, 9216, 16384, 32768, 65535 - 14}

// raise sees to it that the MTU of the device for tap is need or more, and
// returns it. Frames written to a TAP are not held against its MTU; but
// programs that read there size their buffers by it. It is never lowered, so it
// may be set by hand.
func (s *tapSet) raise(tap uint32, need int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.one
	if s.perTap() {
		d = s.taps[tap]
	}
	most := tapMTUs[len(tapMTUs)-1]
	switch {
	case d == nil || d.mtu >= most:
		return 1 << 30 // there is no more
	case d.mtu >= need:
		return d.mtu
	}
	for _, mtu := range tapMTUs {
		if d.mtu = mtu; mtu >= need {
			break
		}
	}
	if err := s.place.inside(func() error {
		link, err := netlink.LinkByIndex(d.link.Attrs().Index)
		if err != nil {
			return err
		}
		if d.mtu = max(d.mtu, link.Attrs().MTU); d.mtu > link.Attrs().MTU {
			return netlink.LinkSetMTU(link, d.mtu)
		}
		return nil
	}); err != nil && !errors.Is(err, unix.ENODEV) && !errors.As(err, new(netlink.LinkNotFoundError)) {
		s.cfg.warn(fmt.Errorf("collector: TAP %s: MTU %d, for a frame that needs %d: %w", d.name, d.mtu, need, err))
	}
	if d.mtu >= most {
		return 1 << 30
	}
	return d.mtu
}
