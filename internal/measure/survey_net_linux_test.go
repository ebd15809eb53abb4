// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"errors"
	"testing"
	"time"

	"github.com/ntap-project/ntap/internal/testnet"
	"github.com/ntap-project/ntap/perf/sizing"
)

// A survey measures every stage that the model asks for, and both sides as
// checks; a model comes of it.
func TestSurvey(t *testing.T) {
	testnet.RequireRoot(t)
	stages, checks, err := Survey(t.Context(), SurveyConfig{
		Frames: []string{"64", "1514", "gso"}, Checks: []string{"700"}, Rounds: 2, Pure: time.Millisecond, Trial: 50 * time.Millisecond, Say: func(s string) { t.Log(s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(stages, checks...) {
		if len(r.NS) != 2 || r.Bytes == 0 {
			t.Errorf("%+v", r)
		}
		t.Logf("%-16s %-24s %5s %v", r.Stage, r.Suite, r.Frame, r.NS)
	}
	m, err := sizing.Fit(ProfileOf(stages, checks))
	if err != nil {
		t.Fatal(err)
	}
	if len(checks) != 3 || len(m.Suites()) != 3 {
		t.Errorf("%d checks, suites %v", len(checks), m.Suites())
	}
	for _, role := range sizing.Roles {
		for _, suite := range m.Suites() {
			short, err1 := m.Cost(role, suite, "64")
			long, err2 := m.Cost(role, suite, "1514")
			if err := errors.Join(err1, err2); err != nil || short.Own <= 0 || long.Own <= 0 { // how much is no matter of a test
				t.Errorf("%s %s: %v %v %v", role, suite, short, long, err)
			}
			t.Log(role, suite, short, long)
		}
	}
}
