// SPDX-License-Identifier: Apache-2.0

// Package testnet is what tests share: network namespaces of their own, links,
// numbered frames, and readers of capture files that are independent of ntap's.
package testnet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
)

// A Packet is one packet of a capture file, as a judge independent of ntap's
// own readers and writers sees it.
type Packet struct {
	Data          []byte
	OrigLen       uint32 // bytes
	Time          int64  // ns since 1970 UTC
	LinkType      uint16
	Interface     int    // in its section; 0 in pcap files
	InterfaceName string // pcapng's if_name
	Direction     uint8  // pcapng's epb_flags, bits 0 and 1
}

// Captures returns the paths of the capture files in testdata/captures: real
// files of some thirty link types, many of them awkward.
func Captures(t testing.TB) []string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(here), "testdata", "captures")
	var files []string
	for _, pattern := range []string{"*.pcap", "*.pcapng"} {
		some, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(some) == 0 {
			t.Fatalf("no %s in %s (%v)", pattern, dir, err)
		}
		files = append(files, some...)
	}
	return files
}

// UnknownTime is the Time of a packet that no judge can tell the time of.
const UnknownTime = math.MinInt64

// ReadCapture reads a capture file with gopacket or, where gopacket cannot,
// with tshark.
func ReadCapture(t testing.TB, path string) []Packet {
	t.Helper()
	var packets []Packet
	var err error
	if gopacketCannot[filepath.Base(path)] {
		if read, ok := byTshark.Load(path); ok {
			return slices.Clone(read.([]Packet))
		}
		if packets, err = ReadTshark(path); err == nil {
			byTshark.Store(path, slices.Clone(packets))
		}
	} else {
		packets, err = ReadGopacket(path)
	}
	if errors.Is(err, exec.ErrNotFound) {
		Missing(t, fmt.Sprintf("%s: %v; install tshark", path, err))
	} else if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return packets
}

var byTshark sync.Map // path to []Packet: tshark takes its time

// gopacketCannot lists what gopacket 1.7.7 refuses or gets wrong.
var gopacketCannot = map[string]bool{
	// Packets longer than their original length.
	"slip-sliplink_print-oobr.pcap": true,
	"aoe-oobr-1.pcap":               true,
	"icmp-icmp_print-oobr-2.pcap":   true,
	// A fraction of a second of 3,841,916,976 µs overflows.
	"rx_serviceid_oobr.pcap": true,
}

// ReadGopacket reads a pcap or pcapng file with gopacket.
func ReadGopacket(path string) ([]Packet, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return DecodeGopacket(f)
}

// DecodeGopacket reads a pcap or pcapng stream with gopacket. With an error it
// returns the packets before it.
func DecodeGopacket(in io.Reader) (packets []Packet, err error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	in = io.MultiReader(bytes.NewReader(head[:]), in)
	if binary.BigEndian.Uint32(head[:]) != 0x0A0D0D0A {
		r, err := pcapgo.NewReader(in)
		if err != nil {
			return nil, err
		}
		for {
			data, ci, err := r.ReadPacketData()
			if errors.Is(err, io.EOF) {
				return packets, nil
			} else if err != nil {
				return packets, fmt.Errorf("packet %d: %w", len(packets)+1, err)
			}
			packets = append(packets, Packet{
				Data: data, OrigLen: uint32(ci.Length), Time: ci.Timestamp.UnixNano(), LinkType: uint16(r.LinkType()),
			})
		}
	}
	r, err := pcapgo.NewNgReader(in, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		return nil, err
	}
	for {
		data, ci, options, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			return packets, nil
		} else if err != nil {
			return packets, fmt.Errorf("packet %d: %w", len(packets)+1, err)
		}
		i, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			return packets, fmt.Errorf("packet %d: %w", len(packets)+1, err)
		}
		p := Packet{
			Data: data, OrigLen: uint32(ci.Length), Time: ci.Timestamp.UnixNano(), LinkType: uint16(i.LinkType),
			Interface: ci.InterfaceIndex, InterfaceName: i.Name,
		}
		if options.Flags != nil {
			p.Direction = uint8(options.Flags.Direction)
		}
		packets = append(packets, p)
	}
}

