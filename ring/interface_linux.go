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
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LookUp returns the interface of that name in the calling thread's network
// namespace. It needs no rights.
func LookUp(name string) (Interface, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Interface{}, fmt.Errorf("ring: %s: %w", name, os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	return lookUp(fd, name)
}

// lookUp returns the interface of that name in the network namespace of a
// socket: sysfs would show that of whoever mounted it.
func lookUp(fd int, name string) (Interface, error) {
	out := Interface{Name: name}
	var req ifreq
	ask := func(call string, request uint) error {
		req = ifreq{}
		copy(req.name[:], name)
		if err := ioctl(fd, request, unsafe.Pointer(&req)); err != nil {
			return fmt.Errorf("ring: %s: %w", name, os.NewSyscallError("ioctl "+call, err))
		}
		return nil
	}
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsRune(name, 0) {
		return out, missing(name)
	}
	// The kernel takes NAME:LABEL for NAME (dev_ioctl, net/core/dev_ioctl.c); no
	// interface has a colon in its name.
	if device, label, has := strings.Cut(name, ":"); has {
		if _, err := lookUp(fd, device); err != nil {
			return out, missing(name)
		}
		return out, fmt.Errorf("ring: %s is no interface: %q can only be a label of addresses of %s, whose frames are those of %s; capture on %s, and for one address with a filter, as host 192.0.2.1",
			name, label, device, device, device)
	}
	if err := ask("SIOCGIFINDEX", unix.SIOCGIFINDEX); errors.Is(err, unix.ENODEV) {
		return out, missing(name)
	} else if err != nil {
		return out, err
	}
	out.Index = int(int32(binary.NativeEndian.Uint32(req.data[:])))
	if err := ask("SIOCGIFFLAGS", unix.SIOCGIFFLAGS); err != nil {
		return out, err
	}
	flags := binary.NativeEndian.Uint16(req.data[:])
	out.Up, out.Loopback = flags&unix.IFF_UP != 0, flags&unix.IFF_LOOPBACK != 0
	if err := ask("SIOCGIFMTU", unix.SIOCGIFMTU); err != nil {
		return out, err
	}
	out.MTU = int(int32(binary.NativeEndian.Uint32(req.data[:])))
	if err := ask("SIOCGIFHWADDR", unix.SIOCGIFHWADDR); err != nil { // struct sockaddr
		return out, err
	}
	hardware := binary.NativeEndian.Uint16(req.data[:])
	link, known := linkTypes[hardware]
	if !known {
		return out, fmt.Errorf("ring: %s: hardware type %d (ARPHRD_ in linux/if_arp.h) is not one that ntap captures; those are Ethernet, loopback, IP tunnels, TUN, WireGuard, PPP and 802.11", name, hardware)
	}
	out.LinkType = link
	if mac := req.data[2 : 2+6]; link != linkRaw && !bytes.Equal(mac, make([]byte, 6)) {
		out.MAC = net.HardwareAddr(bytes.Clone(mac))
	}
	out.Speed = speed(fd, name)
	return out, nil
}

// Netmask returns that of an interface's IPv4 address in the calling thread's
// network namespace; not valid if it has none. It is asked for by SIOCGIFNETMASK
// (netdevice(7)), as pcap_lookupnet of libpcap does: of several addresses that is
// the first whose label is the interface's name. A mask of 0 is taken as it is,
// where pcap_lookupnet guesses one from the address's class.
func Netmask(name string) netip.Addr {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}
	}
	defer unix.Close(fd)
	return netmask(fd, name)
}

func netmask(fd int, name string) netip.Addr {
	var req ifreq
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return netip.Addr{}
	}
	copy(req.name[:], name)
	binary.NativeEndian.PutUint16(req.data[:], unix.AF_INET) // struct sockaddr_in
	if ioctl(fd, unix.SIOCGIFNETMASK, unsafe.Pointer(&req)) != nil {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(req.data[4:8]))
}

// speed asks the driver for the bit/s (ETHTOOL_GSET: its 32 bits of Mbit/s do).
func speed(fd int, name string) uint64 {
	cmd := ethtoolCmd{cmd: unix.ETHTOOL_GSET}
	req := ifreqData{data: unsafe.Pointer(&cmd)}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if ioctl(fd, unix.SIOCETHTOOL, unsafe.Pointer(&req)) != nil {
		return 0
	}
	mbit := uint32(cmd.speedHi)<<16 | uint32(cmd.speed)
	if mbit == unknownSpeed || mbit == unknownSpeed16 {
		return 0
	}
	return uint64(mbit) * 1e6
}

var errNoDevice = errors.New("no such device")

// missing names the interfaces that may have been meant: those with a similar
// name, or else all.
func missing(name string) error {
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("ring: no interface %q: %w", name, errNoDevice)
	}
	var names, near []string
	for _, i := range all {
		names = append(names, i.Name)
		if similar(i.Name, name) {
			near = append(near, i.Name)
		}
	}
	says := "there are"
	if len(near) > 0 {
		names, says = near, "did you mean"
	}
	slices.Sort(names)
	if len(names) > 20 {
		names = append(names[:20], "…")
	}
	return fmt.Errorf("ring: no interface %q here; %s: %s: %w", name, says, strings.Join(names, ", "), errNoDevice)
}

// similar reports whether b is a slip of the pen away from a: at most two
// letters differ, but never all.
func similar(a, b string) bool {
	row := make([]int, len(b)+1) // Levenshtein distances of a[:i] to b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	d := row[len(b)]
	return d <= 2 && d < min(len(a), len(b))
}
