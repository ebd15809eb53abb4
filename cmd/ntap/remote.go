// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/crypto"
	"github.com/ntap-project/ntap/engine"
	"github.com/ntap-project/ntap/remote"
	"github.com/ntap-project/ntap/ring"
)

// defaultMark is a mark without the bits that common users of marks look at:
// 0x4000 and 0x8000 (kube-proxy), 0x0f00 (Cilium), the high 16 (Calico,
// Tailscale).
const defaultMark = 0x3074

func newRemote() *cobra.Command {
	var (
		cfg              remote.Config
		log              logFlags
		place            placeFlags
		filters          filterFlags
		suite, pace      string
		keys             remoteKeys
		tap              int64
		clear, noPromisc bool
		collectors       []string
		send             string
		shape            shapeFlags
		stamps, fanout   string
		file             configFlag
		vxlan            tunnelFlags
	)
	c := &cobra.Command{
		Use:   "remote (-i IFACE... | -r FILE) (-c HOST:PORT --key-file FILE | --to-vxlan HOST) [flags] [FILTER EXPRESSION]",
		Short: "capture where the traffic is, encrypt it and send it one way to a collector",
		Long: `Capture frames, encrypt them and send them one way over UDP to a collector.
The words after the flags are a filter in the language of tcpdump: docs/FILTER.md.`,
		Example: `  ntap remote -i eth0 -c collector.example.org:5678 --key-file tap7.key
  ntap remote -i eth0 -i eth1 -c 192.0.2.9:5678 --key-file tap7.key not port 22
  ntap remote -i any -c 192.0.2.9:5678 --key-file tap7.key
  ntap remote --container web -i eth0 -c 192.0.2.9:5678 --key-file tap7.key
  ntap remote --config /etc/ntap/remote.yaml
  ntap remote -r file.pcapng --pace max -c 192.0.2.9:5678 --key-file tap7.key
  ntap remote -i eth0 --to-vxlan ovs.example.org --vni 7      # no collector, in clear`,
		RunE: func(c *cobra.Command, args []string) (err error) {
			if err := file.load(c); err != nil {
				return err
			}
			logger := log.logger(c.ErrOrStderr())
			elsewhere := cfg.NetNS+cfg.Container != ""
			switch {
			case len(cfg.Interfaces) == 0 && cfg.File == "" && !elsewhere:
				return usagef("remote: nothing to capture: give an interface (-i) or a capture file (-r)")
			case cfg.NetNS != "" && cfg.Container != "":
				return usagef("remote: --netns and --container exclude each other")
			case cfg.File != "" && elsewhere:
				return usagef("remote: -r and --netns or --container exclude each other")
			}
			if len(cfg.Interfaces) > 0 && cfg.File != "" {
				return usagef("remote: -i and -r exclude each other")
			}
			if cfg.VXLAN, cfg.Tap, err = vxlan.tunnel(c, tap); err != nil {
				return err
			}
			if len(collectors) > 0 {
				cfg.Collector, cfg.Others = collectors[0], collectors[1:]
			} else if cfg.VXLAN == nil {
				return usagef("remote: no collector: give -c HOST:PORT")
			}
			switch send {
			case "copy", "share":
				cfg.Share = send == "share"
			default:
				return usagef("remote: --send %q: copy or share", send)
			}
			if err := checkRemote(&cfg); err != nil {
				return err
			}
			if cfg.Pace, cfg.SendRate, err = choosePace(pace, cfg.File != ""); err != nil {
				return err
			}
			if cfg.VXLAN != nil && cfg.SendRate != 0 {
				return usagef("remote: a rate as --pace is for what goes to a collector, not for --to-vxlan")
			}
			if cfg.Suite, err = chooseSuite(suite, clear); err != nil {
				return err
			}
			switch stamps {
			case "kernel", "hw":
				cfg.Hardware = stamps == "hw"
			default:
				return usagef("remote: --timestamp %q: kernel or hw", stamps)
			}
			if cfg.Fanout, err = ring.ParseFanout(fanout); err != nil {
				return usagef("remote: --fanout %q: %w", fanout, err)
			}
			if cfg.Shape, err = shape.read(); err != nil {
				return err
			}
			plan, err := place.arrange(logger, elsewhere, remote.Captures(cfg.Interfaces)...)
			if err != nil {
				return err
			}
			cfg.Workers, cfg.CPUs = plan.Workers, plan.CPUs
			if keys.passphrase != "" {
				logger.Warn().Msg("a passphrase on the command line is seen by everybody who may run ps: use --key-file")
			} else if clear && keys.file == "" && os.Getenv("NTAP_KEY_FILE") == "" && !keys.public() {
				keys.passphrase = clearPassphrase // nothing is sealed: any key will do
			}
			protect(logger)
			switch {
			case cfg.VXLAN != nil:
				logger.Warn().Msg("what is captured is sent in clear: VXLAN has no encryption, and everybody on the way can read it")
			case keys.public():
				if cfg.Public, cfg.Identity, cfg.Tap, err = keys.load(tap); err != nil {
					return err
				}
				defer cfg.Identity.Wipe()
			default:
				if cfg.Keys, err = loadKeys(keys.file, keys.passphrase); err != nil {
					return err
				}
				lockKeys(cfg.Keys, logger)
				defer cfg.Keys.Wipe()
				if cfg.Tap, err = tapOf(cfg.Keys, tap); err != nil {
					return err
				}
				crypto.Burn() // of the key that it looked at
			}
			cfg.Reload = hangups(c.Context())
			if cfg.Filter, err = filters.read(args); err != nil {
				return err
			}
			cfg.Filters = filters.again(c, args, &file, logger)
			cfg.Promiscuous = !noPromisc
			cfg.Out, cfg.Log = c.ErrOrStderr(), logger
			if cfg.Suite == crypto.Plaintext && cfg.VXLAN == nil {
				logger.Warn().Msg("what is captured is sent in clear")
			}
			defer engine.Settle(max(plan.Workers*len(remote.Captures(cfg.Interfaces)), 1))()
			logger.Debug().Stringer("plan", plan).Msg("placement")
			if cfg.Resolve == 0 {
				cfg.Resolve = -1
			}
			_, err = remote.Run(c.Context(), cfg)
			return filterUsage(err)
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&cfg.Interfaces, "interface", "i", nil, "interface to capture on, a pattern as 'veth*', or any; may be given again")
	f.StringVarP(&cfg.File, "read", "r", "", "send this pcap or pcapng file instead; - is standard input")
	f.StringVar(&cfg.NetNS, "netns", "", "capture in this network namespace: a PID, a name of ip netns, or a file as /proc/PID/ns/net; without -i all of its interfaces")
	f.StringVar(&cfg.Container, "container", "", "capture in the network namespace of this container, by ID or name (name@user: run without root), also when it is started anew; without -i all of its interfaces")
	f.StringVar(&pace, "pace", "", "send at most so many bits a second, as in 800M or 10G; of a file also: real, as captured, which is the default, or max")
	f.BoolVar(&cfg.LowLatency, "low-latency", false, "send each frame at once: a CPU for each shard that never sleeps, and more datagrams")
	f.StringVar(&cfg.IO, "io", "auto", "how datagrams are sent: auto, uring, mmsg or zerocopy")
	f.StringArrayVarP(&collectors, "collector", "c", nil, "HOST:PORT of the collector; may be given again")
	f.StringVar(&send, "send", "copy", "to several collectors: copy, all to each, or share, each flow to one")
	f.BoolVarP(&clear, "clear", "K", false, "do not encrypt: --suite plaintext, for which no key is needed then")
	f.StringVar(&suite, "suite", "auto", "auto, aes-256-gcm, chacha20-poly1305 or plaintext")
	f.Int64Var(&tap, "tap", -1, "tap ID; default: that of the key file, or 1")
	f.StringVar(&cfg.Name, "name", "", "name of the tap; default: the host's")
	filters.add(c)
	f.StringVar(&stamps, "timestamp", "kernel", "whose clock says when a frame came: kernel, or hw, the network card's")
	f.IntVarP(&cfg.SnapLen, "snaplen", "s", 0, "bytes of each frame to capture; 0: all")
	shape.add(c)
	f.BoolVar(&cfg.Pad, "pad", false, "fill every datagram to full size, so that sizes tell nothing; takes bytes on the way")
	f.IntVar(&cfg.MTU, "mtu", 0, "IP MTU of the path to the collector; default: what the route says")
	f.Uint32Var(&cfg.Mark, "mark", defaultMark, "SO_MARK of what is sent, by which it is not captured; 0: none")
	f.BoolVarP(&noPromisc, "no-promiscuous", "p", false, "leave the interface out of promiscuous mode")
	bytesVar(f, &cfg.RingBytes, "ring", ring.DefaultBlocks*ring.DefaultBlockSize, "bytes of ring memory for each shard, in whole blocks (--block): rounded down, and 2 at the least")
	bytesVar(f, &cfg.BlockSize, "block", ring.DefaultBlockSize, "bytes of a ring block: frames longer than that are cut")
	f.DurationVar(&cfg.Retire, "retire", ring.DefaultRetire, "the longest that a frame waits in a block")
	f.DurationVar(&cfg.Resolve, "resolve", batch.DefaultResolve, "how often a collector's name is looked up again; 0: only when sending fails")
	f.BoolVar(&cfg.Stats, "stats", false, "print the account every second")
	keys.add(c)
	file.add(c)
	file.lists = true
	file.instead = [][]string{
		{"interface", "read"}, filterSettings, {"suite", "clear"}, {"netns", "container"},
		{"key-file", "passphrase", "collector-key"},
	}
	place.add(c, "shards for each interface")
	f.StringVar(&fanout, "fanout", "hash", "which of the shards of an interface gets a frame: hash, that of its flow; cpu or qm, that of the CPU or the card's queue that handles it")
	vxlan.add(c)
	log.add(c)
	return c
}

// choosePace reads --pace: what the pace of a capture file is, and the highest
// rate of sending.
func choosePace(s string, file bool) (remote.Pace, uint64, error) {
	switch {
	case s == "" || s == "real" && file:
		return remote.PaceReal, 0, nil
	case s == "max" && file:
		return remote.PaceMax, 0, nil
	case s == "real" || s == "max":
		return 0, 0, usagef("remote: --pace %s is for a capture file (-r); live, it is a rate, as in 800M or 10G", s)
	}
	rate, err := parseRate(s)
	if err != nil {
		return 0, 0, usagef("remote: --pace: %w; of a file also real or max", err)
	}
	return remote.PaceMax, rate, nil
}

// clearPassphrase makes the key where nothing is encrypted and none was given.
const clearPassphrase = "ntap clear text"

// chooseSuite returns the suite of that name; auto is what this CPU does best.
func chooseSuite(name string, clear bool) (crypto.Suite, error) {
	switch {
	case clear && name != "auto" && name != crypto.Plaintext.String():
		return 0, usagef("-K and --suite %s exclude each other", name)
	case clear:
		return crypto.Plaintext, nil
	case name == "auto":
		suite, _ := crypto.Pick()
		return suite, nil
	}
	suite, err := crypto.ParseSuite(name)
	if err != nil {
		return 0, usageError{err}
	}
	return suite, nil
}
