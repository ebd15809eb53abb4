// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// The whole datagram of WIRE.md, section 9, which another program computed, is
// what a shard's sealer makes of the example's header and plaintext.
func TestWireSealed(t *testing.T) {
	text, err := os.ReadFile("../proto/WIRE.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(name string) []byte {
		m := regexp.MustCompile("(?s)```hex " + name + "\n(.*?)```").FindStringSubmatch(string(text))
		if m == nil {
			t.Fatalf("WIRE.md has no block %s", name)
		}
		b, err := hex.DecodeString(strings.Join(strings.Fields(m[1]), ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var key crypto.Key
	for i := range key {
		key[i] = byte(i)
	}
	head, plain, want := block("header"), block("data"), block("sealed")
	h, _, _ := proto.ParseHeader(append(bytes.Clone(head), make([]byte, proto.TagLen)...))
	seal, err := newSealers(&key, h, new(sealers))
	if err != nil {
		t.Fatal(err)
	}
	for range h.Counter { // the counters before it
		seal.data.Seal(make([]byte, proto.Overhead), proto.HeaderLen)
	}
	d := append(append(make([]byte, proto.HeaderLen), plain...), make([]byte, proto.TagLen)...)
	seal.data.seal(d)
	if !bytes.Equal(d, want) {
		t.Errorf("sealed to\n%x, WIRE.md has\n%x", d, want)
	}
}
