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

// WantTool skips a test, in CI too, whose program not every release of Debian
// has, and says how to get it. .ci/run installs it, or says that it could not.
func WantTool(t testing.TB, name, cure string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip(name + " is not installed; run: " + cure)
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
