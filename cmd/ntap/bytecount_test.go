// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
)

// Flags about memory take a number of bytes, and units: 64m was no number.
func TestBytesHaveUnits(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "65536": 65536, "0x1000": 4096, "64k": 64 << 10, "64K": 64 << 10, "512m": 512 << 20, "2G": 2 << 30, "-1": -1} {
		if n, err := parseBytes(text); err != nil || n != want {
			t.Errorf("%q: %d, %v; want %d", text, n, err, want)
		}
	}
	for _, text := range []string{"", "m", "64mb", "64MiB", "6 4", "1.5g", "9223372036854775807k", "9999999999g", "64t", "k64"} {
		if n, err := parseBytes(text); err == nil || !strings.Contains(err.Error(), "as in 512k, 64m or 1g") {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	remote, collector := newRemote(), newCollector()
	if err := remote.ParseFlags([]string{"--ring", "16m", "--block", "64k"}); err != nil {
		t.Fatal(err)
	}
	if err := collector.ParseFlags([]string{"--receive-buffer", "8m", "--merge-buffer", "16m", "--write-buffer", "1g", "--pcap-over-ip-buffer", "2m"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"ring": "16777216", "block": "65536", "receive-buffer": "8388608", "merge-buffer": "16777216", "write-buffer": "1073741824", "pcap-over-ip-buffer": "2097152"} {
		f := remote.Flags().Lookup(name)
		if f == nil {
			f = collector.Flags().Lookup(name)
		}
		if f.Value.String() != want || f.Value.Type() != byteType {
			t.Errorf("--%s is %s, want %s", name, f.Value, want)
		}
	}
	root := newRoot()
	root.SetArgs([]string{"remote", "-i", "lo", "--ring", "64MB"})
	root.SetErr(io.Discard)
	root.SetOut(io.Discard)
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "as in 512k, 64m or 1g") {
		t.Errorf("--ring 64MB: %v", err)
	}
	outs, _, err := wantedOf(t, "outputs:\n- write: x\n  buffer: 16m\n- pcap-over-ip: 57012\n  buffer: 2m\n")
	if err != nil || outs.Files[0].Buffer != 16<<20 || outs.Serve[0].Queue != 2<<20 {
		t.Errorf("%+v, %v", outs, err)
	}
	if _, _, err := wantedOf(t, "outputs:\n- write: x\n  buffer: 16mb\n"); err == nil || !strings.Contains(err.Error(), "buffer: want a number") {
		t.Errorf("%v", err)
	}
}
