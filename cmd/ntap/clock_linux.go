// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"syscall"
)

// timeError is TIME_ERROR, linux/timex.h: the clock is not synchronised.
const timeError = 5

// clock asks the kernel whether the clock is synchronised (adjtimex(2)). The
// times of frames are this clock's.
func clock() finding {
	var t syscall.Timex
	state, err := syscall.Adjtimex(&t)
	switch {
	case err != nil:
		return finding{"clock", stateWarn, "adjtimex: " + err.Error(), ""}
	case state == timeError:
		return finding{"clock", stateWarn, "not synchronised: times of frames from different hosts cannot be compared",
			"run chrony or systemd-timesyncd"}
	}
	return finding{"clock", stateOK, fmt.Sprintf("synchronised, error at most %d µs", t.Maxerror), ""}
}
