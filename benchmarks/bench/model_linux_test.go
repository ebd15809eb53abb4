// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"

	"github.com/ntap-project/ntap/perf/sizing"
)

// A run holds the sizing model against the whole sides that it measured, and the
// results say which of them it does not hold for.
func TestModelIsHeldAndRecorded(t *testing.T) {
	p := sizing.Default()
	p.Checks = slices.Clone(p.Checks)
	wrong := len(p.Checks) - 1
	p.Checks[wrong].NS *= 3
	b := &bench{}
	if err := b.model(p); err != nil {
		t.Fatal(err)
	}
	if len(b.results.Model) != len(p.Checks) {
		t.Fatalf("%d of %d", len(b.results.Model), len(p.Checks))
	}
	for i, h := range b.results.Model {
		if h.Holds != (i != wrong) || h.Side != p.Checks[i].Stage || h.NS != p.Checks[i].NS || h.Model <= 0 {
			t.Errorf("%+v of %+v", h, p.Checks[i])
		}
	}
	if err := b.model(&sizing.Profile{Schema: sizing.Schema}); err == nil {
		t.Error("a model of nothing")
	}
}
