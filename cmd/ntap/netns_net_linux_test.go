// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// sleeper starts a process in a network namespace of its own, or in that of
// the name ns, and returns its PID.
func (w *world) sleeper(ns string) int {
	w.t.Helper()
	cmd := testnet.Daemon(w.t, "unshare", "-n", "sleep", "1000")
	if ns != "" {
		cmd = testnet.Daemon(w.t, "ip", "netns", "exec", ns, "sleep", "1000")
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		w.t.Fatal(err)
	}
	testnet.Eventually(w.t, "the process is in its namespace", func() bool { // unshare and ip become sleep by exec
		at, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		return err == nil && at != own && string(text) == "sleep\n"
	})
	w.sleepers = append(w.sleepers, cmd)
	return cmd.Process.Pid
}

// wire joins a namespace, of a name or a PID, to the peer by a veth: name in
// there, far at the peer.
func (w *world) wire(ns, name, far string) {
	w.t.Helper()
	w.must("ip", "link", "add", far, "netns", w.peer, "type", "veth", "peer", "name", name, "netns", ns)
	w.in(w.peer, "ip", "link", "set", far, "up")
	enter := []string{"netns", "exec", ns, "ip"}
	program := "ip"
	if _, err := strconv.Atoi(ns); err == nil {
		program, enter = "nsenter", []string{"-n", "-t", ns, "ip"}
	}
	w.must(program, append(enter, "link", "set", name, "up")...)
	w.must(program, append(enter, "link", "set", "lo", "up")...)
	w.waitUp(w.peer, far)
}

// A namespace is captured from outside, by name, file and PID, while the
// datagrams go out of the remote's own. One that is made anew under its name is
// followed; the old one is let go. When the process of a PID ends, so does the
// remote, in order.
func TestNetworkNamespace(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "nsenter", "unshare")
	w := newWorld(t)
	ns := w.namespace("ntx")
	w.wire(ns, "eth0", "x0")
	pid := strconv.Itoa(w.sleeper(ns))
	for n, v := range []struct{ flag, interfaces string }{{ns, "eth0"}, {"/run/netns/" + ns, "any"}, {"PID", "e*"}, {"PID", ""}} {
		if v.flag == "PID" {
			v.flag = pid
		}
		file := filepath.Join(w.dir, fmt.Sprint(n, ".pcapng"))
		c := w.startCollector("--no-tap", "-w", file)
		args := []string{"--netns", v.flag}
		if v.interfaces != "" {
			args = append(args, "-i", v.interfaces)
		}
		if n == 1 {
			args = append(args, "--workers", "2")
		}
		r := w.startRemote(args...)
		if said := strings.Contains(r.text(), "of interfaces in another network namespace are not looked at"); said != (n == 1) {
			t.Errorf("%v: that the placement knows nothing of interfaces is said: %v\n%s", args, said, r.text())
		}
		w.inject(w.peer, "x0", numberedMark("x", n))
		w.inject(w.sender, "up0", numberedMark("own", n)) // the remote's own namespace is not captured
		c.until("the frame is written", func() bool { return fileHas(file, numberedMark("x", n)) })
		switch n {
		case 0: // another namespace of that name
			w.must("ip", "netns", "del", ns)
			r.wait("the network namespace is gone")
			w.sleepers[0].Process.Kill() // the last that was in it
			w.sleepers[0].Wait()
			testnet.Eventually(w.t, "the old namespace is gone", func() bool { // with it goes its veth: no socket keeps it
				return testnet.Command(t, "ip", "netns", "exec", w.peer, "ip", "link", "show", "x0").Run() != nil
			})
			w.must("ip", "netns", "add", ns)
			w.wire(ns, "eth0", "x0")
			r.until("capture goes on there", func() bool {
				w.inject(w.peer, "x0", numberedMark("again", n))
				return fileHas(file, numberedMark("again", n))
			})
			pid = strconv.Itoa(w.sleeper(ns))
		case 3:
			w.sleepers[1].Process.Kill()
			w.sleepers[1].Wait()
			r.wait("the process ended")
		default:
			r.cmd.Process.Signal(unix.SIGINT)
		}
		if n == 0 {
			r.cmd.Process.Signal(unix.SIGINT)
		}
		rText := r.end()
		cText := c.stop()
		if captured, written := account(rText, "frames captured"), account(cText, "frames written to"); captured == 0 || captured != written || account(cText, "frames lost") > 0 {
			t.Errorf("%s: %d captured, %d written:\n%s%s", v.flag, captured, written, rText, cText)
		}
		if n == 0 && account(rText, "times a shard's capture was opened anew") != 1 {
			t.Errorf("the account does not tell that the capture was opened anew:\n%s", rText)
		}
		if fileHas(file, numberedMark("own", n)) {
			t.Error("the remote's own namespace was captured")
		}
	}
}

