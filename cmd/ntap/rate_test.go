// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestParseRate(t *testing.T) {
	for s, want := range map[string]uint64{
		"100k": 1e5, "800M": 8e8, "800m": 8e8, "2.5G": 25e8, "10G": 1e10, "10Gbit/s": 1e10, "10 Gbps": 1e10, "1000000": 1e6, "10T": 1e13, "400mbit": 4e8,
	} {
		if got, err := parseRate(s); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"": "want bits", "fast": "want bits", "G": "want bits", "1X": "want bits", "-1G": "100k to 10T", "0": "100k to 10T", "99k": "100k to 10T",
		"11T": "100k to 10T", "inf": "want bits", "nan": "want bits", "0x10G": "want bits", "1e20": "100k to 10T", "1_000M": "want bits",
	} {
		if got, err := parseRate(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v; want %q", s, got, err, want)
		}
	}
}
