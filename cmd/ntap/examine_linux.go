// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/klauspost/cpuid/v2"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/ring"
)

// Bits of a capability set, linux/capability.h.
const (
	capNetAdmin = 12
	capNetRaw   = 13
	capSysAdmin = 21
)

// wantBuffer is what a collector asks for by default, bytes.
const wantBuffer = 64 << 20

// examine looks at everything. It changes nothing, and needs no rights.
func examine() []finding {
	all := []finding{rights("capture", capNetRaw, "CAP_NET_RAW"), rights("virtual interfaces", capNetAdmin, "CAP_NET_ADMIN"), elsewhere(), tun(),
		limit("receive buffers", "net.core.rmem_max"), limit("send buffers", "net.core.wmem_max")}
	all = append(all, offload()...)
	all = append(append(append(all, uring()...), cpu()), cpus()...)
	all = append(all, memory(), clock(), timestamps(), portUnreachable())
	return append(append(all, keyMemory()), interfaces()...)
}

// rights looks for a capability in the effective set (proc(5), CapEff).
func rights(check string, bit int, name string) finding {
	mend := "run as root, or: setcap cap_net_raw,cap_net_admin+ep " + self()
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return finding{check, stateWarn, err.Error(), mend}
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			if set, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64); err == nil && set>>bit&1 == 1 {
				return finding{check, stateOK, name + " is there", ""}
			}
		}
	}
	return finding{check, stateFail, name + " is missing", mend}
}

// elsewhere says whether other network namespaces can be entered.
func elsewhere() finding {
	f := rights("other namespaces", capSysAdmin, "CAP_SYS_ADMIN")
	if f.State == stateOK {
		f.Found += ": --netns and --container can be used"
	} else {
		f.State, f.Found, f.Mend = stateWarn, f.Found+": no --netns and --container", "run as root, or run ntap inside the namespace"
	}
	return f
}

func tun() finding {
	const check = "/dev/net/tun"
	f, err := os.OpenFile(check, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		return finding{check, stateFail, err.Error(), "run as root, or: chmod 0666 /dev/net/tun (making interfaces still takes CAP_NET_ADMIN). Without: collector --no-tap -w FILE"}
	} else if err != nil {
		return finding{check, stateFail, err.Error(), "modprobe tun; in a container: give it the device /dev/net/tun. Without: collector --no-tap -w FILE"}
	}
	f.Close()
	return finding{check, stateOK, "can be opened", ""}
}

// sysctl reads a kernel setting, as "net.core.rmem_max".
func sysctl(name string) (string, error) {
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return strings.TrimSpace(string(b)), err
}

// limit looks at a limit of socket buffers. With CAP_NET_ADMIN ntap goes
// beyond it (SO_RCVBUFFORCE, SO_SNDBUFFORCE), so it is only advice.
func limit(check, name string) finding {
	text, err := sysctl(name)
	if err != nil {
		return finding{check, stateWarn, err.Error(), ""}
	}
	n, _ := strconv.Atoi(text)
	found := fmt.Sprintf("%s is %d bytes", name, n)
	if n >= wantBuffer {
		return finding{check, stateOK, found, ""}
	}
	return finding{check, stateWarn, found + "; with CAP_NET_ADMIN ntap goes beyond it, without it bursts are lost",
		fmt.Sprintf("sysctl -w %s=%d", name, wantBuffer)}
}

// offload really sets the options that make batches of datagrams, on loopback.
func offload() []finding {
	segment := finding{"UDP_SEGMENT", stateOK, "flights of datagrams go with one call", ""}
	group := finding{"UDP_GRO", stateOK, "trains of datagrams come with one call", ""}
	old := "a kernel of 5.0 or newer has it; without, ntap needs several times the CPU"
	in, err := batch.Listen(batch.ListenConfig{Addr: "127.0.0.1:0"})
	if err != nil {
		segment.State, segment.Found = stateFail, err.Error()
		return []finding{segment}
	}
	defer in[0].Close()
	if !in[0].Grouped() {
		group.State, group.Found, group.Mend = stateWarn, "the kernel does not have it", old
	}
	out, err := batch.NewSender(batch.SenderConfig{To: in[0].Addr().String(), MTU: 1500})
	if err != nil {
		segment.State, segment.Found = stateFail, err.Error()
		return []finding{segment, group}
	}
	defer out.Close()
	if !out.Segmented() {
		segment.State, segment.Found, segment.Mend = stateWarn, "the kernel does not have it", old
	}
	return []finding{segment, group}
}

