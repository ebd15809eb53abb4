// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/proto"
)

func newOVS() *cobra.Command {
	c := &cobra.Command{
		Use:   "ovs",
		Short: "make and remove the Open vSwitch bridge that VXLAN from ntap comes to",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newOVSSetup(), newOVSRemove())
	return c
}

// An ovs is what the ovs commands are told.
type ovs struct {
	bridge, db string
	dryRun     bool
	wait       time.Duration // for the daemons
	out        io.Writer
}

func (o *ovs) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.bridge, "bridge", "ntap", "name of the bridge")
	f.StringVar(&o.db, "db", "", "where ovsdb-server listens, as ovs-vsctl has it; default: ovs-vsctl's")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the command, and change nothing")
	f.DurationVar(&o.wait, "wait", 10*time.Second, "how long Open vSwitch may take")
}

// check looks at what every ovs command is told.
func (o *ovs) check(c *cobra.Command) error {
	o.out = c.OutOrStdout()
	// Kernels allow 15 bytes (IFNAMSIZ), and the VXLAN port's name is longer.
	if err := ovsName("--bridge", o.bridge, 15-len(vxlanSuffix)); err != nil {
		return err
	}
	return within("--wait", o.wait, time.Second, time.Hour)
}

// vxlanSuffix ends the name of the VXLAN port.
const vxlanSuffix = "-vxlan"

// ovsMark is the key in external_ids that says that a record is ntap's.
const ovsMark = "ntap"

// ovsName refuses names that the kernel or ovs-vsctl would take for something
// else.
func ovsName(flag, name string, longest int) error {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}
	if name == "" || len(name) > longest || strings.ContainsFunc(name, bad) || name[0] == '-' || name[0] == '.' {
		return usagef("%s %q: want 1 to %d letters, digits, and . _ - but not first", flag, name, longest)
	}
	return nil
}

// An ovsSetup is what ovs setup is told besides.
type ovsSetup struct {
	ovs
	port                          int
	local, from, mirror, datapath string
}

func newOVSSetup() *cobra.Command {
	o := &ovsSetup{}
	c := &cobra.Command{
		Use:   "setup [flags]",
		Short: "make a bridge with a VXLAN port, in one transaction",
		Long: `Make an Open vSwitch bridge with a port that takes VXLAN from ntap, whatever its
VNI: OpenFlow rules tell taps apart by tun_id. The bridge forwards nothing until
a rule says so; with --mirror a port has all that comes. Where the bridge is
there already, and ntap's, it becomes what the flags say.`,
		Example: `  ntap ovs setup --mirror mon0 --dry-run
  ntap ovs setup --from 192.0.2.9 --mirror mon0
  ovs-ofctl add-flow ntap in_port=ntap-vxlan,tun_id=7,actions=output:suricata0`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(c); err != nil {
				return err
			}
			return o.run(c.Context())
		},
	}
	f := c.Flags()
	f.IntVar(&o.port, "port", proto.VXLANPort, "UDP port that VXLAN comes to")
	f.StringVar(&o.from, "from", "", "take VXLAN from this address only; default: from anybody")
	f.StringVar(&o.local, "local", "", "take VXLAN to this address of the host only; default: to any")
	f.StringVar(&o.mirror, "mirror", "", "port that gets a copy of all that comes: an interface that exists, or else a new one")
	f.StringVar(&o.datapath, "datapath", "system", "system (the kernel's) or netdev (userspace)")
	o.add(c)
	return c
}

func (o *ovsSetup) check(c *cobra.Command) error {
	if err := o.ovs.check(c); err != nil {
		return err
	}
	for flag, a := range map[string]string{"--from": o.from, "--local": o.local} {
		if _, err := netip.ParseAddr(a); a != "" && err != nil {
			return usagef("%s %q: want an address, as in 192.0.2.9 or 2001:db8::9", flag, a)
		}
	}
	if o.mirror != "" {
		if err := ovsName("--mirror", o.mirror, 15); err != nil {
			return err
		}
		if o.mirror == o.bridge || o.mirror == o.bridge+vxlanSuffix {
			return usagef("--mirror %s: the bridge's own port cannot be its mirror", o.mirror)
		}
	}
	if o.datapath != "system" && o.datapath != "netdev" {
		return usagef("--datapath %q: system or netdev", o.datapath)
	}
	return within("--port", o.port, 1, 65535)
}

