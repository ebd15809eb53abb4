// SPDX-License-Identifier: Apache-2.0

package sizing

import "fmt"

// Backlog is how many frames may wait for a CPU that other ones hand frames to
// (net.core.netdev_max_backlog): what comes in 0.1 s, 1,000 to 300,000.
func (p *Plan) Backlog() int { return 1000 * max(1, min(300, int(p.Frames/10e3))) }

// Settings returns the lines to paste on the host, for an interface. Lines that
// begin with # say why.
func (p *Plan) Settings(iface string) []string {
	var s []string
	add := func(format string, args ...any) { s = append(s, fmt.Sprintf(format, args...)) }
	add("sysctl -w net.core.netdev_max_backlog=%d", p.Backlog())
	add("sysctl -w net.core.netdev_budget=600")
	if p.Role == Remote {
		add("sysctl -w net.core.wmem_max=%d", 4<<20)
	} else {
		add("sysctl -w net.core.rmem_max=%d", p.Socket)
		if p.Role == CollectorVXLAN {
			add("sysctl -w net.core.wmem_max=%d", 4<<20)
		}
	}
	add("# queues and slots: as many as ethtool -l and -g say that the card has, up to these")
	add("ethtool -L %s combined %d", iface, p.Queues)
	add("ethtool -G %s rx 4096", iface)
	add("ethtool -C %s adaptive-rx off rx-usecs 50", iface)
	if p.Role == Remote {
		add("ethtool -K %s lro off", iface)
		add("ntap remote -i %s --workers %d --ring %d -c HOST:5678 --key-file tap.key%s", iface, p.Cores, p.Ring, p.suiteFlag())
		return s
	}
	add("ethtool -N %s rx-flow-hash udp4 sdfn", iface)
	add("ethtool -N %s rx-flow-hash udp6 sdfn", iface)
	out := "-i ntap0"
	if p.Role == CollectorVXLAN {
		out = "--no-tap --vxlan HOST"
	}
	if p.Suite == Clear {
		out += " --allow-plaintext"
	}
	add("ntap collector -p 5678 --workers %d --receive-buffer %d --key-file master.key %s", p.Cores, p.Socket, out)
	return s
}

// suiteFlag is what tells a remote to seal so, where it would not by itself.
func (p *Plan) suiteFlag() string {
	switch {
	case p.Cipher == "auto":
		return ""
	case p.Suite == Clear:
		return " -K"
	}
	return " --suite " + suiteName(p.Suite)
}
