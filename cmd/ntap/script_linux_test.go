// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ntap-project/ntap/internal/testnet"
)

// The command line as users see it: what is printed, the exit status, the files
// that are made. The scripts are in testdata/script, those that need root in
// testdata/root.
func TestScripts(t *testing.T) { testscript.Run(t, scripts("script")) }

func TestRootScripts(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTool(t, "ip", "unshare", "setpriv", "tcpdump")
	testscript.Run(t, scripts("root"))
}

// scripts says how to run the scripts of a folder. They find the program under
// test in their PATH.
func scripts(dir string) testscript.Params {
	return testscript.Params{
		Dir:      filepath.Join("testdata", dir),
		Deadline: time.Now().Add(testnet.Patience),
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(ntapBinary)+":"+os.Getenv("PATH"))
			e.Setenv("NTAP", ntapBinary)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"fails": fails, "mode": mode},
	}
}

// fails STATUS PROGRAM ARG... runs a program that has to end with that status,
// say something, and not panic.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails STATUS PROGRAM ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	status := 0
	if exit != nil {
		status = exit.ExitCode()
	}
	said := ts.ReadFile("stderr")
	if strconv.Itoa(status) != args[0] || strings.TrimSpace(said) == "" || strings.Contains(said, "panic") || strings.Contains(said, "goroutine ") {
		ts.Fatalf("exit status %d, want %s, with a message and no panic:\n%s", status, args[0], said)
	}
}

// mode MODE FILE compares a file's permission bits, in octal.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode MODE FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode()&fs.ModePerm); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}