// uring says what io_uring can be used for, and what takes its place.
func uring() []finding {
	var out []finding
	for _, use := range []struct {
		check, instead string
		ask            func() (bool, ring.Refusal)
	}{
		{"io_uring", "virtual interfaces are written with write(2), which costs more", ring.UringSupported},
		{"io_uring, sending", "--io uring is not to be had for a remote; sendmsg is as fast", ring.UringSends},
		{"io_uring, zero copy", "--io zerocopy is not to be had for a remote", func() (bool, ring.Refusal) { return ring.UringSendsZeroCopy(batch.ZeroCopyMemory) }},
		{"io_uring, receiving", "--io uring is not to be had for a collector; recvmmsg is faster", ring.UringReceives},
	} {
		ok, why := use.ask()
		out = append(out, uringUse(use.check, use.instead, ok, why))
	}
	return out
}

// uringUse says whether something can be done by io_uring, and what mends that
// which keeps it from it.
func uringUse(check, instead string, ok bool, why ring.Refusal) finding {
	if ok {
		return finding{check, stateOK, "can be used", ""}
	}
	return finding{check, stateWarn, why.Cause + "; " + instead, why.Mend}
}

// memory says what a remote takes, and whether there is that much.
func memory() finding {
	const perShard, check = 64, "memory" // MiB of ring by default
	says := fmt.Sprintf("a remote takes %d MiB of ring for each shard of each interface (--ring), or of all interfaces together with -i any, when it starts, and no more with traffic", perShard)
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return finding{check, stateWarn, says + "; " + err.Error(), ""}
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			f := finding{check, stateOK, fmt.Sprintf("%s; %d MiB are available", says, kib>>10), ""}
			if kib>>10 < 4*perShard {
				f.State, f.Mend = stateWarn, "take less: --ring 8388608"
			}
			return f
		}
	}
	return finding{check, stateOK, says, ""}
}

func cpu() finding {
	suite, why := crypto.Pick()
	var has []string
	for _, f := range []cpuid.FeatureID{cpuid.AESNI, cpuid.CLMUL, cpuid.AVX2, cpuid.VAES, cpuid.VPCLMULQDQ, cpuid.AVX512F, cpuid.AESARM, cpuid.PMULL} {
		if cpuid.CPU.Supports(f) {
			has = append(has, f.String())
		}
	}
	kernel, what, err := crypto.Kernel()
	if err != nil {
		return finding{"CPU", stateFail, err.Error(), "unset NTAP_CPU"}
	}
	return finding{"CPU", stateOK, fmt.Sprintf("%s; has %s; remotes seal with %s: %s; kernel %s: %s",
		strings.TrimSpace(cpuid.CPU.BrandName), strings.Join(has, " "), suite, why, kernel, what), ""}
}

// cpus says where shards would run, for each interface with a device behind it.
func cpus() []finding {
	m := engine.ReadMachine()
	f := finding{"CPUs", stateOK, fmt.Sprintf("%d may be used", len(m.CPUs)), ""}
	if m.Quota > 0 {
		f.Found += fmt.Sprintf("; the cgroup has the time of %.3g", m.Quota)
	}
	if list := engine.FormatCPUs(m.Isolated); list != "" {
		f.Found += "; isolated, and not taken by themselves: " + list
		f.Mend = "if they are meant for ntap: --cpus " + list
	}
	out := []finding{f}
	all, err := net.Interfaces()
	if err != nil {
		return out
	}
	const most = 16
	for _, i := range all {
		nic := engine.ReadNIC(i.Name)
		plan, err := engine.Arrange(engine.Ask{Workers: "auto", CPUs: "auto", Interfaces: []string{i.Name}})
		if len(nic.IRQs) == 0 || len(out) > most || err != nil {
			continue
		}
		node := ""
		if nic.Node != engine.Unknown {
			node = fmt.Sprintf(", node %d", nic.Node)
		}
		out = append(out, finding{"CPUs for " + i.Name, stateOK, fmt.Sprintf("%d queues%s, interrupts on %s; --workers auto: %v",
			nic.Queues, node, engine.FormatCPUs(nic.IRQs), plan), ""})
	}
	return out
}

