// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Links tells of the interfaces of a network namespace: of that of the thread
// that called OpenLinks, wherever it is used. List is for one goroutine at a
// time, and so is Changed.
type Links struct {
	events int // netlink, subscribed to changes of interfaces and of their IPv4 addresses
	ask    int // netlink, for questions
	device int // for what ioctl tells
	buf    []byte
	seq    uint32
	before map[int]Interface // of the last list
}

// OpenLinks opens the sockets. They need no rights.
func OpenLinks() (*Links, error) {
	l := &Links{events: -1, ask: -1, device: -1, buf: make([]byte, 1<<17)}
	fail := func(call string, err error) (*Links, error) {
		l.Close()
		return nil, fmt.Errorf("ring: interfaces: %w", os.NewSyscallError(call, err))
	}
	var err error
	if l.events, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
		return fail("socket AF_NETLINK", err)
	}
	if err = unix.Bind(l.events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR}); err != nil {
		return fail("bind AF_NETLINK", err)
	}
	if l.ask, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
		return fail("socket AF_NETLINK", err)
	}
	if err = unix.Bind(l.ask, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fail("bind AF_NETLINK", err)
	}
	if l.device, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return fail("socket", err)
	}
	return l, nil
}

// Close closes the sockets.
func (l *Links) Close() error {
	var err error
	for _, fd := range []*int{&l.events, &l.ask, &l.device} {
		if *fd >= 0 {
			err = errors.Join(err, unix.Close(*fd))
			*fd = -1
		}
	}
	return err
}

// Netmask returns what the function of that name does, in the namespace of l.
func (l *Links) Netmask(name string) netip.Addr { return netmask(l.device, name) }

// Changed waits until interfaces came, went or were changed, or IPv4 addresses
// of theirs, or until wait has passed.
func (l *Links) Changed(wait time.Duration) (bool, error) {
	events := []unix.PollFd{{Fd: int32(l.events), Events: unix.POLLIN}}
	n, err := unix.Poll(events, int((wait+time.Millisecond-1)/time.Millisecond))
	if n == 0 || errors.Is(err, unix.EINTR) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("ring: interfaces: %w", os.NewSyscallError("poll", err))
	}
	var some [4096]byte
	for { // what they say is asked for again: messages may be lost
		_, _, err := unix.Recvfrom(l.events, some[:], 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return true, nil
		case err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("ring: interfaces: %w", os.NewSyscallError("recvfrom AF_NETLINK", err))
		}
	}
}

// Chosen: so often a list is asked for again that interfaces changed in.
const listTries = 8

// List returns the interfaces that are there. LinkType is 0 where it is not one
// that can be captured.
func (l *Links) List() (all []Interface, err error) {
	for range listTries {
		whole := false
		if all, whole, err = l.dump(); err != nil || whole {
			break
		}
	}
	// The driver is asked for the speed when there is reason to: each question
	// holds a lock that all changes of interfaces need. Once there is a carrier,
	// both ends have agreed on one.
	before := l.before
	l.before = make(map[int]Interface, len(all))
	for n := range all {
		i := &all[n]
		if was, ok := before[i.Index]; ok && was.Name == i.Name && was.Up == i.Up && was.Running == i.Running {
			i.Speed = was.Speed
		} else {
			i.Speed = speed(l.device, i.Name)
		}
		l.before[i.Index] = *i
	}
	return all, err
}

// dump asks for all interfaces (rtnetlink(7), RTM_GETLINK). whole is false if
// they changed meanwhile.
func (l *Links) dump() (all []Interface, whole bool, err error) {
	fail := func(call string, err error) ([]Interface, bool, error) {
		return nil, false, fmt.Errorf("ring: interfaces: %w", os.NewSyscallError(call, err))
	}
	l.seq++
	order := binary.NativeEndian
	q := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	order.PutUint32(q, uint32(len(q)))
	order.PutUint16(q[4:], unix.RTM_GETLINK)
	order.PutUint16(q[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	order.PutUint32(q[8:], l.seq)
	if err := unix.Sendto(l.ask, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fail("sendto AF_NETLINK", err)
	}
	for whole = true; ; {
		n, _, err := unix.Recvfrom(l.ask, l.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return fail("recvfrom AF_NETLINK", err)
		}
		messages, err := syscall.ParseNetlinkMessage(l.buf[:n])
		if err != nil {
			return fail("recvfrom AF_NETLINK", err)
		}
		for i := range messages {
			m := &messages[i]
			if m.Header.Seq != l.seq {
				continue // left over from a question that was given up
			}
			if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
				whole = false
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return all, whole, nil
			case unix.NLMSG_ERROR:
				return fail("RTM_GETLINK", unix.Errno(-int32(order.Uint32(m.Data))))
			case unix.RTM_NEWLINK:
				if i, ok := l.parse(m); ok {
					all = append(all, i)
				}
			}
		}
	}
}

// parse reads what RTM_NEWLINK says of an interface.
func (l *Links) parse(m *syscall.NetlinkMessage) (out Interface, ok bool) {
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil || len(m.Data) < unix.SizeofIfInfomsg {
		return out, false
	}
	info := (*unix.IfInfomsg)(unsafe.Pointer(unsafe.SliceData(m.Data)))
	out = Interface{
		Index: int(info.Index), LinkType: linkTypes[info.Type],
		Up: info.Flags&unix.IFF_UP != 0, Loopback: info.Flags&unix.IFF_LOOPBACK != 0,
		Running: info.Flags&unix.IFF_RUNNING != 0,
	}
	text := func(b []byte) string { b, _, _ = bytes.Cut(b, []byte{0}); return string(b) }
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			out.Name = text(a.Value)
		case unix.IFLA_IFALIAS:
			out.Alias = text(a.Value)
		case unix.IFLA_MTU:
			if len(a.Value) >= 4 {
				out.MTU = int(binary.NativeEndian.Uint32(a.Value))
			}
		case unix.IFLA_ADDRESS:
			if len(a.Value) == 6 && out.LinkType != linkRaw && !bytes.Equal(a.Value, make([]byte, 6)) {
				out.MAC = net.HardwareAddr(bytes.Clone(a.Value))
			}
		}
	}
	return out, out.Name != ""
}
