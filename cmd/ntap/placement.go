// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"strconv"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/engine"
)

// A placeFlags are the flags about shards and CPUs.
type placeFlags struct{ workers, cpus string }

func (p *placeFlags) add(c *cobra.Command, workers string) {
	c.Flags().StringVar(&p.workers, "workers", "1", workers+"; auto: as many as suit the interface's queues and this machine's cores")
	c.Flags().StringVar(&p.cpus, "cpus", "", "pin them to these CPUs in turn, as in 0-3,6; auto: to those near the interface; none: not pinned; default: auto if there are several")
}

// arrange says how many there are for each of the interfaces, and where they
// run. Elsewhere, in another network namespace, interfaces tell nothing of
// themselves here; the log says so where that matters.
func (p *placeFlags) arrange(log zerolog.Logger, elsewhere bool, interfaces ...string) (engine.Plan, error) {
	if p.workers != "auto" {
		n, err := strconv.Atoi(p.workers)
		if err != nil {
			return engine.Plan{}, usagef("--workers %q: auto, or a number from 1 to %d", p.workers, engine.MaxShards)
		}
		if err := within("--workers", n, 1, engine.MaxShards); err != nil {
			return engine.Plan{}, err
		}
	}
	ask := engine.Ask{Workers: p.workers, CPUs: p.cpus, Interfaces: interfaces, Elsewhere: elsewhere}
	plan, err := engine.Arrange(ask)
	if err != nil {
		return plan, usageError{err}
	}
	if ask.Blind() {
		log.Info().Stringer("plan", plan).Str("mend", "give --workers and --cpus").
			Msg("queues, NUMA node and interrupts of interfaces in another network namespace are not looked at")
	}
	return plan, nil
}

// facing returns the names of the interface on which datagrams to the address
// come in: that which has its host, or that of the default route; none if
// there is neither.
func facing(listen string) []string {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return nil
	}
	ip := net.ParseIP(host)
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // for documentation, RFC 5737 and 3849: nothing is sent
		if ip != nil && !ip.IsUnspecified() {
			break
		}
		if c, err := net.Dial("udp", to); err == nil {
			ip = c.LocalAddr().(*net.UDPAddr).IP
			c.Close()
		}
	}
	all, err := net.Interfaces()
	if ip == nil || err != nil {
		return nil
	}
	for _, i := range all {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return []string{i.Name}
			}
		}
	}
	return nil
}
