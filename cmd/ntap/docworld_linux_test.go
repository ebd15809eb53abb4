// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A docHost is a host on which the commands of the documents run as they stand. A
// mount namespace has /etc, /run, /var/log, /data and the folder of Wireshark's
// extcaps of its own, and collector.example.org in its /etc/hosts; nobody else
// sees them, and they go with the test.
type docHost struct {
	dir      string // has master.key, and path.pcap
	private  string // its own folders
	env      []string
	holder   *shell // which the mount namespace is of
	suricata bool   // is a real one
	file     string // frames
}

// A docWorld is a docHost for one section: with a network namespace, whose eth0 a
// tap may be on and whose eth1 is 192.0.2.9, and a folder where commands are given.
type docWorld struct {
	*docHost
	t         *testing.T
	dir       string
	wire      *testnet.Wire // to eth0
	remote    *shell        // of the document; nil: feed starts one
	collector *shell
	fed       bool // since it started
}

const fedFrames = 300

// standIn is in the place of Zeek, and of Suricata where it is not installed. It
// opens what the program of its name would, and ends after 20 frames.
const standIn = `#!/bin/sh
case $1 in
-i) exec tcpdump -n -i "$2" -c 20 ;;
-r) exec tcpdump -n -r "$2" -c 20 ;;
esac
echo "$0: what is to be read? $*" >&2
exit 9
`

// hold makes the mounts below /mnt and keeps them. $1 has the private folders, $2
// is where one of them, of Wireshark, has its place, or empty.
const hold = `
mount -t tmpfs none /mnt
for d in /*; do
	if [ -L $d ]; then cp -a $d /mnt$d
	elif [ -d $d ] && [ $d != /mnt ]; then mkdir /mnt$d; mount --rbind $d /mnt$d; fi
done
[ -d /mnt/data ] || mkdir /mnt/data
for d in etc run data; do mount --bind $1/$d /mnt/$d; done
mount --bind $1/log /mnt/var/log
[ -z "$2" ] || mount --bind $1/wireshark /mnt$2
echo ready
exec sleep 1200
`

func newDocHost(t *testing.T) *docHost {
	t.Helper()
	dir, _, _ := keyFiles(t)
	h := &docHost{dir: dir, private: t.TempDir()}
	_, err := exec.LookPath("suricata")
	h.suricata = err == nil
	h.programs(t)
	h.folders(t)
	h.frames(t)
	return h
}

// own returns the name of a private folder or file.
func (h *docHost) own(name ...string) string {
	return filepath.Join(append([]string{h.private}, name...)...)
}

