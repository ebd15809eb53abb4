// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
)

// A flow sends numbered frames from the peer, some each 10 ms, until stopped.
type flow struct {
	t    *testing.T
	stop chan struct{}
	sent chan int
}

func (w *world) flow() *flow {
	w.t.Helper()
	f := &flow{w.t, make(chan struct{}), make(chan int, 1)}
	var wire *testnet.Wire
	w.inside(w.peer, func() (err error) {
		wire, err = testnet.OpenWire("p0")
		return err
	})
	go func() {
		defer wire.Close()
		n := 0
		for {
			select {
			case <-f.stop:
				f.sent <- n
				return
			case <-time.After(10 * time.Millisecond):
			}
			for range 20 {
				if err := wire.Send(testnet.Numbered(n, 100+n%1000)); err != nil {
					f.sent <- -n // the test is over, or fails by this
					return
				}
				n++
			}
		}
	}()
	return f
}

// end stops the flow and returns how many frames were sent.
func (f *flow) end() int {
	close(f.stop)
	return testnet.Receive(f.t, "the end of the flow", f.sent)
}

// numbers returns the numbers of the frames in a file, in their order.
func numbers(t *testing.T, file string) (all []int) {
	t.Helper()
	for _, p := range testnet.ReadCapture(t, file) {
		if n, ours := testnet.Number(p.Data); ours {
			all = append(all, n)
		}
	}
	return all
}

func (p *proc) hangup() {
	p.w.t.Helper()
	before := strings.Count(p.text(), "keys read anew")
	p.cmd.Process.Signal(syscall.SIGHUP)
	p.until("it read its keys anew", func() bool { return strings.Count(p.text(), "keys read anew") > before })
}

// rotating are the steps of a rotation, in both modes.
type rotating struct {
	name              string
	collector, remote []string // flags
	rotate            []string // ntap key …
	bring             func()   // the new file to the remote
}

