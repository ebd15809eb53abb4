// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// described returns what the interface blocks of a file say, as capinfos reads
// them: name, speed and filter of each, in order.
func (w *world) described(file string) (out []string) {
	w.t.Helper()
	all := w.must("capinfos", file)
	for _, block := range strings.Split(all, "Interface #")[1:] {
		line := ""
		for _, field := range []string{"Name", "Speed", "Filter string"} {
			if m := regexp.MustCompile(field + ` = (.*)`).FindStringSubmatch(block); m != nil {
				line += " " + m[1]
			}
		}
		out = append(out, strings.TrimSpace(line))
	}
	return out
}

// framesBy returns the interface of each frame of a file that holds text, by
// the number of its block, as tshark reads them.
func (w *world) framesBy(file, text string) []string {
	w.t.Helper()
	return strings.Fields(withoutRootWarning(w.must("tshark", "-r", file, "-Y", `frame contains "`+text+`"`, "-T", "fields", "-e", "frame.interface_id")))
}

// A card whose speed is not known before its carrier is there is listed once,
// with its speed, though it goes down and up again. It used to keep the speed
// 0, and to be listed twice from when it was down.
func TestSpeedOfCardThatComesUp(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "capinfos", "tshark", "ethtool")
	w := newWorld(t)
	file := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", file)
	r := w.startRemote("-i", "slow*", "ether proto 0x88b5")
	speed := func(mbit string) {
		t.Helper()
		w.in(w.sender, "ethtool", "-s", "slow0", "speed", mbit, "duplex", "full", "autoneg", "off")
	}
	w.in(w.sender, "ip", "tuntap", "add", "dev", "slow0", "mode", "tap")
	speed("0") // as long as there is no carrier
	w.in(w.sender, "ip", "link", "set", "slow0", "up")
	r.wait("an interface came: captured interface=slow0")
	w.in(w.sender, "ip", "link", "set", "slow0", "down")
	w.in(w.sender, "ip", "link", "set", "slow0", "up")
	// The option if_speed of an interface block.
	known := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, 8|8<<16), 1e9)
	carry := func(n int) {
		t.Helper()
		speed("1000")
		w.inside(w.sender, func() error {
			fd, err := attachTun("slow0", unix.IFF_TAP)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			w.waitUp(w.sender, "slow0")
			frame := numberedMark("slow", n)
			testnet.Eventually(w.t, "a frame, and the speed", func() bool {
				_, err = unix.Write(fd, frame)
				return err != nil || fileHas(file, frame) && fileHas(file, known)
			})
			return err
		})
		w.in(w.sender, "ip", "link", "set", "slow0", "down")
		speed("0")
		w.in(w.sender, "ip", "link", "set", "slow0", "up")
	}
	carry(0)
	carry(1)
	text := r.stop()
	c.stop()
	if n := strings.Count(text, "of those on slow0,"); n != 1 {
		t.Errorf("%d lines of slow0 in the account:\n%s", n, text)
	}
	blocks := w.described(file)
	by := w.framesBy(file, "marker slow 1")
	if len(by) == 0 || len(blocks) > 2 {
		t.Fatalf("blocks %q, frames %v", blocks, by)
	}
	last := blocks[len(blocks)-1]
	if !strings.HasPrefix(last, "slow0 1000000000") {
		t.Errorf("blocks %q", blocks)
	}
	for _, id := range by {
		if id != by[0] || id != []string{"0", "1"}[len(blocks)-1] {
			t.Errorf("frames after the second time are of %v, of the blocks %q", by, blocks)
		}
	}
}

// An interface that is captured by its name is followed when it is renamed: its
// frames come under the new name, once, though -i any takes all others, among
// them what has the old name now. When it is gone, what has the name that was
// given is captured in its place.
func TestNamedInterfaceIsRenamed(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark")
	for _, workers := range []string{"1", "2"} {
		t.Run(workers+" workers", func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			r := w.startRemote("-i", "any", "-i", "t0", "--workers", workers, "ether proto 0x88b5")
			n := 0
			// carry sends frames into far until one comes out under a name.
			carry := func(far, name string) {
				t.Helper()
				what := "under " + name
				r.until("frames "+what, func() bool {
					w.inject(w.peer, far, numberedMark(what, n))
					n++
					for _, p := range soFar(file) {
						if p.InterfaceName == name && bytes.Contains(p.Data, []byte(what)) {
							return true
						}
					}
					return false
				})
			}
			add := func(name, far string) {
				t.Helper()
				w.must("ip", "link", "add", name, "netns", w.sender, "type", "veth", "peer", "name", far, "netns", w.peer)
				w.in(w.sender, "ip", "link", "set", name, "up")
				w.in(w.peer, "ip", "link", "set", far, "up")
				w.waitUp(w.peer, far)
			}
			carry("p0", "t0")
			w.in(w.sender, "ip", "link", "set", "t0", "name", "wan0")
			r.wait("an interface has another name before=t0 interface=wan0")
			carry("p0", "wan0")
			add("t0", "p1")
			r.wait("an interface came: captured interface=t0")
			carry("p1", "t0")
			carry("p0", "wan0")
			w.in(w.sender, "ip", "link", "del", "wan0")
			// It changes hands within a moment, in which a frame may come twice.
			r.until("the new one is captured by its name", func() bool {
				return strings.Contains(r.text(), "an interface went interface=t0")
			})
			carry("p1", "t0")
			text := r.stop()
			c.stop()
			seen := map[string]int{}
			for _, p := range testnet.ReadCapture(t, file) {
				if i := bytes.Index(p.Data, []byte("ntap test marker")); i >= 0 {
					seen[string(p.Data[i:])]++
				}
			}
			for frame, times := range seen {
				if times != 1 {
					t.Errorf("%q came %d times:\n%s", frame, times, text)
				}
			}
			// The account of all others has no line for a name of this one: it used to
			// say that there were 0 frames of it.
			if strings.Contains(text, "of those on wan0") || account(text, "of those on t0,") == 0 {
				t.Errorf("the account:\n%s", text)
			}
			// The name is never another one's: tshark reads the same.
			if by := withoutRootWarning(w.must("tshark", "-r", file, "-Y", `frame contains "under wan0" && frame.interface_name != "wan0"`, "-T", "fields", "-e", "frame.interface_name")); strings.Trim(by, "t0\n") != "" {
				t.Errorf("frames of wan0 are of %q", by)
			}
		})
	}
}

