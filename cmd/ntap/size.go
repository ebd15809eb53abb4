// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/perf/sizing"
)

// A sizeFlags are the flags of ntap size.
type sizeFlags struct {
	rate, frame, role, output, cipher, profile, iface string
}

func newSize() *cobra.Command {
	var s sizeFlags
	c := &cobra.Command{
		Use:   "size",
		Short: "say what cores, memory and settings a rate takes, from what was measured",
		Long: `Says what cores, memory, queues and settings a host needs for a rate: from the profile
that is built in, or from one of your own host, which ntap bench makes. SIZING.md
says how, and where it stops being true.`,
		Example: "  ntap size --rate 10G --frame imix --role remote\n  ntap size --rate 25G --frame 700 --role collector --output vxlan --profile ntap-profile.json",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ask, err := s.ask()
			if err != nil {
				return usagef("size: %w", err)
			}
			text, err := s.size(ask)
			if err != nil {
				return fmt.Errorf("size: %w", err)
			}
			_, err = io.WriteString(c.OutOrStdout(), text)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&s.rate, "rate", "10G", "of the captured traffic, in bits a second on a full link: 800M, 10G")
	f.StringVar(&s.frame, "frame", "imix", "bytes of a frame without FCS, or imix: 64, 594 and 1518 bytes as 7:4:1")
	f.StringVar(&s.role, "role", "remote", "remote or collector")
	f.StringVar(&s.output, "output", "tap", "of a collector: tap or vxlan")
	f.StringVar(&s.cipher, "cipher", "auto", "auto, aes-256-gcm, chacha20-poly1305 or clear; or with the kernel, as in aes-256-gcm/avx2")
	f.StringVar(&s.profile, "profile", "", "file that ntap bench made, or a results file of make bench; default: the one built in")
	f.StringVarP(&s.iface, "interface", "i", "eth0", "network card, for the lines to paste")
	return c
}

// ask makes the question of the flags.
func (s *sizeFlags) ask() (a sizing.Ask, err error) {
	rate, err := parseRate(s.rate)
	if err != nil {
		return a, fmt.Errorf("--rate: %w", err)
	}
	a = sizing.Ask{Rate: float64(rate), Frame: s.frame, Cipher: s.cipher}
	switch {
	case s.role == "remote":
		a.Role = sizing.Remote
	case s.role == "collector" && s.output == "tap":
		a.Role = sizing.Collector
	case s.role == "collector" && s.output == "vxlan":
		a.Role = sizing.CollectorVXLAN
	case s.role == "collector":
		return a, fmt.Errorf("--output %q: tap or vxlan", s.output)
	default:
		return a, fmt.Errorf("--role %q: remote or collector", s.role)
	}
	if s.output != "tap" && s.role == "remote" {
		return a, fmt.Errorf("--output %s is of a collector: --role collector", s.output)
	}
	if s.iface == "" || strings.ContainsAny(s.iface, " /\t\n;&|$`'\"") {
		return a, fmt.Errorf("-i %q is no name of an interface", s.iface)
	}
	return a, sizing.Check(a)
}

// size answers.
func (s *sizeFlags) size(ask sizing.Ask) (string, error) {
	profile := sizing.Default()
	from := fmt.Sprintf("built in, of %s, commit %.12s; ntap bench makes one of this host", profile.Date, profile.Commit)
	if s.profile != "" {
		var err error
		if profile, err = sizing.Load(s.profile); err != nil {
			return "", err
		}
		from = s.profile
	}
	m, missing, err := sizing.FitOver(profile, sizing.Default())
	if err != nil {
		return "", err
	}
	p, err := m.Plan(ask)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", what, fmt.Sprintf(format, args...))
	}
	side := "a remote"
	switch ask.Role {
	case sizing.Collector:
		side = "a collector with a TAP"
	case sizing.CollectorVXLAN:
		side = "a collector that sends VXLAN"
	}
	line("for", "%s of %s, on %s, %s", sizing.Bits(ask.Rate), frameWords(ask.Frame), side, p.Suite)
	line("profile", "%s (%s)", profile.Machine, from)
	var borrowed []string
	for _, stage := range sizing.Stages(ask.Role) {
		if missing[stage] {
			borrowed = append(borrowed, stage)
		}
	}
	if len(borrowed) > 0 {
		line("", "it has nothing about %s: taken from the one built in, of %s; sudo ntap bench measures them", strings.Join(borrowed, ", "), sizing.Default().Machine)
	}
	line("frames", "%.3g million a second, %.0f bytes each", p.Frames/1e6, p.Bytes)
	line("cores", "%d for ntap (%.2f busy: %.0f ns a frame), %d that serve the network card (%.2f busy: %.0f ns, without its driver)", p.Cores, p.Busy(), p.Cost.Own, p.IRQ, p.BusyIRQ(), p.Cost.Kernel)
	breakdown, err := m.Breakdown(ask.Role, p.Suite, ask.Frame)
	if err != nil {
		return "", err
	}
	var stages []string
	for _, one := range breakdown {
		stages = append(stages, fmt.Sprintf("%s %.0f", one.Stage, one.NS))
	}
	line("", "%s", strings.Join(stages, ", "))
	if each, of := p.Buffers(); p.Ring > 0 {
		line("memory", "rings %d x %d MiB, and %d MiB", of, each>>20, p.Process()>>20)
	} else {
		line("memory", "socket buffers %d x %d MiB when all are full, and %d MiB", of, each>>20, p.Process()>>20)
		sockets := "two sockets a worker, one of them for strangers"
		if p.Sockets == 1 {
			sockets = "one socket a worker"
		}
		line("", "%s, and the kernel takes twice the %d MiB that each is asked to have", sockets, p.Socket>>20)
	}
	line("", "at most %.3g GB/s to and from memory, if no cache held any", p.Memory/1e9)
	line("links", "in %s, out %s", sizing.Bits(p.In), sizing.Bits(p.Out))
	line("queues", "%d of the network card", p.Queues)
	for _, n := range p.Notes {
		line("note", "%s", n)
	}
	fmt.Fprintf(&b, "\n%s\n", strings.Join(p.Settings(s.iface), "\n"))
	return b.String(), nil
}

func frameWords(frame string) string {
	if frame == "imix" {
		return "IMIX"
	}
	return "frames of " + frame + " bytes"
}
