// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ntap-project/ntap/benchmarks/outcome"
	"github.com/ntap-project/ntap/perf/sizing"
)

// What SIZING.md has tables of.
var (
	tableRates  = []float64{1e9, 2.5e9, 5e9, 10e9, 25e9, 40e9, 100e9}
	tableFrames = []string{"64", "imix", "700", "1514"}
	tableRoles  = []struct {
		role sizing.Role
		name string
	}{{sizing.Remote, "Remote"}, {sizing.Collector, "Collector to a TAP"}, {sizing.CollectorVXLAN, "Collector to VXLAN"}}
)

// kernels are all the ways in which ntap does AES-256-GCM: crypto's.
var kernels = []struct{ suite, what string }{
	{"aes-256-gcm/avx512", "VAES with AVX-512 (Intel from Ice Lake on, AMD from Zen 4 on)"},
	{"aes-256-gcm/avx2", "VAES with AVX2"},
	{"aes-256-gcm/aesni", "AES-NI, crypto/cipher"},
	{"aes-256-gcm/armv8", "AES and PMULL of ARMv8, crypto/cipher"},
}

// sizingOf makes SIZING.md of a results file, and the profile that ntap size has
// built in.
func sizingOf(r *outcome.Results, file string) (text, profile []byte, err error) {
	if r.Profile == nil || len(r.Profile.Points) == 0 {
		return nil, nil, errors.New("it has no profile: its part \"stages\" is missing; make bench measures it")
	}
	prof := *r.Profile
	prof.Machine = fmt.Sprintf("%s, %d CPUs, Linux %s", or(r.Machine.CPU, "a machine without a name"), r.Machine.CPUs, r.Machine.Kernel)
	prof.Commit, prof.Date, prof.Note = r.Commit, r.Begun.Format(time.DateOnly), "make bench; "+file
	b, err := json.MarshalIndent(&prof, "", " ")
	if err != nil {
		return nil, nil, err
	}
	// What is written has to be what ntap size can read.
	read, err := sizing.Parse(b)
	if err != nil {
		return nil, nil, err
	}
	m, err := sizing.Fit(read)
	if err != nil {
		return nil, nil, err
	}
	p := &page{}
	if err := sizingPage(p, r, m, file); err != nil {
		return nil, nil, err
	}
	return p.Bytes(), append(b, '\n'), nil
}

func sizingPage(p *page, r *outcome.Results, m *sizing.Model, file string) error {
	p.say("<!-- SPDX-License-Identifier: Apache-2.0 -->")
	p.say("<!-- Made by make sizing of benchmarks/results/%s: change that, or benchmarks/report, not this. -->", file)
	p.say("# Sizing\n")
	p.say("For whoever chooses hosts for a tap, and sets them up: how many cores, how much memory, how many queues, and which settings. The tables are computed,")
	p.say("by a model, from what was measured on one machine: %s, %s ([%s](benchmarks/results/%s)).", m.Profile.Machine, m.Profile.Date, file, file)
	p.say("Another machine has other numbers: `ntap bench` measures yours in a minute, and `ntap size` answers from that:\n")
	p.say("    ntap bench --out ntap-profile.json\n    ntap size --rate 10G --frame imix --role remote --profile ntap-profile.json\n")
	p.say("Jump to the [tables](#tables), the [settings](#settings), [how it works](#how-the-model-works), [where it stops being true](#where-it-stops-being-true),")
	p.say("[40 and 100 Gbit/s](#40-and-100-gbits).")
	if err := sizingTables(p, m); err != nil {
		return err
	}
	if err := sizingSettings(p, m); err != nil {
		return err
	}
	sizingModel(p, m)
	sizingLimits(p)
	return sizingHuge(p, r, m)
}

// suites are those of the tables, all that were measured: first what a remote
// chooses, then the others, the cheapest first.
func suites(m *sizing.Model) []string {
	all := m.Suites()
	auto, err := m.Suite("auto")
	if err != nil {
		return all
	}
	return append([]string{auto}, slices.DeleteFunc(all, func(s string) bool { return s == auto })...)
}