// ReadTshark reads a pcap file with tshark, which does not tell link types by
// number; all packets of a pcap file have that of its header.
func ReadTshark(path string) ([]Packet, error) {
	header := make([]byte, 24)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := io.ReadFull(f, header); err != nil {
		return nil, err
	}
	link := binary.LittleEndian.Uint16(header[20:])
	if header[0] == 0xA1 {
		link = binary.BigEndian.Uint16(header[22:])
	}
	out, err := output("tshark", "-r", path, "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len", "-e", "frame.time_epoch")
	if err != nil {
		return nil, err
	}
	data, err := tsharkBytes(path)
	if err != nil {
		return nil, err
	}
	var packets []Packet
	for line := range strings.Lines(string(out)) {
		field := strings.Fields(line)
		if len(field) != 3 || len(data) == len(packets) {
			return nil, fmt.Errorf("tshark said %q, and there are %d packets with bytes", line, len(data))
		}
		orig, err1 := strconv.ParseUint(field[0], 10, 32)
		captured, err2 := strconv.Atoi(field[1])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		p := Packet{Data: data[len(packets)], OrigLen: uint32(orig), Time: UnknownTime, LinkType: link}
		if len(p.Data) != captured {
			return nil, fmt.Errorf("tshark says that packet %d has %d bytes, and gives %d", len(packets)+1, captured, len(p.Data))
		}
		if sec, frac, ok := strings.Cut(field[2], "."); ok && sec[0] != '-' && frac[0] != '-' {
			s, err1 := strconv.ParseInt(sec, 10, 64)
			ns, err2 := strconv.ParseInt(frac, 10, 64) // tshark pads to 9 digits
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			p.Time = s*1e9 + ns
		}
		packets = append(packets, p)
	}
	return packets, nil
}

// tsharkBytes returns the bytes of every packet of a capture file.
func tsharkBytes(path string) ([][]byte, error) {
	out, err := output("tshark", "-r", path, "-T", "jsonraw", "-J", "frame")
	if err != nil {
		return nil, err
	}
	var packets []struct {
		Source struct {
			Layers struct {
				Frame []any `json:"frame_raw"` // hex, and four numbers
			} `json:"layers"`
		} `json:"_source"`
	}
	if err := json.Unmarshal(out, &packets); err != nil {
		return nil, fmt.Errorf("tshark: %w", err)
	}
	var data [][]byte
	for _, p := range packets {
		text := ""
		if raw := p.Source.Layers.Frame; len(raw) > 0 {
			text, _ = raw[0].(string)
		}
		b, err := hex.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("tshark: packet %d: %w", len(data)+1, err)
		}
		data = append(data, b)
	}
	return data, nil
}

// DiffPackets says where got differs from want first, in words; "" if they are
// the same. Interfaces are compared only by name, and only where want has one.
// A Time that is UnknownTime matches any.
func DiffPackets(got, want []Packet) string {
	for i := range min(len(got), len(want)) {
		if d := diffPacket(&got[i], &want[i]); d != "" {
			return fmt.Sprintf("packet %d of %d: %s", i+1, len(want), d)
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d packets, want %d; the first %d are the same", len(got), len(want), min(len(got), len(want)))
	}
	return ""
}

func diffPacket(got, want *Packet) string {
	var d []string
	add := func(what string, got, want any) {
		d = append(d, fmt.Sprintf("%s is %v, want %v", what, got, want))
	}
	if got.OrigLen != want.OrigLen {
		add("original length", got.OrigLen, want.OrigLen)
	}
	if got.Time != want.Time && got.Time != UnknownTime && want.Time != UnknownTime {
		add("time", fmt.Sprintf("%d ns", got.Time), fmt.Sprintf("%d ns (%d more)", want.Time, want.Time-got.Time))
	}
	if got.LinkType != want.LinkType {
		add("link type", got.LinkType, want.LinkType)
	}
	if want.InterfaceName != "" && got.InterfaceName != want.InterfaceName {
		add("interface name", strconv.Quote(got.InterfaceName), strconv.Quote(want.InterfaceName))
	}
	if got.Direction != want.Direction {
		add("direction", got.Direction, want.Direction)
	}
	if len(got.Data) != len(want.Data) {
		add("captured length", len(got.Data), len(want.Data))
	}
	for i := range min(len(got.Data), len(want.Data)) {
		if got.Data[i] != want.Data[i] {
			from, to := max(i-4, 0), i+12
			add(fmt.Sprintf("data from byte %d on (the first different one is byte %d)", from, i),
				fmt.Sprintf("% x", got.Data[from:min(to, len(got.Data))]), fmt.Sprintf("% x", want.Data[from:min(to, len(want.Data))]))
			break
		}
	}
	return strings.Join(d, "; ")
}
