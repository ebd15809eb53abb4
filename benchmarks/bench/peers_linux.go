// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/measure"
)

// VXLAN of the peers: RFC 7348.
const (
	vni         = 7
	vxlanPort   = 4789
	vxlanDevice = "vx0"
)

// mirror has the kernel send a copy of everything that cap0 of A receives to B, as VXLAN in
// clear between two addresses, over a device of A that leads there: what people
// build without any program. how says by which means.
func mirror(r *measure.Rig, over string, a, b netip.Addr) (how string, err error) {
	for _, end := range []struct {
		h    *measure.Host
		peer netip.Addr
	}{{r.A, b}, {r.B, a}} {
		err := end.h.Do(func() error {
			l, err := netlink.LinkByName(over)
			if err != nil && end.h == r.A {
				return err
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = vxlanDevice, 9000 // of A's, nothing is held against it but what over has
			v := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: vni, Group: net.IP(end.peer.AsSlice()), Port: vxlanPort, UDPCSum: true}
			if l != nil {
				v.VtepDevIndex = l.Attrs().Index
				v.LinkAttrs.MTU = l.Attrs().MTU - 50
			}
			if err := netlink.LinkAdd(v); err != nil {
				return err
			}
			return netlink.LinkSetUp(v)
		})
		if err != nil {
			return "", fmt.Errorf("VXLAN device: %w", err)
		}
	}
	r.ArrivedOn(vxlanDevice)
	err = r.A.Do(func() (err error) {
		how, err = redirect(measure.CaptureDevice, vxlanDevice)
		return err
	})
	return how, err
}

// redirect copies what one device receives to another: tc with matchall, or
// with u32 where that is missing; or a program at the same place that does what
// mirred does.
func redirect(from, to string) (how string, err error) {
	src, err := netlink.LinkByName(from)
	if err != nil {
		return "", err
	}
	dst, err := netlink.LinkByName(to)
	if err != nil {
		return "", err
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: src.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	filter := netlink.FilterAttrs{LinkIndex: src.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Protocol: unix.ETH_P_ALL, Priority: 1}
	action := netlink.NewMirredAction(dst.Attrs().Index)
	action.MirredAction = netlink.TCA_EGRESS_MIRROR
	action.Action = netlink.TC_ACT_PIPE
	err0 := netlink.QdiscAdd(qdisc)
	if err0 == nil {
		if err0 = netlink.FilterAdd(&netlink.MatchAll{FilterAttrs: filter, Actions: []netlink.Action{action}}); err0 == nil {
			return "tc matchall, mirred", nil
		}
		u32 := &netlink.U32{FilterAttrs: filter, Actions: []netlink.Action{action}}
		if err := netlink.FilterAdd(u32); err == nil {
			return "tc u32, mirred", nil
		}
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, int32(dst.Attrs().Index)), asm.Mov.Imm(asm.R3, 0), asm.FnCloneRedirect.Call(),
		asm.Mov.Imm(asm.R0, -1), asm.Return(), // TCX_NEXT, linux/bpf.h
	}})
	if err != nil {
		return "", fmt.Errorf("no way to mirror %s: %w", from, errors.Join(err0, err))
	}
	if _, err := link.AttachTCX(link.TCXOptions{Interface: src.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress}); err != nil {
		return "", fmt.Errorf("no way to mirror %s: %w", from, errors.Join(err0, err))
	}
	return "eBPF at the TCX hook, bpf_clone_redirect (no mirred in this kernel)", nil
}

// Addresses inside the tunnel of WireGuard, and what its packets have beyond
// theirs on IPv4: https://www.wireguard.com/protocol/.
var (
	tunnelA = netip.MustParseAddr("10.98.0.1")
	tunnelB = netip.MustParseAddr("10.98.0.2")
)

const (
	wireguardPort     = 51820
	wireguardOverhead = 60
)

