// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"github.com/ntap-project/ntap/internal/testnet"
)

func testRing(t *testing.T, change func(*Config)) (r *Ring, iface, peer string) {
	t.Helper()
	iface, peer = testnet.Veth(t)
	cfg := Config{Interface: iface, Blocks: 128, BlockSize: 1 << 18, Retire: 5 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, iface, peer
}

// take calls f for each frame until n came; none for 2 s is a failure.
func take(t *testing.T, r *Ring, n int, f func(Frame)) {
	t.Helper()
	for got := 0; got < n; {
		b, err := r.Take(2 * time.Second)
		if err != nil || b == nil {
			t.Fatalf("%d frames of %d, then nothing (%v)", got, n, err)
		}
		for fr, ok := b.Next(); ok; fr, ok = b.Next() {
			f(*fr)
			got++
		}
		b.Release()
	}
}

// rest counts the frames that are left.
func rest(t *testing.T, r *Ring) (n uint64) {
	t.Helper()
	for {
		b, err := r.Take(150 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			return n
		}
		n += uint64(b.Len())
		b.Release()
	}
}

func TestRingSeesEveryFrame(t *testing.T) {
	for _, size := range []int{60, 1514, 9014} {
		r, _, peer := testRing(t, nil)
		testnet.Run(t, "ip link set va mtu 9000")
		testnet.Run(t, "ip link set vb mtu 9000")
		const sent = 400
		testnet.Send(t, peer, sent, size)
		want, before := 0, time.Now().Add(-10*time.Second).UnixNano()
		take(t, r, sent, func(f Frame) {
			if n, ours := testnet.Number(f.Data); !ours || n != want || len(f.Data) != size || int(f.WireLen) != size || f.Outgoing || f.Time < before {
				t.Fatalf("frame %d came, want %d; ours %v, %d of %d bytes, outgoing %v", n, want, ours, len(f.Data), f.WireLen, f.Outgoing)
			}
			want++
		})
		if s, err := r.Stats(); err != nil || s.Packets != sent || s.Drops != 0 {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

// Frames that the host sends are seen too, and known for it.
func TestRingDirection(t *testing.T) {
	r, iface, peer := testRing(t, nil)
	testnet.SendFrames(t, iface, testnet.Numbered(1, 100))
	testnet.SendFrames(t, peer, testnet.Numbered(2, 100))
	take(t, r, 2, func(f Frame) {
		if n, _ := testnet.Number(f.Data); f.Outgoing != (n == 1) {
			t.Errorf("frame %d: outgoing %v", n, f.Outgoing)
		}
	})
}

// VLAN tags come back where the kernel took them out, with the offload on and
// off: 802.1Q, 802.1ad, QinQ, priority tags. Captures without that lose them,
// or have 0x8100 for every one.
func TestRingPutsTagsBack(t *testing.T) {
	testnet.RequireTool(t, "ethtool")
	for _, offload := range []string{"on", "off"} {
		r, _, peer := testRing(t, nil)
		testnet.Run(t, "ethtool -K vb tx-vlan-hw-insert "+offload+" tx-vlan-stag-hw-insert "+offload)
		var frames [][]byte
		for i, tags := range [][]byte{
			nil, {0x81, 0, 0x20, 100}, {0x81, 0, 0xE0, 0}, {0x88, 0xA8, 0x0F, 0xFF}, {0x88, 0xA8, 0, 200, 0x81, 0, 0, 100}, {0x81, 0, 0, 1, 0x81, 0, 0, 2},
		} {
			f := testnet.Numbered(i, 200)
			frames = append(frames, append(append(bytes.Clone(f[:12]), tags...), f[12:]...))
		}
		testnet.SendFrames(t, peer, frames...)
		i := 0
		take(t, r, len(frames), func(f Frame) {
			if !bytes.Equal(f.Data, frames[i]) || int(f.WireLen) != len(frames[i]) {
				t.Errorf("offload %s: frame %d: %x, want %x", offload, i, f.Data[:30], frames[i][:30])
			}
			i++
		})
	}
}

// With the ring full every frame is in exactly one of the two counts, and
// asking twice adds nothing: the kernel forgets what it told.
func TestRingOverrun(t *testing.T) {
	r, _, peer := testRing(t, func(c *Config) { c.Blocks = 2 })
	const sent = 20000
	testnet.Send(t, peer, sent, 200)
	if err := r.Quiesce(); err != nil {
		t.Fatal(err)
	}
	seen := rest(t, r)
	s, err := r.Stats()
	if err != nil || s.Packets != sent || seen+s.Drops != sent || s.Drops == 0 || s.Freezes == 0 {
		t.Errorf("%d sent, %d seen, %+v, %v", sent, seen, s, err)
	}
	if again, _ := r.Stats(); again != s {
		t.Errorf("asked again the counts are %+v", again)
	}
}

// After Quiesce come the frames sent before, to the last, and none sent after.
func TestQuiesce(t *testing.T) {
	r, _, peer := testRing(t, func(c *Config) { c.Retire = 50 * time.Millisecond })
	testnet.Send(t, peer, 777, 100)
	if err := r.Quiesce(); err != nil {
		t.Fatal(err)
	}
	testnet.Send(t, peer, 100, 100)
	if n := rest(t, r); n != 777 {
		t.Errorf("%d frames came of 777", n)
	}
	if s, _ := r.Stats(); s.Packets != 777 {
		t.Errorf("%+v", s)
	}
}

// Members of a group see each frame once, a flow always on the same member,
// and its other direction there too.
func TestFanout(t *testing.T) {
	iface, peer := testnet.Veth(t)
	rings, err := OpenFanout(Config{Interface: iface, Blocks: 8, BlockSize: 1 << 18, Retire: 5 * time.Millisecond}, 2)
	if err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for range 10 {
		for f := range uint16(64) {
			a, b := [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}
			frames = append(frames, udp4(1000+f, 53, a, b, 60), udp4(53, 1000+f, b, a, 60))
		}
	}
	testnet.SendFrames(t, peer, frames...)
	member, total, used := map[uint16]int{}, 0, [2]int{}
	for m, r := range rings {
		defer r.Close()
		for {
			b, err := r.Take(100 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if b == nil {
				break
			}
			for f, ok := b.Next(); ok; f, ok = b.Next() {
				flow := max(binary.BigEndian.Uint16(f.Data[34:]), binary.BigEndian.Uint16(f.Data[36:]))
				if was, known := member[flow]; known && was != m {
					t.Fatalf("flow %d on members %d and %d", flow, was, m)
				}
				member[flow] = m
				total++
				used[m]++
			}
			b.Release()
		}
	}
	if total != len(frames) || used[0] == 0 || used[1] == 0 {
		t.Errorf("%d frames of %d, by member %v", total, len(frames), used)
	}
}

// An interface that goes down is told once, and capture goes on when it is up
// again; one that is deleted is gone, with its counts.
func TestInterfaceDownUpGone(t *testing.T) {
	r, iface, peer := testRing(t, nil)
	testnet.Send(t, peer, 5, 100)
	take(t, r, 5, func(Frame) {})
	testnet.Run(t, "ip link set "+iface+" down")
	if _, err := r.Take(time.Second); !errors.Is(err, ErrDown) {
		t.Fatalf("down: %v", err)
	}
	for range 3 {
		if b, err := r.Take(20 * time.Millisecond); b != nil || err != nil {
			t.Fatalf("still down: %v", err)
		}
	}
	testnet.Run(t, "ip link set "+iface+" up")
	testnet.WaitUp(t, peer)
	testnet.Send(t, peer, 5, 100)
	take(t, r, 5, func(Frame) {})
	testnet.Run(t, "ip link del "+iface)
	var err error
	for range 20 {
		if _, err = r.Take(100 * time.Millisecond); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrGone) {
		t.Fatalf("deleted: %v", err)
	}
	if s, err := r.Stats(); err != nil || s.Packets != 10 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestSnapLen(t *testing.T) {
	r, _, peer := testRing(t, func(c *Config) { c.SnapLen = 68 })
	testnet.Send(t, peer, 1, 1000)
	take(t, r, 1, func(f Frame) {
		if len(f.Data) != 68 || f.WireLen != 1000 {
			t.Errorf("%d of %d bytes", len(f.Data), f.WireLen)
		}
	})
}

// A filter is swapped between two frames.
func TestFilterSwap(t *testing.T) {
	only := func(n uint32) []bpf.RawInstruction {
		raw, err := bpf.Assemble([]bpf.Instruction{
			bpf.LoadAbsolute{Off: 18, Size: 4}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipFalse: 1}, bpf.RetConstant{Val: 1 << 20}, bpf.RetConstant{},
		})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	r, _, peer := testRing(t, func(c *Config) { c.Filter = only(3) })
	testnet.Send(t, peer, 10, 100)
	if err := r.SetFilter(only(7)); err != nil {
		t.Fatal(err)
	}
	testnet.Send(t, peer, 10, 100)
	var got []int
	take(t, r, 2, func(f Frame) { n, _ := testnet.Number(f.Data); got = append(got, n) })
	if len(got) != 2 || got[0] != 3 || got[1] != 7 {
		t.Errorf("frames %v", got)
	}
}

func TestPromiscuous(t *testing.T) {
	r, iface, _ := testRing(t, func(c *Config) { c.Promiscuous = true })
	if on := testnet.Run(t, "ip -d link show "+iface); !strings.Contains(on, "promiscuity 1") {
		t.Errorf("while it captures: %s", on)
	}
	r.Close()
	if off := testnet.Run(t, "ip -d link show "+iface); !strings.Contains(off, "promiscuity 0") {
		t.Errorf("after it: %s", off)
	}
}

// On a loopback each frame is seen once, though the kernel shows it twice.
func TestLoopbackOnce(t *testing.T) {
	testnet.Namespace(t)
	r, err := Open(Config{Interface: "lo", Blocks: 4, BlockSize: 1 << 18, Retire: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	testnet.Send(t, "lo", 10, 100)
	if n := rest(t, r); n != 10 {
		t.Errorf("%d frames of 10", n)
	}
}

func TestTakeAllocates(t *testing.T) {
	r, _, peer := testRing(t, nil)
	testnet.Send(t, peer, 3000, 1000)
	if n := testing.AllocsPerRun(5, func() {
		b, err := r.Take(0)
		if b == nil || err != nil {
			t.Fatal("no block", err)
		}
		for _, ok := b.Next(); ok; _, ok = b.Next() {
		}
		b.Release()
	}); n != 0 {
		t.Errorf("%v allocations a block", n)
	}
}

func TestOpenErrors(t *testing.T) {
	iface, _ := testnet.Veth(t)
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Interface = "nosuch0" }, `no interface "nosuch0" here; there are: lo, va, vb`},
		{func(c *Config) { c.BlockSize = 1000 }, "multiple of the page size"},
		{func(c *Config) { c.Blocks = 1 }, "at least 2 blocks"},
		{func(c *Config) { c.Blocks = 1 << 20 }, "less than 4 GiB"},
		{func(c *Config) { c.SnapLen = -1 }, "snap length -1"},
		{func(c *Config) { c.Filter = []bpf.RawInstruction{{Op: 0xFFFF}} }, "SO_ATTACH_FILTER: invalid argument"},
	} {
		cfg := Config{Interface: iface, Blocks: 4, BlockSize: 1 << 18, Retire: time.Millisecond}
		c.change(&cfg)
		r, err := Open(cfg)
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %q", err, c.want)
		}
	}
}

// Without the right to capture the error names it, and how it is given.
func TestNoRight(t *testing.T) {
	testnet.RequireRoot(t)
	if os.Getenv("NTAP_TEST_NO_RIGHT") != "" {
		_, err := Open(Config{Interface: "lo", Blocks: 4, BlockSize: 1 << 18})
		if err == nil || !strings.Contains(err.Error(), "CAP_NET_RAW") || !strings.Contains(err.Error(), "setcap") {
			t.Errorf("%v", err)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", self, "-test.run", "^TestNoRight$", "-test.v")
	cmd.Env = append(os.Environ(), "NTAP_TEST_NO_RIGHT=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}
