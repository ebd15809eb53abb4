// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"os"
	"os/exec"
	"testing"
)

// RequireRoot skips a test that needs root's rights where they are missing,
// and says the cure. Where CI=true, which .ci/run sets, a missing right fails
// the test: nothing is skipped there unseen.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "network namespaces need root; run: sudo make test")
	}
}

// RequireTool does the same for programs that the test calls.
func RequireTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, name+" is not installed; run: sudo make test, which installs it")
		}
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}
