// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/remote"
)

// Chosen, beyond what the packages below refuse: no host has more.
const (
	maxMemory = 1 << 40                // bytes of one ring or socket buffer
	maxWait   = 1 * time.Minute        // for frames in a block, and for datagrams that may still come
	maxWindow = 100 * 8766 * time.Hour // between clocks: a century
)

// checkRemote refuses values of the remote's flags that cannot be meant.
func checkRemote(cfg *remote.Config) error {
	var others error
	for _, c := range cfg.Others {
		others = errors.Join(others, hostPort("-c", c))
	}
	if cfg.VXLAN == nil {
		others = errors.Join(hostPort("-c", cfg.Collector), others)
	}
	return errors.Join(
		others,
		ways("remote", cfg.IO),
		within("--snaplen", cfg.SnapLen, 0, proto.MaxFrame),
		oneOf0("--mtu", cfg.MTU, 576, 65535),
		within("--ring", cfg.RingBytes, 1, maxMemory),
		within("--block", cfg.BlockSize, 1, maxMemory),
		within("--retire", cfg.Retire, time.Millisecond, maxWait),
		within("--resolve", cfg.Resolve, 0, maxWindow),
	)
}

// checkCollector does the same for the collector's.
func checkCollector(cfg *collector.Config) error {
	return errors.Join(
		ways("collector", cfg.IO),
		within("--reorder", cfg.Reorder, 1, 4096),
		within("--reorder-wait", cfg.ReorderWait, time.Microsecond, maxWait),
		within("--merge", cfg.Merge, 0, maxWait),
		within("--merge-buffer", cfg.MergeBuffer, 8<<20, maxMemory),
		within("--receive-buffer", cfg.ReceiveBuffer, 1, maxMemory),
	)
}

// ioWays are what --io takes, by command.
var ioWays = map[string][]string{"remote": {"auto", "uring", "mmsg", "zerocopy"}, "collector": {"auto", "uring", "mmsg"}}

// ways refuses a way of input and output that a command does not have.
func ways(command, io string) error {
	if all := ioWays[command]; !slices.Contains(all, io) {
		last := len(all) - 1
		return usagef("--io %q: %s or %s", io, strings.Join(all[:last], ", "), all[last])
	}
	return nil
}

// within refuses what is below least or above most.
func within[N cmp.Ordered](flag string, v, least, most N) error {
	if v < least || v > most {
		return usagef("%s %v: %v to %v", flag, v, least, most)
	}
	return nil
}

// oneOf0 is within, but 0 stands for the default.
func oneOf0(flag string, v, least, most int) error {
	if v != 0 && (v < least || v > most) {
		return usagef("%s %d: %d to %d, or 0 for the default", flag, v, least, most)
	}
	return nil
}

// hostPort refuses what is no address. Whether the host is known is seen when
// it is looked up.
func hostPort(flag, s string) error {
	host, port, err := net.SplitHostPort(s)
	if n, e := strconv.ParseUint(port, 10, 16); err != nil || host == "" || e != nil || n == 0 {
		return usagef("%s %q: want HOST:PORT, as in 192.0.2.1:5678, [2001:db8::1]:5678 or tap.example.org:5678", flag, s)
	}
	return nil
}
