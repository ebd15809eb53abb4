// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"path/filepath"
	"strings"
	"testing"
)

// What no output could be is said when it is asked for, not when it is tried.
func TestConfigOutOfRange(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Workers: -1}, "-1 workers: 1 to 1024"},
		{Config{Workers: 100000}, "100000 workers: 1 to 1024"}, // it opened sockets for minutes
		{Config{Outputs: Outputs{Files: []File{{}}}}, "no file is named"},
		{Config{State: filepath.Join(t.TempDir(), "nosuch", "state")}, "its folder has to be there"}, // it said to make room
	} {
		c.cfg.Listen, c.cfg.Keys = "127.0.0.1:0", testKeys(t)
		if r, err := Listen(t.Context(), c.cfg); err == nil {
			r.Close()
			t.Errorf("taken, want %q", c.want)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
