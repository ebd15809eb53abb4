// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// parseRate reads bits a second, as in 800M, 2.5G or 10Gbit/s: k, M, G and T are
// powers of ten.
func parseRate(s string) (uint64, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	for _, unit := range []string{"bit/s", "bps", "bit"} {
		if t, ok := strings.CutSuffix(text, unit); ok {
			text = t
			break
		}
	}
	v, err := parseScaled(text)
	if err != nil {
		return 0, fmt.Errorf("rate %q: want bits a second, as in 800M or 10G", s)
	}
	if v < 1e5 || v > 1e13 {
		return 0, fmt.Errorf("rate %q: 100k to 10T bits a second", s)
	}
	return uint64(v), nil
}

// parseScaled reads a number in small letters that k, m, g or t may follow, for
// powers of a thousand.
func parseScaled(text string) (float64, error) {
	scale := 1.0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("kmgt", text[n-1]); i >= 0 {
			text = strings.TrimSpace(text[:n-1])
			for range i + 1 {
				scale *= 1000
			}
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || strings.ContainsAny(text, "nxp_") { // numbers only: no inf, nan, hexadecimal
		return 0, fmt.Errorf("%q is no number", text)
	}
	return v * scale, nil
}
