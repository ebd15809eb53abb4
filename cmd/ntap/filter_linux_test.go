// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/remote"
	"github.com/ntap-project/ntap/ring/filter"
)

// "ip", as tcpdump -ddd prints it.
const bytecodeIP = "4\n40 0 0 12\n21 0 1 2048\n6 0 0 262144\n6 0 0 0\n"

func TestFilterFromFiles(t *testing.T) {
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "filter")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	bytecode := write(bytecodeIP)
	f, err := (&filterFlags{bytecode: bytecode}).read(nil)
	if err != nil || f.Program.Bytecode() != bytecodeIP || f.Text != "bytecode of "+bytecode {
		t.Errorf("%+v, %v", f, err)
	}
	for text, want := range map[string]string{
		"tcp port 80\n":                         "tcp port 80",
		"tcp # not udp\n  or icmp # and so on":  "tcp          \n  or icmp",
		"# only a comment\nip\r\n":              "                \nip",
		"host 10.0.0.1\nor\nhost 10.0.0.2\n\n ": "host 10.0.0.1\nor\nhost 10.0.0.2",
	} {
		if f, err := (&filterFlags{file: write(text)}).read(nil); err != nil || f.Text != want || f.Program != nil {
			t.Errorf("%q: %q, %v; want %q", text, f.Text, err, want)
		}
	}
	for text, want := range map[string]string{"": "no expression in it", " \n# nothing\n": "no expression in it"} {
		if _, err := (&filterFlags{file: write(text)}).read(nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := (&filterFlags{bytecode: write("2\n6 0 0 1\n")}).read(nil); err == nil || !strings.Contains(err.Error(), "1 lines follow") {
		t.Errorf("bad bytecode: %v", err)
	}
	for _, f := range []filterFlags{{file: "/nonexistent/f"}, {bytecode: "/nonexistent/f"}} {
		if _, err := f.read(nil); err == nil || !strings.Contains(err.Error(), "/nonexistent/f") {
			t.Errorf("%+v: %v", f, err)
		}
	}
	if f, err := (&filterFlags{}).read([]string{"tcp", "port", "80"}); err != nil || f.Text != "tcp port 80" {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err := (&filterFlags{}).read(nil); err != nil || f.Text != "" || f.Program != nil {
		t.Errorf("%+v, %v", f, err)
	}
}

// What a filter takes of a capture file is what tcpdump -r takes with it.
func TestFilterOnFiles(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tcpdump")
	keys := masterKey(t)
	expressions := []string{"tcp", "udp or icmp", "port 53", "not ip", "greater 100", "host 10.0.0.1 or net 192.168.0.0/16", "ip6", "ip[6:2] & 0x1fff = 0"}
	onEthernet := []string{"vlan", "arp", "ether multicast", "vlan and ip", "ether[0] & 1 = 0 and not arp"}
	tried, some, leftOut := 0, 0, 0
	for i, file := range testnet.Captures(t) {
		all := testnet.ReadCapture(t, file)
		if len(all) == 0 || !filter.Supported(all[0].LinkType) || i%4 != 0 && all[0].LinkType == filter.Ethernet {
			continue
		}
		if slices.ContainsFunc(all, func(p testnet.Packet) bool { return len(p.Data) > int(p.OrigLen) }) {
			continue // tcpdump -w cuts those
		}
		if filepath.Base(file) == "bootp_asan.pcap" {
			continue // libpcap cuts its packet to the snap length in the file's header
		}
		e := expressions
		if all[0].LinkType == filter.Ethernet {
			e = append(slices.Clone(e), onEthernet...)
		}
		expression := e[i%len(e)]
		taken := filepath.Join(t.TempDir(), "tcpdump.pcap")
		if said, err := testnet.Command(t, "tcpdump", "-r", file, "-w", taken, "--", expression).CombinedOutput(); err != nil {
			if !strings.Contains(string(said), "rejects all packets") {
				t.Logf("%s %q: %v: %s", filepath.Base(file), expression, err, said)
			}
			continue
		}
		out := filepath.Join(t.TempDir(), "out.pcapng")
		c := listen(t, collector.Config{Keys: keys, Write: out, Once: true})
		a := send(t, keys, file, c.addr, func(cfg *remote.Config) { cfg.Filter.Text = expression })
		c.end(t)
		want, got := testnet.ReadCapture(t, taken), testnet.ReadCapture(t, out)
		for i := range want {
			want[i].Time, want[i].InterfaceName, want[i].Direction = testnet.UnknownTime, "", got[min(i, max(len(got)-1, 0))].Direction // tcpdump keeps µs and no directions
		}
		if d := testnet.DiffPackets(got, want); d != "" {
			t.Errorf("%s %q: %s", filepath.Base(file), expression, d)
		}
		total := a.Total()
		if total.Captured != uint64(len(want)) || total.Captured+total.LeftOut != uint64(len(all)) {
			t.Errorf("%s %q: %d captured and %d left out of %d", filepath.Base(file), expression, total.Captured, total.LeftOut, len(all))
		}
		if tried++; len(want) > 0 {
			some++
		}
		leftOut += int(total.LeftOut)
	}
	if tried < 40 || some < 20 || leftOut < 100 {
		t.Errorf("%d files, of %d something was taken, %d frames left out", tried, some, leftOut)
	}
}

// A filter that does not go with a file's link types is refused, at the start or
// when an interface of that type comes.
func TestFilterRefusedOnFiles(t *testing.T) {
	t.Parallel()
	keys := masterKey(t)
	c := listen(t, collector.Config{Keys: keys, Write: filepath.Join(t.TempDir(), "out"), Once: true})
	defer c.stop()
	byLink := map[uint16]string{}
	for _, file := range testnet.Captures(t) {
		if p, err := testnet.ReadGopacket(file); err == nil && len(p) > 0 && byLink[p[0].LinkType] == "" {
			byLink[p[0].LinkType] = file
		}
	}
	live, err := filter.Compile("vlan", filter.Options{LinkType: filter.Ethernet, Live: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		link uint16
		f    remote.Filter
		want string
	}{
		{filter.Ethernet, remote.Filter{Text: "tcp prot 80"}, "column 5: expected"},
		{filter.Ethernet, remote.Filter{Text: "inbound"}, "do not have the direction"},
		{filter.Ethernet, remote.Filter{Text: "live", Program: live}, "only the kernel knows"},
		{filter.Raw, remote.Filter{Text: "vlan"}, "there are no VLAN tags in raw IP"},
		{127, remote.Filter{Text: "tcp"}, "filters can be compiled for EN10MB"},
	} {
		file := byLink[v.link]
		if file == "" {
			t.Fatalf("no capture of link type %d", v.link)
		}
		_, err := remote.Run(t.Context(), remote.Config{
			File: file, Pace: remote.PaceMax, Collector: c.addr.String(), Keys: keys, Tap: 1, Suite: crypto.AES256GCM, MTU: 1500, Filter: v.f, Log: zerolog.Nop(),
		})
		var unusable *remote.FilterError
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), v.want) {
			t.Errorf("%+v: %v; want something with %q", v.f, err, v.want)
		}
	}
}
