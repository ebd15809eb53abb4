// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/proto"
)

// A routeFlags are the collector's flags about taps and outputs, which a
// configuration file has as lists.
type routeFlags struct {
	interfaces              []string
	noTAP, isolate, persist bool
	netns                   string
	vxlan                   vxlanFlags
	files                   outputFlags
	balance, taps           []string
}

// notInFile are the flags about outputs, which the file has with each output.
var notInFile = []string{
	"interface", "no-tap", "isolate", "persist", "netns", "vni", "vxlan-oversize", "vxlan-mtu", "vxlan-ports",
	"rotate-size", "rotate-seconds", "rotate-keep", "direct", "write-buffer", "pcap-over-ip-buffer", "pcap-over-ip-clients", "tls-cert", "tls-key", "tls-client-ca",
}

func (o *routeFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVarP(&o.interfaces, "interface", "i", []string{"ntap0"}, "virtual interface to make; %t in it is the tap ID: one for each tap; may be given again")
	f.BoolVar(&o.noTAP, "no-tap", false, "make no virtual interface")
	f.BoolVar(&o.isolate, "isolate", true, "keep frames on virtual interfaces from this host's own network stack")
	f.BoolVar(&o.persist, "persist", false, "virtual interfaces outlive the collector, and the next one goes on with them: programs hold them open meanwhile. ip link del NAME removes one")
	f.StringVar(&o.netns, "netns", "", "network namespace that virtual interfaces are in: a name of ip netns, the PID of a process (as of a container) or a file")
	f.StringArrayVar(&o.balance, "balance", nil, `have outputs of one kind share the frames, both directions of a flow at the same one: "NAME OUTPUT OUTPUT", where OUTPUT is as in --select, with blanks as they are; may be given again`)
	f.StringArrayVar(&o.taps, "tap", nil, `a tap that is known: "ID name=NAME key-file=FILE", or public-key=KEY, of which only ID has to be there; may be given again`)
	o.files.add(c)
	o.vxlan.add(c)
}

// wanted returns the outputs that the flags and the file want.
func (o *routeFlags) wanted(c *cobra.Command, file *configFile) (outs collector.Outputs, err error) {
	if o.noTAP && c.Flags().Changed("interface") {
		return outs, usagef("collector: -i and --no-tap exclude each other")
	}
	if !o.noTAP && (c.Flags().Changed("interface") || !file.given) {
		for _, name := range o.interfaces {
			outs.TAPs = append(outs.TAPs, collector.TAP{Name: name, Isolate: o.isolate, Persist: o.persist, NetNS: o.netns})
		}
	}
	if outs.VXLAN, err = o.vxlan.outputs(c, file); err != nil {
		return outs, err
	}
	if err = o.files.set(&outs); err != nil {
		return outs, err
	}
	if err := sameKind(&outs, o.balance); err != nil {
		return outs, err
	}
	outs = beside(file.outputs, outs)
	if o.noTAP {
		outs.TAPs = nil
		outs.Balance = slices.DeleteFunc(outs.Balance, func(b collector.Balance) bool { return len(b.Over.TAPs) > 0 })
	}
	o.likeFlags(c, outs.TAPs)
	for _, b := range outs.Balance {
		o.likeFlags(c, b.Over.TAPs)
	}
	if err := o.files.choose(&outs, file); err != nil {
		return outs, err
	}
	if err := o.files.change(&outs, file); err != nil {
		return outs, err
	}
	if len(outs.TAPs)+len(outs.Files)+len(outs.VXLAN)+len(outs.Serve)+len(outs.Balance) == 0 {
		return outs, usagef("collector: --no-tap without -w, --vxlan or --pcap-over-ip, and no outputs in a configuration file: there is nowhere to give frames to")
	}
	return outs, nil
}

// likeFlags gives interfaces, also those of the file, what the flags say.
func (o *routeFlags) likeFlags(c *cobra.Command, taps []collector.TAP) {
	for i := range taps {
		if c.Flags().Changed("isolate") {
			taps[i].Isolate = o.isolate
		}
		if c.Flags().Changed("persist") {
			taps[i].Persist = o.persist
		}
		if c.Flags().Changed("netns") {
			taps[i].NetNS = o.netns
		}
	}
}

