// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/collector"
)

// An outputFlags are the collector's flags about files, and about what each
// output gets.
type outputFlags struct {
	write   []string
	size    string
	every   int
	keep    int
	direct  bool
	waits   int
	serve   []string
	buffer  int
	clients int
	tls     collector.TLSFiles
	selects []string
	sets    []string
}

func (o *outputFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVarP(&o.write, "write", "w", nil, "write pcapng to this file or FIFO, - is standard output; may be given again. %t in a name is the tap ID, %n a number, %Y %m %d %H %M %S %s the time, UTC")
	f.StringVarP(&o.size, "rotate-size", "C", "", "files of -w go on in a new one before they have more than this: millions of bytes, or with k, m or g KiB, MiB, GiB")
	f.IntVarP(&o.every, "rotate-seconds", "G", 0, "files of -w go on in a new one at multiples of this many seconds")
	f.IntVarP(&o.keep, "rotate-keep", "W", 0, "this many files are kept, for each recording: the oldest are removed; 0: all")
	f.BoolVar(&o.direct, "direct", false, "write the files of -w past the page cache, which takes less CPU at high rates")
	bytesVar(f, &o.waits, "write-buffer", 0, "bytes that wait for each file or pipe of -w: what a slow disk or reader has no room for is dropped, and counted; 0: 64 MiB, or 8 MiB for the recording of each tap (%t)")
	f.StringArrayVar(&o.serve, "pcap-over-ip", nil, "give frames to programs that connect to [HOST:]PORT by TCP; without HOST on 127.0.0.1. With ,pcap behind it as pcap where the client does not say, else pcapng; elsewhere than on loopback, and with ,tls, by TLS; may be given again")
	bytesVar(f, &o.buffer, "pcap-over-ip-buffer", serveBuffer, "bytes that wait for a client that is slow: what does not fit it loses")
	f.IntVar(&o.clients, "pcap-over-ip-clients", serveClients, "programs that may be connected to it at once")
	f.StringVar(&o.tls.Cert, "tls-cert", "", "certificate of this collector for --pcap-over-ip, and those between it and its CA; PEM")
	f.StringVar(&o.tls.Key, "tls-key", "", "its private key; PEM")
	f.StringVar(&o.tls.ClientCA, "tls-client-ca", "", "CA that issues the certificates of clients; PEM")
	f.StringArrayVar(&o.selects, "select", nil, `what an output gets: "OUTPUT taps=1,3-5 snaplen=96 filter=EXPRESSION", of which only OUTPUT has to be there: interface, write, vxlan, pcap-over-ip, balance, or one of those by its name; may be given again`)
	f.StringArrayVar(&o.sets, "set", nil, `fields of an output as the configuration file has them (docs/CONFIG.md): "OUTPUT rotate-size=512m snaplen=96 tls.cert=FILE filter=EXPRESSION", where OUTPUT is as in --select; may be given again`)
}

// set adds the outputs of the flags.
func (o *outputFlags) set(cfg *collector.Outputs) error {
	roll, err := o.rotation(0, [3]string{"-C", "-G", "-W"})
	if err != nil {
		return err
	}
	if err := oneOf0("--write-buffer", o.waits, 1<<20, maxMemory); err != nil {
		return err
	}
	for _, path := range o.write {
		cfg.Files = append(cfg.Files, collector.File{Path: path, Rotate: roll, Direct: o.direct, Buffer: o.waits})
	}
	if len(o.write) == 0 && (o.direct || o.waits != 0) {
		return usagef("--direct and --write-buffer are about files of -w FILE, and there is none")
	}
	if len(o.write) == 0 && roll != (collector.Rotation{}) {
		return usagef("-C, -G and -W are about files of -w FILE, and there is none")
	}
	return o.servers(cfg)
}

// choose gives outputs the selections of --select, in which taps may be called by
// their names in the file.
func (o *outputFlags) choose(cfg *collector.Outputs, file *configFile) error {
	seen := make(map[*collector.Selection]bool)
	for _, text := range o.selects {
		name, rest := about(targets(cfg), text)
		rest, err := file.byID(rest)
		if err != nil {
			return usagef("--select %q: %w", text, err)
		}
		s, err := collector.ParseSelection(rest)
		if err != nil {
			return usagef("--select %q: %w", text, err)
		}
		found := outputsNamed(cfg, name)
		if len(found) == 0 {
			return usagef("--select %q: there is no output %q; want interface, write, vxlan, pcap-over-ip, balance, or the name, file or address of one", text, name)
		}
		for _, out := range found {
			if seen[out] {
				return usagef("--select %q: the output is selected for twice", text)
			}
			seen[out] = true
			*out = s
		}
	}
	return nil
}

