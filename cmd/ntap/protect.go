// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"

	"github.com/rs/zerolog"

	"github.com/ntap-project/ntap/crypto"
)

// protect keeps this process's memory to itself, before it holds keys, and says
// what it cannot: nothing is refused for that.
func protect(log zerolog.Logger) {
	unlocked, err := crypto.Protect()
	switch swap := swaps(); {
	case err != nil:
		log.Warn().Err(err).Msg("keys may end up in a core dump")
	case unlocked == nil:
		log.Debug().Msg("no core dumps, and memory is locked")
	case len(swap) > 0:
		log.Warn().Err(unlocked).Strs("swap", swap).Msg("keys may be written to swap space; " + mendLock())
	default:
		log.Debug().Err(unlocked).Msg("no core dumps; memory is not locked, but this host has no swap space")
	}
}

// lockKeys does for the pages with keys what protect could not do for all
// memory.
func lockKeys(keys *crypto.KeyFile, log zerolog.Logger) {
	if crypto.CanLock() == nil {
		return
	}
	if err := keys.Lock(); err != nil {
		log.Debug().Err(err).Msg("the pages with keys are not locked")
	}
}

// swaps returns the swap spaces of this host that outlast it: not those in
// compressed memory.
func swaps() (names []string) {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil
	}
	for i, line := range strings.Split(string(text), "\n") {
		if name, _, _ := strings.Cut(line, " "); i > 0 && name != "" && !strings.HasPrefix(name, "/dev/zram") {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

// mendLock says how memory comes to be locked.
func mendLock() string {
	return "to have memory locked: systemd's LimitMEMLOCK=infinity, or ulimit -l unlimited, or: setcap cap_net_raw,cap_net_admin,cap_ipc_lock+ep " +
		self() + "; or turn swapping off (swapoff -a), or encrypt it"
}

func self() string {
	if path, err := os.Executable(); err == nil {
		return path
	}
	return "ntap"
}
