// SPDX-License-Identifier: Apache-2.0

package ring

import "unsafe"

// What x/sys/unix lacks of include/uapi/linux/io_uring.h, in kernel spelling
// where the kernel reads it.

// Opcodes: enum io_uring_op.
const (
	OpNop         uint8 = 0
	OpWritev      uint8 = 2
	OpWriteFixed  uint8 = 5
	OpSendMsg     uint8 = 9  // Linux 5.3
	OpRecvMsg     uint8 = 10 // Linux 5.3
	OpAsyncCancel uint8 = 14 // Linux 5.5
	OpWrite       uint8 = 23 // Linux 5.6
	OpSendZC      uint8 = 47 // Linux 6.0
)

// Flags of an SQE: IOSQE_*.
const (
	SQEFixedFile    uint8 = 1 << 0
	SQEBufferSelect uint8 = 1 << 5 // Linux 5.7: the kernel takes a provided buffer of group BufIndex
)

// RecvMultishot in Ioprio of a receive: one request, a completion for each
// message (IORING_RECV_MULTISHOT, Linux 6.0).
const RecvMultishot uint16 = 1 << 1

// In Ioprio of a send: IORING_RECVSEND_FIXED_BUF, IORING_SEND_ZC_REPORT_USAGE.
const (
	sendFixedBuf    uint16 = 1 << 2 // Linux 6.0
	sendReportUsage uint16 = 1 << 3 // Linux 6.2
)

// ZCCopied in Res of a CQE with CQENotif: IORING_NOTIF_USAGE_ZC_COPIED.
const ZCCopied int32 = -1 << 31

// Flags of a CQE: IORING_CQE_F_*.
const (
	CQEBuffer      uint32 = 1 << 0 // the high 16 bits say which provided buffer
	CQEMore        uint32 = 1 << 1 // the request goes on
	CQENotif       uint32 = 1 << 3 // of a zero-copy send: its memory is free again
	CQEBufferShift        = 16
)

// IORING_SETUP_*
const (
	setupSubmitAll    = 1 << 7  // 5.18: a request that fails to be prepared does not stop the ones behind it
	setupSingleIssuer = 1 << 12 // 6.0: one thread submits
	setupDeferTaskrun = 1 << 13 // 6.1: completion work runs in io_uring_enter, not at any system call
	setupNoSQArray    = 1 << 16 // 6.6: no array of indices between the ring and the SQEs
)

// IORING_FEAT_*
const (
	featSingleMmap = 1 << 0 // 5.4
	featNoDrop     = 1 << 1 // 5.5: completions are never lost
	featExtArg     = 1 << 8 // 5.11: io_uring_enter takes a time to wait
)

// IORING_ENTER_*
const (
	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3
)

// IORING_REGISTER_*
const (
	registerBuffers     = 0
	registerFiles       = 2
	unregisterFiles     = 3
	registerFilesUpdate = 6
	registerProbe       = 8
	registerBufRing     = 22 // 5.19
)

// Offsets for mmap: IORING_OFF_*
const (
	offSQRing = 0
	offSQEs   = 0x10000000
)

type sqringOffsets struct { // struct io_sqring_offsets
	head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
	userAddr                                                    uint64
}

type cqringOffsets struct { // struct io_cqring_offsets
	head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
	userAddr                                                    uint64
}

type uringParams struct { // struct io_uring_params
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	_                                                                      [3]uint32
	sqOff                                                                  sqringOffsets
	cqOff                                                                  cqringOffsets
}

type filesUpdate struct { // struct io_uring_files_update
	offset, _ uint32
	fds       uint64
}

type bufReg struct { // struct io_uring_buf_reg
	ringAddr    uint64
	ringEntries uint32
	bgid, flags uint16
	_           [3]uint64
}

// A uringBuf is struct io_uring_buf: one provided buffer. The ring's tail is
// where the first one has its last two bytes.
type uringBuf struct {
	addr      uint64
	len       uint32
	bid, tail uint16
}

type geteventsArg struct { // struct io_uring_getevents_arg
	sigmask      uint64
	sigmaskSz, _ uint32
	ts           uint64
}

// A recvmsgOut heads the buffer of a multishot receive: struct
// io_uring_recvmsg_out. Behind it lie the room for the name, the room for
// control messages, and the payload.
type recvmsgOut struct{ namelen, controllen, payloadlen, flags uint32 }

const probeOps = 256

type uringProbe struct { // struct io_uring_probe
	lastOp, opsLen uint8
	_              uint16
	_              [3]uint32
	ops            [probeOps]struct { // struct io_uring_probe_op
		op, _ uint8
		flags uint16 // bit 0: IO_URING_OP_SUPPORTED
		_     uint32
	}
}

// Sizes the kernel fixed with Linux 5.1 and 5.6.
var (
	_ [120]byte             = [unsafe.Sizeof(uringParams{})]byte{}
	_ [16]byte              = [unsafe.Sizeof(filesUpdate{})]byte{}
	_ [40]byte              = [unsafe.Sizeof(bufReg{})]byte{}
	_ [16]byte              = [unsafe.Sizeof(uringBuf{})]byte{}
	_ [24]byte              = [unsafe.Sizeof(geteventsArg{})]byte{}
	_ [16]byte              = [unsafe.Sizeof(recvmsgOut{})]byte{}
	_ [16 + 8*probeOps]byte = [unsafe.Sizeof(uringProbe{})]byte{}
	_ [40]byte              = [unsafe.Offsetof(uringParams{}.sqOff)]byte{}
)
