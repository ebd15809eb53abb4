// SPDX-License-Identifier: Apache-2.0

package testnet

import (
	"os"
	"os/exec"
	"testing"
)

// RequireRoot is Missing for a test that needs root's rights, without them.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "network namespaces need root; run: sudo make test")
	}
}

// RequireTool is Missing for each program that the test calls and that is not
// there.
func RequireTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Missing(t, name+" is not installed; run: sudo make test, which installs it")
		}
	}
}

// Missing skips a test that cannot run here, and says what is missing, with its
// cure. Where CI=true, which .ci/run sets, the test fails: nothing is skipped
// there unseen.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}
