// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// An openVSwitch is a real one, of the test's own: its daemons run in the
// vtep's namespace, with the userspace datapath, and keep all their files in
// the test's folder.
type openVSwitch struct {
	*vtepWorld
	dir, db  string
	vswitchd *proc
}

// newOpenVSwitch starts Open vSwitch in the vtep. v1 becomes the port of a
// bridge br-phy, which has the addresses that v1 had: a userspace tunnel ends
// where the packet meets a port of the same datapath with its address.
func newOpenVSwitch(t *testing.T) *openVSwitch {
	t.Helper()
	testnet.RequireTool(t, "ovs-vsctl", "ovs-ofctl", "ovsdb-tool", "ovsdb-server", "ovs-vswitchd")
	o := &openVSwitch{vtepWorld: newVTEPWorld(t)}
	o.dir = o.world.dir
	o.db = "unix:" + filepath.Join(o.dir, "db.sock")
	file := filepath.Join(o.dir, "conf.db")
	o.must("ovsdb-tool", "create", file, "/usr/share/openvswitch/vswitch.ovsschema")
	server := o.daemon("ovsdb-server", file, "--remote=p"+o.db, "--unixctl="+o.dir+"/ovsdb.ctl", "--pidfile="+o.dir+"/ovsdb.pid")
	server.until("it listens", func() bool {
		return testnet.Command(t, "ovsdb-client", "list-dbs", o.db).Run() == nil
	})
	o.startVswitchd()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(o.where())
		}
	})
	return o
}

// where tells how many packets came how far: those that v1 received and br-phy
// did not have, Open vSwitch had no time for.
func (o *openVSwitch) where() string {
	text := o.vtepWorld.where()
	for _, bridge := range []string{"br-phy", "ntap"} {
		for _, what := range []string{"dump-flows", "dump-ports"} {
			out, _ := testnet.Command(o.t, "env", append(o.env(), "ovs-ofctl", what, bridge)...).CombinedOutput()
			text += bridge + ": " + string(out)
		}
	}
	return text
}

func (o *openVSwitch) startVswitchd() {
	o.t.Helper()
	o.vswitchd = o.daemon("ovs-vswitchd", o.db, "--unixctl="+o.dir+"/vswitchd.ctl", "--pidfile="+o.dir+"/vswitchd.pid")
	o.vsctl("init")
}

func (o *openVSwitch) env() []string {
	return []string{"OVS_RUNDIR=" + o.dir, "OVS_DBDIR=" + o.dir, "OVS_LOGDIR=" + o.dir, "OVS_SYSCONFDIR=" + o.dir}
}

func (o *openVSwitch) daemon(args ...string) *proc {
	o.t.Helper()
	return o.start(o.vtep, "env", append(o.env(), args...)...)
}

// tool runs one of Open vSwitch's programs in the vtep.
func (o *openVSwitch) tool(args ...string) string {
	o.t.Helper()
	return o.in(o.vtep, "env", append(o.env(), args...)...)
}

func (o *openVSwitch) vsctl(args ...string) string {
	o.t.Helper()
	return o.tool(append([]string{"ovs-vsctl", "--db=" + o.db, "--timeout=60"}, args...)...)
}

// ntap runs ntap ovs, and returns what it prints and whether it went well.
func (o *openVSwitch) ntap(args ...string) (string, bool) {
	o.t.Helper()
	out, err := testnet.Command(o.t, "ip", append([]string{"netns", "exec", o.vtep, ntapBinary, "ovs"}, append(args, "--db", o.db)...)...).CombinedOutput()
	return string(out), err == nil
}

// asDocumented runs the commands that a section of docs/OVS.md has in its n-th
// block, in the vtep: with the names and addresses of this world.
func (o *openVSwitch) asDocumented(section string, n int, more ...string) {
	o.t.Helper()
	text, err := os.ReadFile("../../docs/OVS.md")
	if err != nil {
		o.t.Fatal(err)
	}
	_, text, found := bytes.Cut(text, []byte("\n## "+section+"\n"))
	text, _, _ = bytes.Cut(text, []byte("\n## "))
	blocks := regexp.MustCompile(`(?m)(?:^    .*\n)+`).FindAll(text, -1)
	if !found || len(blocks) <= n {
		o.t.Fatalf("docs/OVS.md, %s: %d blocks", section, len(blocks))
	}
	here := strings.NewReplacer(append(more, "eth1", "v1", "192.0.2.20/24", "10.97.0.2/24", "2001:db8::20/64", "fd97::2/64")...)
	o.in(o.vtep, "env", append(o.env(), "PATH="+filepath.Dir(ntapBinary)+":"+os.Getenv("PATH"), "sh", "-exc", here.Replace(string(blocks[n])))...)
}

// flowPackets returns how many packets met the rule of a tunnel key.
func (o *openVSwitch) flowPackets(bridge string, key int) int {
	o.t.Helper()
	for line := range strings.Lines(o.tool("ovs-ofctl", "dump-flows", bridge)) {
		m := regexp.MustCompile(`n_packets=(\d+),.*tun_id=0x([0-9a-f]+)[, ]`).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if id, _ := strconv.ParseInt(m[2], 16, 64); int(id) == key {
			n, _ := strconv.Atoi(m[1])
			return n
		}
	}
	o.t.Fatalf("no rule for tunnel key %d", key)
	return 0
}