// timestamps says which cards have a clock that ntap can use.
func timestamps() finding {
	f := finding{"timestamps", stateOK, "the kernel's, ns, when it takes a frame from the card", ""}
	all, err := net.Interfaces()
	if err != nil {
		return f
	}
	var with []string
	for _, i := range all[:min(len(all), 64)] {
		if ring.HardwareTimestamps(i.Name) == nil {
			with = append(with, i.Name)
		}
	}
	if len(with) == 0 {
		f.Found += "; no card here has timestamps of its own for all frames"
	} else {
		f.Found += "; cards with their own (--timestamp hw): " + strings.Join(with, ", ")
	}
	return f
}

// silence keeps a host from answering datagrams to closed ports, by both
// families of IP. It is a table of its own: what else is there stays.
const silence = "nft 'table inet ntap { chain output { type filter hook output priority 0; " +
	"icmp type destination-unreachable icmp code port-unreachable drop; " +
	"icmpv6 type destination-unreachable icmpv6 code port-unreachable drop; }; }'"

// keyMemory looks whether keys could be written to swap space.
func keyMemory() finding {
	const check = "key memory"
	err, swap := crypto.CanLock(), swaps()
	switch {
	case err == nil:
		return finding{check, stateOK, "no core dumps; memory can be locked, and is not swapped out", ""}
	case len(swap) == 0:
		return finding{check, stateOK, "no core dumps; memory cannot be locked, but this host has no swap space", ""}
	}
	return finding{check, stateWarn, fmt.Sprintf("no core dumps; but %v, and this host swaps to %s: keys may be written there", err, strings.Join(swap, ", ")), mendLock()}
}

// portUnreachable tells about what is not ntap's to do.
func portUnreachable() finding {
	return finding{"one way", stateOK, "ntap's collector sends nothing; while none runs, this host's kernel answers remotes with ICMP port unreachable",
		"to be silent then too: " + silence}
}

// interfaces looks at what the offloads of each interface mean for a tap.
func interfaces() (out []finding) {
	all, err := net.Interfaces()
	if err != nil {
		return []finding{{"interfaces", stateWarn, err.Error(), ""}}
	}
	const most = 32
	for n, i := range all {
		if n == most {
			return append(out, finding{"interfaces", stateOK, fmt.Sprintf("%d more, not looked at", len(all)-most), ""})
		}
		f := finding{"interface " + i.Name, stateOK, fmt.Sprintf("MTU %d", i.MTU), ""}
		if i.Flags&net.FlagUp == 0 {
			f.Found += ", down"
		}
		if _, err := ring.LookUp(i.Name); err != nil {
			f.State, f.Found = stateWarn, err.Error()
		} else if on := offloads(i.Name); len(on) > 0 && i.Flags&net.FlagLoopback == 0 {
			f.Found += ", " + strings.Join(on, " ") + " on: the tap sees frames before they are cut to wire size, or after they are joined"
			f.Mend = fmt.Sprintf("to see them as on the wire: ethtool -K %s %s off", i.Name, strings.Join(on, " off "))
		}
		out = append(out, f)
	}
	return out
}

// offloads returns which of the offloads that change what a tap sees are on,
// by ethtool's names; none if ethtool is not there.
func offloads(name string) (on []string) {
	out, err := exec.Command("ethtool", "-k", name).Output()
	if err != nil {
		return nil
	}
	short := map[string]string{
		"tcp-segmentation-offload": "tso", "generic-segmentation-offload": "gso",
		"generic-receive-offload": "gro", "large-receive-offload": "lro",
	}
	for line := range strings.Lines(string(out)) {
		long, state, _ := strings.Cut(strings.TrimSpace(line), ":")
		if s, ok := short[long]; ok && strings.HasPrefix(strings.TrimSpace(state), "on") {
			on = append(on, s)
		}
	}
	return on
}
