// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/remote"
	"github.com/ntap-project/ntap/ring/filter"
)

// filterFlags are the ways to give a filter.
type filterFlags struct {
	text, file, bytecode string
}

func (f *filterFlags) addFile(c *cobra.Command) {
	c.Flags().StringVarP(&f.file, "filter-file", "F", "", "file with the filter expression; - is standard input; what is behind a # is not read")
}

func (f *filterFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.text, "filter", "f", "", "filter expression, as nTap has it; the same as the words after the flags")
	f.addFile(c)
	c.Flags().StringVar(&f.bytecode, "filter-bytecode", "", "file with the filter as ntap filter -ddd and tcpdump -ddd print it")
}

// read returns the filter that the flags and the words after them say. It
// reads files anew each time.
func (f *filterFlags) read(words []string) (out remote.Filter, err error) {
	out.Text = strings.Join(words, " ")
	var ways []string
	for _, w := range []struct{ way, v string }{
		{"a filter after the flags", out.Text}, {"-f", f.text}, {"-F", f.file}, {"--filter-bytecode", f.bytecode},
	} {
		if w.v != "" {
			ways = append(ways, w.way)
		}
	}
	switch {
	case len(ways) > 1:
		return out, usagef("%s and %s exclude each other", ways[0], ways[1])
	case f.text != "":
		out.Text = f.text
	case f.file != "":
		out.Text, err = readExpression(f.file)
	case f.bytecode != "":
		out.Text = "bytecode of " + f.bytecode
		out.Program, err = readBytecode(f.bytecode)
	}
	return out, err
}

// filterSettings are the flags that a remote's configuration file may change
// while it runs.
var filterSettings = []string{"filter", "filter-file", "filter-bytecode"}

// again returns a channel with the filter as it is at each SIGHUP, until ctx is
// done: of its file, read anew, or as the configuration file now has it; nil if
// it is from neither. words are those behind the flags.
func (f *filterFlags) again(c *cobra.Command, words []string, config *configFlag, log zerolog.Logger) <-chan remote.Filter {
	if config.path == "" && f.bytecode == "" && (f.file == "" || f.file == "-") {
		return nil
	}
	ctx, out := c.Context(), make(chan remote.Filter)
	hup := hangups(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
			}
			now, err := f.now(c, words, config, log)
			if err != nil {
				log.Error().Err(err).Msg("the configuration stays as it was")
				continue
			}
			next, err := now.read(words)
			if err != nil {
				log.Error().Err(err).Msg("the filter stays as it was")
				continue
			}
			select {
			case <-ctx.Done():
				return
			case out <- next:
			}
		}
	}()
	return out
}

// now returns the flags as the configuration file has them by now, if there is
// one and it may say them. What else changed in it is logged.
func (f *filterFlags) now(c *cobra.Command, words []string, config *configFlag, log zerolog.Logger) (*filterFlags, error) {
	if config.path == "" {
		return f, nil
	}
	file, err := config.read(c)
	if err != nil {
		return nil, err
	}
	later := slices.DeleteFunc(config.restart(c, file), func(name string) bool { return slices.Contains(filterSettings, name) })
	if len(later) > 0 {
		log.Warn().Strs("settings", later).Msg("these changed in the configuration, and are in force when the remote is started anew")
	}
	if config.replaced(c, "filter", len(words) > 0) {
		return f, nil
	}
	value := func(name string) string { return strings.Join(file.settings[name].values, "") } // one, or none
	now := &filterFlags{text: value("filter"), file: value("filter-file"), bytecode: value("filter-bytecode")}
	if now.file == "-" {
		return nil, usagef("%s: filter-file: standard input can be read only once: give a file", config.path)
	}
	return now, nil
}

// readExpression reads a file with an expression. Comments become spaces, so
// that errors find their place.
func readExpression(path string) (string, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("filter: %w", err)
		}
		defer f.Close()
		in = f
	}
	const limit = 1 << 20 // bytes; the compiler's own is lower
	text, err := io.ReadAll(io.LimitReader(in, limit))
	if err != nil {
		return "", fmt.Errorf("filter: %s: %w", path, err)
	}
	comment := false
	for i, c := range text {
		switch comment = (comment || c == '#') && c != '\n'; {
		case comment:
			text[i] = ' '
		case c == '\r':
			text[i] = ' '
		}
	}
	expression := strings.TrimRight(string(text), " \t\n")
	if strings.TrimSpace(expression) == "" {
		return "", usagef("filter: %s: there is no expression in it; without a filter leave -F out", path)
	}
	return expression, nil
}

func readBytecode(path string) (filter.Program, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	p, err := filter.ParseBytecode(string(text))
	if err != nil {
		return nil, fmt.Errorf("filter: %s: %w", path, err)
	}
	return p, nil
}

// filterUsage makes a wrong usage of err if it is about a filter, and shows the
// word that is wrong.
func filterUsage(err error) error {
	var word *filter.Error
	var unusable *remote.FilterError
	switch {
	case errors.As(err, &word):
		return usagef("%w\n  %s", err, strings.ReplaceAll(word.Pointer(), "\n", "\n  "))
	case errors.As(err, &unusable):
		return usageError{err}
	}
	return err
}

func newFilter() *cobra.Command {
	var (
		flags  filterFlags
		dump   int
		link   string
		live   bool
		length uint32
	)
	c := &cobra.Command{
		Use:   "filter [-d|-dd|-ddd] [-y LINKTYPE] [--live] EXPRESSION",
		Short: "print what a filter expression is compiled to, as tcpdump -d does",
		Long: `Compile a filter expression, in the language of tcpdump, and print the program:
as it is run on frames of files or, with --live, as the kernel runs it, where a
remote puts before it what leaves out its own datagrams.
docs/FILTER.md says more of the language.`,
		Example: `  ntap filter tcp port 80
  ntap filter --live 'vlan 100 and tcp[tcpflags] & tcp-syn != 0'
  ntap filter -ddd --live udp port 53 > bytecode     # for remote --filter-bytecode`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			from, err := flags.read(args)
			if err != nil {
				return err
			}
			if dump > 3 {
				return usagef("filter: -d, -dd or -ddd")
			}
			o := filter.Options{Live: live, SnapLen: length}
			if o.LinkType, err = filter.LinkType(link); err != nil {
				return usageError{err}
			}
			if err := within("-s", length, 1, proto.MaxFrame); err != nil {
				return err
			}
			program, err := filter.Compile(from.Text, o)
			if err != nil {
				return filterUsage(&remote.FilterError{Err: err})
			}
			if program.MatchesNothing() {
				fmt.Fprintln(c.ErrOrStderr(), "ntap: filter: no frame can match this")
			}
			switch dump {
			case 2:
				fmt.Fprint(c.OutOrStdout(), program.C())
			case 3:
				fmt.Fprint(c.OutOrStdout(), program.Bytecode())
			default:
				fmt.Fprint(c.OutOrStdout(), program)
			}
			return nil
		},
	}
	f := c.Flags()
	f.CountVarP(&dump, "dump", "d", "as instructions; -dd: for a C program; -ddd: as decimal numbers")
	f.StringVarP(&link, "linktype", "y", "EN10MB", "type of the frames: EN10MB, RAW, LINUX_SLL, LINUX_SLL2, IPV4 or IPV6")
	f.BoolVar(&live, "live", false, "as it is attached in the kernel, where VLAN tags are not in the frame")
	f.Uint32VarP(&length, "snaplen", "s", proto.MaxFrame, "bytes of a frame that matches: what the program returns")
	flags.addFile(c)
	return c
}
