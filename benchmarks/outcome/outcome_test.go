// SPDX-License-Identifier: Apache-2.0

package outcome

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/measure"
)

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "r.json")
	r := &Results{Schema: Schema, Machine: Machine{Name: "m", CPUs: 2}, Commit: "c", Took: time.Minute,
		Parts: Parts{Costs: []Cost{{System: "ntap", Frame: "300", Own: map[string]measure.Spread{"remote": measure.SpreadOf(1, 2, 3)}}}}}
	if err := Save(path, r); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Fatalf("%+v, %v", got, err)
	}
	// What is written is whole or not there: nothing else is left beside it.
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
		t.Errorf("%v", all)
	}
}

// A file that cannot be written in the end leaves the one before as it was.
func TestSaveFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.json")
	if err := Save(path, &Results{Schema: Schema}); err != nil {
		t.Fatal(err)
	}
	if err := Save(path, func() {}); err == nil {
		t.Error("it wrote what is no JSON")
	}
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
}

func TestLoadRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	for text, want := range map[string]string{
		`{"schema": 99}`:               "it has 99, this program reads",
		`{}`:                           "it has 0, this program reads",
		`{"schema": 1, "costs": 7}`:    "cannot unmarshal",
		`half of a fi`:                 "is no results file",
		`{"schema": 1, "costs": [{"sy`: "is no results file",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, not %q", text, err, want)
		}
	}
	if _, err := Load(path + ".not"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestMet(t *testing.T) {
	for _, c := range []struct {
		r    Ratio
		want bool
	}{
		{Ratio{Ratio: measure.SpreadOf(21), Target: 20}, true}, {Ratio{Ratio: measure.SpreadOf(19), Target: 20}, false},
		{Ratio{Ratio: measure.SpreadOf(0.6), Target: 0.65, Most: true}, true}, {Ratio{Ratio: measure.SpreadOf(0.7), Target: 0.65, Most: true}, false},
	} {
		if c.r.Met() != c.want {
			t.Errorf("%+v", c.r)
		}
	}
}