func sizingTables(p *page, m *sizing.Model) error {
	p.say("\n## Tables\n")
	p.say("Rates are of a full link that is captured: with 64 bytes, %s is %s frames a second. Frames are without FCS; IMIX is 64, 594 and 1518 bytes as 7:4:1.", "10 Gbit/s", count(10e9/8/88))
	p.say("*Cores* are whole ones for shards or workers (`--workers`), each busy to 80 %% at the most, by suite; in brackets how many are busy, by the first suite.")
	p.say("*Kernel* are the cores that serve the network card, without its driver. *Queues* are receive queues. *Memory* is what rings (of a remote) take, or socket buffers (of a")
	p.say("collector) when all are full, in MiB, for each shard or worker, with the first suite. A worker has two sockets, one of them for strangers, in clear one; and the kernel takes")
	p.say("twice what a buffer is asked to have (`--receive-buffer`). For the process 64 MiB come on top, and 8 MiB for each worker. *Backlog* is `net.core.netdev_max_backlog`.\n")
	p.say("| suite | what |\n|---|---|")
	measured := map[string]bool{}
	for _, s := range suites(m) {
		measured[s] = true
	}
	for _, k := range kernels {
		if measured[k.suite] {
			p.say("| %s | %s |", k.suite, k.what)
		} else {
			p.say("| %s | %s. **Left out: the machine that was measured cannot run it**, and nobody knows its cost from another one's. On a CPU that can, `ntap bench` measures it |", k.suite, k.what)
		}
	}
	p.say("| chacha20-poly1305 | golang.org/x/crypto: for CPUs without AES instructions |\n| plaintext | clear: `-K`, with a checksum |")
	for _, one := range tableRoles {
		p.say("\n### %s", one.name)
		head := []string{"rate", "frame"}
		for _, s := range suites(m) {
			head = append(head, short(s))
		}
		head = append(head, "kernel", "queues", "memory", "backlog", "out")
		var rows [][]string
		for _, rate := range tableRates {
			for _, frame := range tableFrames {
				row := []string{sizing.Bits(rate), frame}
				var first sizing.Plan
				for i, s := range suites(m) {
					plan, err := m.Plan(sizing.Ask{Rate: rate, Frame: frame, Role: one.role, Cipher: s})
					if err != nil {
						return err
					}
					cell := fmt.Sprint(plan.Cores)
					if i == 0 {
						first = plan
						cell += fmt.Sprintf(" (%.1f)", plan.Busy())
					}
					row = append(row, cell)
				}
				out := sizing.Bits(first.Out)
				if one.role == sizing.Collector {
					out = "–"
				}
				each, of := first.Buffers()
				rows = append(rows, append(row, fmt.Sprint(first.IRQ), fmt.Sprint(first.Queues), fmt.Sprintf("%d x %d", of, each>>20),
					fmt.Sprint(first.Backlog()), out))
			}
		}
		p.table(head, rows)
	}
	return nil
}

// short is a suite's name for the head of a table.
func short(suite string) string {
	return strings.NewReplacer("aes-256-gcm/", "AES ", "chacha20-poly1305", "ChaCha20", "plaintext", "clear").Replace(suite)
}

func sizingSettings(p *page, m *sizing.Model) error {
	p.say("\n## Settings\n")
	p.say("What `ntap size` prints to paste, here for 10 Gbit/s of IMIX. Queues, buffers and backlog grow with the rate as in the tables; the rest stays.")
	for _, one := range tableRoles {
		plan, err := m.Plan(sizing.Ask{Rate: 10e9, Frame: "imix", Role: one.role, Cipher: "auto"})
		if err != nil {
			return err
		}
		p.say("\n%s:\n", one.name)
		for _, line := range plan.Settings("eth0") {
			p.say("    %s", line)
		}
	}
	p.say("\nWhere shards, workers and interrupts run, ntap chooses by itself: [docs/TUNING.md](docs/TUNING.md).")
	return nil
}

