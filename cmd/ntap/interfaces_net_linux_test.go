// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// numberedMark is a frame that says where it was sent.
func numberedMark(where string, n int) []byte { return marker(fmt.Sprintf("%s %d", where, n)) }

// tun makes a TUN interface, whose frames are raw IP, in a namespace and sends
// a packet from it towards the host, n times.
func (w *world) tun(ns, name string, packet []byte, n int) {
	w.t.Helper()
	w.inside(ns, func() error {
		fd, err := attachTun(name, unix.IFF_TUN)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { unix.Close(fd) })
		w.in(ns, "ip", "link", "set", name, "addrgenmode", "none")
		w.in(ns, "ip", "link", "set", name, "up")
		for range n {
			if _, err := unix.Write(fd, packet); err != nil {
				return err
			}
		}
		return nil
	})
}

// attachTun makes an interface of TUN or TAP, or attaches itself to one that is
// there: while it is attached, that has a carrier.
func attachTun(name string, kind uint16) (fd int, err error) {
	if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return 0, err
	}
	var req [40]byte
	copy(req[:unix.IFNAMSIZ], name)
	binary.NativeEndian.PutUint16(req[unix.IFNAMSIZ:], kind|unix.IFF_NO_PI)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); e != 0 {
		unix.Close(fd)
		return 0, e
	}
	return fd, nil
}

// byInterface counts the packets of a file for which want holds, by interface
// and link type.
func byInterface(t *testing.T, file string, want func(p *testnet.Packet) bool) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, p := range testnet.ReadCapture(t, file) {
		if want(&p) {
			out[fmt.Sprintf("%s/%d", p.InterfaceName, p.LinkType)]++
		}
	}
	return out
}

// Of -i any come the frames of every interface, each under its name and with
// its own link type; those of lo once; those of one that appears while the tap
// runs too; and none of the tap's own datagrams, nor what a collector on the
// same host gives out.
func TestAnyInterface(t *testing.T) {
	t.Parallel()
	for _, workers := range []string{"1", "2"} {
		t.Run(workers+" workers", func(t *testing.T) {
			testnet.RequireTool(t, "tshark")
			w := newWorld(t)
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			// A collector on the tapped host: what it writes to its TAP was captured once already.
			own := w.start(w.sender, ntapBinary, "collector", "-p", "5679", "--key-file", w.key, "--state", "none", "-i", "back0")
			own.wait("collector started")
			r := w.startRemote("-i", "any", "--workers", workers)
			w.inject(w.sender, "back0", numberedMark("back0", 0))
			w.inject(w.peer, "p0", numberedMark("t0", 0), numberedMark("t0", 1))
			w.inject(w.sender, "t0", numberedMark("t0", 2))
			w.inject(w.sender, "lo", numberedMark("lo", 0), numberedMark("lo", 1), numberedMark("lo", 2))
			packet := append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 253, 0, 0, 10, 97, 0, 1, 10, 97, 0, 2}, "ntap test raw packet"...)
			w.tun(w.sender, "tun7", packet, 4)
			w.inject(w.collector, "up1", numberedMark("up0", 0), marker("end"))
			c.until("the end is written", func() bool { return fileHas(file, marker("end")) })
			rText := r.stop()
			own.stop()
			cText := c.stop()

			marked := func(p *testnet.Packet) bool {
				return bytes.Contains(p.Data, []byte("ntap test marker")) && !bytes.Contains(p.Data, []byte("marker end")) || bytes.Contains(p.Data, []byte("ntap test raw packet"))
			}
			got, want := byInterface(t, file, marked), map[string]int{"t0/1": 3, "lo/1": 3, "tun7/101": 4, "up0/1": 1}
			if !maps.Equal(got, want) {
				t.Errorf("frames by interface and link type: %v, want %v\n%s", got, want, rText)
			}
			names := strings.Fields(withoutRootWarning(w.must("tshark", "-r", file, "-Y", `frame contains "ntap test"`, "-T", "fields", "-e", "frame.interface_name")))
			judged := map[string]int{}
			for _, name := range names {
				judged[name]++
			}
			if want := map[string]int{"t0": 3, "lo": 3, "tun7": 4, "up0": 2}; !maps.Equal(judged, want) { // with the end
				t.Errorf("tshark sees frames of %v, want %v", judged, want)
			}
			if out := byInterface(t, file, func(p *testnet.Packet) bool {
				return len(p.Data) > 42 && p.Data[12] == 8 && p.Data[23] == 17 && binary.BigEndian.Uint16(p.Data[36:]) == 5678
			}); len(out) > 0 {
				t.Errorf("the tap's own datagrams were captured: %v", out)
			}
			captured := account(rText, "frames captured")
			if n := account(rText, "of those on"); captured == 0 || n != captured || account(cText, "frames lost") != 0 {
				t.Errorf("%d frames captured, %d by interface:\n%s%s", captured, n, rText, cText)
			}
		})
	}
}

