// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// A configFlag is the flag that names a configuration file. What flags say
// wins over the environment, that over the file, and that over defaults.
type configFlag struct {
	path    string
	except  []string   // flags that are not for the file
	lists   bool       // those that may be given again are
	instead [][]string // flags that say the same in other ways: one on the command line stands for all
	given   *configFile

	taps  func(*configFile) error // adds those of flags
	files bool                    // files that it names are looked at
	check bool                    // it is only looked at: also those that outputs need
}

// A settable is a flag that a file may set.
type settable struct {
	list  bool                    // it may be given again
	wrong func(word string) error // what is wrong with a value
}

// notSettings are flags that no file and no environment sets: secrets, and what
// is about one call.
var notSettings = []string{"config", "check-config", "help", "passphrase"}

func (s *configFlag) add(c *cobra.Command, except ...string) {
	s.except = append(except, notSettings...)
	c.Flags().StringVar(&s.path, "config", "", "file with the configuration (docs/CONFIG.md), in YAML; flags win over it, and so does the environment: NTAP_WORKERS for --workers")
}

// settings returns the flags that the file may set, with what says what is
// wrong with a value.
func (s *configFlag) settings(c *cobra.Command) map[string]settable {
	known := make(map[string]settable)
	c.Flags().VisitAll(func(f *pflag.Flag) {
		list := f.Value.Type() == "stringArray"
		if (s.lists || !list) && !slices.Contains(s.except, f.Name) {
			known[f.Name] = settable{list, func(v string) error { return checkSetting(c.Name(), f, v) }}
		}
	})
	return known
}

// replaced says whether the command line says in another way what a flag says.
// words says that it has a filter behind the flags.
func (s *configFlag) replaced(c *cobra.Command, name string, words bool) bool {
	for _, group := range s.instead {
		if !slices.Contains(group, name) {
			continue
		}
		for _, other := range group {
			if c.Flags().Changed(other) || other == "filter" && words {
				return true
			}
		}
	}
	return false
}

// checkSetting says what is wrong with a value for a flag of a command, without
// setting it.
func checkSetting(command string, f *pflag.Flag, v string) error {
	var err error
	switch f.Value.Type() {
	case "bool":
		if _, err = strconv.ParseBool(v); err != nil {
			return errors.New("want true or false")
		}
	case "int", "int64", "uint32", byteType:
		var n int64
		if f.Value.Type() == byteType {
			var bytes int
			if bytes, err = parseBytes(v); err != nil {
				return err
			}
			n = int64(bytes)
		} else if n, err = strconv.ParseInt(v, 0, 64); err != nil {
			return errors.New("want a number")
		}
		if r, ok := settingRange[f.Name]; ok && (n < r[0] || n > r[1]) {
			return fmt.Errorf("want a number from %d to %d", r[0], r[1])
		}
	case "duration":
		var d time.Duration
		if d, err = time.ParseDuration(v); err != nil {
			return errors.New("want a time, as in 10ms, 5s or 2m")
		}
		if r, ok := settingTime[f.Name]; ok && (d < r[0] || d > r[1]) {
			return fmt.Errorf("want a time from %v to %v", r[0], r[1])
		}
	}
	switch f.Name {
	case "port":
		_, err = listenAddress(v)
	case "io":
		err = ways(command, v)
	case "fanout":
		_, err = ring.ParseFanout(v)
	case "cpus":
		if v != "auto" && v != "none" {
			_, err = engine.ParseCPUs(v)
		}
	case "workers":
		if n, e := strconv.Atoi(v); v != "auto" && (e != nil || n < 1 || n > engine.MaxShards) {
			err = fmt.Errorf("want auto, or a number from 1 to %d", engine.MaxShards)
		}
	}
	return err
}

// What limits.go allows.
var (
	settingRange = map[string][2]int64{"reorder": {1, 4096}, "receive-buffer": {1, maxMemory}, "merge-buffer": {8 << 20, maxMemory}, "ring": {1, maxMemory}, "block": {1, maxMemory}, "snaplen": {0, proto.MaxFrame}}
	settingTime  = map[string][2]time.Duration{
		"reorder-wait": {time.Microsecond, maxWait}, "merge": {0, maxWait}, "clock-window": {0, maxWindow}, "retire": {time.Millisecond, maxWait}, "resolve": {0, maxWindow},
	}
)

// environment sets flags that the command line does not.
func (s *configFlag) environment(c *cobra.Command) error {
	var errs []error
	c.Flags().VisitAll(func(f *pflag.Flag) {
		name := "NTAP_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := os.Getenv(name)
		if f.Changed || value == "" || f.Value.Type() == "stringArray" || slices.Contains(notSettings, f.Name) && f.Name != "config" || f.Name == "key-file" {
			return // of a key file loadKeys looks at it
		}
		if err := c.Flags().Set(f.Name, value); err != nil {
			errs = append(errs, usagef("$%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

// load reads the environment and the file, if there is one, and has the file
// set the flags that neither command line nor environment do.
func (s *configFlag) load(c *cobra.Command) error {
	if err := s.environment(c); err != nil {
		return err
	}
	f, err := s.read(c)
	if err != nil {
		return err
	}
	r := &configReader{path: s.path}
	for _, name := range f.sorted() {
		if s.replaced(c, name, c.Flags().NArg() > 0) || name == "key-file" && os.Getenv("NTAP_KEY_FILE") != "" {
			continue
		}
		flag, given := c.Flags().Lookup(name), f.settings[name]
		if list, ok := flag.Value.(pflag.SliceValue); ok && !flag.Changed {
			r.check(given.line, list.Replace(given.values))
		} else if !flag.Changed {
			r.check(given.line, flag.Value.Set(given.values[0]))
		}
	}
	s.given = f
	return r.err()
}

// read reads the file.
func (s *configFlag) read(c *cobra.Command) (*configFile, error) {
	var text []byte
	if s.path != "" {
		var err error
		if text, err = readConfig(s.path); err != nil {
			return nil, err
		}
	}
	r := &configReader{path: s.path}
	f, err := r.config(text, s.settings(c), !s.lists, s.taps)
	if err != nil {
		return nil, errors.Join(r.err(), err)
	}
	if s.files {
		s.look(c, r, f)
	}
	return f, r.err()
}

// restart returns the settings that are others in f than they were at the
// start, for which the program has to be started anew.
func (s *configFlag) restart(c *cobra.Command, f *configFile) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(s.settings(c))) {
		if !slices.Equal(f.settings[name].values, s.given.settings[name].values) && !c.Flags().Lookup(name).Changed && !s.replaced(c, name, c.Flags().NArg() > 0) {
			names = append(names, name)
		}
	}
	return names
}
