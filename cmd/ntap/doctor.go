// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// A finding is one thing that doctor looked at.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"` // ok, warn or fail
	Found string `json:"found"`
	Mend  string `json:"mend,omitempty"` // what to do, as a line to paste where there is one
}

const (
	stateOK   = "ok"
	stateWarn = "warn" // works, but slower or with less
	stateFail = "fail" // something that users expect does not work
)

func newDoctor() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "say what this host can do, what is wrong, and how to mend it",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var print func(io.Writer, []finding) error
			switch output {
			case "text":
				print = printFindings
			case "json":
				print = func(w io.Writer, all []finding) error {
					e := json.NewEncoder(w)
					e.SetIndent("", "  ")
					return e.Encode(all)
				}
			default:
				return usagef("doctor: -o %q: text or json", output)
			}
			all := examine()
			if err := print(c.OutOrStdout(), all); err != nil {
				return err
			}
			for _, f := range all {
				if f.State == stateFail {
					return errors.New("doctor: something does not work here; see above")
				}
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func printFindings(w io.Writer, all []finding) error {
	for _, f := range all {
		if _, err := fmt.Fprintf(w, "%-4s  %-22s %s\n", f.State, f.Check, f.Found); err != nil {
			return err
		}
		if f.Mend != "" {
			fmt.Fprintf(w, "      %-22s └ %s\n", "", f.Mend)
		}
	}
	return nil
}
