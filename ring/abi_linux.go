// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The offsets of block.go are the kernel's, fixed when it published TPACKET_V3
// (Linux 3.2). If x/sys ever disagrees, the build stops here.
var (
	_ [descStatus]byte  = [8 + unsafe.Offsetof(unix.TpacketHdrV1{}.Block_status)]byte{}
	_ [descPackets]byte = [8 + unsafe.Offsetof(unix.TpacketHdrV1{}.Num_pkts)]byte{}
	_ [descFirst]byte   = [8 + unsafe.Offsetof(unix.TpacketHdrV1{}.Offset_to_first_pkt)]byte{}
	_ [descLen]byte     = [8 + unsafe.Sizeof(unix.TpacketHdrV1{})]byte{}

	_ [headNext]byte     = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Next_offset)]byte{}
	_ [headSec]byte      = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Sec)]byte{}
	_ [headNsec]byte     = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Nsec)]byte{}
	_ [headSnapLen]byte  = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Snaplen)]byte{}
	_ [headLen]byte      = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Len)]byte{}
	_ [headStatus]byte   = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Status)]byte{}
	_ [headMAC]byte      = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Mac)]byte{}
	_ [headVLANTCI]byte  = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Hv1) + unsafe.Offsetof(unix.TpacketHdrVariant1{}.Vlan_tci)]byte{}
	_ [headVLANTPID]byte = [unsafe.Offsetof(unix.Tpacket3Hdr{}.Hv1) + unsafe.Offsetof(unix.TpacketHdrVariant1{}.Vlan_tpid)]byte{}
	_ [headAddr]byte     = [unsafe.Sizeof(unix.Tpacket3Hdr{})]byte{}
	_ [headPktType]byte  = [headAddr + unsafe.Offsetof(unix.RawSockaddrLinklayer{}.Pkttype)]byte{}
	_ [headIndex]byte    = [headAddr + unsafe.Offsetof(unix.RawSockaddrLinklayer{}.Ifindex)]byte{}
	_ [headHardware]byte = [headAddr + unsafe.Offsetof(unix.RawSockaddrLinklayer{}.Hatype)]byte{}
	_ [frameHead]byte    = [headAddr + unsafe.Sizeof(unix.RawSockaddrLinklayer{})]byte{}

	_ [statusKernel]byte     = [unix.TP_STATUS_KERNEL]byte{}
	_ [statusUser]byte       = [unix.TP_STATUS_USER]byte{}
	_ [statusVLANValid]byte  = [unix.TP_STATUS_VLAN_VALID]byte{}
	_ [statusTimeout]byte    = [unix.TP_STATUS_BLK_TMO]byte{}
	_ [statusTPIDValid]byte  = [unix.TP_STATUS_VLAN_TPID_VALID]byte{}
	_ [statusCard >> 20]byte = [unix.TP_STATUS_TS_RAW_HARDWARE >> 20]byte{}
	_ [packetOutgoing]byte   = [unix.PACKET_OUTGOING]byte{}

	_ [hardwareEther]byte    = [unix.ARPHRD_ETHER]byte{}
	_ [hardwareLoopback]byte = [unix.ARPHRD_LOOPBACK]byte{}
	_ [hardwareWiFi]byte     = [unix.ARPHRD_IEEE80211]byte{}
	_ [hardwareRadiotap]byte = [unix.ARPHRD_IEEE80211_RADIOTAP]byte{}
)

// frameUnit is tp_frame_size, bytes: TPACKET_V3 packs frames tighter, and only
// checks that the numbers fit together (packet_set_ring, net/packet/af_packet.c).
const frameUnit = 2048

// maxRetire is the longest tp_retire_blk_tov, ms: struct tpacket_kbdq_core
// keeps it in 16 bits.
const maxRetire = 1<<16 - 1

// maxMembers is the number of rings in a fanout group before Linux 5.10
// (PACKET_FANOUT_MAX, net/packet/internal.h).
const maxMembers = 256

// ifreq is struct ifreq of linux/if.h, whose union is 24 bytes where pointers
// are 8; and ifreqData is one whose union is ifr_data.
type (
	ifreq struct {
		name [unix.IFNAMSIZ]byte
		data [24]byte
	}
	ifreqData struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
)

// ethtoolCmd is struct ethtool_cmd of linux/ethtool.h.
type ethtoolCmd struct {
	cmd     uint32
	_       [8]byte
	speed   uint16 // Mbit/s, low half
	_       [14]byte
	speedHi uint16
	_       [14]byte
}

var (
	_ [40]byte = [unsafe.Sizeof(ifreq{})]byte{}
	_ [44]byte = [unsafe.Sizeof(ethtoolCmd{})]byte{}
	_ [28]byte = [unsafe.Offsetof(ethtoolCmd{}.speedHi)]byte{}
)

// unknownSpeed is SPEED_UNKNOWN of linux/ethtool.h, unknownSpeed16 what drivers
// older than it say.
const (
	unknownSpeed   = 1<<32 - 1
	unknownSpeed16 = 1<<16 - 1
)

// ioctl calls ioctl(2) with a pointer.
func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 } // both ports of Linux here are little-endian