// A container is found by the PID that Docker's file has of it, and by its
// cgroup where cgroups can be made; it is followed when it is started anew, and
// nothing of it is held while it is not there.
func TestContainerRestarts(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "nsenter", "unshare", "mount")
	for _, way := range []string{"Docker's files", "cgroup"} {
		t.Run(way, func(t *testing.T) {
			w := newWorld(t)
			var random [32]byte
			rand.Read(random[:])
			id := hex.EncodeToString(random[:])
			docker := filepath.Join(w.dir, "docker")
			cgroup := ""
			if way == "cgroup" {
				if cgroup = newCgroup("docker-" + id + ".scope"); cgroup == "" {
					testnet.Missing(t, "no cgroups can be made here; run it where /sys/fs/cgroup may be written")
				}
				t.Cleanup(func() { os.Remove(cgroup) })
			}
			run := func() int {
				t.Helper()
				pid := w.sleeper("")
				var err error
				if cgroup != "" {
					err = os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
				} else {
					at := filepath.Join(docker, "containers", id, "config.v2.json")
					if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
						err = os.WriteFile(at, fmt.Appendf(nil, `{"ID":%q,"Name":"/ntap-test","State":{"Running":true,"Pid":%d}}`, id, pid), 0o600)
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				w.wire(strconv.Itoa(pid), "eth0", "x0")
				return pid
			}
			run()
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			name := id[:12]
			script := `exec "$@"`
			if cgroup == "" {
				name = "ntap-test"
				script = "mkdir -p /var/lib && mount -t tmpfs none /var/lib && mkdir /var/lib/docker && mount --bind " + docker + " /var/lib/docker && " + script
			}
			r := w.start(w.sender, "unshare", "-m", "--propagation", "slave", "sh", "-c", script, "sh", ntapBinary, "remote", "--container", name,
				"-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1", "--workers", "2")
			r.wait("remote started")
			want := map[string]int{}
			for n := range 3 {
				if n > 0 {
					last := w.sleepers[len(w.sleepers)-1]
					last.Process.Kill()
					last.Wait()
					testnet.Eventually(w.t, "the namespace of the container before is gone", func() bool {
						return testnet.Command(t, "ip", "netns", "exec", w.peer, "ip", "link", "show", "x0").Run() != nil
					})
					run()
					r.until("capture goes on in the new one", func() bool {
						w.inject(w.peer, "x0", numberedMark("probe", n))
						return fileHas(file, numberedMark("probe", n))
					})
				}
				w.inject(w.peer, "x0", numberedMark("x", n))
				want[string(numberedMark("x", n))]++
			}
			w.inject(w.peer, "x0", marker("end"))
			c.until("the end is written", func() bool { return fileHas(file, marker("end")) })
			r.cmd.Process.Signal(unix.SIGINT)
			rText := r.end()
			cText := c.stop()
			got := map[string]int{}
			for _, p := range testnet.ReadCapture(t, file) {
				if bytes.Contains(p.Data, []byte("ntap test marker x ")) && p.InterfaceName == "eth0" {
					got[string(p.Data)]++
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("frames %v, want %v", got, want)
			}
			if captured, written := account(rText, "frames captured"), account(cText, "frames written to"); captured == 0 || captured != written || account(cText, "frames lost") > 0 ||
				account(rText, "times a shard's capture was opened anew") != 4 { // two shards, twice
				t.Errorf("%d captured, %d written:\n%s%s", captured, written, rText, cText)
			}
		})
	}
}

// newCgroup makes a cgroup in whichever hierarchy it can; "" if in none.
func newCgroup(name string) string {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/pids"} {
		dir := filepath.Join(root, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
		os.Remove(dir)
	}
	return ""
}

// A namespace or container that is not there is an error that says which, and
// what to give.
func TestNamespaceNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, v := range []struct {
		status int
		args   []string
		says   []string
	}{
		{1, []string{"--netns", "ntap-none"}, []string{"network namespace ntap-none", "/run/netns/ntap-none", "ip netns"}},
		{1, []string{"--netns", "999999999"}, []string{"process 999999999"}},
		{1, []string{"--netns", "/etc/passwd"}, []string{"/etc/passwd is not a network namespace"}},
		{1, []string{"--netns", w.peer, "-i", "nosuch0"}, []string{"nosuch0", "p0"}},
		{1, []string{"--container", "ntap-none"}, []string{`container "ntap-none"`, "--netns PID"}},
		{2, []string{"--container", "x", "--netns", "y"}, []string{"exclude each other"}},
		{2, []string{"--netns", "y", "-r", "file"}, []string{"exclude each other"}},
	} {
		cmd := testnet.Command(t, "ip", append([]string{"netns", "exec", w.sender, ntapBinary, "remote", "-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1"}, v.args...)...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != v.status {
			t.Errorf("%q: status %d, want %d", v.args, cmd.ProcessState.ExitCode(), v.status)
		}
		for _, says := range v.says {
			if !strings.Contains(string(out), says) {
				t.Errorf("%q: no %q in: %s", v.args, says, out)
			}
		}
	}
}
