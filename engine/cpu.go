// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strconv"
	"strings"
)

// parseList reads a list of CPUs, as in "0-3,6", as people and the kernel write
// them.
func parseList(list string) (out []int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || a < 0 || b < a || b > 1<<16 {
			return nil, fmt.Errorf("engine: CPUs %q: %q is not a CPU or a range of them, as in 0-3,6", list, part)
		}
		for cpu := a; cpu <= b; cpu++ {
			out = append(out, cpu)
		}
	}
	return out, nil
}

// FormatCPUs writes a list of CPUs as ParseCPUs reads it.
func FormatCPUs(cpus []int) string {
	var b strings.Builder
	for i := 0; i < len(cpus); i++ {
		from := cpus[i]
		for i+1 < len(cpus) && cpus[i+1] == cpus[i]+1 {
			i++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		if from == cpus[i] {
			fmt.Fprintf(&b, "%d", from)
		} else {
			fmt.Fprintf(&b, "%d-%d", from, cpus[i])
		}
	}
	return b.String()
}