// Frames of two taps come out of ports of Open vSwitch byte for byte, told
// apart by their tunnel key, and all of them out of its mirror. Their order is
// Open vSwitch's own: its userspace datapath sends those of a batch first that
// met no flow yet (packet_batch_per_flow_execute, lib/dpif-netdev.c). That the
// order is right before it, TestVXLANToTheKernel shows.
func TestVXLANToOpenVSwitch(t *testing.T) {
	for _, v := range []struct {
		at, vni string
		keys    [2]int
	}{
		{"10.97.0.2", "tap", [2]int{7, 8}},
		{"fd97::2", "7=1001,8=16777215", [2]int{1001, 16777215}},
	} {
		t.Run(v.at, func(t *testing.T) {
			o := newOpenVSwitch(t)
			o.jumbo()
			o.asDocumented("With the userspace datapath", 0)
			o.in(o.collector, "ping", "-q", "-c", "1", "-w", "60", v.at)
			o.asDocumented("With the userspace datapath", 1)
			ports := [2]string{"o7", "o8"}
			for _, port := range ports {
				o.in(o.vtep, "ip", "link", "add", port, "mtu", "9500", "type", "veth", "peer", "name", port+"p", "mtu", "9500")
				for _, end := range []string{port, port + "p"} {
					o.in(o.vtep, "ip", "link", "set", end, "addrgenmode", "none", "up")
				}
				o.waitUp(o.vtep, port)
			}
			o.asDocumented("One port for each tap", 0, "tun_id=7", fmt.Sprint("tun_id=", v.keys[0]), "tun_id=8", fmt.Sprint("tun_id=", v.keys[1]))
			files := [3]string{}
			var dumps [3]*proc
			for i, iface := range []string{"o7p", "o8p", "mon0"} {
				files[i] = filepath.Join(o.dir, iface+".pcap")
				dumps[i] = o.startTcpdump(o.vtep, iface, files[i])
			}
			before := o.counter(o.vtep, "v1", "rx_packets")
			c := o.startCollector("--no-tap", "--vxlan", v.at, "--vni", v.vni)
			var wires [2]*wire
			for i, iface := range []string{"t0", "t8"} {
				wires[i] = o.tapped(iface, "p"+iface[1:], fmt.Sprint(7+i), "-c", "10.99.0.2:5678", "--key-file", o.key)
			}
			// Open vSwitch reads v1 through a socket with the system's small
			// buffer: no burst may be more than that. One of 100 kB was, where
			// Open vSwitch did not run meanwhile.
			for _, x := range wires {
				o.traffic(x, func() {
					n := packetsFrom(wires[0].file, marker("begin")) + packetsFrom(wires[1].file, marker("begin"))
					o.vswitchd.until(fmt.Sprintf("its mirror had %d packets", n), func() bool { return packets(files[2]) >= n })
				})
			}
			captured := [2]int{}
			for i, x := range wires {
				captured[i] = account(x.remote.stop(), "frames captured on")
				x.dump.stop()
			}
			text := c.stop()
			all := captured[0] + captured[1]
			if n := account(text, "frames written to VXLAN"); n != all || all < 300 {
				t.Fatalf("%d frames captured, %d sent:\n%s", all, n, text)
			}
			// A frame that is missing is one that the path lost, or that Open
			// vSwitch had no time for, or that went the wrong way in it.
			came := o.counter(o.vtep, "v1", "rx_packets") - before
			if came < all {
				t.Fatalf("%d sent, %d came to v1: lost between the namespaces", all, came)
			}
			o.vswitchd.until("its rules have met all frames", func() bool {
				return o.flowPackets("ntap", v.keys[0])+o.flowPackets("ntap", v.keys[1]) >= all
			})
			for i := range wires {
				if n := o.flowPackets("ntap", v.keys[i]); n != captured[i] {
					t.Errorf("tunnel key %d: %d packets, %d captured", v.keys[i], n, captured[i])
				}
				o.recorded(dumps[i], files[i], captured[i])
				kinds := []string{"ICMP", "VLAN", "QinQ", "802.1ad", "ICMPv6"}
				if i == 0 {
					kinds = append(kinds, "TCP", "UDP")
				}
				o.compare(wires[i], files[i], false, kinds...)
			}
			o.recorded(dumps[2], files[2], all)
			for i := range wires {
				o.compare(wires[i], files[2], false)
			}
			for i := range wires { // and no frame of the other tap
				if n := len(testnet.ReadCapture(t, files[i])); n != captured[i] {
					t.Errorf("port %s has %d frames, tap %d sent %d", ports[i], n, 7+i, captured[i])
				}
			}
		})
	}
}

// dump returns what the database holds of bridges, ports and mirrors.
func (o *openVSwitch) dump() string {
	o.t.Helper()
	text := o.vsctl("show")
	for _, table := range []string{"bridge", "port", "interface", "mirror"} {
		text += table + ": " + o.vsctl("--columns=name,external_ids", "--format=csv", "list", table)
	}
	lines := strings.Split(text, "\n")
	slices.Sort(lines) // the database has no order
	return strings.Join(lines, "\n")
}