// again returns the outputs that the flags and the file, read anew, want now,
// and what puts the keys of single taps in force.
func (o *routeFlags) again(c *cobra.Command, flag *configFlag, cfg *collector.Config) (outs collector.Outputs, inForce func(), err error) {
	file, err := flag.read(c)
	if err != nil {
		return outs, nil, err
	}
	if file.empty && !flag.given.empty {
		return outs, nil, usagef("configuration: %s: there is nothing in it, as in a file that is just being written, and there was when the collector started; without it, start the collector anew", file.path)
	}
	if outs, err = o.wanted(c, file); err != nil {
		return outs, nil, err
	}
	if err := checkOutputs(&outs); err != nil {
		return outs, nil, err
	}
	keys, err := file.keys()
	if err == nil {
		err = keys.good(cfg)
	}
	if err != nil {
		return outs, nil, err
	}
	return outs, func() {
		if err := keys.use(cfg); err != nil {
			cfg.Log.Error().Err(err).Msg("keys of single taps")
		}
		lockKeys(cfg.Keys, cfg.Log)
		if names := flag.restart(c, file); len(names) > 0 {
			cfg.Log.Warn().Strs("settings", names).Msg("these changed in the configuration, and are in force when the collector is started anew")
		}
	}, nil
}

// beside returns the outputs of the file with those of flags: where both have
// the same, that of the flags.
func beside(file, flags collector.Outputs) collector.Outputs {
	file.TAPs = join(file.TAPs, flags.TAPs, func(t collector.TAP) string { return t.Name })
	file.Files = join(file.Files, flags.Files, func(f collector.File) string { return f.Path })
	file.VXLAN = join(file.VXLAN, flags.VXLAN, func(v collector.VXLAN) string { return addressOf(v.To) })
	file.Serve = join(file.Serve, flags.Serve, func(s collector.Serve) string { return s.Addr })
	file.Balance = join(file.Balance, flags.Balance, func(b collector.Balance) string { return b.Name })
	return file
}

// join returns a with b, whose items win over those of a that have their names.
func join[T any](a, b []T, name func(T) string) []T {
	var out []T
	for _, x := range a {
		if !slices.ContainsFunc(b, func(y T) bool { return name(x) == name(y) }) {
			out = append(out, x)
		}
	}
	return append(out, b...)
}

// sameKind makes the groups of --balance of outputs. A name may have blanks in
// it, as in --select.
func sameKind(outs *collector.Outputs, groups []string) error {
	all := targets(outs)
	for _, text := range groups {
		name, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		if rest = strings.TrimSpace(rest); rest == "" {
			return usagef("--balance %q: want NAME and the outputs that share the frames, as in \"sensors s0 s1\"", text)
		}
		b := collector.Balance{Name: name}
		for rest != "" {
			var word string
			word, rest = about(all, rest)
			n := len(targets(&b.Over))
			move(&outs.TAPs, &b.Over.TAPs, func(t *collector.TAP) bool { return word == "interface" || word == t.Name })
			move(&outs.Files, &b.Over.Files, func(f *collector.File) bool { return word == "write" || word == f.Path })
			move(&outs.VXLAN, &b.Over.VXLAN, func(v *collector.VXLAN) bool { return word == "vxlan" || word == v.To || word == addressOf(v.To) })
			move(&outs.Serve, &b.Over.Serve, func(s *collector.Serve) bool {
				return word == "pcap-over-ip" || word == s.Addr || "127.0.0.1:"+word == s.Addr
			})
			if n == len(targets(&b.Over)) {
				return usagef("--balance %q: there is no output %q that is in no group yet; want interface, write, vxlan, pcap-over-ip, or the name, file or address of one", text, word)
			}
		}
		if err := b.Check(); err != nil {
			return usagef("--balance %q: %w", text, err)
		}
		outs.Balance = append(outs.Balance, b)
	}
	return nil
}

// move moves what is meant from one list to another.
func move[T any](from, to *[]T, meant func(*T) bool) {
	*from = slices.DeleteFunc(*from, func(x T) bool {
		if meant(&x) {
			*to = append(*to, x)
			return true
		}
		return false
	})
}

// known adds the taps of --tap to those of the file. What they say wins.
func (o *routeFlags) known(file *configFile) error {
	for _, text := range o.taps {
		words := strings.Fields(text)
		t := configTap{}
		for i, word := range words {
			key, value, ok := strings.Cut(word, "=")
			switch id, err := strconv.ParseUint(word, 10, 32); {
			case i == 0 && err == nil:
				t.id = uint32(id)
			case i > 0 && ok && value != "" && key == "name" && goodName(value):
				t.name = value
			case i > 0 && ok && value != "" && key == "key-file":
				t.keyFile = value
			case i > 0 && ok && value != "" && key == "public-key":
				if _, err := crypto.ParsePublicKey(value); err != nil {
					return usagef("--tap %q: public-key: %w; want what ntap key identity printed last", text, err)
				}
				t.publicKey = value
			default:
				return usagef("--tap %q: %q: want \"ID name=NAME key-file=FILE\", or public-key=KEY; a name begins with a letter", text, word)
			}
		}
		if len(words) == 0 || t.keyFile != "" && t.publicKey != "" {
			return usagef("--tap %q: want a tap ID, and at most one of key-file= and public-key=", text)
		}
		file.taps = slices.DeleteFunc(file.taps, func(x configTap) bool {
			if x.id != t.id {
				return false
			}
			if t.name = cmp.Or(t.name, x.name); t.keyFile == "" && t.publicKey == "" {
				t.keyFile, t.publicKey, t.line = x.keyFile, x.publicKey, x.line
			}
			return true
		})
		if id, taken := file.named(t.name); taken && t.name != "" {
			return usagef("--tap %q: tap %d has that name", text, id)
		}
		file.taps = append(file.taps, t)
	}
	return nil
}

