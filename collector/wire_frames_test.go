// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/ntap-project/ntap/proto"
)

// Of virtio_net_hdr, IEEE 802, IANA, and where checksums are: bytes.
const (
	gsoTCPv4  = 1
	gsoTCPv6  = 4
	gsoUDP    = 5
	gsoECN    = 0x80
	etherIPv4 = 0x0800
	etherIPv6 = 0x86DD
	etherVLAN = 0x8100
	etherQinQ = 0x88A8
	protoTCP  = 6
	protoUDP  = 17
	tcpSum    = 16
	udpSum    = 6
	udpLen    = 8
)

// sum is the sum of RFC 1071, taken at its word, over d and n.
func sum(d []byte, n int) uint16 {
	s := n
	for i, b := range d {
		s += int(b) << (8 * (1 - i%2))
	}
	for s > 0xFFFF {
		s = s>>16 + s&0xFFFF
	}
	return uint16(s)
}

// A sample is a frame that the kernel has not finished.
type sample struct {
	name   string
	record func() *proto.Record // anew each time: finishing changes it
}

// unfinished returns frames of all kinds that are to be cut or completed.
func unfinished() (all []sample) {
	for _, v6 := range []bool{false, true} {
		for _, tags := range []int{0, 1, 2} {
			for _, n := range []int{0, 1, 100, 1448, 1449, 8960, 64000} {
				for _, udp := range []bool{false, true} {
					f := synthetic{v6: v6, tags: tags, udp: udp, payload: n}
					if size := 1448; n > size {
						f.gso = size
					}
					all = append(all, f.sample())
				}
			}
		}
	}
	all = append(all,
		synthetic{payload: 5000, gso: 1000, flags: 0x80 | 0x08 | 0x01 | 0x10, ecn: true}.sample(), // CWR, PSH, FIN, ACK
		synthetic{payload: 3000, gso: 1000, id: 0xFFFE}.sample(),
		synthetic{payload: 3000, gso: 1000, seq: 0xFFFFFF00}.sample(),
		synthetic{payload: 3000, gso: 1, udp: true, v6: true}.shortened(60).sample(),
		synthetic{payload: 3001, gso: 1001, options: 12}.sample(),
		synthetic{payload: 3001, gso: 1001, ipOptions: 8}.sample(),
		synthetic{payload: 150000, gso: 1448}.sample(), // BIG TCP
		synthetic{payload: 150000, gso: 1448, v6: true}.sample(),
	)
	return all
}

// A synthetic says what frame to make.
type synthetic struct {
	v6, udp, ecn       bool
	tags               int
	payload, gso       int // bytes
	flags              byte
	id                 uint16
	seq                uint32
	options, ipOptions int // bytes
}

func (s synthetic) shortened(n int) synthetic { s.payload = n; return s }

func (s synthetic) sample() sample {
	return sample{fmt.Sprintf("%+v", s), func() *proto.Record { return s.record() }}
}

// record makes the frame: the checksum field holds the sum of the pseudo
// header, as the kernel leaves it.
func (s synthetic) record() *proto.Record {
	be := binary.BigEndian
	d := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	for i := range s.tags {
		d = be.AppendUint16(d, []uint16{etherQinQ, etherVLAN}[min(i+2-s.tags, 1)])
		d = be.AppendUint16(d, uint16(100+i))
	}
	l4 := udpLen
	if !s.udp {
		l4 = 20 + s.options
	}
	total := l4 + s.payload
	protocol := byte(protoTCP)
	if s.udp {
		protocol = protoUDP
	}
	var addresses []byte
	if s.v6 {
		d = be.AppendUint16(d, etherIPv6)
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, protocol, 64
		be.PutUint16(ip[4:], uint16(total))
		if total > 0xFFFF { // ip6_xmit, net/ipv6/ip6_output.c: the length is in an option
			ip[4], ip[5], ip[6] = 0, 0, 0
			ip = append(ip, protocol, 0, 0xC2, 4)
			ip = be.AppendUint32(ip, uint32(total+8))
		}
		ip[8], ip[23], ip[24], ip[39] = 0xFD, 1, 0xFD, 2
		addresses = ip[8:40]
		d = append(d, ip...)
	} else {
		d = be.AppendUint16(d, etherIPv4)
		ip := make([]byte, 20+s.ipOptions)
		for i := 20; i < len(ip); i++ {
			ip[i] = 1 // no operation
		}
		ip[0], ip[8], ip[9] = 0x40|byte(len(ip)/4), 64, protocol
		if len(ip)+total <= 0xFFFF { // else iph_set_totlen, linux/ip.h
			be.PutUint16(ip[2:], uint16(len(ip)+total))
		}
		be.PutUint16(ip[4:], s.id)
		copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
		be.PutUint16(ip[10:], ^sum(ip, 0))
		addresses = ip[12:20]
		d = append(d, ip...)
	}
	r := &proto.Record{LinkType: proto.LinkTypeEthernet, NeedsCsum: true, CsumStart: uint16(len(d))}
	h := make([]byte, l4)
	be.PutUint16(h, 1000)
	be.PutUint16(h[2:], 2000)
	pseudo := sum(addresses, int(protocol)+total)
	if s.udp {
		be.PutUint16(h[4:], uint16(total))
		be.PutUint16(h[6:], pseudo)
		r.CsumOffset = udpSum
	} else {
		be.PutUint32(h[4:], s.seq)
		h[12], h[13] = byte(l4/4)<<4, s.flags|0x18
		for i := 20; i < l4; i++ {
			h[i] = 1
		}
		be.PutUint16(h[14:], 65535)
		be.PutUint16(h[16:], pseudo)
		r.CsumOffset = tcpSum
	}
	d = append(d, h...)
	for i := range s.payload {
		d = append(d, byte(i*7+i>>8))
	}
	if s.gso > 0 {
		r.GSOSize, r.GSOType = uint16(s.gso), gsoUDP
		if !s.udp {
			r.GSOType = map[bool]byte{false: gsoTCPv4, true: gsoTCPv6}[s.v6]
		}
		if s.ecn {
			r.GSOType |= gsoECN
		}
	}
	r.Data, r.OrigLen = d, uint32(len(d))
	return r
}

// A keeper is a sink that keeps copies.
type keeper struct {
	sink
	frames *[][]byte
}

func (k *keeper) Write(_ *Origin, r *proto.Record) {
	*k.frames = append(*k.frames, bytes.Clone(r.Data))
}

// finished returns what the outputs would be given of r.
func finished(t *testing.T, r *proto.Record) (frames [][]byte) {
	t.Helper()
	w := &worker{shared: &shared{}, account: new(WorkerAccount), sinks: []sink{&keeper{frames: &frames}}}
	w.finish(&Origin{}, r)
	if w.account.Uncut.Load() > 0 {
		t.Errorf("not cut: %+v", r)
	}
	if n := w.account.Cut.Load(); int(n) != len(frames)-1 {
		t.Fatalf("%d frames are counted beyond the first of %d", n, len(frames))
	}
	return frames
}

func head(b []byte) []byte { return b[:min(len(b), 160)] }
