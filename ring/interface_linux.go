// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linkTypes says what a packet socket of type SOCK_RAW gives on interfaces of a
// hardware type (ARPHRD_, linux/if_arp.h), as libpcap's map_arphrd_to_dlt does.
var linkTypes = map[uint16]uint16{
	unix.ARPHRD_ETHER:              1,
	unix.ARPHRD_LOOPBACK:           1, // Linux puts an Ethernet header before it
	unix.ARPHRD_NONE:               101,
	unix.ARPHRD_RAWIP:              101,
	unix.ARPHRD_TUNNEL:             101,
	unix.ARPHRD_TUNNEL6:            101,
	unix.ARPHRD_SIT:                101,
	unix.ARPHRD_IPGRE:              101,
	unix.ARPHRD_IP6GRE:             101,
	unix.ARPHRD_PPP:                9,
	unix.ARPHRD_IEEE80211:          105,
	unix.ARPHRD_IEEE80211_RADIOTAP: 127,
}

// LookUp returns the interface of that name in the calling thread's network
// namespace.
func LookUp(name string) (Interface, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return Interface{}, missing(name, err)
	}
	out := Interface{
		Name: name, Index: i.Index, MAC: i.HardwareAddr, MTU: i.MTU,
		Loopback: i.Flags&net.FlagLoopback != 0, Up: i.Flags&net.FlagUp != 0,
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return out, fmt.Errorf("ring: %s: %w", name, os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return out, fmt.Errorf("ring: %s: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFHWADDR, req); err != nil {
		return out, fmt.Errorf("ring: %s: %w", name, os.NewSyscallError("ioctl SIOCGIFHWADDR", err))
	}
	link, known := linkTypes[req.Uint16()]
	if !known {
		return out, fmt.Errorf("ring: %s: hardware type %d (linux/if_arp.h) is not one that ntap can capture: Ethernet, loopback, raw IP, PPP and 802.11 are", name, req.Uint16())
	}
	out.LinkType = link
	out.Speed = speed(fd, name)
	return out, nil
}

// speed asks the driver (ETHTOOL_GSET, linux/ethtool.h: enough below 4 Tbit/s).
func speed(fd int, name string) uint64 {
	cmd := [44]byte{0: unix.ETHTOOL_GSET} // struct ethtool_cmd; command and fields in native order
	*(*uint32)(unsafe.Pointer(&cmd[0])) = unix.ETHTOOL_GSET
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	ifr.data = unsafe.Pointer(&cmd)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); e != 0 {
		return 0
	}
	low := *(*uint16)(unsafe.Pointer(&cmd[12]))  // speed
	high := *(*uint16)(unsafe.Pointer(&cmd[28])) // speed_hi
	mbit := uint32(high)<<16 | uint32(low)
	if mbit == 0 || mbit == 0xFFFF || mbit == 1<<32-1 { // SPEED_UNKNOWN
		return 0
	}
	return uint64(mbit) * 1e6
}

// missing names the interfaces that there are.
func missing(name string, err error) error {
	all, e := net.Interfaces()
	if e != nil {
		return fmt.Errorf("ring: no interface %q: %w", name, err)
	}
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	if len(names) > 20 {
		names = append(names[:20], "…")
	}
	return fmt.Errorf("ring: no interface %q here; there are: %s: %w", name, strings.Join(names, ", "), errNoDevice)
}

var errNoDevice = errors.New("no such device")
