// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNamePattern(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 0, time.FixedZone("", 3600))
	for text, want := range map[string]string{
		"a.pcapng":                 "a.pcapng",
		"tap%t-%Y%m%d-%H%M%S.pcap": "tap7-20260203-030506.pcap",
		"100%%-%n":                 "100%-00012",
		"%s%%":                     "1770087906%",
		"":                         "",
	} {
		p, err := parseNamePattern(text)
		if got := p.name(7, at, 12); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"%", "a%", "%x", "%%%", "a%-b"} {
		if _, err := parseNamePattern(text); err == nil || !strings.Contains(err.Error(), "after % comes t (tap ID)") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"a.pcapng": "a-00003.pcapng", "a": "a-00003", "%t": "7-00003", "d.x/a": "d.x/a-00003", "%t.pcapng": "7-00003.pcapng", "a.%t": "a.7-00003",
	} {
		p, _ := parseNamePattern(text)
		if p = p.numbered(); p.name(7, at, 3) != want {
			t.Errorf("%q numbered: %q, want %q", text, p.name(7, at, 3), want)
		}
	}
}

// Only what the pattern could have made is taken for a file of the recording.
func TestNamePatternFiles(t *testing.T) {
	dir := t.TempDir()
	ours := []string{"a[1]-7-00001.pcapng", "a[1]-7-00012.pcapng.part", "a[1]-7-00003~2.pcapng", "a[1]-7-123456.pcapng"}
	others := []string{
		"a[1]-7-0001.pcapng", "a[1]-7-00001.pcap", "a[1]-07-00001.pcapng", "a[1]-8-00001.pcapng", "a1-7-00001.pcapng", "a[1]-7-00001.pcapng.gz",
		"a[1]-7-00001.pcapng.part.part", "xa[1]-7-00001.pcapng", "a[1]-7-00001~.pcapng",
	}
	for _, name := range append(ours, others...) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := parseNamePattern(filepath.Join(dir, "a[1]-%t-%n.pcapng"))
	if err != nil {
		t.Fatal(err)
	}
	names, numbers, err := p.files(7, false)
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	slices.Sort(ours)
	slices.Sort(names)
	if slices.Sort(numbers); err != nil || !slices.Equal(names, ours) || !slices.Equal(numbers, []int{1, 3, 12, 123456}) {
		t.Errorf("%q, %d, %v", names, numbers, err)
	}
	if names, _, _ := p.files(0, true); len(names) != len(ours)+1 {
		t.Errorf("of all taps: %q", names)
	}
}
