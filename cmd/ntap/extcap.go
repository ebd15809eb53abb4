// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/collector"
	"github.com/ntap-project/ntap/ring/filter"
)

// The interfaces that Wireshark sees.
const (
	extcapOwn     = "ntap"           // a collector of its own
	extcapRunning = "ntap_collector" // a collector that runs, by PCAP over IP
)

// An extcap is what Wireshark asks of a program in its extcap folder, see
// extcap(4).
type extcap struct {
	interfaces, dlts, config, capture bool
	version, iface, fifo, filter      string

	port, keyFile            string // of extcapOwn
	collector, cert, key, ca string // of extcapRunning
	taps                     string // of both
	snapLen                  int
	reload, controlIn, out   string // which Wireshark may give, and mean nothing here
	debug                    bool
	debugFile                string
}

func newExtcap() *cobra.Command {
	e := new(extcap)
	c := &cobra.Command{
		Use:   "extcap",
		Short: "Wireshark's and tshark's way to see taps as interfaces of this host (make install-extcap)",
		Long: `Speak the extcap protocol of Wireshark and tshark, which call ntap by a link in
their extcap folder: then taps are among their interfaces.

  tshark -i ntap               # a collector of its own, which remotes send to
  tshark -i ntap_collector     # from a collector with --pcap-over-ip`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case e.interfaces:
				return e.listInterfaces(c.OutOrStdout())
			case e.iface != extcapOwn && e.iface != extcapRunning:
				return usagef("extcap: interface %q: there are %s and %s; Wireshark calls this, as extcap(4) says", e.iface, extcapOwn, extcapRunning)
			case e.dlts:
				_, err := fmt.Fprintln(c.OutOrStdout(), "dlt {number=1}{name=EN10MB}{display=Ethernet}")
				return err
			case e.config:
				return e.listConfig(c.OutOrStdout())
			case e.capture:
				return e.run(c.Context())
			case c.Flags().Changed("extcap-capture-filter"):
				return e.checkFilter(c.OutOrStdout())
			}
			return usagef("extcap: nothing to do: Wireshark calls this with --extcap-interfaces, --extcap-dlts, --extcap-config or --capture, as extcap(4) says")
		},
	}
	f := c.Flags()
	f.BoolVar(&e.interfaces, "extcap-interfaces", false, "list the interfaces")
	f.StringVar(&e.version, "extcap-version", "", "version of Wireshark")
	f.StringVar(&e.iface, "extcap-interface", "", extcapOwn+" or "+extcapRunning)
	f.BoolVar(&e.dlts, "extcap-dlts", false, "list the interface's link types")
	f.BoolVar(&e.config, "extcap-config", false, "list the interface's options")
	f.StringVar(&e.reload, "extcap-reload-option", "", "read the values of an option again")
	f.StringVar(&e.filter, "extcap-capture-filter", "", "which frames; alone: says what is wrong with it")
	f.BoolVar(&e.capture, "capture", false, "write frames")
	f.StringVar(&e.fifo, "fifo", "", "where to")
	f.StringVar(&e.controlIn, "extcap-control-in", "", "not used")
	f.StringVar(&e.out, "extcap-control-out", "", "not used")
	f.BoolVar(&e.debug, "debug", false, "log more")
	f.StringVar(&e.debugFile, "debug-file", "", "not used")
	f.StringVar(&e.port, "port", "5678", extcapOwn+": [HOST:]PORT that remotes send to")
	f.StringVar(&e.keyFile, "key-file", "", extcapOwn+": master key, or the key of a tap; default: $NTAP_KEY_FILE")
	f.StringVar(&e.collector, "collector", "127.0.0.1", extcapRunning+": HOST[:PORT] of the collector's --pcap-over-ip")
	f.StringVar(&e.cert, "tls-cert", "", extcapRunning+": certificate to show; PEM. Elsewhere than on this host it is needed")
	f.StringVar(&e.key, "tls-key", "", extcapRunning+": its private key; PEM")
	f.StringVar(&e.ca, "tls-ca", "", extcapRunning+": CA that issued the collector's certificate; PEM")
	f.StringVar(&e.taps, "taps", "", "tap IDs, as in 1,3-5; default: all")
	f.IntVar(&e.snapLen, "cut", 0, "bytes of each frame; 0: all")
	return c
}

