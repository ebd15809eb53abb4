// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/ntap-project/ntap/proto"
)

// Chosen.
const (
	fileBuffer = 1 << 20 // bytes; a block that is read whole must fit
	// fileInterfaces bounds what a file can make us remember; names are cut.
	fileInterfaces = 1 << 16
	fileName       = 256 // bytes of an interface's name
)

// errFileCut says that a capture file ends in the middle of something. What
// came before it was good.
var errFileCut = errors.New("remote: the capture file is cut")

// A fileError is a message with a sentinel behind it.
type fileError struct {
	text string
	is   error
}

func (e *fileError) Error() string { return e.text }
func (e *fileError) Unwrap() error { return e.is }

// A fileReader reads pcap and pcapng files, and lends their frames: a record's
// data is good until the next Next.
//
// It is our own, because a replay has to give back what the file holds: every
// link type, frames longer than the snap length or than their own original
// length, directions, names, nanoseconds.
type fileReader struct {
	path  string
	in    io.Reader
	close func() error

	buf        []byte
	start, end int   // what is read and not yet used
	offset     int64 // in the file, of buf[start]
	eof        bool  // in has ended

	packet     uint64 // number of the last one returned, from 1
	interfaces []proto.Interface
	err        error // of Next, from then on

	pcap *proto.PcapHeader // nil: pcapng

	order   proto.ByteOrder         // of the section
	first   int                     // index of the section's first interface
	section []proto.PcapngInterface // the section's interfaces
}

// openFile opens a capture file, "-" for standard input. Errors say what the
// file is if it is not one.
func openFile(path string) (*fileReader, error) {
	if path == "-" {
		return newFileReader("standard input", os.Stdin, func() error { return nil })
	}
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("remote: %w: the user that ntap runs as must be able to read it", err)
	case err != nil:
		return nil, fmt.Errorf("remote: %w", err)
	}
	if st, err := f.Stat(); err == nil && st.IsDir() {
		f.Close()
		return nil, fmt.Errorf("remote: %s: is a directory; give a pcap or pcapng file", path)
	}
	r, err := newFileReader(path, f, f.Close)
	if err != nil {
		f.Close()
	}
	return r, err
}

func newFileReader(path string, in io.Reader, close func() error) (*fileReader, error) {
	f := &fileReader{path: path, in: in, close: close, buf: make([]byte, fileBuffer)}
	if err := f.begin(); err != nil {
		return nil, err
	}
	return f, nil
}

// begin reads the header of the file and, of a pcapng file, the interfaces
// that came with it.
func (f *fileReader) begin() error {
	// A file shorter than a magic number is told from one that is cut.
	head, err := f.need(4)
	if err != nil && err != io.EOF {
		return err
	}
	magic := strings.TrimSuffix(fmt.Sprintf("% x", head), " ")
	is := func(m string) bool { return strings.HasPrefix(magic, m) }
	switch {
	case len(head) == 0:
		return fmt.Errorf("remote: %s: is empty: a capture file has at least a header of %d bytes", f.path, proto.PcapHeaderLen)
	case is("1f 8b"):
		return f.compressed("gzip", "gunzip")
	case is("28 b5 2f fd"):
		return f.compressed("zstd", "unzstd")
	case is("fd 37 7a 58"):
		return f.compressed("xz", "unxz")
	case is("0a 0d 0d 0a"):
		for {
			if err := f.block(nil); err != nil {
				return f.noEOF(err)
			}
			if n, packet := f.whole(f.buf[f.start:f.end]); n == 0 || packet {
				return nil // not waiting for a pipe to go on
			}
		}
	}
	if head, err = f.need(proto.PcapHeaderLen); err != nil && err != io.EOF {
		return err
	}
	h, perr := proto.ParsePcapHeader(append(head[:len(head):len(head)], make([]byte, proto.PcapHeaderLen)...))
	switch {
	case errors.Is(perr, proto.ErrNotPcap):
		return fmt.Errorf("remote: %s: not a capture file (first bytes %s); pcap and pcapng are read", f.path, magic)
	case err != nil:
		return f.cut("in the middle of its header")
	case perr != nil:
		return fmt.Errorf("remote: %s: pcap version %d.%d; 2.0 to 2.4 are read", f.path, h.Major, h.Minor)
	}
	f.use(proto.PcapHeaderLen)
	f.pcap = &h
	f.interfaces = []proto.Interface{{LinkType: h.LinkType}}
	return nil
}