func sizingModel(p *page, m *sizing.Model) {
	p.say("\n## How the model works\n")
	p.say("A frame passes stages. Each costs so many ns of CPU for the frame and so many for each of its bytes: a line, fitted by least squares on measurements at several")
	p.say("frame sizes. What a side takes for a frame is the sum of its stages; times the frames a second it is the cores that are busy; and of a core 80 %% may be.")
	var rows [][]string
	for _, l := range m.Lines() {
		rows = append(rows, []string{l.Stage, l.Suite, fmt.Sprintf("%.1f", l.Frame), fmt.Sprintf("%.3f", l.Byte), fmt.Sprintf("%.1f", l.Error), fmt.Sprint(l.N)})
	}
	p.table([]string{"stage", "suite", "ns a frame", "ns a byte", "error of the fit, ns (rms)", "sizes"}, rows)
	for _, one := range tableRoles {
		p.say("- %s: %s.", one.name, strings.Join(sizing.Stages(one.role), ", "))
	}
	p.say("\nHow each is measured (`internal/measure`, `ntap bench`, `make bench`), in rounds, medians:\n")
	p.say("- *pack*, *seal*, *open*: the code alone, in memory, on 128 KiB of frames, for every suite and every kernel of this CPU.")
	p.say("- *send*, *receive*: full datagrams to and from a veth, in trains (UDP_SEGMENT, UDP_GRO); a frame has its share of a datagram.")
	p.say("- *kernel capture*, *kernel receive*: what the sender's CPU takes more when a ring, or a socket that is read, is at the other end.")
	p.say("- *capture*: a whole remote less pack, seal and send. *order*: a whole collector without an output, less receive and open. *tap*, *vxlan*: what it takes more with")
	p.say("  that output. *vxlan, mixed*: with IMIX, since frames of different sizes do not go together in one send.")
	p.say("- What it takes to wake a collector is left out: a trickle of frames shows how much that is, and a busy core is woken little. A remote is measured at rates at which it is a small part.")
	p.say("\nMemory: a ring bridges 0.1 s of its shard's share of the rate, a socket's buffer 0.05 s, in powers of two and not below the defaults of 64 MiB.")
	p.say("A socket's buffer is charged about two bytes for each that is received, for which the kernel doubles what it is asked for (socket(7)).")
	p.say("\nHeld against whole sides at sizes at which it was not fitted; more than %.0f %% off fails a test (`go test ./perf/sizing`):", 100*sizing.Within)
	rows = nil
	for _, h := range m.Held(m.Profile.Checks) {
		rows = append(rows, []string{h.Stage, h.Suite, h.Frame, fmt.Sprintf("%.0f", h.NS), fmt.Sprintf("%.0f", h.Model), fmt.Sprintf("%+.0f %%", 100*h.Off())})
	}
	p.table([]string{"side", "suite", "frame", "measured, ns", "the model, ns", "off"}, rows)
	p.say("**Calibrate it for your host**: `ntap bench` (root, about a minute, nothing else running; `--for 5m` for less noise) writes a profile and says how far the model is off")
	p.say("there. `ntap size --profile FILE` takes it. A results file of `make bench` is a profile as well.")
}

func sizingLimits(p *page) {
	p.say("%s", `
## Where it stops being true

It assumes that
- what a frame takes does not depend on the rate. At low rates threads sleep and are woken, at high ones batches are larger: the tables are
  for cores that have work;
- frames come in trains. VXLAN of frames of many sizes is taken as that of IMIX; real traffic may be worse or better;
- no captured frame is larger than the wire's: GSO and GRO frames of 64 KB cost less for each byte. Beyond the longest frame that was
  measured lines go on straight;
- cores are alike, and as fast when all are busy as when one is. Two threads of a core (SMT) are no two cores: count cores;
- flows are many, so that queues and shards share them evenly. One flow meets one queue, one shard, one worker: what one core carries is the most for it;
- a worker meets all datagrams of a shard: a collector with many workers wants several times as many shards, of all remotes together;
- memory is near: a shard on another NUMA node than its network card pays more;
- the network card's driver is not there: capture was measured behind a TAP, and sockets behind a veth. Add what the driver takes, by experience as
  much as the kernel's part; see it by `+"`perf top -C`"+` on a CPU that serves interrupts;
- filters, several outputs, pcapng files and Wireshark's clients take nothing. They do: measure those with `+"`make bench`"+` (Outputs).

Bursts decide about loss, not means: 80 % of a core is what leaves room for them. Watch *dropped by the kernel* and *the socket was full* in the account.`)
}

