// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring/filter"
)

// filterLinks are the link types that expressions are compiled for.
var filterLinks = []uint16{filter.Ethernet, filter.Raw, filter.LinuxSLL, filter.LinuxSLL2, filter.IPv4, filter.IPv6}

// A frameFilter is a filter for frames in memory. No frame of a link type that
// has no program matches.
type frameFilter map[proto.LinkType]filter.Program

// isBytecode says that a filter is what tcpdump -ddd prints.
var isBytecode = regexp.MustCompile(`^\s*\d+\s*[,\n]`).MatchString

// errNames says why a host's name in a filter is not looked up.
var errNames = errors.New("names of hosts are not looked up here: give addresses")

// compileFrameFilter compiles an expression for every link type that it makes
// sense for, or reads bytecode, which is for Ethernet. names says that names of
// hosts are looked up.
func compileFrameFilter(text string, names bool) (frameFilter, error) {
	f := make(frameFilter)
	if isBytecode(text) {
		program, err := filter.ParseBytecode(strings.ReplaceAll(text, ",", "\n"))
		if err == nil {
			_, err = filter.NewMachine(program)
		}
		if err != nil {
			return nil, fmt.Errorf("filter %q: %w", clip(text), err)
		}
		f[proto.LinkTypeEthernet] = program
		return f, nil
	}
	known := make(map[string][]netip.Addr) // each name is looked up once
	lookUp := func(ctx context.Context, host string) (addrs []netip.Addr, err error) {
		if !names {
			return nil, errNames
		}
		addrs, done := known[host]
		if !done {
			addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
			known[host] = addrs
		}
		return addrs, err
	}
	var first error
	for _, link := range filterLinks {
		program, err := filter.Compile(text, filter.Options{LinkType: link, LookUp: lookUp})
		if err == nil {
			f[proto.LinkType(link)] = program
		} else if link == filter.Ethernet {
			first = fmt.Errorf("filter %q: %w", clip(text), err)
		}
	}
	if len(f) == 0 {
		return nil, first
	}
	return f, nil
}

// clip shortens a text for a message.
func clip(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
