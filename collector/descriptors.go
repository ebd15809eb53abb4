// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"syscall"
)

// withRemedy returns err, with what to do if it is that no more files and
// connections can be open.
func withRemedy(err error) error {
	switch {
	case errors.Is(err, syscall.EMFILE):
		limit := "as many"
		var r syscall.Rlimit
		if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) == nil {
			limit = fmt.Sprint(r.Cur)
		}
		return fmt.Errorf("%w: this process may have %s open, files and connections together; let it have more (ulimit -n, LimitNOFILE= of a systemd unit), or have fewer of them", err, limit)
	case errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%w on this machine: sysctl fs.file-max is how many it may have", err)
	}
	return err
}
