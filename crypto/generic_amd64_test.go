// SPDX-License-Identifier: Apache-2.0

package crypto

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestGenericWithoutInstructions runs the generic kernel as it is where the CPU
// has no AES instructions: the standard library is told so by GODEBUG, which
// needs a process of its own. (For arm64 internal/emulate/arm64.sh does it.)
func TestGenericWithoutInstructions(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	c := exec.CommandContext(ctx, self, "-test.v", "-test.run", "^TestKernel(NIST|Wycheproof|Lengths)$/^generic$")
	c.Env = append(os.Environ(), "GODEBUG=cpu.aes=off,cpu.pclmulqdq=off")
	out, err := c.CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS: TestKernel")) != 3+3 {
		t.Fatalf("%v\n%s", err, out)
	}
}
