// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/remote"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print version, commit and what this CPU would seal with",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			suite, why := crypto.Pick()
			kernel, what, err := crypto.Kernel()
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "ntap %s (commit %s), wire version %d, %s %s/%s\nsuite %s: %s\nkernel %s: %s\n",
				remote.Version, commit(), proto.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, suite, why, kernel, what)
			return nil
		},
	}
}

// commit returns the commit that the binary was built from, as the go command
// noted it.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