// outputsNamed returns the selections of the outputs of a kind, or of one.
func outputsNamed(cfg *collector.Outputs, name string) (found []*collector.Selection) {
	for _, t := range targets(cfg) {
		if !t.member && t.is(name) {
			found = append(found, t.takes)
		}
	}
	return found
}

// servers puts the addresses of --pcap-over-ip into the configuration.
func (o *outputFlags) servers(cfg *collector.Outputs) error {
	files := []string{o.tls.Cert, o.tls.Key, o.tls.ClientCA}
	given := len(slices.DeleteFunc(slices.Clone(files), func(s string) bool { return s == "" }))
	if given != 0 && given != len(files) {
		return usagef("--tls-cert, --tls-key and --tls-client-ca go together: clients prove who they are, too")
	}
	if given != 0 && len(o.serve) == 0 {
		return usagef("--tls-cert is about --pcap-over-ip, which is not there")
	}
	if len(o.serve) == 0 {
		return nil
	}
	if err := errors.Join(within("--pcap-over-ip-buffer", o.buffer, 1<<20, maxMemory), within("--pcap-over-ip-clients", o.clients, 1, maxClients)); err != nil {
		return err
	}
	for _, text := range o.serve {
		addr, words, _ := strings.Cut(text, ",")
		c := collector.Serve{Queue: o.buffer, Clients: o.clients}
		secure := false
		for word := range strings.SplitSeq(words, ",") {
			switch word {
			case "":
			case "pcap":
				c.Pcap = true
			case "pcapng":
			case "tls":
				secure = true
			default:
				return usagef("--pcap-over-ip %q: after the address come pcap, pcapng or tls, not %q", text, word)
			}
		}
		var loopback bool
		if c.Addr, loopback = serveAddress(addr); c.Addr == "" {
			return usagef("--pcap-over-ip %q: want [HOST:]PORT, as in %d, 192.0.2.1:%d or [::1]:%d", text, collector.ServePort, collector.ServePort, collector.ServePort)
		}
		if (secure || !loopback) && !(given == 0 && o.setsTLS(c.Addr)) {
			if given == 0 {
				return usagef("--pcap-over-ip %s: frames in clear go to this machine only: give --tls-cert, --tls-key and --tls-client-ca, or listen on 127.0.0.1", text)
			}
			c.TLS = &o.tls
		}
		cfg.Serve = append(cfg.Serve, c)
	}
	return nil
}

// serveAddress completes an address: alone, a port is on 127.0.0.1 and a host
// has the usual port. It says whether the host is a loopback address.
func serveAddress(s string) (addr string, loopback bool) {
	host, port, err := net.SplitHostPort(s)
	switch _, e := strconv.Atoi(s); {
	case err == nil:
	case s == "":
		return "", false
	case e == nil:
		host, port = "127.0.0.1", s
	default:
		host, port = strings.Trim(s, "[]"), strconv.Itoa(collector.ServePort)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 && port != "0" {
		return "", false
	}
	ip := net.ParseIP(host)
	return net.JoinHostPort(host, port), host == "localhost" || ip != nil && ip.IsLoopback()
}

// rotation returns what -C, -G and -W say, in tcpdump's units. size is in force
// where -C says nothing, bytes; words are what the user calls the three.
func (o *outputFlags) rotation(size int64, words [3]string) (r collector.Rotation, err error) {
	r = collector.Rotation{Size: size, Every: time.Duration(o.every) * time.Second, Keep: o.keep}
	if o.size != "" {
		unit, number := int64(1e6), o.size
		switch number[len(number)-1] | 0x20 {
		case 'k':
			unit = 1 << 10
		case 'm':
			unit = 1 << 20
		case 'g':
			unit = 1 << 30
		}
		if unit != 1e6 {
			number = number[:len(number)-1]
		}
		n, err := strconv.ParseInt(number, 10, 32)
		if r.Size = n * unit; err != nil || r.Size < 1e6 {
			return r, usagef("%s %s: want a size of 1 (a million bytes) or more, or with a unit, as in 1000k, 512m, 4g", words[0], o.size)
		}
	}
	if err := errors.Join(within(words[1], o.every, 0, maxRotate), within(words[2], o.keep, 0, maxKeep)); err != nil {
		return r, err
	}
	if r.Keep > 0 && r.Size == 0 && r.Every == 0 {
		return r, usagef("%s %d without %s and %s: a file never ends", words[2], o.keep, words[0], words[1])
	}
	return r, nil
}
