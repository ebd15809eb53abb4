// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/ring"
)

// A Host is a network namespace without a name, and a thread in it: it goes
// with the process, however that ends.
type Host struct {
	do   chan func()
	tid  int
	ends []func() // of what was attached
}

// NewHost makes one. Nothing speaks IPv6 there, or anything else on its own.
func NewHost() (*Host, error) {
	h := &Host{do: make(chan func())}
	made := make(chan error)
	go ring.Apart(func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("no network namespace: %w; run as root", os.NewSyscallError("unshare", err))
		} else {
			for _, which := range []string{"all", "default"} {
				// No IPv6 in the kernel is fine as well.
				_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0o644)
			}
			h.tid = unix.Gettid()
		}
		made <- err
		if err != nil {
			return err
		}
		for f := range h.do {
			f()
		}
		return nil
	})
	if err := <-made; err != nil {
		return nil, err
	}
	return h, nil
}

// path returns the file that stands for the host's network namespace.
func (h *Host) path() string { return fmt.Sprintf("/proc/%d/ns/net", h.tid) }

// Close ends the host, and all interfaces in it.
func (h *Host) Close() {
	for _, end := range h.ends {
		h.Do(func() error { end(); return nil })
	}
	close(h.do)
}

// Do runs f on the host's thread: sockets that it opens and programs that it
// starts are of the host. f must not call Do.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	h.do <- func() { result <- f() }
	return <-result
}

// Run runs a program in the host and returns what it prints.
func (h *Host) Run(line string) (string, error) {
	var out []byte
	err := h.Do(func() (err error) {
		words := strings.Fields(line)
		out, err = exec.Command(words[0], words[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Join joins two hosts by a veth with an address at each end, which know each
// other's: there is no ARP.
func Join(a, b *Host, nameA, nameB string, addrA, addrB netip.Addr, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = nameA, mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsPid(b.tid)}
	if err := a.Do(func() error { return netlink.LinkAdd(veth) }); err != nil {
		return fmt.Errorf("veth %s to %s: %w", nameA, nameB, err)
	}
	macs := make([]net.HardwareAddr, 2)
	for i, end := range []struct {
		h    *Host
		name string
		addr netip.Addr
	}{{a, nameA, addrA}, {b, nameB, addrB}} {
		err := end.h.Do(func() error {
			l, err := netlink.LinkByName(end.name)
			if err != nil {
				return err
			}
			macs[i] = l.Attrs().HardwareAddr
			addr, err := netlink.ParseAddr(netip.PrefixFrom(end.addr, 24).String())
			if err != nil {
				return err
			}
			return errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l))
		})
		if err != nil {
			return fmt.Errorf("%s: %w", end.name, err)
		}
	}
	for _, end := range []struct {
		h    *Host
		name string
		addr netip.Addr
		mac  net.HardwareAddr
	}{{a, nameA, addrB, macs[1]}, {b, nameB, addrA, macs[0]}} {
		err := end.h.Do(func() error {
			l, err := netlink.LinkByName(end.name)
			if err != nil {
				return err
			}
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: end.addr.AsSlice(), HardwareAddr: end.mac})
		})
		if err != nil {
			return fmt.Errorf("%s: neighbour %v: %w", end.name, end.addr, err)
		}
		if err := end.h.WaitUp(end.name); err != nil {
			return err
		}
	}
	return nil
}

// Up brings an interface up.
func (h *Host) Up(name string) error {
	err := h.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// WaitUp waits until an interface carries: the kernel activates its queue some
// time after it was set up, and drops what is sent before (net/core/link_watch.c).
func (h *Host) WaitUp(name string) error {
	return h.wait(name, 5*time.Second, func(l netlink.Link) bool { return l.Attrs().OperState == netlink.OperUp })
}

// WaitFor waits until there is an interface of that name.
func (h *Host) WaitFor(name string, most time.Duration) error {
	return h.wait(name, most, func(netlink.Link) bool { return true })
}

func (h *Host) wait(name string, most time.Duration, good func(netlink.Link) bool) error {
	for end := time.Now().Add(most); ; time.Sleep(5 * time.Millisecond) {
		var l netlink.Link
		err := h.Do(func() (err error) {
			l, err = netlink.LinkByName(name)
			return err
		})
		if err == nil && good(l) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("interface %s is not ready after %v: %w", name, most, err)
		}
	}
}

// Received returns the frames and bytes that an interface has received.
func (h *Host) Received(name string) (frames, bytes uint64, err error) {
	err = h.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if s := l.Attrs().Statistics; s != nil {
			frames, bytes = s.RxPackets, s.RxBytes
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", name, err)
	}
	return frames, bytes, nil
}

// DropAll drops what an interface receives, as early as a program can without
// a copy: at the TCX hook (Linux 6.6), or in nftables' ingress chain.
func (h *Host) DropAll(name string) (how string, err error) {
	err = h.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "ntap_sink", Type: ebpf.SchedCLS, License: "Apache-2.0",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // TCX_DROP, linux/bpf.h
		})
		if err != nil {
			return err
		}
		defer p.Close()
		tcx, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			h.ends = append(h.ends, func() { tcx.Close() })
		}
		return err
	})
	if err == nil {
		return "eBPF drop at the TCX hook", nil
	}
	for _, line := range []string{"nft add table netdev sink",
		"nft add chain netdev sink in { type filter hook ingress device " + name + " priority 0 ; policy drop ; }"} {
		if _, err2 := h.Run(line); err2 != nil {
			return "", fmt.Errorf("no way to drop what %s receives: %w", name, errors.Join(err, err2))
		}
	}
	return "nftables drop at ingress", nil
}