func sizingHuge(p *page, r *outcome.Results, m *sizing.Model) error {
	p.say("\n## 40 and 100 Gbit/s\n")
	p.say("Not measured: no such link was there. What follows is the model's. Shards share nothing: each has its own ring, keys, socket and thread, each worker its own sockets, TAP queue")
	p.say("and VXLAN ports; so cores add up until something that they do share is used up.")
	var rows [][]string
	for _, rate := range []float64{40e9, 100e9} {
		for _, frame := range []string{"imix", "1514"} {
			for _, one := range tableRoles {
				plan, err := m.Plan(sizing.Ask{Rate: rate, Frame: frame, Role: one.role, Cipher: "auto"})
				if err != nil {
					return err
				}
				rows = append(rows, []string{sizing.Bits(rate), frame, one.name, count(plan.Frames), fmt.Sprintf("%d (%.1f)", plan.Cores, plan.Busy()), fmt.Sprintf("%d (%.1f)", plan.IRQ, plan.BusyIRQ()),
					fmt.Sprintf("%.0f", plan.Memory/1e9)})
			}
		}
	}
	p.table([]string{"rate", "frame", "side", "frames a second", "cores (busy)", "kernel (busy)", "memory, GB/s at the most"}, rows)
	p.say("What stops it:\n")
	p.say("- **NIC queues.** A queue is served by one CPU at a time; as many as cores for the kernel's part, or one for each shard. The card has what `ethtool -l` says, and spreads by")
	p.say("  flow: one flow of 40 Gbit/s is one core's work, which no core does. Towards the collector every shard is a flow of its own, by its UDP source port.")
	p.say("- **Memory bandwidth.** A captured byte is written by the card, copied into the ring, copied into the datagram, sealed there, copied into the socket, and read by the card: 8 times")
	p.say("  to or from memory if no cache held it, which is the last column. A channel of DDR4-3200 has 25.6 GB/s (JESD79-4: 3200 million transfers of 8 bytes); datagrams of a train, 64 KB, stay in a cache.")
	p.say("- **TAP queues.** A TAP device has a queue for each worker, %d at the most (MAX_TAP_QUEUES, drivers/net/tun.c); whoever reads the device pays for each frame once more, and most", 256)
	p.say("  programs read with one thread. VXLAN to hosts that share the work, or `-i ntap%%t`, a device for each tap, divides it.")
	p.say("- **64-byte frames** cost by the frame: at 100 Gbit/s the table asks for more cores than hosts have. Filter in the kernel (`docs/FILTER.md`), or divide among hosts.")
	p.say("\nMeasured from one shard and worker to more (the highest rate without loss end to end, where the source takes its part of the same %d CPUs; and each side by itself):", r.Machine.CPUs)
	slopes(p, r.Scaling, r.Machine.CPUs)
	return nil
}

// slopes writes what more shards and workers gave.
func slopes(p *page, all []outcome.Scaling, cpus int) {
	if len(all) == 0 {
		p.say("\nnot in this results file (its part \"scaling\").")
		return
	}
	var rows [][]string
	for _, s := range all {
		one := s
		for _, x := range all {
			if x.Frame == s.Frame && x.Workers == 1 {
				one = x
			}
		}
		factor := func(a, b float64) string {
			if !(b > 0) || math.IsNaN(a/b) {
				return "–"
			}
			return fmt.Sprintf("%.2f", a/b)
		}
		alone := func(side string) string { return factor(s.Alone[side].Median, one.Alone[side].Median) }
		rows = append(rows, []string{s.Frame, fmt.Sprint(s.Workers), s.Rate.String(), factor(s.Rate.Median, one.Rate.Median), alone(remote), alone(collector)})
	}
	p.table([]string{"frame", "shards, workers", "highest frames a second", "times one", "a frame's CPU, remote alone, times one", "collector alone, times one"}, rows)
	p.say("The last columns are the slope: each shard or worker has as much to do, however many there are, and 1 says that another one costs nothing beyond its own work.")
	if cpus <= 2 {
		p.say("The highest rate cannot double here: source, shards and workers already take all %d CPUs with one of each.", cpus)
	}
}
