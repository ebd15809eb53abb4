// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/crypto"
)

// remoteKeys are the flags by which a remote gets its keys.
type remoteKeys struct{ file, passphrase, collector, identity string }

func (k *remoteKeys) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.file, "key-file", "", "key file of this tap; default: $NTAP_KEY_FILE, or systemd's credential ntap.key")
	f.StringVarP(&k.passphrase, "passphrase", "k", "", "passphrase instead of a key file, as nTap has it: everybody sees it in ps")
	f.StringVar(&k.collector, "collector-key", "", "file with the collector's public key, in place of a key file: public-key mode, with --identity")
	f.StringVar(&k.identity, "identity", "", "file with the identity of this remote, which ntap key identity makes")
}

// public says that public-key mode is meant.
func (k *remoteKeys) public() bool { return k.collector != "" || k.identity != "" }

// load reads the files of public-key mode, and returns the tap: given, or -1
// for that of the identity.
func (k *remoteKeys) load(given int64) (public *crypto.PublicFile, id *crypto.Identity, tap uint32, err error) {
	switch {
	case k.collector == "" || k.identity == "":
		return nil, nil, 0, usagef("--collector-key and --identity go together")
	case k.file != "" || k.passphrase != "":
		return nil, nil, 0, usagef("--collector-key excludes --key-file and -k")
	}
	if public, err = crypto.LoadPublicFile(k.collector); err != nil {
		return nil, nil, 0, err
	}
	if id, err = crypto.LoadIdentity(k.identity); err != nil {
		return nil, nil, 0, err
	}
	if given != -1 && given != int64(id.Tap) {
		return nil, nil, 0, usagef("--tap %d: the identity is that of tap %d", given, id.Tap)
	}
	return public, id, id.Tap, nil
}

// collectorKeys are the flags by which a collector gets its keys.
type collectorKeys struct{ file, passphrase, pair, allow string }

func (k *collectorKeys) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.file, "key-file", "", "master key, or the key of the one tap to accept; default: $NTAP_KEY_FILE, or systemd's credential ntap.key")
	f.StringVarP(&k.passphrase, "passphrase", "k", "", "passphrase instead of a key file, as nTap has it: everybody sees it in ps")
	f.StringVar(&k.pair, "key-pair", "", "file with the key pair of this collector: public-key mode, with --allow; also beside a key file")
	f.StringVar(&k.allow, "allow", "", "list of the remotes that are taken in public-key mode")
}

// load reads the files of public-key mode; none are nil. only says that there
// is no key file besides.
//
// taps says that single taps have public keys: then there may be no list.
func (k *collectorKeys) load(taps bool) (pairs *crypto.PairFile, allow *crypto.AllowList, only bool, err error) {
	if k.pair == "" && k.allow == "" {
		return nil, nil, false, nil
	}
	if k.pair == "" || k.allow == "" && !taps {
		return nil, nil, false, usagef("--key-pair and --allow go together")
	}
	if pairs, err = crypto.LoadPairFile(k.pair); err != nil {
		return nil, nil, false, err
	}
	if k.allow != "" {
		if allow, err = crypto.LoadAllowList(k.allow); err != nil {
			pairs.Wipe()
			return nil, nil, false, err
		}
	}
	return pairs, allow, k.none(), nil
}

// none says that no key file is given, and no passphrase.
func (k *collectorKeys) none() bool {
	none := k.file == "" && k.passphrase == "" && os.Getenv("NTAP_KEY_FILE") == ""
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); none && dir != "" { // which may hold the pair and no key file
		_, err := os.Stat(filepath.Join(dir, "ntap.key"))
		none = errors.Is(err, fs.ErrNotExist)
	}
	return none
}

// hangups returns a channel with a value for each SIGHUP until ctx is done.
func hangups(ctx context.Context) <-chan struct{} {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	out := make(chan struct{})
	go func() {
		defer signal.Stop(c)
		for {
			select {
			case <-ctx.Done():
				return
			case <-c:
			}
			select {
			case <-ctx.Done():
				return
			case out <- struct{}{}:
			}
		}
	}()
	return out
}
