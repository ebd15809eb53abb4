// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A recording says of each frame on which interface and in which direction it
// was captured, and of the interface its name, MAC address, speed and filter:
// as tshark and capinfos read it.
func TestInterfaceAndDirectionAreKept(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark", "capinfos")
	w := newWorld(t)
	out := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("-w", out)
	r := w.startRemote("-i", "t0", "ether proto 0x88b5")
	c.wait("timestamps=\"kernel software\"")
	in, sent := marker("in"), marker("sent")
	w.inject(w.peer, "p0", in)
	r.until("it came", func() bool { return fileHas(out, in) })
	w.inject(w.sender, "t0", sent)
	r.until("it came", func() bool { return fileHas(out, sent) })
	r.stop()
	c.stop()
	text, err := testnet.Command(t, "tshark", "-r", out, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], "t0\t1") && !strings.HasSuffix(lines[0], "t0\t0x00000001") || !strings.HasSuffix(lines[1], "2") || !strings.Contains(lines[1], "t0") {
		t.Errorf("tshark says %q", lines)
	}
	info, err := testnet.Command(t, "capinfos", out).CombinedOutput()
	for _, want := range []string{"Speed = 10000000000", "Filter string = ether proto 0x88b5", "t0", "Time resolution = 0x09", "timestamps: kernel software"} {
		if err != nil || !strings.Contains(string(info), want) {
			t.Errorf("capinfos does not say %q: %v\n%s", want, err, info)
		}
	}
	mac, err := net.ParseMAC(strings.TrimSpace(w.in(w.sender, "cat", "/sys/class/net/t0/address")))
	if err != nil {
		t.Fatal(err)
	}
	file, _ := os.ReadFile(out)
	if option := append(binary.LittleEndian.AppendUint32(nil, 6|6<<16), mac...); !bytes.Contains(file, option) { // if_MACaddr
		t.Errorf("the MAC address %v is not in the interface's block", mac)
	}
}
