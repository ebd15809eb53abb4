// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
)

// settingFiles say what is wrong with files that settings name.
var settingFiles = map[string]func(path string) error{
	"key-file": func(path string) error {
		k, err := crypto.LoadKeyFile(path)
		if err == nil {
			k.Wipe()
		}
		return err
	},
	"key-pair": func(path string) error {
		k, err := crypto.LoadPairFile(path)
		if err == nil {
			k.Wipe()
		}
		return err
	},
	"allow": func(path string) error { _, err := crypto.LoadAllowList(path); return err },
	"state": checkState,
}

// checkState says what is wrong with a state file, which need not be there yet.
func checkState(path string) error {
	if path == "none" {
		return nil
	}
	if dir, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("state file: %w", err)
	} else if !dir.IsDir() {
		return fmt.Errorf("state file: %s is no directory", filepath.Dir(path))
	}
	return collector.CheckState(path)
}

// look notes what is wrong with files that the configuration names: of settings,
// where nothing else says them and where they are others than those in force; of
// single taps; and of outputs if the collector would not say so itself, as when
// it starts: then other outputs run.
func (s *configFlag) look(c *cobra.Command, r *configReader, f *configFile) {
	_, _ = crypto.Protect() // before keys are in memory; what it cannot do is said by protect
	for name, wrong := range settingFiles {
		given, ok := f.settings[name]
		if !ok || c.Flags().Changed(name) || s.replaced(c, name, false) || name == "key-file" && os.Getenv("NTAP_KEY_FILE") != "" {
			continue
		}
		if path := given.values[0]; path != "" && (s.given == nil || !slices.Equal(s.given.settings[name].values, given.values)) {
			if err := wrong(path); err != nil {
				r.check(given.line, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	single := f.readKeys(r)
	single.wipe()
	if !s.check && s.given == nil {
		return
	}
	for _, t := range f.tls {
		if err := t.files.Check(); err != nil {
			r.check(t.line, fmt.Errorf("%s: %w", t.what, err))
		}
	}
}

// checkConfig says what is wrong with a configuration that was read, or writes
// what goes where. Without a key file nothing is said of it: the command line
// that starts the collector may give it.
func checkConfig(w io.Writer, cfg *collector.Config, file *configFlag, place *placeFlags, keys *collectorKeys, clear bool) error {
	_, wrong := place.arrange(zerolog.Nop(), false, facing(cfg.Listen)...)
	if err := checkOutputs(&cfg.Outputs); err != nil {
		wrong = errors.Join(wrong, usageError{err})
	}
	if !keys.none() || keys.pair != "" || keys.allow != "" {
		wrong = errors.Join(wrong, loadCollectorKeys(cfg, keys, file, clear))
		if cfg.Pairs != nil {
			cfg.Pairs.Wipe()
		}
		if cfg.Keys != nil {
			cfg.Keys.Wipe()
		}
	}
	if wrong != nil {
		return usageError{wrong}
	}
	printRoutes(w, file.given, &cfg.Outputs)
	return nil
}