// goodName says whether a tap may be called so.
func goodName(s string) bool {
	return s != "" && s != "all" && s != "others" && (s[0] < '0' || s[0] > '9') && !strings.ContainsAny(s, ",=\" \t\r\n")
}

// checkOutputs says all that is wrong with outputs, certificates among it.
func checkOutputs(outs *collector.Outputs) error {
	errs := []error{outs.Check()}
	serve := outs.Serve
	for _, b := range outs.Balance {
		serve = append(serve[:len(serve):len(serve)], b.Over.Serve...)
	}
	for _, s := range serve {
		if s.TLS == nil {
			continue
		}
		if err := s.TLS.Check(); err != nil {
			errs = append(errs, fmt.Errorf("pcap-over-ip %s: %w", s.Addr, err))
		}
	}
	return errors.Join(errs...)
}

// printRoutes writes what goes where.
func printRoutes(w io.Writer, file *configFile, outs *collector.Outputs) {
	type line struct {
		name string
		by   collector.Selection
	}
	var all []line
	names := func(o *collector.Outputs) (out []line) {
		for _, t := range o.TAPs {
			out = append(out, line{"interface " + t.Name, t.Select})
		}
		for _, f := range o.Files {
			out = append(out, line{"write " + f.Path, f.Select})
		}
		for _, v := range o.VXLAN {
			out = append(out, line{"vxlan " + addressOf(v.To), v.Select})
		}
		for _, s := range o.Serve {
			out = append(out, line{"pcap-over-ip " + s.Addr, s.Select})
		}
		return out
	}
	all = names(outs)
	for _, b := range outs.Balance {
		var over []string
		for _, m := range names(&b.Over) {
			over = append(over, m.name)
		}
		all = append(all, line{fmt.Sprintf("balance %s (%s)", b.Name, strings.Join(over, ", ")), b.Select})
	}
	fmt.Fprintln(w, "outputs:")
	for _, l := range all {
		fmt.Fprintf(w, "  %s: %s\n", l.name, describe(l.by))
	}
	to := func(tap uint32) string {
		var got []string
		for _, l := range all {
			if l.by.Taps.Has(tap) {
				name, _, _ := strings.Cut(l.name, " (")
				got = append(got, name)
			}
		}
		if got == nil {
			return "nothing: its frames are counted as not selected"
		}
		return strings.Join(got, ", ")
	}
	fmt.Fprintln(w, "taps:")
	maybe := []uint32{1<<32 - 1, 0} // taps that nobody names
	for _, t := range file.taps {
		maybe = append(maybe, t.id+1)
		fmt.Fprintf(w, "  %s -> %s\n", strings.TrimSpace(fmt.Sprintf("%d %s", t.id, t.name)), to(t.id))
	}
	for _, l := range all {
		for _, r := range l.by.Taps {
			maybe = append(maybe, r.Last+1)
		}
	}
	for _, id := range maybe {
		if !slices.ContainsFunc(file.taps, func(t configTap) bool { return t.id == id }) &&
			!slices.ContainsFunc(all, func(l line) bool { return l.by.Taps != nil && l.by.Taps.Has(id) }) {
			fmt.Fprintf(w, "  others, but for those that an output names -> %s\n", to(id))
			return
		}
	}
}

func describe(by collector.Selection) string {
	var parts []string
	if by.Taps == nil {
		parts = append(parts, "all taps")
	} else {
		parts = append(parts, "taps "+by.Taps.String())
	}
	if by.SnapLen > 0 && by.SnapLen < proto.MaxFrame {
		parts = append(parts, fmt.Sprintf("%d bytes of each frame", by.SnapLen))
	}
	if by.Filter != "" {
		parts = append(parts, "filter "+by.Filter)
	}
	return strings.Join(parts, "; ")
}