func (f *fileReader) compressed(by, cure string) error {
	return fmt.Errorf("remote: %s: is compressed by %s; unpack it first: %s -c %s | ntap remote -r - …", f.path, by, cure, f.path)
}

// Interfaces returns the interfaces that the file has named so far; a record's
// Interface is an index of them. A section of a pcapng file adds its own.
func (f *fileReader) Interfaces() []proto.Interface { return f.interfaces }

// Next reads the next packet into r. Its data is the reader's, and good until
// the next call. At the end of the file the error is io.EOF; if the file ends
// in the middle of a packet, it is an errFileCut.
func (f *fileReader) Next(r *proto.Record) error {
	if f.err == nil {
		if f.pcap != nil {
			f.err = f.nextPcap(r)
		} else {
			f.err = f.nextPcapng(r)
		}
	}
	return f.err
}

// Ready says that Next has a packet without waiting for the file, which may be
// a pipe.
func (f *fileReader) Ready() bool {
	if f.err != nil {
		return false
	}
	b := f.buf[f.start:f.end]
	if f.pcap != nil {
		n := f.pcap.PacketLen()
		return len(b) >= n && uint64(len(b)-n) >= uint64(f.pcap.ParsePacket(b).CapLen)
	}
	for {
		n, packet := f.whole(b)
		if n == 0 || packet {
			return packet
		}
		b = b[n:]
	}
}

// Close closes the file.
func (f *fileReader) Close() error { return f.close() }

func (f *fileReader) nextPcap(r *proto.Record) error {
	n := f.pcap.PacketLen()
	head, err := f.need(n)
	if err == io.EOF && len(head) == 0 {
		return io.EOF
	} else if err != nil {
		return f.packetCut(err)
	}
	h := f.pcap.ParsePacket(head)
	if h.CapLen > proto.MaxFrame {
		return f.tooLong(uint64(h.CapLen))
	}
	b, err := f.need(n + int(h.CapLen))
	if err != nil {
		return f.packetCut(err)
	}
	*r = proto.Record{
		Data: b[n:len(b):len(b)], Time: h.Time, OrigLen: h.OrigLen, LinkType: f.pcap.LinkType, Direction: h.Direction,
	}
	f.use(len(b))
	f.packet++
	return nil
}

func (f *fileReader) nextPcapng(r *proto.Record) error {
	for before := f.packet; f.packet == before; {
		if err := f.block(r); err != nil {
			return err
		}
	}
	return nil
}

// whole returns the length of the block in front of b, or 0 if not all of it
// is there, and whether it is a packet.
func (f *fileReader) whole(b []byte) (n int, packet bool) {
	if len(b) < proto.PcapngBlockMin {
		return 0, false
	}
	order := f.order
	switch order.Uint32(b) {
	case proto.PcapngTypeSection:
		order, _ = proto.PcapngOrder(b)
	case proto.PcapngTypeEnhanced, proto.PcapngTypePacket, proto.PcapngTypeSimple:
		packet = true
	}
	length := order.Uint32(b[4:])
	if uint64(length) > uint64(len(b)) || length < proto.PcapngBlockMin {
		return 0, false
	}
	return int(length), packet
}