// programs puts stand-ins, and those that work in the checkout, into a folder
// that comes first in PATH.
func (h *docHost) programs(t *testing.T) {
	t.Helper()
	texts := map[string]string{"zeek": standIn}
	if !h.suricata {
		texts["suricata"] = standIn
	}
	path, err := exec.LookPath("make")
	if err != nil {
		t.Fatal(err)
	}
	checkout, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	texts["make"] = "#!/bin/sh\nexec " + path + " -C " + checkout + ` "$@"` + "\n"
	if err := os.Mkdir(h.own("bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range texts {
		if err := os.WriteFile(h.own("bin", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	caches, err := testnet.Command(t, "go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Fields(string(caches))
	h.env = append(os.Environ(), "PATH="+h.own("bin")+":"+filepath.Dir(ntapBinary)+":"+os.Getenv("PATH"),
		"STATE_DIRECTORY="+h.dir, "HOME="+h.dir, "XDG_CONFIG_HOME=", "GOCACHE="+at[0], "GOMODCACHE="+at[1])
}

// folders makes the private folders, and the mount namespace that has them.
func (h *docHost) folders(t *testing.T) {
	t.Helper()
	lines := []string{
		"mkdir -p run/openvswitch log/suricata data", "cp -a /etc etc", "rm -rf etc/ntap etc/openvswitch", "mkdir etc/openvswitch",
		"echo 127.0.0.1 collector.example.org >>etc/hosts",
	}
	if h.suricata { // it counts every second, not every eight
		lines = append(lines, `sed -i 's/^  interval: 8$/  interval: 1/' etc/suricata/suricata.yaml`)
	}
	wireshark := ""
	out, err := testnet.Command(t, "tshark", "-G", "folders").Output()
	if m := regexp.MustCompile(`(?m)^Extcap path:\s*(\S+)$`).FindSubmatch(out); err == nil && m != nil { // else it is the user's
		wireshark = filepath.Dir(string(m[1]))
		lines = append(lines, "cp -a "+wireshark+" wireshark", "rm -rf wireshark/extcap")
	}
	startShell(t, h.private, h.env, strings.Join(lines, " && ")).end()
	if err := os.WriteFile(h.own("hold"), []byte(hold), 0o600); err != nil {
		t.Fatal(err)
	}
	h.holder = startShell(t, h.private, h.env, fmt.Sprintf("exec unshare -m --propagation slave sh -e hold %s '%s'", h.private, wireshark))
	h.holder.until("it has its mounts", func() bool { return h.holder.printed() == "ready\n" || h.holder.ended() })
	if h.holder.ended() {
		t.Fatal("no mounts")
	}
}

// frames makes the frames that feed sends: TCP, DNS's port and ICMP, of many
// flows; and what dissectors are to see of them, with a datagram missing.
func (h *docHost) frames(t *testing.T) {
	t.Helper()
	h.file = protocols(t, fedFrames)
	whole, err := os.ReadFile(h.file)
	if err != nil {
		t.Fatal(err)
	}
	for at := 24; at < len(whole); {
		size := int(whole[at+8]) | int(whole[at+9])<<8
		if f := whole[at+16 : at+16+size]; f[23] == 17 {
			copy(f[36:], []byte{0, 53, byte((size - 34) >> 8), byte(size - 34), 0, 0})
		}
		at += 16 + size
	}
	all := sent(t, "--key-file", filepath.Join(h.dir, "master.key"), "--tap", "7", "-r", h.file)
	path, err := os.ReadFile(onTheWire(t, 5678, append(all[:20:20], all[21:]...)))
	for name, text := range map[string][]byte{h.file: whole, filepath.Join(h.dir, "path.pcap"): path} {
		if err == nil {
			err = os.WriteFile(name, text, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// world returns the host with what commands need, and without what others left.
func (h *docHost) world(t *testing.T, commands string) *docWorld {
	t.Helper()
	testnet.Namespace(t)
	w := &docWorld{docHost: h, t: t, dir: t.TempDir()}
	keys := "mkdir " + h.own("etc", "ntap") + " && cp master.key path.pcap " + w.dir + " && cp master.key " + h.own("etc", "ntap")
	if strings.Contains(commands, "ntap key new ") {
		keys = "true" // there are none yet
	}
	startShell(t, h.dir, h.env, "rm -rf "+h.own("etc", "ntap")+" "+h.own("data")+"/* && "+keys).end()
	if strings.Contains(commands, " eth0 ") {
		w.link("eth0", "peer0")
	}
	if strings.Contains(commands, " 192.0.2.20") {
		w.link("eth1", "peer1")
		testnet.Run(t, "ip addr add 192.0.2.9/24 dev eth1")
		testnet.Run(t, "ip neigh add 192.0.2.20 lladdr 02:00:00:00:00:20 dev eth1")
	}
	if strings.Contains(commands, "ntap ovs ") {
		w.openVSwitch()
	}
	return w
}

func (w *docWorld) link(a, b string) {
	w.t.Helper()
	testnet.Run(w.t, "ip link add "+a+" type veth peer name "+b)
	for _, name := range []string{a, b} {
		testnet.Run(w.t, "ip link set "+name+" addrgenmode none up")
	}
	testnet.WaitUp(w.t, a)
}

// openVSwitch starts an Open vSwitch where ovs-vsctl looks for it.
func (w *docWorld) openVSwitch() {
	w.t.Helper()
	w.start("ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema").end()
	w.start("ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock")
	w.start("ovs-vswitchd unix:/run/openvswitch/db.sock")
	w.start("ovs-vsctl --retry --timeout=60 init").end()
}

// recorded waits until a recording has what was fed.
func (w *docWorld) recorded() {
	w.t.Helper()
	fed, err := os.Stat(w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	testnet.Eventually(w.t, "a recording of what was fed", func() bool {
		files, _ := filepath.Glob(w.own("data", "*"))
		size := int64(0)
		for _, name := range files {
			if f, err := os.Stat(name); err == nil {
				size += f.Size()
			}
		}
		return size >= fed.Size() // pcapng says more of each frame than pcap
	})
}

// start starts a line in the world.
func (w *docWorld) start(line string) *shell {
	w.t.Helper()
	return startShell(w.t, w.dir, w.env, line, "nsenter", "-t", fmt.Sprint(w.holder.cmd.Process.Pid), "-m", "chroot", "/mnt")
}

// feed sends frames: on the wire that a remote of the document taps, or from a
// file with a remote of its own.
func (w *docWorld) feed() {
	w.t.Helper()
	w.fed = true
	if w.remote == nil {
		w.start("ntap remote -r " + w.file + " --pace real -c 127.0.0.1:5678 --key-file master.key --tap 7").ran() // it may be that nobody listens
		return
	}
	if w.wire == nil {
		wire, err := testnet.OpenWire("peer0")
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { wire.Close() })
		w.wire = wire
	}
	for _, p := range testnet.ReadCapture(w.t, w.file) {
		if err := w.wire.Send(bytes.Clone(p.Data)); err != nil {
			w.t.Fatal(err)
		}
	}
}