// run makes the bridge, or brings it up to date.
func (o *ovsSetup) run(ctx context.Context) error {
	there, err := o.look(ctx)
	if err != nil && !o.dryRun {
		return err
	}
	if err == nil {
		if err := o.refuse(there); err != nil {
			return err
		}
	}
	command := o.transaction(there)
	if o.dryRun {
		o.print(command)
		if err != nil {
			fmt.Fprintf(o.out, "# Open vSwitch was not asked what is there: %v\n", err)
		}
		return nil
	}
	if _, err := o.vsctl(ctx, command...); err != nil {
		if written := new(notApplied); errors.As(err, written) && there.bridge == nil { // nothing half done
			_, undo := o.vsctl(context.WithoutCancel(ctx), append([]string{"--no-wait"}, o.removal()...)...)
			return errors.Join(err, undo)
		}
		return err
	}
	fmt.Fprintf(o.out, "bridge %s takes VXLAN on UDP port %d, whatever the VNI; rules tell taps apart by tun_id, as in:\n", o.bridge, o.port)
	fmt.Fprintf(o.out, "  ovs-ofctl add-flow %s in_port=%s,tun_id=7,actions=output:PORT\n", o.bridge, o.bridge+vxlanSuffix)
	if o.mirror != "" {
		fmt.Fprintf(o.out, "port %s has a copy of everything; it may have to be set up:\n  ip link set %s up\n", o.mirror, o.mirror)
	}
	return nil
}

// transaction returns the arguments of ovs-vsctl that make what the flags say
// of what is there. If that has changed since it was looked at, they fail as a
// whole: a bridge that is made must not be there, one that is changed must
// carry the mark.
func (o *ovsSetup) transaction(there ovsState) []string {
	vxlan := o.bridge + vxlanSuffix
	var c []string
	add := func(words ...string) { c = append(append(c, "--"), words...) }
	if there.bridge == nil {
		add("add-br", o.bridge)
	} else {
		add("get", "bridge", o.bridge, "external_ids:"+ovsMark)
	}
	add("set", "bridge", o.bridge, "datapath_type="+o.datapath, "fail_mode=secure", "external_ids:"+ovsMark+"=bridge")
	add("--may-exist", "add-port", o.bridge, vxlan)
	add("set", "port", vxlan, "external_ids:"+ovsMark+"=vxlan")
	remote := o.from
	if remote == "" {
		remote = "flow"
	}
	options := []string{"type=vxlan", "options:remote_ip=" + ovsValue(remote), "options:key=flow", "options:dst_port=" + strconv.Itoa(o.port)}
	if o.local != "" {
		options = append(options, "options:local_ip="+ovsValue(o.local))
	}
	add("clear", "interface", vxlan, "options")
	add(append([]string{"set", "interface", vxlan}, options...)...)
	add("clear", "bridge", o.bridge, "mirrors")
	for _, old := range there.mirrors {
		if old != o.mirror {
			add("--if-exists", "del-port", o.bridge, old)
		}
	}
	if o.mirror != "" {
		add("--may-exist", "add-port", o.bridge, o.mirror)
		add("set", "port", o.mirror, "external_ids:"+ovsMark+"=mirror")
		if _, err := net.InterfaceByName(o.mirror); err != nil && !slices.Contains(there.mirrors, o.mirror) {
			add("set", "interface", o.mirror, "type=internal")
		}
		add("--id=@from", "get", "port", vxlan)
		add("--id=@to", "get", "port", o.mirror)
		add("--id=@mirror", "create", "mirror", "name="+o.bridge, "select_src_port=@from", "output_port=@to", "external_ids:"+ovsMark+"=mirror")
		add("set", "bridge", o.bridge, "mirrors=@mirror")
	}
	return c
}

// ovsValue returns an address as a value of the database's: IPv6 needs quotes.
func ovsValue(a string) string {
	if strings.Contains(a, ":") {
		return strconv.Quote(a)
	}
	return a
}

// refuse refuses to touch what is not ntap's.
func (o *ovsSetup) refuse(there ovsState) error {
	if err := o.ours(there); err != nil {
		return err
	}
	for _, port := range []string{o.bridge + vxlanSuffix, o.mirror} {
		if owner, known := there.ports[port]; known && !owner.ours {
			return fmt.Errorf("ovs: port %s on bridge %s is there, and not one that ntap made: choose another name (--bridge, --mirror), or remove it: ovs-vsctl del-port %s", port, owner.bridge, port)
		} else if known && owner.bridge != o.bridge {
			return fmt.Errorf("ovs: port %s belongs to bridge %s: choose another name, or remove that one: ntap ovs remove --bridge %s", port, owner.bridge, owner.bridge)
		}
	}
	return nil
}

func newOVSRemove() *cobra.Command {
	o := &ovs{}
	force := false
	c := &cobra.Command{
		Use:   "remove [flags]",
		Short: "remove the bridge that ovs setup made, with its ports",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(c); err != nil {
				return err
			}
			return o.remove(c.Context(), force)
		},
	}
	o.add(c)
	c.Flags().BoolVar(&force, "force", false, "also if others have put ports on it")
	return c
}

