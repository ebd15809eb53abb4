// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A pattern is what is looked for in memory, kept so that the search does not
// find itself: XORed with a mask.
type pattern struct {
	name   string
	masked []byte
}

const scanMask = 0x5A

// mask XORs b with the mask, in a copy.
func mask(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= scanMask
	}
	return out
}

// scan looks for patterns in all memory of this process that is written to, and
// returns where they are.
func scan(patterns []pattern) (found []string, err error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	const room = 4 << 20
	buf, err := unix.Mmap(-1, 0, room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(buf)
	lines := bufio.NewScanner(bytes.NewReader(maps)) // of before buf was mapped
	for lines.Scan() {
		var low, high uint64
		var perm string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &low, &high, &perm); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(perm, "rw") || strings.Contains(lines.Text(), "/dev/") {
			continue
		}
		from, to := int64(low), int64(high)
		for at := from; at < to; at += room - 256 { // pieces overlap by more than a pattern
			n, err := mem.ReadAt(buf[:min(room, to-at)], at)
			if n == 0 && err != nil {
				break
			}
			for _, p := range patterns {
				for i := range find(buf[:n], p.masked) {
					found = append(found, fmt.Sprintf("%s at %x in %s", p.name, at+int64(i), lines.Text()))
				}
			}
		}
	}
	clear(buf)
	return found, lines.Err()
}

// find yields where in b a masked pattern is.
func find(b, masked []byte) func(func(int) bool) {
	return func(yield func(int) bool) {
		first := masked[0] ^ scanMask
		for i := 0; ; i++ {
			k := bytes.IndexByte(b[i:], first)
			if k < 0 || i+k+len(masked) > len(b) {
				return
			}
			i += k
			same := true
			for j, c := range masked {
				if b[i+j]^scanMask != c {
					same = false
					break
				}
			}
			if same && !yield(i) {
				return
			}
		}
	}
}

// readPatterns reads lines "name HEX" of masked patterns.
func readPatterns(text string) (out []pattern, err error) {
	for line := range strings.Lines(text) {
		name, h, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(h)
		if err != nil || len(b) < 12 {
			return nil, fmt.Errorf("pattern %q", line)
		}
		out = append(out, pattern{name, b})
	}
	return out, nil
}
