// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Buffers are in the file one after the other, those that are empty too, and a file
// that cannot be written says so.
func TestWritev(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	buffers := [][]byte{[]byte("one"), nil, bytes.Repeat([]byte("two"), 100_000), []byte("three")}
	want := bytes.Join(buffers, nil)
	for range 2 {
		if n, err := Writev(f, buffers); n != len(want) || err != nil {
			t.Fatalf("%d bytes of %d, %v", n, len(want), err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, append(want, want...)) {
		t.Errorf("%d bytes in the file, %v", len(got), err)
	}
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := Writev(r, buffers); n != 0 || err == nil {
		t.Errorf("a file that is open for reading: %d bytes, %v", n, err)
	}
}