// When the filter is changed, frames come under a new interface block, which
// says the new one: those of the new filter used to be under the old for good.
func TestFilterChangeHasItsBlock(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "tshark", "capinfos")
	for _, iface := range []string{"t0", "any"} {
		t.Run(iface, func(t *testing.T) {
			w := newWorld(t)
			file, expression := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "expression")
			filters := []string{"ether proto 0x88b5", "ether proto 0x9101 or ether proto 0x9102", "ether proto 0x88b5"}
			blocksOf := []int{0, 1, 0}
			write := func(k int) {
				t.Helper()
				if err := os.WriteFile(expression, []byte(filters[k]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			frame := func(k int) []byte {
				f := numberedMark("filter", k)
				if k == 1 {
					f[12], f[13] = 0x91, 1
				}
				return f
			}
			write(0)
			c := w.startCollector("--no-tap", "-w", file)
			r := w.startRemote("-i", iface, "-F", expression)
			for k := range filters {
				if k > 0 {
					before := strings.Count(r.text(), "new filter")
					write(k)
					r.cmd.Process.Signal(unix.SIGHUP)
					r.until("it has the new filter", func() bool { return strings.Count(r.text(), "new filter") > before })
				}
				// The first may be under the block before: the announce follows
				// the filter. What was there already is found again.
				r.until("a frame under the block of its filter", func() bool {
					w.inject(w.peer, "p0", frame(k))
					under := -1
					for _, p := range soFar(file) {
						if bytes.Equal(p.Data, frame(k)) {
							under = p.Interface
						}
					}
					return under == blocksOf[k]
				})
			}
			r.stop()
			c.stop()
			for k, id := range blocksOf {
				if by := w.framesBy(file, fmt.Sprintf("marker filter %d", k)); len(by) == 0 || by[len(by)-1] != strconv.Itoa(id) {
					t.Errorf("frames of filter %d are under the blocks %v, not in the end %d", k, by, id)
				}
			}
			blocks := w.described(file)
			if len(blocks) != 2 || !strings.HasSuffix(blocks[0], filters[0]) || !strings.HasSuffix(blocks[1], filters[1]) {
				t.Errorf("interface blocks %q", blocks)
			}
		})
	}
}

// ip broadcast is that of the interface's network, of one that is named and of all.
// Of all it used to be that of all networks alone, which the log said.
func TestIPBroadcastHasTheInterfacesNetwork(t *testing.T) {
	t.Parallel()
	to := func(address string) []byte {
		f := marker("to " + address)
		header := []byte{0x45, 0, 0, 46, 0, 0, 0, 0, 64, 253, 0, 0, 10, 98, 0, 2}
		header = append(header, netip.MustParseAddr(address).AsSlice()...)
		return append(append(append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 8, 8, 0}, header...), f[14:]...), 0)
	}
	const own, all, one = "10.98.0.255", "255.255.255.255", "10.98.0.7"
	for _, iface := range []string{"t0", "any"} {
		t.Run(iface, func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			r := w.startRemote("-i", iface, "ip broadcast or ether proto 0x88b5")
			w.inject(w.peer, "p0", to(own), to(one), to(all), marker("end"))
			c.until("the end is written", func() bool { return fileHas(file, marker("end")) })
			text := r.stop()
			c.stop()
			for address, wanted := range map[string]bool{own: true, all: true, one: false} {
				if fileHas(file, to(address)) != wanted {
					t.Errorf("to %s: came out is %v:\n%s", address, !wanted, text)
				}
			}
			if strings.Contains(text, "ip broadcast means 255.255.255.255") {
				t.Errorf("the log says:\n%s", text)
			}
		})
	}
}
