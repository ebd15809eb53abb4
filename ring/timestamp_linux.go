// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A cardCalls is what is asked of a network card, through any socket of its
// namespace. Tests have a card of their own: few machines have a real one.
type cardCalls struct {
	name func(fd, index int) (string, error)                          // of an interface, now
	up   func(fd int, name string) bool                               // that it is (IFF_UP)
	info func(fd int, name string) (*unix.EthtoolTsInfo, error)       // ETHTOOL_GET_TS_INFO
	get  func(fd int, name string) (*unix.HwTstampConfig, error)      // SIOCGHWTSTAMP
	set  func(fd int, name string, config *unix.HwTstampConfig) error // SIOCSHWTSTAMP
}

var card = cardCalls{
	name: interfaceName, up: interfaceUp,
	info: unix.IoctlGetEthtoolTsInfo, get: unix.IoctlGetHwTstamp, set: unix.IoctlSetHwTstamp,
}

// interfaceName returns the name that an interface has now.
func interfaceName(fd, index int) (string, error) {
	var req ifreq
	binary.NativeEndian.PutUint32(req.data[:], uint32(index))
	if err := ioctl(fd, unix.SIOCGIFNAME, unsafe.Pointer(&req)); err != nil {
		return "", os.NewSyscallError("ioctl SIOCGIFNAME", err)
	}
	return unix.ByteSliceToString(req.name[:]), nil
}

func interfaceUp(fd int, name string) bool {
	var req ifreq
	copy(req.name[:unix.IFNAMSIZ-1], name)
	err := ioctl(fd, unix.SIOCGIFFLAGS, unsafe.Pointer(&req))
	return err == nil && binary.NativeEndian.Uint16(req.data[:])&unix.IFF_UP != 0
}

// HardwareTimestamps returns why an interface's card cannot say when it
// received each frame; nil: it can. A capability of the driver, as ethtool -T
// prints it.
func HardwareTimestamps(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return hardwareTimestamps(fd, name)
}

func hardwareTimestamps(fd int, name string) error {
	info, err := card.info(fd, name)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY):
		return fmt.Errorf("%s has no hardware timestamps", name)
	case err != nil:
		return fmt.Errorf("%s: %w", name, os.NewSyscallError("ioctl ETHTOOL_GET_TS_INFO", err))
	}
	const need = unix.SOF_TIMESTAMPING_RX_HARDWARE | unix.SOF_TIMESTAMPING_RAW_HARDWARE
	switch {
	case info.So_timestamping&need != need:
		return fmt.Errorf("%s has no hardware timestamps", name)
	case info.Rx_filters&(1<<unix.HWTSTAMP_FILTER_ALL) == 0:
		return fmt.Errorf("%s has hardware timestamps for some frames only (PTP), not for all", name)
	}
	return nil
}

// stampByHardware has the card say when it received each frame, or, with
// AnyClock, notes why it does not. Frames that the card did not receive, since
// this host sent them, have the kernel's time (tpacket_get_timestamp,
// net/packet/af_packet.c).
func (r *Ring) stampByHardware() error {
	if err := r.switchOn(); err != nil && !r.cfg.AnyClock {
		return err
	} else if r.clock = err; err != nil {
		return nil
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_TIMESTAMP, unix.SOF_TIMESTAMPING_RAW_HARDWARE); err != nil {
		return r.fail("setsockopt PACKET_TIMESTAMP", err)
	}
	return nil
}

// switchOn switches the card's timestamps on, if they are not.
func (r *Ring) switchOn() error {
	name := r.iface.Name
	if err := hardwareTimestamps(r.fd, name); err != nil {
		return fmt.Errorf("ring: %w; leave out --timestamp hw", err)
	}
	was, err := card.get(r.fd, name)
	if err != nil {
		was = &unix.HwTstampConfig{} // a driver that cannot tell: off is what it was, mostly
	}
	if was.Rx_filter != unix.HWTSTAMP_FILTER_ALL {
		if err := r.setStamps(name, was); err != nil {
			return err
		}
		r.stamps = was
	}
	return nil
}

// setStamps has the card stamp all frames; what it was set to else stays.
func (r *Ring) setStamps(name string, was *unix.HwTstampConfig) error {
	want := *was
	want.Rx_filter = unix.HWTSTAMP_FILTER_ALL
	err := card.set(r.fd, name, &want)
	switch {
	case err != nil:
		return fmt.Errorf("ring: %s: %w; it takes CAP_NET_ADMIN, or: hwstamp_ctl -i %s -r 1", name, os.NewSyscallError("ioctl SIOCSHWTSTAMP", err), name)
	case want.Rx_filter != unix.HWTSTAMP_FILTER_ALL: // the driver says what it does in place of what was asked
		_ = card.set(r.fd, name, was)
		return fmt.Errorf("ring: %s was asked for hardware timestamps of all frames, and gives those of some only (filter %d of linux/net_tstamp.h); leave out --timestamp hw", name, want.Rx_filter)
	}
	return nil
}

// restamp switches the card's timestamps on again once the interface is up that
// went down: many drivers begin with none. Should the card refuse, frames have
// the kernel's time, counted. What the card was set to before stays what it is
// set to at the end.
func (r *Ring) restamp() {
	if !r.reset {
		return
	}
	name, err := card.name(r.fd, r.iface.Index)
	if err != nil || !card.up(r.fd, name) {
		return
	}
	r.reset = false
	now, err := card.get(r.fd, name)
	if err != nil {
		now = &unix.HwTstampConfig{}
	}
	// Also where the driver says that it is on: some keep that, and not what
	// they told the card.
	_ = r.setStamps(name, now)
}

// unstamp leaves the card as it was: this one, whatever its name is by now, and
// no other that has that name.
func (r *Ring) unstamp() {
	if r.stamps == nil {
		return
	}
	if name, err := card.name(r.fd, r.iface.Index); err == nil { // else the interface is gone
		_ = card.set(r.fd, name, r.stamps)
	}
	r.stamps = nil
}

// Clock returns why frames do not have the time of the network card, though it
// was asked for; nil: they should, or it was not. Of rings with AnyClock.
func (r *Ring) Clock() error { return r.clock }
