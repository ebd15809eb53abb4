// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/proto"
)

// onTheWire writes datagrams into a capture file, as somebody on the path would see
// them.
func onTheWire(t *testing.T, port int, datagrams [][]byte) string {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriterNanos(&file)
	if err := w.WriteFileHeader(262144, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, d := range datagrams {
		eth := layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
		ip := layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4(192, 0, 2, 1), DstIP: net.IPv4(192, 0, 2, 2)}
		udp := layers.UDP{SrcPort: 40000, DstPort: layers.UDPPort(port)}
		udp.SetNetworkLayerForChecksum(&ip)
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, &eth, &ip, &udp, gopacket.Payload(d)); err != nil {
			t.Fatal(err)
		}
		info := gopacket.CaptureInfo{Timestamp: time.Unix(1_800_000_000, 0), CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}
		if err := w.WritePacket(info, b.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "wire.pcap")
	if err := os.WriteFile(path, file.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// dissect returns what tshark with the dissector says of each packet of a file:
// for each of the fields its values.
func dissect(t *testing.T, file string, fields ...string) (rows [][][]string) {
	t.Helper()
	script, err := filepath.Abs(filepath.Join("..", "..", "wireshark", "ntap.lua"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-X", "lua_script:" + script, "-n", "-r", file, "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=|", "-E", "separator=\t"}
	for _, f := range append(fields, "_ws.lua.error", "_ws.expert.message") {
		args = append(args, "-e", f)
	}
	cmd := testnet.Command(t, "tshark", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || strings.Contains(stderr.String(), "Lua") {
		t.Fatalf("tshark: %v\n%s", err, &stderr)
	}
	for line := range strings.Lines(stdout.String()) {
		var row [][]string
		for _, v := range strings.Split(strings.TrimSuffix(line, "\n"), "\t") {
			var values []string
			if v != "" {
				values = strings.Split(v, "|")
			}
			row = append(row, values)
		}
		if len(row) != len(fields)+2 || row[len(fields)] != nil {
			t.Fatalf("packet %d: an error of Lua: %q", len(rows)+1, line)
		}
		rows = append(rows, row[:len(fields)])
	}
	return rows
}

// sent returns the datagrams that a remote sends of a capture file.
func sent(t *testing.T, args ...string) (all [][]byte) {
	t.Helper()
	r := newRecorder(t)
	status, out := try(t, append([]string{"remote", "-c", r.conn.LocalAddr().String(), "--mtu", "1500"}, args...)...)
	n := account(out, "datagrams of all kinds sent")
	if status != 0 || n == 0 {
		t.Fatal(out)
	}
	return r.take(n)
}

// The headers of what a remote sends, by each suite and in public-key mode, are
// to tshark what they are to ParseHeader, on the port of collectors and, by
// what they look like, on others.
func TestDissectorHeaders(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	dir, master, _ := keyFiles(t)
	pair, public, identity := filepath.Join(dir, "pair"), filepath.Join(dir, "public"), filepath.Join(dir, "identity")
	for _, args := range [][]string{
		{"key", "pair", "--out", pair}, {"key", "public", "--key-pair", pair}, {"key", "identity", "--id", "7", "--out", identity},
	} {
		status, out := try(t, args...)
		if status != 0 {
			t.Fatal(out)
		}
		if args[1] == "public" {
			if err := os.WriteFile(public, []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := numbered(t, 300, 60, time.Microsecond)
	var all [][]byte
	for _, args := range [][]string{
		{"--key-file", master, "--tap", "7", "--suite", "aes-256-gcm"},
		{"--key-file", master, "--tap", "4000000000", "--suite", "chacha20-poly1305"},
		{"--key-file", master, "--tap", "8", "--clear"},
		{"--collector-key", public, "--identity", identity},
	} {
		all = append(all, sent(t, append(args, "-r", file)...)...)
	}
	kinds := map[proto.Kind]int{}
	for _, port := range []int{5678, 5679} {
		rows := dissect(t, onTheWire(t, port, all), "ntap.version", "ntap.kind", "ntap.key", "ntap.suite", "ntap.shard", "ntap.tap", "ntap.session", "ntap.counter", "ntap.epoch",
			"ntap.malformed", "ntap.gap", "ntap.again", "ntap.bad_checksum", "ntap.keying.signature")
		if len(rows) != len(all) {
			t.Fatalf("tshark sees %d packets, and %d were sent", len(rows), len(all))
		}
		for i, d := range all {
			h, version, _ := proto.ParseHeader(d)
			kinds[h.Kind]++
			signature := []string(nil)
			if h.Kind == proto.Keying {
				signature = []string{fmt.Sprintf("%x", d[len(d)-64:])}
			}
			want := [][]string{
				{fmt.Sprint(version)}, {fmt.Sprint(h.Kind)}, {fmt.Sprint(h.Key)}, {fmt.Sprint(h.Suite)}, {fmt.Sprint(h.Shard)}, {fmt.Sprint(h.Tap)},
				{fmt.Sprintf("0x%016x", h.Session)}, {fmt.Sprint(h.Counter)}, {fmt.Sprint(h.Counter >> 24)}, nil, nil, nil, nil, signature,
			}
			if fmt.Sprint(rows[i]) != fmt.Sprint(want) {
				t.Fatalf("port %d, datagram %d: tshark has %v, want %v", port, i, rows[i], want)
			}
		}
	}
	if kinds[proto.Data] < 100 || kinds[proto.Announcing] < 8 || kinds[proto.Reporting] < 8 || kinds[proto.Keying] == 0 {
		t.Errorf("datagrams by kind: %v", kinds)
	}
}

// wiresharkTime reads a time as tshark prints it, in ns since 1970.
func wiresharkTime(t *testing.T, s string) int64 {
	t.Helper()
	for _, layout := range []string{"Jan _2, 2006 15:04:05.000000000 MST", "2006-01-02T15:04:05.000000000Z07:00", "2006-01-02 15:04:05.000000000Z07:00"} {
		if at, err := time.Parse(layout, s); err == nil {
			return at.UnixNano()
		}
	}
	t.Fatalf("tshark has the time %q", s)
	return 0
}

// What is in datagrams that are not encrypted is to tshark what it is to
// Unpacker, ParseAnnouncePart and ParseReport.
func TestDissectorRecords(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	c := newClearText(t)
	var want [][]proto.Record
	for _, p := range plaintexts(1472, oddRecords(400)) {
		c.add(proto.Data, p)
		want = append(want, nil)
		last := &want[len(want)-1]
		u := proto.NewUnpacker(proto.NewAssembly(make([]byte, 1<<16)))
		u.Start(p, true)
		for r, ok := u.Next(); ok; r, ok = u.Next() {
			*last = append(*last, *r)
		}
	}
	for i, row := range dissect(t, onTheWire(t, 5678, c.all), "ntap.record.length", "ntap.record.time", "ntap.record.link_type", "ntap.record.direction",
		"ntap.record.interface", "ntap.record.original_length", "ntap.record.csum_start", "ntap.record.csum_offset", "ntap.record.gso_type", "ntap.record.gso_size",
		"ntap.record.frame", "ntap.checksum.good", "ntap.malformed", "ntap.records") {
		var got, wanted [10]string
		for k := range want[i] {
			r := &want[i][k]
			number := func(field int, value any, there bool) {
				if there {
					wanted[field] += fmt.Sprint(value, " ")
				}
			}
			number(0, len(r.Data), true)
			number(1, r.Time, true)
			number(2, r.LinkType, true)
			number(3, uint8(r.Direction), true)
			number(4, r.Interface, r.Interface != 0)
			number(5, r.OrigLen, int(r.OrigLen) != len(r.Data))
			number(6, r.CsumStart, r.NeedsCsum)
			number(7, r.CsumOffset, r.NeedsCsum)
			number(8, r.GSOType, r.GSOType != 0)
			number(9, r.GSOSize, r.GSOType != 0)
		}
		for field := range got {
			values := row[field]
			if field == 1 {
				for k := range values {
					values[k] = fmt.Sprint(wiresharkTime(t, values[k]))
				}
			}
			for _, v := range values {
				got[field] += v + " "
			}
			// The last record may be cut: Unpacker returns it with the next datagram.
			if !strings.HasPrefix(got[field], wanted[field]) || len(values) > len(strings.Fields(wanted[field]))+1 {
				t.Errorf("datagram %d, field %d: %q, want %q", i, field, got[field], wanted[field])
			}
		}
		for k := range want[i] {
			if data := fmt.Sprintf("%x", want[i][k].Data); len(data) > 0 && !slices.Contains(row[10], data) {
				t.Errorf("datagram %d: the frame of record %d is not there", i, k)
			}
		}
		if fmt.Sprint(row[11], row[12]) != "[1] []" && fmt.Sprint(row[11], row[12]) != "[True] []" {
			t.Errorf("datagram %d: checksum good %v, malformed %v", i, row[11], row[12])
		}
		if n, _ := strconv.Atoi(row[13][0]); n != len(row[0]) {
			t.Errorf("datagram %d: %d records, and %d lengths", i, n, len(row[0]))
		}
	}
}

// Reports, announces and the frames inside, which tshark dissects too.
func TestDissectorMessages(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	c := newClearText(t)
	report := proto.Report{Final: true, Interface: 9, Time: 1_700_000_000_000_000_005, Captured: 1 << 60, KernelDrops: 2, Freezes: 3, TooLong: 4, Shed: 5, Sealed: 6,
		SealedBytes: 7, NextData: 8, Sent: 9, Unsent: 10, Refused: 11}
	c.add(proto.Reporting, report.Append(nil))
	a := proto.Announce{Tap: 7, Name: "web", Shards: 1, Now: 1_700_000_000_000_000_006}
	parts, err := a.Split(3, 500)
	if err != nil {
		t.Fatal(err)
	}
	c.add(proto.Announcing, parts[0])
	edns := filepath.Join("..", "..", "internal", "testnet", "testdata", "captures", "edns-opts.pcap")
	var records []proto.Record
	for _, p := range testnet.ReadCapture(t, edns)[:4] {
		records = append(records, proto.Record{Data: p.Data, OrigLen: uint32(len(p.Data)), Time: p.Time, LinkType: 1})
	}
	for _, p := range plaintexts(1472, records) {
		c.add(proto.Data, p)
	}
	c.seals[proto.Data].Seal(make([]byte, 100), proto.HeaderLen) // one that is lost
	c.add(proto.Data, plaintexts(1472, records)[0])
	c.all = append(c.all, c.all[len(c.all)-1]) // and one that comes twice
	damaged := bytes.Clone(c.all[0])
	damaged[60] ^= 1
	c.all = append(c.all, damaged)

	fields := []string{"ntap.report.final", "ntap.report.interface", "ntap.report.time"}
	for _, n := range strings.Fields("captured kernel_drops freezes too_long shed sealed sealed_bytes next_data sent unsent refused") {
		fields = append(fields, "ntap.report."+n)
	}
	file := onTheWire(t, 5678, c.all)
	row := dissect(t, file, fields...)[0]
	row[2][0] = fmt.Sprint(wiresharkTime(t, row[2][0]))
	if got := fmt.Sprint(row); got != fmt.Sprint([][]int64{{1}, {9}, {report.Time}, {1 << 60}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}}) {
		t.Errorf("report: %v", got)
	}
	rows := dissect(t, file, "ntap.announce.revision", "ntap.announce.part", "ntap.announce.parts", "ntap.announce.time", "json.key", "dns.id", "ntap.missing", "ntap.again", "ntap.bad_checksum", "ntap.clear", "_ws.col.Protocol", "_ws.col.Info")
	said := rows[1]
	if wiresharkTime(t, said[3][0]) != a.Now || fmt.Sprint(said[:3]) != "[[3] [0] [1]]" || !slices.Contains(said[4], "name") {
		t.Errorf("announce: %v", said)
	}
	if n := len(rows[2][5]); n != 4 {
		t.Errorf("%d frames of DNS in a datagram, want 4", n)
	}
	for i := range rows {
		if fmt.Sprint(rows[i][10]) != "[ntap]" || !strings.Contains(fmt.Sprint(rows[i][11]), "tap 7, shard 0, counter ") {
			t.Errorf("datagram %d: the list has %v %v", i, rows[i][10], rows[i][11])
		}
		if (len(rows[i][9]) == 1) != true {
			t.Errorf("datagram %d: not said that it is not encrypted", i)
		}
		if missing := fmt.Sprint(rows[i][6]); (missing == "[1]") != (i == 3) {
			t.Errorf("datagram %d: missing before it: %v", i, missing)
		}
		if again := rows[i][7] != nil; again != (i == 4 || i == 5) {
			t.Errorf("datagram %d: comes again: %v", i, again)
		}
		if bad := rows[i][8] != nil; bad != (i == 5) {
			t.Errorf("datagram %d: checksum is wrong: %v", i, bad)
		}
	}
}

// make install-dissector puts it where tshark looks for it by itself.
func TestDissectorInstall(t *testing.T) {
	testnet.RequireTool(t, "make", "tshark")
	home := t.TempDir()
	for _, c := range [][2]string{{"make -s -C ../.. install-dissector", "/ntap.lua;"}, {"tshark -G protocols", "ntap, a network tap"}} {
		cmd := testnet.Command(t, "sh", "-c", c[0])
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), c[1]) {
			t.Fatalf("%s: %v\n%.300s", c[0], err, out)
		}
	}
}
