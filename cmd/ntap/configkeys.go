// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ed25519"
	"fmt"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
)

// tapKeys are the keys that single taps have in a configuration.
type tapKeys struct {
	files  []*crypto.KeyFile
	public map[uint32]ed25519.PublicKey
}

// keys reads the keys of single taps, or says all that is wrong with them.
func (f *configFile) keys() (tapKeys, error) {
	r := &configReader{path: f.path}
	k := f.readKeys(r)
	if err := r.err(); err != nil {
		k.wipe()
		return k, err
	}
	return k, nil
}

// readKeys reads the keys of single taps, and notes what is wrong with them.
func (f *configFile) readKeys(r *configReader) (k tapKeys) {
	k.public = make(map[uint32]ed25519.PublicKey)
	for _, t := range f.taps {
		switch {
		case t.publicKey != "":
			k.public[t.id], _ = crypto.ParsePublicKey(t.publicKey) // which was found good
		case t.keyFile != "":
			file, err := crypto.LoadKeyFile(t.keyFile)
			if err == nil {
				k.files = append(k.files, file)
				if tap, ok := file.Tap(); !ok || tap != t.id {
					err = fmt.Errorf("%v is not the key file of tap %d; make that with: ntap key tap --id %d --out FILE", file, t.id, t.id)
				}
			}
			if err != nil {
				r.at(t.line, "taps: tap %d: %v", t.id, err)
			}
		}
	}
	return k
}

func (k *tapKeys) wipe() {
	for _, f := range k.files {
		f.Wipe()
	}
}

// good says whether the collector can use the keys.
func (k *tapKeys) good(cfg *collector.Config) error {
	if len(k.public) > 0 && cfg.Pairs == nil {
		return usagef("public-key is for public-key mode, in which the collector has a key pair: give --key-pair (ntap key pair makes one)")
	}
	return nil
}

// use puts the keys in force.
func (k *tapKeys) use(cfg *collector.Config) error {
	if cfg.Allow != nil {
		cfg.Allow.SetTaps(k.public)
	}
	if cfg.Keys == nil {
		return nil
	}
	return cfg.Keys.SetTaps(k.files)
}

// loadCollectorKeys reads all keys of a collector.
func loadCollectorKeys(cfg *collector.Config, keys *collectorKeys, file *configFlag, clear bool) (err error) {
	single, err := file.given.keys()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			single.wipe()
		}
	}()
	var only bool
	if cfg.Pairs, cfg.Allow, only, err = keys.load(len(single.public) > 0); err != nil {
		return err
	}
	if cfg.Pairs != nil && cfg.Allow == nil {
		cfg.Allow = crypto.NewAllowList()
	}
	if err := single.good(cfg); err != nil {
		return err
	}
	if clear && keys.none() && !only && len(single.files) == 0 {
		keys.passphrase = clearPassphrase
	}
	switch {
	case only && file.path == "" && len(single.files) == 0:
		return single.use(cfg)
	case only || len(single.files) > 0 && keys.none():
		cfg.Keys = crypto.NoKeys()
	default:
		if cfg.Keys, err = loadKeys(keys.file, keys.passphrase); err != nil {
			return err
		}
	}
	return single.use(cfg)
}
