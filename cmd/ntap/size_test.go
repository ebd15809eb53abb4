// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/ntap-project/ntap/perf/sizing"
)

// The lines to paste are lines that ntap takes: flags that are there, with values
// that they have room for.
func TestSizeSaysWhatNtapTakes(t *testing.T) {
	n := 0
	for _, rate := range []string{"1G", "100G"} {
		for _, cipher := range []string{"auto", "clear", "chacha20-poly1305", "aes-256-gcm"} {
			for _, role := range []string{"remote", "collector tap", "collector vxlan"} {
				side, output, _ := strings.Cut(role, " ")
				s := sizeFlags{rate: rate, frame: "64", role: side, output: output, cipher: cipher, iface: "eth0"}
				if output == "" {
					s.output = "tap"
				}
				ask, err := s.ask()
				if err != nil {
					t.Fatal(err)
				}
				text, err := s.size(ask)
				if err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(text) {
					words := strings.Fields(line)
					if len(words) == 0 || words[0] != "ntap" {
						continue
					}
					n++
					c, rest, err := newRoot().Find(words[1:])
					if err == nil {
						err = c.ParseFlags(rest)
					}
					if err != nil {
						t.Errorf("%s: %v", line, err)
					}
				}
			}
		}
	}
	if n != 2*4*3 {
		t.Errorf("%d lines of ntap", n)
	}
}

// More traffic takes more, and clear text less than sealed.
func TestSizeGrows(t *testing.T) {
	m, err := sizing.Fit(sizing.Default())
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range sizing.Roles {
		last := 0.0
		for _, rate := range []float64{1e9, 10e9, 100e9} {
			p, err := m.Plan(sizing.Ask{Rate: rate, Frame: "imix", Role: role, Cipher: "auto"})
			if err != nil || p.Busy() <= last || p.Cores < int(p.Busy()) {
				t.Errorf("%s at %v: %+v %v", role, rate, p, err)
			}
			last = p.Busy()
			clear, err := m.Plan(sizing.Ask{Rate: rate, Frame: "imix", Role: role, Cipher: "clear"})
			if err != nil || clear.Busy() >= p.Busy() {
				t.Errorf("%s at %v: in clear %v, sealed %v, %v", role, rate, clear.Busy(), p.Busy(), err)
			}
		}
	}
}
