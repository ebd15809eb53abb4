// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ntap-project/ntap/ring"
)

// Chosen: so often is looked whether a namespace is still the one that is
// meant, and so often it is searched for while it is not there.
const (
	namespaceLook   = 100 * time.Millisecond
	namespaceSearch = 500 * time.Millisecond
)

// A namespace is the network namespace that is captured in, if it is not the
// remote's own.
type namespace struct {
	path    string // of the file that stands for it
	file    fs.FileInfo
	pid     int // of a process in it; 0: a file of its own stands for it
	started uint64
}

// here says that the namespace is still where it was.
func (n *namespace) here(host *containers) bool {
	if n.pid > 0 {
		if at, err := host.started(n.pid); err != nil || at != n.started {
			return false
		}
	}
	file, err := os.Stat(n.path)
	return err == nil && os.SameFile(file, n.file)
}

// findNamespace looks for the namespace that the configuration means.
func (t *tap) findNamespace() (*namespace, error) {
	if t.cfg.Container != "" {
		pid, err := t.containers.find(t.cfg.Container)
		if err != nil {
			return nil, err
		}
		return t.namespaceOf(pid)
	}
	path := t.cfg.NetNS
	if pid, err := strconv.Atoi(path); err == nil {
		return t.namespaceOf(pid)
	}
	if !strings.Contains(path, "/") {
		path = "/run/netns/" + path // ip-netns(8)
	}
	file, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("remote: network namespace %s: %w; give the name of one that ip netns shows, a file as /proc/PID/ns/net, or a PID", t.cfg.NetNS, err)
	}
	return &namespace{path: path, file: file}, nil
}

func (t *tap) namespaceOf(pid int) (*namespace, error) {
	n := &namespace{path: t.containers.namespace(pid), pid: pid}
	var err error
	if n.started, err = t.containers.started(pid); err == nil {
		n.file, err = os.Stat(n.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remote: process %d: there is none: %w", pid, err)
	} else if err != nil {
		return nil, fmt.Errorf("remote: network namespace of process %d: %w; run as root", pid, err)
	}
	return n, nil
}

// elsewhere says that another namespace than the remote's own is meant.
func (t *tap) elsewhere() bool { return t.cfg.NetNS != "" || t.cfg.Container != "" }

// errAway says that the namespace is not there now.
var errAway = errors.New("remote: the network namespace is not there")

// inside runs do in the namespace that is captured in.
func (t *tap) inside(do func() error) error {
	if !t.elsewhere() {
		return do()
	}
	n := t.where.Load()
	if n == nil {
		return errAway
	}
	if err := ring.Inside(n.path, do); err != nil {
		return err
	}
	if !n.here(t.containers) { // its PID, or its name, was given to another meanwhile
		return errAway
	}
	return nil
}

// follow follows the namespace: it tells shards when it went, and where it is
// again. What was the namespace of a process that ended, and of nothing else
// that has a name, ends the capture.
func (t *tap) follow(ctx context.Context, end func()) {
	wait := namespaceLook
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		now := t.where.Load()
		if now != nil && now.here(t.containers) {
			continue
		}
		log := t.log.With().Str("namespace", t.cfg.NetNS+t.cfg.Container).Logger()
		next, err := t.findNamespace()
		switch {
		case err == nil && now != nil && os.SameFile(now.file, next.file):
			t.where.Store(next) // another process in it
			continue
		case err == nil:
			log.Info().Str("path", next.path).Msg("the network namespace is another one now: capturing there")
			wait = namespaceLook
		case now != nil && now.pid > 0 && t.cfg.Container == "":
			log.Warn().Msg("the process ended: that is the end of the capture in its network namespace")
			end()
			return
		case now != nil:
			log.Warn().Msg("the network namespace is gone: waiting for it to come again")
			wait = namespaceSearch
		default:
			continue // still gone
		}
		t.where.Store(next) // nil: nowhere
		t.moves.Add(1)
	}
}
