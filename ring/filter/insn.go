// SPDX-License-Identifier: Apache-2.0

package filter

// The codes of classic BPF: linux/bpf_common.h and linux/filter.h.
const (
	classLD   = 0x00
	classLDX  = 0x01
	classST   = 0x02
	classSTX  = 0x03
	classALU  = 0x04
	classJMP  = 0x05
	classRET  = 0x06
	classMISC = 0x07

	sizeW = 0x00
	sizeH = 0x08
	sizeB = 0x10

	modeIMM = 0x00
	modeABS = 0x20
	modeIND = 0x40
	modeMEM = 0x60
	modeLEN = 0x80
	modeMSH = 0xA0

	srcK = 0x00
	srcX = 0x08
	srcA = 0x10 // of RET

	aluADD = 0x00
	aluSUB = 0x10
	aluMUL = 0x20
	aluDIV = 0x30
	aluOR  = 0x40
	aluAND = 0x50
	aluLSH = 0x60
	aluRSH = 0x70
	aluNEG = 0x80
	aluMOD = 0x90
	aluXOR = 0xA0

	jmpJA   = 0x00
	jmpJEQ  = 0x10
	jmpJGT  = 0x20
	jmpJGE  = 0x30
	jmpJSET = 0x40

	miscTAX = 0x00
	miscTXA = 0x80

	words = 16 // BPF_MEMWORDS: scratch memory

	// MaxInstructions is BPF_MAXINSNS: what the kernel takes.
	MaxInstructions = 4096
)

// Loads from adBase on are not of the frame but of what the kernel knows of it
// (SKF_AD_OFF and the offsets from there, linux/filter.h).
const (
	adBase           = 0xFFFFF000
	adProtocol       = adBase + 0
	adPktType        = adBase + 4
	adIfIndex        = adBase + 8
	adVLANTag        = adBase + 44
	adVLANTagPresent = adBase + 48
	adLast           = adBase + 60 // SKF_AD_VLAN_TPID, Linux 3.20; all before it are in steps of 4

	// packetOutgoing is PACKET_OUTGOING, linux/if_packet.h: of adPktType, and
	// in headers of Linux cooked frames.
	packetOutgoing = 4
)

const (
	maxOffset     = 1<<31 - 1 // of a load of the frame: more is one of what the kernel knows
	defaultReturn = 262144    // what tcpdump's programs return: its snap length
)
