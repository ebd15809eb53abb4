// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strconv"
	"strings"
)

// An Ask is what a user says of shards and CPUs.
type Ask struct {
	Workers    string   // shards for each interface: a number, or "auto": as many as suit it
	CPUs       string   // a list, "auto", or "none"; "": auto if there is more than one shard
	Interfaces []string // that are served; none: not known
	Elsewhere  bool     // they are in another network namespace, and nothing is known of them but that
}

// A Plan is what came of an Ask.
type Plan struct {
	Workers int   // for each interface
	CPUs    []int // one for each shard, those of the first interface first; none: not pinned
}

// String says it in a few words.
func (p Plan) String() string {
	if len(p.CPUs) == 0 {
		return fmt.Sprintf("workers %d, not pinned", p.Workers)
	}
	return fmt.Sprintf("workers %d, on CPUs %s", p.Workers, strings.Trim(fmt.Sprint(p.CPUs), "[]"))
}

// Arrange makes a Plan for this machine.
func Arrange(ask Ask) (Plan, error) {
	return ReadMachine().arrange(ask, ask.nics(ReadNIC))
}

// nics says what is known of the interfaces: what read says, unless it would
// tell of others that have the same names.
func (ask *Ask) nics(read func(name string) NIC) []NIC {
	out := make([]NIC, len(ask.Interfaces))
	for i, name := range ask.Interfaces {
		if out[i] = (NIC{Name: name, Node: Unknown}); !ask.Elsewhere {
			out[i] = read(name)
		}
	}
	return out
}

// Blind says that the plan would look at interfaces that it cannot see.
func (ask *Ask) Blind() bool {
	switch {
	case !ask.Elsewhere || ask.listed():
		return false
	case ask.Workers == "auto" || ask.CPUs == "auto":
		return true
	}
	return ask.CPUs == "" && (ask.Workers != "1" || len(ask.Interfaces) > 1) // several are pinned
}

// listed says that the user names the CPUs.
func (ask *Ask) listed() bool { return ask.CPUs != "" && ask.CPUs != "none" && ask.CPUs != "auto" }

func (m *Machine) arrange(ask Ask, nics []NIC) (p Plan, err error) {
	if len(nics) == 0 {
		nics = []NIC{{Node: Unknown}}
	}
	if ask.listed() {
		if p.CPUs, err = ParseCPUs(ask.CPUs); err != nil {
			return p, err
		}
	}
	switch n, err := strconv.Atoi(ask.Workers); {
	case err == nil && n > 0 && n <= MaxShards:
		p.Workers = n
	case ask.Workers != "auto":
		return p, fmt.Errorf("engine: workers %q: auto, or 1 to %d", ask.Workers, MaxShards)
	case ask.listed():
		p.Workers = max(1, len(p.CPUs)/len(nics))
	default:
		p.Workers = maxAuto
		for _, nic := range nics {
			p.Workers = min(p.Workers, m.Workers(nic, len(nics)))
		}
	}
	if ask.listed() || ask.CPUs == "none" || ask.CPUs == "" && p.Workers*len(nics) == 1 {
		return p, nil
	}
	var shards []NIC
	for _, nic := range nics {
		for range p.Workers {
			shards = append(shards, nic)
		}
	}
	if p.CPUs = m.Place(shards); p.CPUs[0] == Unpinned {
		p.CPUs = nil
	}
	return p, nil
}

// MaxShards is the most for one interface: more than any host has use for.
const MaxShards = 1024
