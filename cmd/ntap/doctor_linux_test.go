// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/ring"
)

// What doctor finds has a state of the three, words, and a cure where
// something is wrong; and every part of a host is looked at.
func TestDoctorLooksAtEverything(t *testing.T) {
	all := examine()
	byCheck := map[string]finding{}
	for _, f := range all {
		byCheck[f.Check] = f
		if f.State != stateOK && f.State != stateWarn && f.State != stateFail || f.Found == "" {
			t.Errorf("%+v", f)
		}
		if f.State == stateFail && f.Mend == "" {
			t.Errorf("no cure: %+v", f)
		}
	}
	for _, check := range []string{"capture", "virtual interfaces", "/dev/net/tun", "receive buffers", "send buffers", "UDP_SEGMENT", "UDP_GRO",
		"io_uring", "CPU", "CPUs", "clock", "one way", "key memory", "timestamps", "interface lo"} {
		if byCheck[check].State == "" {
			t.Errorf("not looked at: %s", check)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	if s := byCheck["UDP_SEGMENT"].State; s != stateOK {
		t.Errorf("UDP_SEGMENT: %s on a kernel that has it", s)
	}
}

// What keeps io_uring from being used has the remedy of that cause, or none.
// It used to be that of the sysctl and of seccomp for all, also for an old kernel
// and for RLIMIT_MEMLOCK.
func TestDoctorMendsUring(t *testing.T) {
	for _, v := range []struct {
		ok   bool
		why  ring.Refusal
		want finding
	}{
		{true, ring.Refusal{}, finding{"io_uring", stateOK, "can be used", ""}},
		{false, ring.UringRefusal(syscall.ENOMEM), finding{"io_uring", stateWarn, "io_uring: no memory within RLIMIT_MEMLOCK; write(2)", "raise it: ulimit -l, or LimitMEMLOCK= in the unit"}},
		{false, ring.Refusal{Cause: "Linux 5.10: too old", Mend: "a kernel of 6.4 or newer"}, finding{"io_uring", stateWarn, "Linux 5.10: too old; write(2)", "a kernel of 6.4 or newer"}},
		{false, ring.UringRefusal(errors.New("who knows")), finding{"io_uring", stateWarn, "who knows; write(2)", ""}},
	} {
		if got := uringUse("io_uring", "write(2)", v.ok, v.why); got != v.want {
			t.Errorf("%+v, want %+v", got, v.want)
		}
	}
}

// Offloads that are on are told with the line that turns them off, and that
// line does so.
func TestDoctorTellsOffloads(t *testing.T) {
	testnet.RequireTool(t, "ethtool")
	a, _ := testnet.Veth(t)
	look := func() (f finding) {
		for _, f = range interfaces() {
			if f.Check == "interface "+a {
				return f
			}
		}
		t.Fatalf("no interface %s among %v", a, interfaces())
		return f
	}
	_, line, ok := strings.Cut(look().Mend, "as on the wire: ")
	if !ok {
		t.Fatalf("a veth has offloads on, and doctor says %+v", look())
	}
	testnet.Run(t, line)
	if f := look(); f.Mend != "" || !strings.Contains(f.Found, "MTU 1500") {
		t.Errorf("after %q: %+v", line, f)
	}
}

// The firewall line that doctor gives works on a host without a firewall, and
// keeps it from answering datagrams to closed ports; ping is still answered.
func TestDoctorFirewallLineSilences(t *testing.T) {
	t.Parallel()
	testnet.RequireTool(t, "nft", "ping")
	testnet.Namespace(t)
	refused := func(addr string) bool {
		c, err := net.Dial("udp", addr)
		if err != nil {
			testnet.Missing(t, err.Error()+"; run it on a host with IPv6")
		}
		defer c.Close()
		if _, err := c.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err = c.Read(make([]byte, 1))
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	addrs := []string{"127.0.0.1:5678", "[::1]:5678"}
	for _, a := range addrs {
		testnet.Eventually(t, a+" answers without a firewall", func() bool { return refused(a) })
	}
	_, line, _ := strings.Cut(portUnreachable().Mend, ": ")
	if out, err := testnet.Command(t, "sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	for _, a := range addrs {
		if refused(a) {
			t.Errorf("%s: still answered", a)
		}
	}
	testnet.Run(t, "ping -q -c 1 -w 60 127.0.0.1")
}
