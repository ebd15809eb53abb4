// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/engine"
)

func newCollector() *cobra.Command {
	var (
		cfg    collector.Config
		file   configFlag
		check  string
		log    logFlags
		routes routeFlags
		place  placeFlags
		port   string
		keys   collectorKeys
		clear  bool
		window time.Duration
	)
	c := &cobra.Command{
		Use:   "collector -p [HOST:]PORT --key-file FILE [-i NAME | --no-tap] [-w FILE] [--vxlan HOST] [--pcap-over-ip PORT] [flags]",
		Short: "receive what remotes send, and give it back as live traffic, as VXLAN, as pcapng and to programs",
		Long: `Receive what remotes send, open it, put it in order and give it back: on a
virtual Ethernet interface, as VXLAN towards Open vSwitch, as pcapng, and to
programs that connect (PCAP over IP).`,
		Example: `  ntap collector -p 5678 --key-file master.key -i ntap0
  ntap collector -p 5678 --key-file master.key -i ntap%t      # an interface for each tap ID
  ntap collector -p 5678 --key-file master.key --no-tap -w - | tshark -r -
  ntap collector -p 5678 --key-file master.key -w '/data/tap%t-%Y%m%d-%H%M%S.pcapng' -G 3600 -W 48
  ntap collector -p 5678 --key-file master.key -w dns.pcapng --select 'dns.pcapng taps=1,3-5 filter=udp port 53'
  ntap collector -p 5678 --key-file master.key --no-tap --pcap-over-ip 57012   # wireshark -k -i TCP@127.0.0.1:57012
  ntap collector -p 5678 --key-file master.key --no-tap --vxlan ovs.example.org --vni 7=1001,8=1002
  ntap collector -p 5678 --key-file master.key -i s0 -i s1 --balance "sensors s0 s1"   # a sensor on each, flows kept together
  ntap collector --config /etc/ntap/collector.yaml            # kill -HUP has it read again
  ntap collector --check-config /etc/ntap/collector.yaml      # what is wrong with it, or what goes where`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			file.taps, file.files, file.check = routes.known, true, check != ""
			if file.path = cmp.Or(check, file.path); check != "" && port == "" {
				port = "0" // which is not listened to
			}
			if err := file.load(c); err != nil {
				return err
			}
			logger := log.logger(c.ErrOrStderr())
			if port == "" {
				return usagef("collector: no port: give -p PORT")
			}
			if cfg.Listen, err = listenAddress(port); err != nil {
				return err
			}
			if err := errors.Join(checkCollector(&cfg), within("--clock-window", window, 0, maxWindow)); err != nil {
				return err
			}
			if cfg.ClockWindow = window; window == 0 {
				cfg.ClockWindow = -1
			}
			if cfg.Outputs, err = routes.wanted(c, file.given); err != nil {
				return err
			}
			if check != "" {
				return checkConfig(c.OutOrStdout(), &cfg, &file, &place, &keys, clear)
			}
			plan, err := place.arrange(logger, false, facing(cfg.Listen)...)
			if err != nil {
				return err
			}
			cfg.Workers, cfg.CPUs = plan.Workers, plan.CPUs
			protect(logger)
			if keys.passphrase != "" {
				logger.Warn().Msg("a passphrase on the command line is seen by everybody who may run ps: use --key-file")
			}
			if err := loadCollectorKeys(&cfg, &keys, &file, clear); err != nil {
				return err
			}
			if cfg.Pairs != nil {
				defer cfg.Pairs.Wipe()
			}
			if cfg.Keys != nil {
				lockKeys(cfg.Keys, logger)
				defer cfg.Keys.Wipe()
			}
			cfg.Reload = hangups(c.Context())
			if file.path != "" {
				cfg.Reroute = func() (collector.Outputs, func(), error) { return routes.again(c, &file, &cfg) }
			}
			if cfg.AllowPlaintext = cfg.AllowPlaintext || clear; cfg.AllowPlaintext {
				logger.Warn().Msg("datagrams in clear are taken: anybody can send them")
			}
			switch cfg.State {
			case "none":
				cfg.State = ""
				if window == 0 {
					logger.Warn().Msg("with neither a state file nor a look at the clock, a recording played back after a restart is taken for new")
				} else {
					logger.Warn().Msgf("without a state file, what was recorded in the last %v and is played back after a restart is taken for new", window)
				}
			case "":
				if cfg.State, err = statePath(cfg.Listen); err != nil {
					return err
				}
			}
			cfg.Out, cfg.Log = c.ErrOrStderr(), logger
			defer engine.Settle(plan.Workers)()
			logger.Debug().Stringer("plan", plan).Msg("placement")
			_, err = collector.Run(c.Context(), cfg)
			return err
		},
	}
	f := c.Flags()
	f.StringVarP(&port, "port", "p", "", "[HOST:]PORT to listen on")
	f.BoolVarP(&clear, "clear", "K", false, "--allow-plaintext, for which no key is needed then")
	f.BoolVar(&cfg.AllowPlaintext, "allow-plaintext", false, "also take datagrams that nobody sealed")
	f.BoolVar(&cfg.LowLatency, "low-latency", false, "look for datagrams without sleeping: a CPU for each worker")
	f.StringVar(&cfg.IO, "io", "auto", "how datagrams come in, and frames get to the virtual interface: auto, uring or mmsg")
	f.BoolVar(&cfg.KeepGSO, "keep-gso", false, "give frames that the network card would have cut, or has put together, whole: not as the wire saw them")
	f.BoolVar(&cfg.Once, "once", false, "end when every tap that was heard has said bye")
	f.StringVar(&cfg.State, "state", "", "file that keeps the newest session of each tap; none: keep it nowhere")
	f.DurationVar(&window, "clock-window", 5*time.Minute, "how far the clock of a tap may be off of which the state file knows no session; 0: any")
	f.IntVar(&cfg.Reorder, "reorder", 64, "datagrams held while an earlier one is missing")
	f.DurationVar(&cfg.ReorderWait, "reorder-wait", 10*time.Millisecond, "the longest that they are held")
	bytesVar(f, &cfg.ReceiveBuffer, "receive-buffer", 64<<20, "bytes of each socket's buffer")
	f.DurationVar(&cfg.Merge, "merge", 0, "put the frames of all taps in the order of their capture times, for -w and --pcap-over-ip: each waits this long for earlier ones; 0: no")
	bytesVar(f, &cfg.MergeBuffer, "merge-buffer", 64<<20, "bytes that wait for that, for each output")
	f.BoolVar(&cfg.Stats, "stats", false, "print the account every second")
	keys.add(c)
	place.add(c, "sockets that share the port, with a thread each")
	routes.add(c)
	file.add(c, notInFile...)
	file.instead = [][]string{{"key-file", "passphrase"}}
	f.StringVar(&check, "check-config", "", "read this configuration file, say all that is wrong with it, or what goes where, and end")
	log.add(c)
	return c
}

// listenAddress reads [HOST:]PORT.
func listenAddress(s string) (string, error) {
	port := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		port = s[i+1:]
	} else {
		s = ":" + s
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", usagef("-p %q: want [HOST:]PORT, with a port from 1 to 65535", strings.TrimPrefix(s, ":"))
	}
	return s, nil
}

// statePath returns where the state file of a collector is by default: where
// systemd says, or in the system's or the user's place for state; one for each
// port.
func statePath(listen string) (string, error) {
	dir := os.Getenv("STATE_DIRECTORY")
	if dir == "" && os.Geteuid() == 0 {
		dir = "/var/lib/ntap"
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usagef("collector: no place for the state file (%w): give --state FILE, or --state none", err)
		}
		dir = filepath.Join(home, ".local", "state", "ntap")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", usagef("collector: state file: %w: give --state FILE, or --state none", err)
	}
	return filepath.Join(dir, "sessions-"+listen[strings.LastIndexByte(listen, ':')+1:]), nil
}