// tunnel joins the hosts of a rig by wireguard-go, and returns the name of its
// device on A.
func tunnel(ctx context.Context, r *measure.Rig, program string) (string, error) {
	if _, err := os.Stat(program); err != nil {
		return "", fmt.Errorf("wireguard-go: %w; make bench builds it, from the Go module proxy", err)
	}
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return "", err
		}
	}
	ends := []struct {
		h          *measure.Host
		name       string
		addr       netip.Addr
		key, peer  *ecdh.PrivateKey
		allowed    netip.Addr
		underlayTo netip.Addr
	}{
		{r.A, fmt.Sprintf("wga%d", os.Getpid()%100000), tunnelA, keys[0], keys[1], tunnelB, measure.AddrB},
		{r.B, fmt.Sprintf("wgb%d", os.Getpid()%100000), tunnelB, keys[1], keys[0], tunnelA, measure.AddrA},
	}
	for _, e := range ends {
		cmd := exec.Command(program, "-f", e.name)
		cmd.Env = append(os.Environ(), "LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1")
		said := &lines{}
		cmd.Stderr, cmd.Stdout = said, said
		if err := e.h.Launch(cmd); err != nil {
			return "", fmt.Errorf("wireguard-go: %w", err)
		}
		r.AtClose(func() { cmd.Process.Kill(); cmd.Wait() })
		r.Measure("wireguard-go "+e.addr.String(), cmd.Process.Pid)
		if err := e.h.WaitFor(e.name, 5*time.Second); err != nil {
			return "", fmt.Errorf("wireguard-go: %w: %s", err, said)
		}
		// https://www.wireguard.com/xplatform/
		config := fmt.Sprintf("set=1\nprivate_key=%s\nlisten_port=%d\nreplace_peers=true\npublic_key=%s\nendpoint=%s\nallowed_ip=%s/32\n\n",
			hex.EncodeToString(e.key.Bytes()), wireguardPort, hex.EncodeToString(e.peer.PublicKey().Bytes()),
			netip.AddrPortFrom(e.underlayTo, wireguardPort), e.allowed)
		if err := configure(e.name, config); err != nil {
			return "", err
		}
		err := e.h.Do(func() error {
			l, err := netlink.LinkByName(e.name)
			if err != nil {
				return err
			}
			addr, _ := netlink.ParseAddr(e.addr.String() + "/24")
			return errors.Join(netlink.LinkSetMTU(l, r.MTU-wireguardOverhead), netlink.AddrAdd(l, addr), netlink.LinkSetUp(l))
		})
		if err != nil {
			return "", fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return ends[0].name, ctx.Err()
}

// configure speaks to wireguard-go, as wg(8) does.
func configure(name, config string) error {
	path := filepath.Join("/var/run/wireguard", name+".sock")
	var c net.Conn
	var err error
	for range 100 {
		if c, err = net.Dial("unix", path); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("wireguard-go: %w", err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, config); err != nil {
		return fmt.Errorf("wireguard-go: %w", err)
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || answer != "errno=0\n" {
		return fmt.Errorf("wireguard-go: %s answers %q to its configuration: %w", path, answer, err)
	}
	return nil
}

// lines keeps what a program writes.
type lines struct {
	mu sync.Mutex
	b  []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// captured is how tcpdump says what it captured.
var captured = regexp.MustCompile(`([0-9]+) packets? captured.*dropped by kernel`)

// tcpdump starts `tcpdump -w /dev/null` on what the source writes to, with as
// much memory as a remote's ring has.
func tcpdump(r *measure.Rig) error {
	path, err := exec.LookPath("tcpdump")
	if err != nil {
		return fmt.Errorf("tcpdump: %w; apt-get install tcpdump", err)
	}
	said := &lines{}
	cmd := exec.Command(path, "-i", measure.CaptureDevice, "-B", "65536", "-Z", "root", "-w", "/dev/null")
	cmd.Stderr = said
	if err := r.A.Launch(cmd); err != nil {
		return fmt.Errorf("tcpdump: %w", err)
	}
	r.AtClose(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(5 * time.Second); !strings.Contains(said.String(), "listening on"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("tcpdump does not listen: %s", said)
		}
	}
	r.Measure("tcpdump", cmd.Process.Pid)
	r.Arrived(func() (uint64, error) {
		before := len(captured.FindAllString(said.String(), -1))
		if err := cmd.Process.Signal(unix.SIGUSR1); err != nil { // it prints its counts: pcap(8)
			return 0, fmt.Errorf("tcpdump: %w: %s", err, said)
		}
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			all := captured.FindAllStringSubmatch(said.String(), -1)
			if len(all) > before {
				return strconv.ParseUint(all[len(all)-1][1], 10, 64)
			}
		}
		return 0, fmt.Errorf("tcpdump does not say what it captured: %s", said)
	})
	return nil
}
