// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

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
	info, err := unix.IoctlGetEthtoolTsInfo(fd, name)
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

// stampByHardware has the card say when it received each frame. Those that it
// did not receive, since this host sent them, have the kernel's time
// (tpacket_get_timestamp, net/packet/af_packet.c).
func (r *Ring) stampByHardware() error {
	name := r.iface.Name
	err := hardwareTimestamps(r.fd, name)
	if err != nil {
		return fmt.Errorf("ring: %w; leave out --timestamp hw", err)
	}
	was, err := unix.IoctlGetHwTstamp(r.fd, name)
	if err != nil {
		was = &unix.HwTstampConfig{} // a driver that cannot tell: off is what it was, mostly
	}
	if was.Rx_filter != unix.HWTSTAMP_FILTER_ALL {
		want := *was
		want.Rx_filter = unix.HWTSTAMP_FILTER_ALL
		if err := unix.IoctlSetHwTstamp(r.fd, name, &want); err != nil {
			return fmt.Errorf("ring: %s: %w; it takes CAP_NET_ADMIN, or: hwstamp_ctl -i %s -r 1", name, os.NewSyscallError("ioctl SIOCSHWTSTAMP", err), name)
		}
		r.stamps = was
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_TIMESTAMP, unix.SOF_TIMESTAMPING_RAW_HARDWARE); err != nil {
		return r.fail("setsockopt PACKET_TIMESTAMP", err)
	}
	return nil
}

// unstamp leaves the card as it was.
func (r *Ring) unstamp() {
	if r.stamps != nil {
		_ = unix.IoctlSetHwTstamp(r.fd, r.iface.Name, r.stamps) // the interface may be gone
		r.stamps = nil
	}
}
