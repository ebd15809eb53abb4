// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/crypto"
)

func newKey() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "make keys", Args: noArgs}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.PersistentPreRun = func(*cobra.Command, []string) { protect(zerolog.Nop()) }
	c.AddCommand(newKeyNew(), newKeyTap(), newKeyRotate(), newKeyPair(), newKeyPublic(), newKeyIdentity())
	return c
}

func newKeyNew() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "new [--out FILE]",
		Short: "make a master key, which opens every tap: for collectors",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			key, err := crypto.NewKey()
			if err != nil {
				return err
			}
			defer key.Wipe()
			return writeKey(c.OutOrStdout(), out, func(w io.Writer) error { return crypto.WriteMaster(w, key) })
		},
	}
	c.Flags().StringVar(&out, "out", "", "write to this file, mode 0600, which must not exist; default: standard output")
	return c
}

func newKeyTap() *cobra.Command {
	var out, file string
	var id uint32
	c := &cobra.Command{
		Use:   "tap --id N --key-file MASTER [--out FILE]",
		Short: "print the key of one tap: for the remote with that ID",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("id") {
				return usagef("key tap: --id is missing: which tap is the key for?")
			}
			keys, err := loadKeys(file, "")
			if err != nil {
				return err
			}
			defer keys.Wipe()
			if !keys.IsMaster() {
				return errors.New("key tap: the key file holds the key of one tap; tap keys are made from a master key")
			}
			return writeKey(c.OutOrStdout(), out, func(w io.Writer) error { return keys.WriteTap(w, id) })
		},
	}
	c.Flags().Uint32Var(&id, "id", 0, "tap ID")
	c.Flags().StringVar(&file, "key-file", "", "file of the master key; default: $NTAP_KEY_FILE")
	c.Flags().StringVar(&out, "out", "", "write to this file, mode 0600, which must not exist; default: standard output")
	return c
}

// writeKey writes a key to stdout, or to a new file that only its owner reads.
func writeKey(stdout io.Writer, path string, write func(io.Writer) error) error {
	if path == "" {
		return write(stdout)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("key: %s is there already: a key is never overwritten; remove the file or name another", path)
	} else if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("key: %s: %w", path, err)
	}
	return nil
}

// loadKeys reads the key file: the one given, or $NTAP_KEY_FILE, or systemd's
// credential ntap.key; or makes a key of a passphrase, as nTap does.
func loadKeys(file, passphrase string) (*crypto.KeyFile, error) {
	if passphrase != "" {
		if file != "" {
			return nil, usagef("-k and --key-file exclude each other")
		}
		return crypto.FromPassphrase(passphrase)
	}
	if file = cmp.Or(file, os.Getenv("NTAP_KEY_FILE")); file == "" {
		if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
			file = filepath.Join(dir, "ntap.key")
		}
	}
	if file == "" {
		return nil, usagef("no key: give --key-file FILE or set NTAP_KEY_FILE; ntap key new makes a master key, ntap key tap the key of one tap")
	}
	return crypto.LoadKeyFile(file)
}

// tapOf returns the tap ID: the one given, or the one that a tap's key file
// carries. given is -1 if none was.
func tapOf(keys *crypto.KeyFile, given int64) (uint32, error) {
	if given > math.MaxUint32 || given < -1 {
		return 0, usagef("--tap %d: a tap ID is a number from 0 to %d", given, uint32(math.MaxUint32))
	}
	if given >= 0 {
		_, err := keys.TapKey(uint32(given))
		return uint32(given), err
	}
	if id, ok := keys.Tap(); ok {
		return id, nil
	}
	return 1, nil
}
