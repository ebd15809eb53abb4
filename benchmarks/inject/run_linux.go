// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Where things lie in the map that the program reads frames from: how many it
// has taken, a descriptor of each, and the frames.
const (
	runDescs  = 64
	runMost   = 1024 // descriptors
	runData   = runDescs + 8*runMost
	runBytes  = 1 << 21
	runFrame  = 4096 // more than a frame of this mode can have
	runBefore = 1514 // bytes of the frame that the kernel makes before the program changes it
)

// runs returns the way by BPF_PROG_RUN in its mode of live frames: a program
// takes the place of a driver. It puts the bytes of the next frame into the
// buffer that it is given and passes it up, as received by a device.
func runs(name, device string, batchSize uint32) *way {
	var m *ebpf.Map
	var p *ebpf.Program
	var mem []byte
	var fd int
	var in [runBefore]byte
	var ctx struct{ data, dataEnd, dataMeta, ifindex, queue, egress uint32 }
	var attr struct { // union bpf_attr, test
		progFD, retval, sizeIn, sizeOut uint32
		dataIn, dataOut                 uint64
		repeat, duration                uint32
		ctxSizeIn, ctxSizeOut           uint32
		ctxIn, ctxOut                   uint64
		flags, cpu, batchSize, _        uint32
	}
	return &way{name: name, device: device,
		open: func() (err error) {
			if fd, err = tap(device, 0, true); err != nil {
				return err
			}
			i, err := net.InterfaceByName(device)
			if err != nil {
				return err
			}
			m, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: runData + runBytes + runFrame, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
			if err != nil {
				return err
			}
			p, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{
				asm.Mov.Reg(asm.R6, asm.R1),
				asm.LoadMapValue(asm.R7, m.FD(), 0),
				asm.LoadMem(asm.R8, asm.R7, 0, asm.Word),
				asm.And.Imm(asm.R8, runMost-1),
				asm.Mov.Reg(asm.R1, asm.R8),
				asm.Add.Imm(asm.R1, 1),
				asm.StoreMem(asm.R7, 0, asm.R1, asm.Word),
				asm.LSh.Imm(asm.R8, 3),
				asm.Mov.Reg(asm.R9, asm.R7),
				asm.Add.Reg(asm.R9, asm.R8),
				asm.LoadMem(asm.R8, asm.R9, runDescs+4, asm.Word),
				asm.LoadMem(asm.R9, asm.R9, runDescs, asm.Word),
				asm.And.Imm(asm.R9, runBytes-1),
				asm.And.Imm(asm.R8, runFrame-1),
				asm.JEq.Imm(asm.R8, 0, "drop"),
				asm.Mov.Reg(asm.R1, asm.R6),
				asm.Mov.Reg(asm.R2, asm.R8),
				asm.Sub.Imm(asm.R2, runBefore),
				asm.FnXdpAdjustTail.Call(),
				asm.JNE.Imm(asm.R0, 0, "drop"),
				asm.Mov.Reg(asm.R1, asm.R6),
				asm.Mov.Imm(asm.R2, 0),
				asm.Mov.Reg(asm.R3, asm.R7),
				asm.Add.Reg(asm.R3, asm.R9),
				asm.Add.Imm(asm.R3, runData),
				asm.Mov.Reg(asm.R4, asm.R8),
				asm.FnXdpStoreBytes.Call(),
				asm.JNE.Imm(asm.R0, 0, "drop"),
				asm.Mov.Imm(asm.R0, 2), // XDP_PASS
				asm.Return(),
				asm.Mov.Imm(asm.R0, 1).WithSymbol("drop"), // XDP_DROP
				asm.Return(),
			}})
			if err != nil {
				return fmt.Errorf("%+v", err)
			}
			if mem, err = unix.Mmap(m.FD(), 0, (runData+runBytes+runFrame+4095)&^4095, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
				return os.NewSyscallError("mmap", err)
			}
			ctx.dataEnd, ctx.ifindex = runBefore, uint32(i.Index)
			attr.progFD, attr.sizeIn, attr.dataIn = uint32(p.FD()), runBefore, uint64(uintptr(unsafe.Pointer(&in[0])))
			attr.ctxSizeIn, attr.ctxIn = uint32(unsafe.Sizeof(ctx)), uint64(uintptr(unsafe.Pointer(&ctx)))
			attr.flags, attr.batchSize = 2, batchSize // BPF_F_TEST_XDP_LIVE_FRAMES
			return nil
		},
		write: func(frames [][]byte) error {
			at := 0
			for i, f := range frames {
				d := (*[2]uint32)(unsafe.Pointer(&mem[runDescs+8*i]))
				d[0], d[1] = uint32(at), uint32(len(f))
				at += copy(mem[runData+at:], f)
			}
			taken := (*uint32)(unsafe.Pointer(&mem[0]))
			for *taken = 0; int(*taken) < len(frames); {
				attr.repeat = uint32(len(frames)) - *taken
				_, _, e := unix.RawSyscall(unix.SYS_BPF, 10, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)-4) // BPF_PROG_RUN
				if e != 0 && e != unix.EINTR {                                                                      // a signal ends it early
					return os.NewSyscallError("bpf BPF_PROG_RUN", e)
				}
			}
			return nil
		},
		close: func() { unix.Munmap(mem); p.Close(); m.Close(); unix.Close(fd) },
	}
}