// block reads one block of a pcapng file; a packet's goes to r.
func (f *fileReader) block(r *proto.Record) error {
	head, err := f.need(12)
	if err == io.EOF && len(head) == 0 {
		return io.EOF
	} else if err != nil {
		return f.blockCut(head, err)
	}
	order := f.order
	if order.Uint32(head) == proto.PcapngTypeSection {
		if order, err = proto.PcapngOrder(head); err != nil {
			return f.damaged("the section header has the byte-order magic % x", head[8:12])
		}
	}
	kind, length := order.Uint32(head), order.Uint32(head[4:])
	if length < proto.PcapngBlockMin {
		return f.damaged("a block has a length of %d bytes, at least %d are needed", length, proto.PcapngBlockMin)
	}
	whole := (uint64(length) + 3) &^ 3 // some writers leave the padding out of the length
	var take func([]byte, *proto.Record) error
	switch kind {
	case proto.PcapngTypeSection:
		take = f.takeSection
	case proto.PcapngTypeInterface:
		take = f.takeInterface
	case proto.PcapngTypeEnhanced, proto.PcapngTypePacket, proto.PcapngTypeSimple:
		take = f.takePacket
	default:
		return f.skip(kind, whole)
	}
	if whole > fileBuffer {
		if kind == proto.PcapngTypeSection || kind == proto.PcapngTypeInterface {
			return f.damaged("a block of type %d has %d bytes, more than the %d that can be read", kind, length, fileBuffer)
		}
		return f.tooLong(uint64(length) - proto.PcapngBlockMin)
	}
	b, err := f.need(int(whole))
	if err != nil {
		return f.blockCut(head, err)
	}
	if again := order.Uint32(b[len(b)-4:]); again != length {
		return f.damaged("a block's length is %d bytes at its begin and %d at its end", length, again)
	}
	f.order = order
	if err := take(b, r); err != nil {
		return err
	}
	f.use(len(b))
	return nil
}

func (f *fileReader) takeSection(b []byte, _ *proto.Record) error {
	if _, err := proto.ParsePcapngSection(b); err != nil {
		return f.damaged("a section header of %d bytes, version %d.%d; 1.0 is read",
			len(b), f.order.Uint16(b[12:]), f.order.Uint16(b[14:]))
	}
	f.first, f.section = len(f.interfaces), f.section[:0]
	return nil
}

func (f *fileReader) takeInterface(b []byte, _ *proto.Record) error {
	i, err := proto.ParsePcapngInterface(b, f.order)
	if err != nil {
		return f.damaged("an interface description of %d bytes is too short", len(b))
	}
	if len(f.interfaces) == fileInterfaces {
		return f.damaged("more than %d interfaces", fileInterfaces)
	}
	name := strings.ToValidUTF8(strings.TrimRight(i.Name, "\x00"), "\uFFFD")
	for len(name) > fileName {
		name = strings.ToValidUTF8(name[:fileName], "")
	}
	i.Name, i.Description, i.Filter = "", "", ""
	f.section = append(f.section, i)
	f.interfaces = append(f.interfaces, proto.Interface{Name: name, LinkType: i.LinkType, MAC: i.MAC.String(), Speed: i.Speed})
	return nil
}

func (f *fileReader) takePacket(b []byte, r *proto.Record) (err error) {
	var p proto.PcapngPacket
	simple := f.order.Uint32(b) == proto.PcapngTypeSimple
	if !simple {
		p, err = proto.ParsePcapngPacket(b, f.order)
	} else if len(f.section) > 0 {
		p, err = proto.ParsePcapngSimple(b, f.order, f.section[0].SnapLen)
	}
	switch {
	case err != nil:
		return f.damaged("a packet block of %d bytes is shorter than what it says it holds", len(b))
	case uint64(p.Interface) >= uint64(len(f.section)):
		return f.damaged("the packet is of interface %d, of %d in its section", p.Interface, len(f.section))
	case len(p.Data) > proto.MaxFrame:
		return f.tooLong(uint64(len(p.Data)))
	}
	i := &f.section[p.Interface]
	ns := int64(0) // simple packets have no time
	if !simple {
		var ok bool
		if ns, ok = i.Time(p.Ticks); !ok {
			return f.damaged("the packet's time, %d with resolution %#02x and offset %d s, is outside the years 1678 to 2262",
				p.Ticks, i.Resolution, i.Offset)
		}
	}
	*r = proto.Record{
		Data: p.Data, Time: ns, OrigLen: p.OrigLen, Interface: uint32(f.first) + p.Interface, LinkType: i.LinkType, Direction: p.Direction,
	}
	f.packet++
	return nil
}