// isExtcap says that Wireshark calls, by a link in its extcap folder.
func isExtcap(args []string) bool {
	return len(args) > 1 && (strings.HasPrefix(args[1], "--extcap-") || args[1] == "--capture")
}

func (e *extcap) listInterfaces(w io.Writer) error {
	_, err := fmt.Fprintf(w, `extcap {version=%s}{help=https://github.com/ntap-project/ntap/blob/main/docs/OUTPUTS.md}{display=ntap}
interface {value=%s}{display=ntap: remotes send to this host}
interface {value=%s}{display=ntap: a collector that runs (PCAP over IP)}
`, collector.Version, extcapOwn, extcapRunning)
	return err
}

// listConfig prints the options as Wireshark's window has them. tshark takes
// them as -o extcap.INTERFACE.OPTION:VALUE, the option without its dashes.
func (e *extcap) listConfig(w io.Writer) error {
	var lines []string
	arg := func(call, display, rest string) {
		lines = append(lines, fmt.Sprintf("arg {number=%d}{call=--%s}{display=%s}%s", len(lines), call, display, rest))
	}
	if e.iface == extcapOwn {
		arg("port", "Port", "{type=string}{default=5678}{tooltip=UDP port, or HOST:PORT, that remotes send to}")
		arg("key-file", "Key file", "{type=fileselect}{mustexist=true}{tooltip=Master key, or the key of one tap; else $NTAP_KEY_FILE}")
	} else {
		arg("collector", "Collector", "{type=string}{default=127.0.0.1}{tooltip=HOST or HOST:PORT of the collector's --pcap-over-ip}")
		arg("tls-cert", "Certificate", "{type=fileselect}{mustexist=true}{group=TLS}{tooltip=Certificate of this client, PEM: for a collector on another host}")
		arg("tls-key", "Private key", "{type=fileselect}{mustexist=true}{group=TLS}{tooltip=Its private key, PEM}")
		arg("tls-ca", "CA", "{type=fileselect}{mustexist=true}{group=TLS}{tooltip=CA that issued the collector's certificate, PEM}")
	}
	arg("taps", "Taps", "{type=string}{tooltip=Tap IDs, as in 1,3-5; empty: all}")
	arg("cut", "Cut at", "{type=unsigned}{default=0}{range=0,262144}{tooltip=Bytes of each frame; 0: all}")
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

// checkFilter prints what is wrong with the filter, and nothing if that is
// nothing. Of a program whose exit status is not 0 Wireshark takes nothing that it
// printed (ws_pipe_spawn_sync, wsutil/ws_pipe.c).
func (e *extcap) checkFilter(w io.Writer) error {
	if _, err := filter.Compile(e.filter, filter.Options{LinkType: filter.Ethernet}); err != nil {
		_, err = fmt.Fprintln(w, err)
		return err
	}
	return nil
}

// run writes frames into the FIFO until its reader goes, or Wireshark does.
func (e *extcap) run(ctx context.Context) error {
	if e.fifo == "" {
		return usagef("extcap: --capture without --fifo: there is nowhere to write to")
	}
	want := collector.Selection{SnapLen: e.snapLen, Filter: e.filter}
	if e.taps != "" {
		var err error
		if want.Taps, err = collector.ParseTapSet(e.taps); err != nil {
			return usageError{err}
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go orphaned(ctx, stop)
	if e.iface == extcapOwn {
		return e.collect(ctx, want)
	}
	return e.connect(ctx, want)
}

// orphaned calls stop when the program that called this one is gone: Wireshark
// may end without a word.
func orphaned(ctx context.Context, stop func()) {
	parent := os.Getppid()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for os.Getppid() == parent {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	stop()
}

// collect is a collector with the FIFO as its output. Wireshark shows what it
// prints as an error, so it logs errors only.
func (e *extcap) collect(ctx context.Context, want collector.Selection) error {
	cfg := collector.Config{Outputs: collector.Outputs{Files: []collector.File{{Path: e.fifo, Select: want}}}}
	level := zerolog.ErrorLevel
	if e.debug {
		level = zerolog.DebugLevel
	}
	log := logFlags{}
	cfg.Log = log.logger(os.Stderr).Level(level)
	var err error
	if cfg.Listen, err = listenAddress(e.port); err != nil {
		return err
	}
	protect(cfg.Log)
	if cfg.Keys, err = loadKeys(e.keyFile, ""); err != nil {
		return err
	}
	lockKeys(cfg.Keys, cfg.Log)
	defer cfg.Keys.Wipe()
	if cfg.State, err = statePath(cfg.Listen); err != nil {
		cfg.State = "" // a home that cannot be written to is no reason not to look
	}
	_, err = collector.Run(ctx, cfg)
	return err
}

// connect reads from a collector that runs.
func (e *extcap) connect(ctx context.Context, want collector.Selection) error {
	addr, loopback := serveAddress(e.collector)
	if addr == "" {
		return usagef("--collector %q: want HOST or HOST:PORT", e.collector)
	}
	conn, err := e.dial(ctx, addr, loopback)
	if err != nil {
		return fmt.Errorf("extcap: %s: %w; is there a collector with --pcap-over-ip?", addr, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	line := "format=pcapng"
	if want.Taps != nil {
		line += " taps=" + want.Taps.String()
	}
	if want.SnapLen != 0 {
		line += fmt.Sprintf(" snaplen=%d", want.SnapLen)
	}
	if want.Filter != "" {
		line += " filter=" + strings.Join(strings.Fields(want.Filter), " ")
	}
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return fmt.Errorf("extcap: %s: %w", addr, err)
	}
	out, err := openForReader(ctx, e.fifo)
	if err != nil {
		return fmt.Errorf("extcap: %w", err)
	}
	defer out.Close()
	head := make([]byte, 5)
	if n, err := io.ReadFull(conn, head); err != nil {
		return fmt.Errorf("extcap: %s closed the connection (%w) after %q", addr, err, head[:n])
	} else if string(head) == "ntap:" { // what it does not like about the line
		why, _ := io.ReadAll(io.LimitReader(conn, 1000))
		return fmt.Errorf("extcap: %s: %s", addr, strings.TrimSpace(string(why)))
	}
	_, err = io.Copy(out, io.MultiReader(strings.NewReader(string(head)), conn))
	if errors.Is(err, syscall.EPIPE) || ctx.Err() != nil {
		return nil // Wireshark has enough
	}
	return err
}

// openForReader opens a FIFO once it has a reader.
func openForReader(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.ENXIO) { // fifo(7): nobody reads yet
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// dial connects, by TLS where there is a certificate.
func (e *extcap) dial(ctx context.Context, addr string, loopback bool) (net.Conn, error) {
	var d net.Dialer
	d.Timeout = 10 * time.Second
	if e.cert == "" && e.key == "" && e.ca == "" {
		if !loopback {
			return nil, errors.New("on another host collectors give frames by TLS only: give --tls-cert, --tls-key and --tls-ca")
		}
		return d.DialContext(ctx, "tcp", addr)
	}
	pair, err := tls.LoadX509KeyPair(e.cert, e.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %q with key %q: %w", e.cert, e.key, err)
	}
	text, err := os.ReadFile(e.ca)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("CA: %s holds no certificate in PEM: %w", e.ca, fs.ErrInvalid)
	}
	t := tls.Dialer{NetDialer: &d, Config: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}}
	return t.DialContext(ctx, "tcp", addr)
}
