// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/crypto"
)

const outUsage = "write to this file, mode 0600, which must not exist; default: standard output"

func newKeyPair() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "pair [--out FILE]",
		Short: "make a key pair, for a collector in public-key mode",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := crypto.NewPair()
			if err != nil {
				return err
			}
			defer p.Wipe()
			return writeKey(c.OutOrStdout(), out, p.Write)
		},
	}
	c.Flags().StringVar(&out, "out", "", outUsage)
	return c
}

func newKeyPublic() *cobra.Command {
	var pair string
	c := &cobra.Command{
		Use:   "public --key-pair FILE",
		Short: "print the public key of a collector, for its remotes",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if pair == "" {
				return usagef("key public: --key-pair is missing: of which pair?")
			}
			p, err := crypto.LoadPairFile(pair)
			if err != nil {
				return err
			}
			defer p.Wipe()
			return p.WritePublic(c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&pair, "key-pair", "", "file that ntap key pair made")
	return c
}

func newKeyIdentity() *cobra.Command {
	var out, name string
	var tap uint32
	c := &cobra.Command{
		Use:   "identity --id N --out FILE [--name NAME]",
		Short: "make the identity of a remote in public-key mode, and print its line for the allow-list",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("id") || out == "" {
				return usagef("key identity: --id and --out are needed: for which tap, and where to?")
			}
			if name == "" {
				name = fmt.Sprintf("tap%d", tap)
			}
			if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) {
				return usagef("key identity: --name %q: a name on the allow-list is one word", name)
			}
			id, err := crypto.NewIdentity(tap)
			if err != nil {
				return err
			}
			defer id.Wipe()
			if err := writeKey(c.OutOrStdout(), out, id.Write); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%d %s %s\n", tap, name, id.Public())
			return err
		},
	}
	c.Flags().Uint32Var(&tap, "id", 0, "tap ID")
	c.Flags().StringVar(&name, "name", "", "name on the allow-list, one word; default: tapN")
	c.Flags().StringVar(&out, "out", "", "write the identity to this file, mode 0600, which must not exist")
	return c
}

// Chosen: time enough to bring files to remotes, and to notice what was
// forgotten.
const (
	rotateIn      = 10 * time.Minute
	rotateOverlap = 24 * time.Hour
)

func newKeyRotate() *cobra.Command {
	var file, pair string
	var in, overlap time.Duration
	c := &cobra.Command{
		Use:   "rotate {--key-file FILE | --key-pair FILE} [--in 10m] [--overlap 24h]",
		Short: "add a new key to a key file, and end the ones before",
		Long: `Adds a new key to a key file or key pair file. It is in force after --in; the
keys before it are good until --overlap after that. Then:

  1. kill -HUP the collector at once: it takes both keys from then on.
  2. Give each remote its new file (ntap key tap, or ntap key public) while the
     overlap lasts, and kill -HUP it. It goes on to the new key when the time
     has come, without losing a frame.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if (file == "") == (pair == "") {
				return usagef("key rotate: name one file, by --key-file or --key-pair")
			}
			if in < 0 || overlap <= 0 {
				return usagef("key rotate: --in %v --overlap %v: both lie in the future", in, overlap)
			}
			now := time.Now().Truncate(time.Second)
			since := now.Add(in)
			var err error
			var keys interface {
				Rotate(now, since, until time.Time) (uint8, error)
				Write(io.Writer) error
				Wipe()
			}
			if file != "" {
				keys, err = crypto.LoadKeyFile(file)
			} else {
				file = pair
				keys, err = crypto.LoadPairFile(file)
			}
			if err != nil {
				return err
			}
			defer keys.Wipe()
			id, err := keys.Rotate(now, since, since.Add(overlap))
			if err != nil {
				return err
			}
			if err := replaceKey(file, keys.Write); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: key %d is in force from %s, the ones before until %s at the latest\n"+
				"now: kill -HUP the collector; then bring new files to the remotes, and kill -HUP them\n",
				file, id, since.Format(time.RFC3339), since.Add(overlap).Format(time.RFC3339))
			return err
		},
	}
	c.Flags().StringVar(&file, "key-file", "", "file with master keys, or with those of one tap")
	c.Flags().StringVar(&pair, "key-pair", "", "file with a collector's key pairs")
	c.Flags().DurationVar(&in, "in", rotateIn, "when the new key is in force")
	c.Flags().DurationVar(&overlap, "overlap", rotateOverlap, "how long after that the ones before are good")
	return c
}

// replaceKey makes what write writes the content of a file of keys: all of it
// or none, and with the mode and the owner that it had.
func replaceKey(path string, write func(io.Writer) error) error {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to // replace the file, not a link to it
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("key: %s is not a file: it cannot be replaced", path)
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("key: %w", err)
	}
	if err := writeKey(nil, fresh, write); err != nil {
		return err
	}
	if err = keepOwner(fresh, info); err == nil {
		err = os.Chmod(fresh, info.Mode().Perm())
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh)
		return fmt.Errorf("key: %w; the file from before stays", err)
	}
	return nil
}
