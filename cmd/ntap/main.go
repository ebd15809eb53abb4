// SPDX-License-Identifier: Apache-2.0

// Command ntap is a software network tap: see `ntap --help`, and README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// A usageError is about the command line: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() { os.Exit(run(os.Args)) }

// run runs the command line args, the program's name first, and returns the
// exit status.
func run(args []string) int {
	root := newRoot()
	root.SetArgs(args[1:])
	// A link with one of these names is that subcommand.
	switch filepath.Base(args[0]) {
	case "ntap_remote":
		root.SetArgs(append([]string{"remote"}, args[1:]...))
	case "ntap_collector":
		root.SetArgs(append([]string{"collector"}, args[1:]...))
	default:
		if isExtcap(args) {
			root.SetArgs(append([]string{"extcap"}, args[1:]...))
		}
	}
	ctx, stop := signals()
	defer stop()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "ntap:", err)
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// Chosen: signals so close together are one wish. timeout(1) signals a program
// and then its whole group, and so do some supervisors; nobody presses Ctrl-C
// twice as fast and means the second.
const oneWish = time.Second

// signals returns a context that the first SIGINT or SIGTERM ends; one that
// comes later than oneWish after it ends the program at once.
func signals() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	go endOn(c, func() <-chan time.Time { return time.After(oneWish) }, cancel, func() { os.Exit(exitFailed) })
	return ctx, func() { signal.Stop(c); cancel() }
}

// endOn calls end at the first signal and atOnce at the first that comes after
// what pause then returns has fired.
func endOn(c <-chan os.Signal, pause func() <-chan time.Time, end, atOnce func()) {
	<-c
	end()
	for over := pause(); over != nil; {
		select {
		case <-c:
		case <-over:
			over = nil
		}
	}
	<-c
	atOnce()
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "ntap",
		Short:         "a software network tap: captured here, encrypted, given back there as live traffic",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w%s; see %s --help", err, meantFlag(c, err), c.CommandPath())
	})
	root.AddCommand(newRemote(), newCollector(), newKey(), newExtcap(), newDoctor(), newDemo(), newFilter(), newOVS(), newBench(), newSize(), newMeasureChild(), newVersion())
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return root
}

// noArgs refuses arguments where there are none to give.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			names = append(names, sub.Name())
		}
	}
	meant := ""
	if name := nearest(args[0], names); name != "" {
		meant = "; is it " + name + "?"
	}
	return usagef("%s: %q is not a command or not expected here%s; see %s --help", c.CommandPath(), args[0], meant, c.CommandPath())
}

// meantFlag says which flag of a command was meant by one that it does not have.
func meantFlag(c *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return ""
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if name := nearest(unknown.GetSpecifiedName(), names); name != "" {
		return "; is it --" + name + "?"
	}
	return ""
}

// A logFlags are the flags about logging.
type logFlags struct {
	verbose, json bool
}

func (l *logFlags) add(c *cobra.Command) {
	c.Flags().BoolVarP(&l.verbose, "verbose", "v", false, "log more")
	c.Flags().BoolVar(&l.json, "log-json", false, "log as JSON lines")
}

// logger returns a logger on w, which is standard error.
func (l *logFlags) logger(w io.Writer) zerolog.Logger {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	if !l.json {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: true}
	}
	level := zerolog.InfoLevel
	if l.verbose {
		level = zerolog.DebugLevel
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}