// skip passes over a block of any length.
func (f *fileReader) skip(kind uint32, length uint64) error {
	from := f.offset
	for length > 0 {
		b, err := f.need(int(min(length, fileBuffer)))
		if err != nil {
			if err == io.EOF {
				err = f.cutError(fmt.Sprintf("in the middle of a block of type %d", kind), from)
			}
			return err
		}
		f.use(len(b))
		length -= uint64(len(b))
	}
	return nil
}

// need returns the next n bytes of the file, which stay to be read; n is at
// most fileBuffer. If there are less it returns those and io.EOF.
func (f *fileReader) need(n int) ([]byte, error) {
	if f.end-f.start < n && f.start+n > len(f.buf) {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	for empty := 0; f.end-f.start < n; {
		if f.eof || empty > 100 {
			return f.buf[f.start:f.end], io.EOF
		}
		got, err := f.in.Read(f.buf[f.end:])
		f.end += got
		if got == 0 {
			empty++
		}
		if err == io.EOF {
			f.eof = true
		} else if err != nil {
			return nil, fmt.Errorf("remote: %s: read at offset %d: %w", f.path, f.offset+int64(f.end-f.start), err)
		}
	}
	return f.buf[f.start : f.start+n], nil
}

// use ends the reading of n bytes. They stay in the buffer until the next
// need.
func (f *fileReader) use(n int) {
	f.start += n
	f.offset += int64(n)
}

// noEOF returns err, or that the file is cut where io.EOF says so.
func (f *fileReader) noEOF(err error) error {
	if err == io.EOF {
		return f.cut("in the middle of its header")
	}
	return err
}

func (f *fileReader) cut(where string) error { return f.cutError(where, f.offset) }

func (f *fileReader) cutError(where string, offset int64) error {
	before := ""
	if f.packet > 0 {
		before = ": packets before it were sent"
	}
	return &fileError{fmt.Sprintf("remote: %s: ends %s at offset %d%s", f.path, where, offset, before), errFileCut}
}

// packetCut says that the file ends in the next packet if err is io.EOF.
func (f *fileReader) packetCut(err error) error {
	if err != io.EOF {
		return err
	}
	return f.cut(fmt.Sprintf("in the middle of packet %d", f.packet+1))
}

// blockCut says that the file ends in the block that begins with head.
func (f *fileReader) blockCut(head []byte, err error) error {
	if err != io.EOF {
		return err
	}
	if len(head) >= 4 {
		switch kind := f.order.Uint32(head); kind {
		case proto.PcapngTypeEnhanced, proto.PcapngTypePacket, proto.PcapngTypeSimple:
			return f.packetCut(err)
		case proto.PcapngTypeSection:
			return f.cut("in the middle of a section header")
		default:
			return f.cut(fmt.Sprintf("in the middle of a block of type %d", kind))
		}
	}
	return f.cut("in the middle of a block")
}

func (f *fileReader) tooLong(length uint64) error {
	return f.damaged("the packet has %d bytes, more than the %d that can be sent", length, proto.MaxFrame)
}

// damaged says what is wrong with the next packet, or with a block before it.
func (f *fileReader) damaged(format string, args ...any) error {
	return fmt.Errorf("remote: %s: packet %d, offset %d: %s; %d packets before it were sent",
		f.path, f.packet+1, f.offset, fmt.Sprintf(format, args...), f.packet)
}