func (o *ovs) remove(ctx context.Context, force bool) error {
	there, err := o.look(ctx)
	if err != nil {
		return err
	}
	if there.bridge == nil {
		return fmt.Errorf("ovs: there is no bridge %s: nothing to remove", o.bridge)
	}
	if err := o.ours(there); err != nil {
		return err
	}
	var others []string
	for name, p := range there.ports {
		if p.bridge == o.bridge && !p.ours && name != o.bridge {
			others = append(others, name)
		}
	}
	if slices.Sort(others); len(others) > 0 && !force {
		return fmt.Errorf("ovs: bridge %s has ports that ntap did not make: %s; remove them first (ovs-vsctl del-port %s NAME), or give --force", o.bridge, strings.Join(others, ", "), o.bridge)
	}
	if o.dryRun {
		o.print(o.removal())
		return nil
	}
	if _, err := o.vsctl(ctx, o.removal()...); err != nil {
		return err
	}
	fmt.Fprintf(o.out, "bridge %s is removed\n", o.bridge)
	return nil
}

// removal returns the arguments of ovs-vsctl that remove the bridge, if it
// carries the mark.
func (o *ovs) removal() []string {
	return []string{"--", "get", "bridge", o.bridge, "external_ids:" + ovsMark, "--", "del-br", o.bridge}
}

// ours refuses a bridge that is there and does not carry the mark.
func (o *ovs) ours(there ovsState) error {
	if there.bridge != nil && !there.bridge.ours {
		return fmt.Errorf("ovs: bridge %s is there, and not one that ntap made (it has no external_ids:%s): choose another name with --bridge", o.bridge, ovsMark)
	}
	return nil
}

// An ovsState is what the database holds.
type ovsState struct {
	bridge  *ovsOwner           // nil: there is none of that name
	ports   map[string]ovsOwner // all, by name
	mirrors []string            // our ports on the bridge that are a mirror's output
}

type ovsOwner struct {
	bridge string // of a port
	ours   bool
}

// print prints a command line for a shell.
func (o *ovs) print(args []string) {
	fmt.Fprintln(o.out, shellLine(append([]string{"ovs-vsctl"}, o.common(args)...)))
}

// shellLine quotes what a shell would not take as it stands.
func shellLine(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if strings.ContainsFunc(w, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=:@./,", r)
		}) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		b.WriteString(w)
	}
	return b.String()
}

// common puts before args what every call of ovs-vsctl has.
func (o *ovs) common(args []string) []string {
	c := []string{"--timeout=" + strconv.Itoa(int(o.wait/time.Second))}
	if o.db != "" {
		c = append(c, "--db="+o.db)
	}
	return append(c, args...)
}

// vsctl runs ovs-vsctl, and returns what it printed.
func (o *ovs) vsctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "ovs-vsctl", o.common(args)...)
	cmd.WaitDelay = time.Second
	var said, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &failed
	err := cmd.Run()
	text := strings.TrimSpace(failed.String())
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(text, "Error detected"): // ovs-vsctl tells of it, and is content
		return "", o.failed(text)
	case err == nil:
		return said.String(), nil
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("ovs: ovs-vsctl is not installed here: install Open vSwitch (apt install openvswitch-switch), or print the command with --dry-run: %w", err)
	case strings.Contains(text, "database connection failed (Permission denied)"):
		return "", fmt.Errorf("ovs: ovsdb-server's socket is not for this user: run this as root, or as a user who may write to it: %s", text)
	case strings.Contains(text, "database connection failed"):
		return "", fmt.Errorf("ovs: ovsdb-server does not answer: start Open vSwitch (systemctl start openvswitch-switch), or say with --db where it listens: %s", text)
	case errors.As(err, &exit) && !exit.Exited(): // by the alarm that --timeout set
		return "", notApplied{fmt.Errorf("ovs: Open vSwitch took longer than %v: is ovs-vswitchd running? systemctl start openvswitch-switch; --wait allows it more: %w", o.wait, err)}
	}
	return "", fmt.Errorf("ovs: %s: %w", text, err)
}

// failed says what ovs-vsctl means that prints lines such as
//
//	ovs-vsctl: Error detected while setting up 'x': reason.  See ovs-vswitchd log for details.
func (o *ovs) failed(text string) error {
	var what []string
	for line := range strings.Lines(text) {
		if _, about, ok := strings.Cut(line, "Error detected while setting up "); ok {
			about, _, _ = strings.Cut(about, ".  See")
			what = append(what, about)
		}
	}
	cure := "ovs-vswitchd's log says why; a host without the kernel module openvswitch needs --datapath netdev"
	if strings.Contains(text, "File exists") {
		cure = "another port takes such VXLAN already: choose another UDP port with --port, or one sender with --from"
	}
	return notApplied{fmt.Errorf("ovs: ovs-vswitchd could not set up %s; %s", strings.Join(what, ", "), cure)}
}

// notApplied is what went wrong after the database had taken a change.
type notApplied struct{ error }

func (e notApplied) Unwrap() error { return e.error }
