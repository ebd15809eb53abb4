// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A box is a container that crun runs: a bundle that holds ntap and nothing
// else, which waits there for datagrams.
type box struct {
	w          *world
	id, bundle string
}

func (w *world) newBox(id string) *box {
	w.t.Helper()
	b := &box{w, id, filepath.Join(w.dir, "bundle-"+id[:8])}
	root := filepath.Join(b.bundle, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		w.t.Fatal(err)
	}
	for to, from := range map[string]string{"ntap": ntapBinary, "key": w.key} {
		if err := copyTo(filepath.Join(root, to), from); err != nil {
			w.t.Fatal(err)
		}
	}
	spec := testnet.Command(w.t, "crun", "spec")
	spec.Dir = b.bundle
	if out, err := spec.CombinedOutput(); err != nil {
		w.t.Fatalf("crun spec: %v\n%s", err, out)
	}
	at := filepath.Join(b.bundle, "config.json")
	text, err := os.ReadFile(at)
	if err != nil {
		w.t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		w.t.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"/ntap", "collector", "-p", "5678", "--key-file", "/key", "--state", "none", "--no-tap", "-w", "/dev/null"}
	if text, err = json.Marshal(config); err == nil {
		err = os.WriteFile(at, text, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { testnet.Command(w.t, "crun", "delete", "-f", b.id).Run() })
	return b
}

func copyTo(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	return err
}

// run starts the container, joins its namespace to the peer by a veth, eth0 in
// there and x0 at the peer, and returns the PID of its process.
func (b *box) run() string {
	b.w.t.Helper()
	pidFile := filepath.Join(b.bundle, "pid")
	// crun does not take a host with both versions of cgroups, and does with the
	// first alone.
	script := `umount /sys/fs/cgroup/unified 2>/dev/null; exec timeout 60 crun run -d --pid-file "$1" "$2"`
	cmd := testnet.Command(b.w.t, "unshare", "-m", "--propagation", "slave", "sh", "-c", script, "sh", pidFile, b.id)
	cmd.Dir = b.bundle
	said := filepath.Join(b.bundle, "said")
	out, err := os.Create(said) // not a pipe: the container keeps it
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(said)
		b.w.t.Fatalf("crun run: %v\n%s", err, text)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		b.w.t.Fatal(err)
	}
	testnet.Eventually(b.w.t, "the program in the container runs", func() bool {
		text, _ := os.ReadFile(said)
		return bytes.Contains(text, []byte("collector started"))
	})
	b.w.wire(strings.TrimSpace(string(pid)), "eth0", "x0")
	return strings.TrimSpace(string(pid))
}

// remove ends the container, and waits until its namespace is gone.
func (b *box) remove() {
	b.w.t.Helper()
	b.w.must("timeout", "60", "crun", "delete", "-f", b.id)
	testnet.Eventually(b.w.t, "the namespace of the container is gone", func() bool {
		return testnet.Command(b.w.t, "ip", "netns", "exec", b.w.peer, "ip", "link", "show", "x0").Run() != nil
	})
}

// A container that a real runtime runs, from a bundle with one static program,
// is tapped by its ID and by the beginning of it, which its cgroup tells, and by
// a name, which the runtime's state does; and it is followed when it is run
// again.
func TestContainerOfARuntime(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "crun", "unshare", "nsenter", "mount", "timeout")
	var random [32]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	for _, v := range []struct{ way, id, name string }{
		{"by ID", id, id}, {"by the beginning of an ID", id, id[:12]}, {"by name", fmt.Sprintf("ntap-test-%d", os.Getpid()), ""},
	} {
		t.Run(v.way, func(t *testing.T) {
			w := newWorld(t)
			b := w.newBox(v.id)
			pid := b.run()
			if cgroup, err := os.ReadFile("/proc/" + pid + "/cgroup"); err != nil || !bytes.Contains(cgroup, []byte(v.id)) {
				t.Errorf("the container is in cgroups %q: %v", cgroup, err)
			}
			file := filepath.Join(w.dir, "out.pcapng")
			c := w.startCollector("--no-tap", "-w", file)
			name := v.name
			if name == "" {
				name = v.id
			}
			script := `exec "$@"`
			if v.name != "" { // what crun keeps is not to be seen: the cgroup has to do
				script = "mount -t tmpfs none /run/crun && " + script
			}
			r := w.start(w.sender, "unshare", "-m", "--propagation", "slave", "sh", "-c", script, "sh", ntapBinary, "remote", "--container", name, "-c", "10.99.0.2:5678", "--key-file", w.key, "--tap", "1")
			r.wait("remote started")
			for n := range 3 {
				if n > 0 {
					b.remove()
					if b.run() == pid {
						t.Fatal("it is the process before")
					}
				}
				r.until("frames of the container come: run "+strconv.Itoa(n), func() bool {
					w.inject(w.peer, "x0", numberedMark("box", n))
					return fileHas(file, numberedMark("box", n))
				})
			}
			r.cmd.Process.Signal(unix.SIGINT)
			rText := r.end()
			cText := c.stop()
			for _, p := range testnet.ReadCapture(t, file) {
				if bytes.Contains(p.Data, []byte("ntap test marker box")) && p.InterfaceName != "eth0" {
					t.Errorf("a frame of %s", p.InterfaceName)
				}
			}
			if captured, written := account(rText, "frames captured"), account(cText, "frames written to"); captured < 3 || captured != written ||
				account(rText, "times a shard's capture was opened anew") != 2 {
				t.Errorf("%d captured, %d written:\n%s%s", captured, written, rText, cText)
			}
		})
	}
}