// A pattern takes the interfaces that match it and no others: one that comes
// while the tap runs from its first frame on after the log says so; one that is
// renamed under its new name, or not at all if that does not match; one that
// was deleted and made again. The account has a line for each.
func TestInterfacePattern(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := filepath.Join(w.dir, "out.pcapng")
	c := w.startCollector("--no-tap", "-w", file)
	r := w.startRemote("-i", "veth[a-f]*", "-i", "t0")
	r.wait("no such interface yet")
	n := 0
	want := map[string]int{}
	send := func(far, under string) {
		t.Helper()
		w.inject(w.peer, far, numberedMark(under, n))
		if n++; under != "" {
			want[under+"/1"]++
		}
	}
	add := func(name, far string) {
		t.Helper()
		w.must("ip", "link", "add", name, "netns", w.sender, "type", "veth", "peer", "name", far, "netns", w.peer)
		w.in(w.sender, "ip", "link", "set", name, "up")
		w.in(w.peer, "ip", "link", "set", far, "up")
		w.waitUp(w.peer, far)
	}
	seen := 0
	logged := func(words string) {
		t.Helper()
		r.until(words, func() bool {
			text := r.text()
			at := strings.Index(text[min(seen, len(text)):], words)
			if at >= 0 {
				seen += at + len(words)
			}
			return at >= 0
		})
	}
	add("vetha", "fa")
	logged("an interface came: captured interface=vetha")
	send("fa", "vetha")
	send("fa", "vetha")
	add("other0", "fo") // does not match
	add("vethz", "fz")  // neither
	send("fo", "")
	send("fz", "")
	send("p0", "t0")
	w.in(w.sender, "ip", "link", "set", "vetha", "name", "vethb")
	logged("an interface has another name before=vetha interface=vethb")
	send("fa", "vethb")
	w.in(w.sender, "ip", "link", "set", "vethb", "name", "mine0")
	logged("an interface went interface=vethb")
	send("fa", "")
	w.in(w.sender, "ip", "link", "set", "vethz", "name", "vethc")
	logged("an interface came: captured interface=vethc")
	send("fz", "vethc")
	w.in(w.sender, "ip", "link", "del", "vethc")
	logged("an interface went interface=vethc")
	add("vethc", "fz")
	logged("an interface came: captured interface=vethc")
	send("fz", "vethc")
	w.inject(w.peer, "p0", marker("end"))
	c.until("the end is written", func() bool { return fileHas(file, marker("end")) })
	rText := r.stop()
	cText := c.stop()
	got := byInterface(t, file, func(p *testnet.Packet) bool {
		return bytes.Contains(p.Data, []byte("ntap test marker")) && !bytes.Contains(p.Data, []byte("marker end"))
	})
	if !maps.Equal(got, want) {
		t.Errorf("frames by interface and link type: %v, want %v", got, want)
	}
	for _, name := range []string{"vetha", "vethb", "vethc"} {
		if n := account(rText, "of those on "+name+","); n < want[name+"/1"] {
			t.Errorf("%d frames on %s in the account", n, name)
		}
	}
	if captured, written := account(rText, "frames captured"), account(cText, "frames written to"); captured == 0 || captured != written {
		t.Errorf("%d captured, %d written:\n%s%s", captured, written, rText, cText)
	}
}

// A filter for several interfaces is compiled for each link type, and changes
// under way too.
func TestAnyInterfaceFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file, expression := filepath.Join(w.dir, "out.pcapng"), filepath.Join(w.dir, "expression")
	write := func(text string) {
		if err := os.WriteFile(expression, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ip proto 253 or ether proto 0x88b5")
	c := w.startCollector("--no-tap", "-w", file)
	r := w.startRemote("-i", "any", "-F", expression)
	packet := append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 253, 0, 0, 10, 97, 0, 1, 10, 97, 0, 2}, "ntap test raw packet"...)
	w.tun(w.sender, "tun7", packet, 2)
	r.wait("an interface came: captured interface=tun7")
	w.inject(w.peer, "p0", mixedFrames()[0], numberedMark("t0", 0))
	w.in(w.peer, "ping", "-q", "-c", "1", "10.98.0.1")
	c.until("the first is written", func() bool { return fileHas(file, numberedMark("t0", 0)) })
	write("ether proto 0x88b6")
	r.cmd.Process.Signal(unix.SIGHUP)
	r.wait("new filter")
	w.inject(w.peer, "p0", numberedMark("t0", 1), mixedFrames()[0])
	c.until("the second is written", func() bool { return fileHas(file, mixedFrames()[0][:40]) })
	r.stop()
	c.stop()
	got := byInterface(t, file, func(*testnet.Packet) bool { return true })
	if want := map[string]int{"tun7/101": 2, "t0/1": 2}; !maps.Equal(got, want) {
		t.Errorf("frames by interface and link type: %v, want %v", got, want)
	}
}

// Where a filter means nothing for the link type of an interface, it is said of
// which: of one that a pattern takes in the log, which was silent, and of one that
// is named in the error, which named none of several.
func TestFilterMeansNothingThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.in(w.sender, "ip", "tuntap", "add", "dev", "tun7", "mode", "tun")
	expression := filepath.Join(w.dir, "expression")
	write := func(text string) {
		if err := os.WriteFile(expression, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ip")
	r := w.startRemote("-i", "tun*", "-i", "t0", "-F", expression)
	const says = "nothing of it is captured: the filter means nothing there"
	if strings.Contains(r.text(), says) {
		t.Errorf("of a filter that means something:\n%s", r.text())
	}
	write("ether host 02:00:5e:00:00:01")
	r.cmd.Process.Signal(unix.SIGHUP)
	r.wait(says + ` filter="ether host 02:00:5e:00:00:01" interface=tun7 linktype=101`)
	w.in(w.sender, "ip", "tuntap", "add", "dev", "tun8", "mode", "tun")
	r.wait("interface=tun8 linktype=101")
	if text := r.stop(); strings.Count(text, says) != 2 {
		t.Errorf("not once for each:\n%s", text)
	}
	out, err := testnet.Command(t, "ip", "netns", "exec", w.sender, ntapBinary, "remote", "-i", "t0", "-i", "tun7", "-c", "10.99.0.2:1", "--key-file", w.key, "ether", "host", "02:00:5e:00:00:01").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "tun7: filter: column 12: there are no Ethernet addresses in raw IP") {
		t.Errorf("%v\n%s", err, out)
	}
}