// What setup makes, remove takes away again, all of it; what is there and not
// ntap's, both leave alone.
func TestOVSSetupAndRemove(t *testing.T) {
	o := newOpenVSwitch(t)
	o.vsctl("add-br", "theirs", "--", "set", "bridge", "theirs", "datapath_type=netdev", "--", "add-port", "theirs", "mon9", "--", "set", "interface", "mon9", "type=internal")
	o.in(o.vtep, "ip", "link", "add", "mon8", "type", "veth", "peer", "name", "mon8p")
	before := o.dump()
	want := func(ok bool, text string, args ...string) string {
		t.Helper()
		out, good := o.ntap(args...)
		if good != ok || !strings.Contains(out, text) {
			t.Errorf("ntap ovs %s: %v, want %v with %q:\n%s", strings.Join(args, " "), good, ok, text, out)
		}
		return out
	}
	unchanged := func(what string) {
		t.Helper()
		if after := o.dump(); after != before {
			t.Fatalf("%s has changed the database, from\n%s\nto\n%s", what, before, after)
		}
	}
	command := want(true, "ovs-vsctl --timeout=10 ", "setup", "--datapath", "netdev", "--mirror", "mon0", "--from", "fd97::1", "--dry-run")
	want(false, "bridge theirs is there, and not one that ntap made", "setup", "--bridge", "theirs", "--datapath", "netdev")
	want(false, "port mon9 on bridge theirs is there, and not one that ntap made", "setup", "--datapath", "netdev", "--mirror", "mon9")
	want(false, "bridge theirs is there, and not one that ntap made", "remove", "--bridge", "theirs")
	want(false, "there is no bridge ntap", "remove")
	want(false, "--datapath netdev", "setup") // no kernel module here, or not this one's database
	unchanged("what was refused")

	// The printed line does what the command does, in one transaction.
	o.in(o.vtep, "env", append(o.env(), "sh", "-c", command)...)
	printed := o.dump()
	want(true, "bridge ntap is removed", "remove")
	unchanged("setup and remove")
	want(true, "in_port=ntap-vxlan,tun_id=7", "setup", "--datapath", "netdev", "--mirror", "mon0", "--from", "fd97::1")
	if made := o.dump(); made != printed || !strings.Contains(made, "remote_ip=\"fd97::1\"") || !strings.Contains(made, "key=flow") {
		t.Errorf("the printed command made\n%s\nsetup made\n%s", printed, made)
	}

	// Again, with other flags, it becomes what they say, and keeps what others
	// put there.
	o.vsctl("add-port", "ntap", "other0", "--", "set", "interface", "other0", "type=internal")
	want(true, "UDP port 4790", "setup", "--datapath", "netdev", "--mirror", "mon8", "--port", "4790")
	if made := o.dump(); strings.Contains(made, "mon0") || strings.Contains(made, "fd97::1") || !strings.Contains(made, `dst_port="4790"`) || !strings.Contains(made, "other0") {
		t.Errorf("changed to\n%s", made)
	}
	if kind := strings.TrimSpace(o.vsctl("get", "interface", "mon8", "type")); kind != `""` {
		t.Errorf("mon8, which was there, is of type %s", kind)
	}
	want(false, "another port takes such VXLAN already: choose another UDP port", "setup", "--bridge", "second", "--datapath", "netdev", "--port", "4790")
	want(false, "has ports that ntap did not make: other0", "remove")
	want(true, "ovs-vsctl --timeout=10 ", "remove", "--force", "--dry-run")
	want(true, "removed", "remove", "--force")
	unchanged("setup, setup and remove")

	// Without its daemons.
	o.vswitchd.cmd.Process.Kill()
	testnet.Receive(t, "the end of ovs-vswitchd", o.vswitchd.done)
	want(false, "is ovs-vswitchd running?", "setup", "--datapath", "netdev", "--wait", "1s")
	unchanged("setup without ovs-vswitchd")
	cmd := testnet.Command(t, ntapBinary, "ovs", "setup", "--db", "unix:"+filepath.Join(o.dir, "nosuch.sock"))
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "ovsdb-server does not answer: start Open vSwitch") {
		t.Errorf("%v\n%s", err, out)
	}

	// A user without the right is not told to start what runs, as it used to be.
	tools := t.TempDir()
	said := "#!/bin/sh\necho 'ovs-vsctl: unix:/run/db.sock: database connection failed (Permission denied)' >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(tools, "ovs-vsctl"), []byte(said), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd = testnet.Command(t, ntapBinary, "ovs", "setup")
	cmd.Env = []string{"PATH=" + tools}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "run this as root") || strings.Contains(string(out), "start Open vSwitch") {
		t.Errorf("%v\n%s", err, out)
	}
	cmd = testnet.Command(t, ntapBinary, "ovs", "setup")
	cmd.Env = []string{"PATH=" + t.TempDir()}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "apt install openvswitch-switch") {
		t.Errorf("%v\n%s", err, out)
	}
}