func (w *world) rotations() []rotating {
	file := func(name string) string { return filepath.Join(w.dir, name) }
	bring := func(to string, command ...string) {
		text := w.must(ntapBinary, command...)
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	tapKeys := func() { bring(file("tap1.key"), "key", "tap", "--id", "1", "--key-file", w.key) }
	tapKeys()

	w.must(ntapBinary, "key", "pair", "--out", file("pair"))
	public := func() { bring(file("public"), "key", "public", "--key-pair", file("pair")) }
	public()
	line := w.must(ntapBinary, "key", "identity", "--id", "1", "--name", "web", "--out", file("identity"))
	if err := os.WriteFile(file("allow"), []byte("# the remotes\n"+line), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return []rotating{
		{
			"shared keys", []string{"--key-file", w.key}, []string{"--key-file", file("tap1.key")},
			[]string{"key", "rotate", "--key-file", w.key, "--in", "1s", "--overlap", "1h"}, tapKeys,
		},
		{
			"public keys", []string{"--key-pair", file("pair"), "--allow", file("allow")},
			[]string{"--collector-key", file("public"), "--identity", file("identity")},
			[]string{"key", "rotate", "--key-pair", file("pair"), "--in", "1s", "--overlap", "1h"}, public,
		},
	}
}

func (w *world) collect(flags []string, more ...string) *proc {
	w.t.Helper()
	p := w.start(w.collector, ntapBinary, append(append([]string{"collector", "-p", "5678", "--state", filepath.Join(w.dir, "state")}, flags...), more...)...)
	p.wait("collector started")
	return p
}

func (w *world) capture(flags []string, more ...string) *proc {
	w.t.Helper()
	p := w.start(w.sender, ntapBinary, append(append([]string{"remote", "-i", "t0", "-c", "10.99.0.2:5678"}, flags...), more...)...)
	p.wait("remote started")
	return p
}

// TestRotation changes keys under traffic, twice: not a frame is lost, and the
// account adds up. The session stays the same, and what is sealed after it is
// not opened by who has the old key only.
func TestRotation(t *testing.T) {
	t.Parallel()
	for i := range 2 {
		w := newWorld(t)
		v := w.rotations()[i]
		t.Run(v.name, func(t *testing.T) {
			w.t = t
			out := filepath.Join(w.dir, "out.pcapng")
			c := w.collect(v.collector, "--no-tap", "-w", out, "--workers", "2")
			r := w.capture(v.remote, "--workers", "2")
			f := w.flow()
			for n := 1; n <= 2; n++ {
				w.must(ntapBinary, v.rotate...)
				c.hangup()
				v.bring()
				r.hangup()
				for _, p := range []*proc{r, c} { // both shards
					p.until(fmt.Sprintf("both shards changed keys %d times", n), func() bool { return strings.Count(p.text(), "another key") >= 2*n })
				}
			}
			time.Sleep(200 * time.Millisecond)
			sent := f.end()
			r.stop()
			text := c.stop()
			got := numbers(t, out)
			if len(got) != sent {
				t.Errorf("%d frames came, %d were sent", len(got), sent)
			}
			if account(text, "frames lost") != 0 || strings.Contains(text, "under a key") || strings.Contains(text, "forged") || strings.Count(text, "INF stream") != 2 {
				t.Errorf("the collector says:\n%s", text)
			}
		})
	}
}

// TestRevocation: a remote that is taken off the list, or whose key is taken
// out of the file, is out within seconds, and another one is not disturbed.
func TestRevocation(t *testing.T) {
	t.Parallel()
	for i := range 2 {
		w := newWorld(t)
		v := w.rotations()[i]
		t.Run(v.name, func(t *testing.T) {
			w.t = t
			out := filepath.Join(w.dir, "out.pcapng")
			c := w.collect(v.collector, "--no-tap", "-w", out)
			r := w.capture(v.remote)
			r.until("the collector has heard it", func() bool { return strings.Contains(c.text(), "INF stream") })
			switch v.name {
			case "shared keys":
				if err := os.Remove(w.key); err != nil {
					t.Fatal(err)
				}
				w.must(ntapBinary, "key", "new", "--out", w.key)
				text, _ := os.ReadFile(w.key)
				os.WriteFile(w.key, []byte(strings.Replace(string(text), "=\n", "= id=1\n", 1)), 0o600)
			case "public keys":
				allow := filepath.Join(w.dir, "allow")
				text, _ := os.ReadFile(allow)
				os.WriteFile(allow, []byte(strings.TrimSpace(string(text))+" revoked\n"), 0o644)
			}
			c.hangup()
			c.wait("its key is not good any more")
			w.inject(w.peer, "p0", testnet.Numbered(0, 100))
			r.stop()
			text := c.stop()
			if got := numbers(t, out); len(got) != 0 {
				t.Errorf("%d frames came after the revocation", len(got))
			}
			if account(text, "under a key that is not good") == 0 {
				t.Errorf("the collector does not count what it refused:\n%s", text)
			}
		})
	}
}

// TestPublicKeyMode: the collector may come late or anew, or the remote, and
// each time the session goes on within a second or so; a bad list leaves the
// one before in force; a stranger gets nowhere.
func TestPublicKeyMode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.rotations()[1]
	out := filepath.Join(w.dir, "out.pcapng")
	r := w.capture(v.remote)
	time.Sleep(1500 * time.Millisecond) // longer than between two keyings

	started := time.Now()
	c := w.collect(v.collector, "--no-tap", "-w", out)
	c.wait("INF stream")
	t.Logf("joined %v after the collector was started", time.Since(started).Round(10*time.Millisecond))
	w.inject(w.peer, "p0", marker("late start"))
	c.until("a frame came", func() bool { return fileHas(out, marker("late start")) })

	allow := filepath.Join(w.dir, "allow")
	good, _ := os.ReadFile(allow)
	os.WriteFile(allow, append(good, "2 too few words\n"...), 0o644)
	c.cmd.Process.Signal(syscall.SIGHUP)
	c.wait("the list from before stays in force")
	w.inject(w.peer, "p0", marker("bad list"))
	c.until("a frame came", func() bool { return fileHas(out, marker("bad list")) })
	os.WriteFile(allow, good, 0o644)
	c.stop()

	c = w.collect(v.collector, "--no-tap", "-w", out)
	c.wait("INF stream")
	w.inject(w.peer, "p0", marker("restarted collector"))
	c.until("a frame came", func() bool { return fileHas(out, marker("restarted collector")) })
	r.stop()
	r = w.capture(v.remote)
	w.inject(w.peer, "p0", marker("restarted remote"))
	c.until("a frame came", func() bool { return fileHas(out, marker("restarted remote")) })

	// Another identity for the same tap, which is not on the list.
	w.must(ntapBinary, "key", "identity", "--id", "1", "--out", filepath.Join(w.dir, "stranger"))
	s := w.start(w.sender, ntapBinary, "remote", "-i", "t0", "-c", "10.99.0.2:5678",
		"--collector-key", filepath.Join(w.dir, "public"), "--identity", filepath.Join(w.dir, "stranger"))
	s.wait("remote started")
	time.Sleep(300 * time.Millisecond)
	s.stop()
	w.inject(w.peer, "p0", marker("after the stranger"))
	c.until("a frame came", func() bool { return fileHas(out, marker("after the stranger")) })
	r.stop()
	text := c.stop()
	if account(text, "under a key that is not good") == 0 || account(text, "of a session whose keys have not come yet") == 0 || account(text, "frames lost") != 0 {
		t.Errorf("the collector says:\n%s", text)
	}
}
