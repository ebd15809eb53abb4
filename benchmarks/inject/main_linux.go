// SPDX-License-Identifier: Apache-2.0

// Command inject measures the ways to give frames to an interface of this host:
// cycles for a frame of the thread that does it, softirqs included, without a
// consumer and with one. The ways take turns, round after round. It makes its
// own namespace; root.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/benchmarks/cycles"
	"github.com/ntap-project/ntap/ring"
)

// A way gives frames to an interface.
type way struct {
	name   string
	device string // on which they appear
	// open prepares it on the thread that will call write. write takes all
	// frames, and returns when they were given.
	open  func() error
	write func(frames [][]byte) error
	close func()
}

// batch is how many frames come at once: as many as a collector unpacks between
// two flushes.
const batch = 512

var (
	cpu    = flag.Int("cpu", 0, "CPU that injects; a consumer runs on the next one")
	match  = flag.String("way", "", "only ways with this in their name")
	sizes  = flag.String("sizes", "60,300,1514", "bytes of a frame")
	rounds = flag.Int("rounds", 9, "of each way")
	frames = flag.Int("frames", 40*batch, "in a round")
	reader = flag.String("consumer", "none,ring,tcpdump", "who reads the interface: none, ring (TPACKET_V3, all filtered in user space), tcpdump (-w /dev/null)")
	queues = flag.String("queues", "", "bytes of frames with which one thread is compared with two, a queue each")
	whole  = flag.Bool("gso", false, "compare a whole GSO frame with its segments")
	flows  = flag.Int("flows", 64, "TCP flows that the frames belong to")
)

func main() {
	flag.Parse()
	*frames = (*frames + batch - 1) / batch * batch
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "inject:", err)
		os.Exit(1)
	}
}

func run() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	var err error
	if netns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if err := command("ip link set lo up"); err != nil {
		return err
	}
	if err := cycles.Pin(*cpu); err != nil {
		return err
	}
	if err := mapPool(); err != nil {
		return err
	}
	tids := []int{cycles.Self()}
	if k := cycles.Ksoftirqd(*cpu); k > 0 {
		tids = append(tids, k)
	}
	count, err := cycles.New(tids...)
	if err != nil {
		return err
	}
	defer count.Close()
	for _, text := range strings.Split(*queues, ",") {
		if size, err := strconv.Atoi(text); err == nil {
			if err := scale(size); err != nil {
				return err
			}
		}
	}
	if *whole {
		if err := gso(count); err != nil {
			return err
		}
	}
	var ways []*way
	for _, w := range slices.Concat(taps(), veths(), []*way{runs("TAP, BPF_PROG_RUN, batches of 64", "tb0", 64), runs("TAP, BPF_PROG_RUN, batches of 256", "tb1", 256)}) {
		if !strings.Contains(w.name, *match) {
			continue
		}
		if err := w.open(); err != nil {
			fmt.Printf("%s: not available: %v\n", w.name, err)
			continue
		}
		defer w.close()
		if err := isolate(w.device); err != nil {
			return err
		}
		ways = append(ways, w)
	}
	if len(ways) == 0 {
		return nil
	}
	var all []column
	for _, who := range strings.Split(*reader, ",") {
		c := column{who: who, cells: make([][]string, len(ways))}
		for _, text := range strings.Split(*sizes, ",") {
			size, err := strconv.Atoi(text)
			if err != nil {
				return err
			}
			c.sizes = append(c.sizes, text)
			cells, err := measure(who, size, ways, count)
			if err != nil {
				return err
			}
			for i, cell := range cells {
				c.cells[i] = append(c.cells[i], cell)
			}
		}
		all = append(all, c)
	}
	table(ways, all)
	return nil
}

// A column is what came out with one kind of consumer.
type column struct {
	who   string
	sizes []string
	cells [][]string // of each way, by size
}

// table prints all as a table: cycles of the first way, and the ratios of the
// others to it, with their spreads.
func table(ways []*way, all []column) {
	fmt.Print("\n| way |")
	for _, c := range all {
		fmt.Printf(" %s: %s B |", c.who, strings.Join(c.sizes, ", "))
	}
	fmt.Print("\n|---|" + strings.Repeat("---|", len(all)) + "\n")
	for i, w := range ways {
		fmt.Printf("| %s |", w.name)
		for _, c := range all {
			fmt.Printf(" %s |", strings.Join(c.cells[i], ", "))
		}
		fmt.Println()
	}
}

// measure prints what each way costs for frames of one size, with one kind of
// consumer: medians with the least and the most, and the ratios to the first way
// within the rounds, likewise. It returns a cell of the table for each.
func measure(who string, size int, ways []*way, count *cycles.Counter) (cells []string, err error) {
	all := pool(size)
	cyc, ins := make([][]float64, len(ways)), make([][]float64, len(ways))
	for r := range *rounds + 1 {
		for i, w := range ways {
			stop, err := consume(who, w.device)
			if err != nil {
				return nil, err
			}
			in0 := received(w.device)
			counts := !strings.Contains(w.name, "BPF_PROG_RUN") // those are of no driver's statistics
			before := count.Read()
			for done := 0; done < *frames; done += batch {
				if err := w.write(all); err != nil {
					return nil, fmt.Errorf("%s: %w", w.name, err)
				}
			}
			d := count.Read().Sub(before)
			time.Sleep(time.Millisecond)
			if got := received(w.device) - in0; counts && got != *frames {
				fmt.Printf("%s, %d bytes: %d of %d frames arrived\n", w.name, size, got, *frames)
			}
			stop()
			if r > 0 { // the first warms up
				cyc[i] = append(cyc[i], d.Cycles/float64(*frames))
				ins[i] = append(ins[i], d.Instructions/float64(*frames))
			}
		}
	}
	for i, w := range ways {
		m, lo, hi := cycles.Median(cyc[i])
		n, least, most := cycles.Median(ins[i])
		ratios := make([]float64, len(cyc[i]))
		for r := range ratios {
			ratios[r] = cyc[i][r] / cyc[0][r]
		}
		q, qlo, qhi := cycles.Median(ratios)
		instructions := "–"
		if most > 0 {
			instructions = fmt.Sprintf("%.0f [%.0f to %.0f]", n, least, most)
		}
		fmt.Printf("%s | %d | %s | %.0f [%.0f to %.0f] %s | %s | %.2f [%.2f to %.2f]\n", who, size, w.name, m, lo, hi, count.Unit, instructions, q, qlo, qhi)
		cell := fmt.Sprintf("%.2f [%.2f to %.2f]", q, qlo, qhi)
		if i == 0 {
			cell = fmt.Sprintf("%.0f [%.0f to %.0f] %s", m, lo, hi, count.Unit)
		}
		cells = append(cells, cell)
	}
	return cells, nil
}

// frameMemory is where pools lie: outside Go's heap, and so that a way can
// register it with an io_uring, as a collector could its receive buffers.
var frameMemory []byte

// mapPool maps it, for the largest frames that are asked for.
func mapPool() (err error) {
	most := 0
	for _, text := range strings.Split(*sizes+","+*queues, ",") {
		if size, err := strconv.Atoi(text); err == nil {
			most = max(most, size)
		}
	}
	frameMemory, err = unix.Mmap(-1, 0, max(batch*(most+6), 1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	return os.NewSyscallError("mmap", err)
}

// pool returns frames that lie behind each other as records do. It takes the
// place of the one before.
func pool(size int) [][]byte {
	mem := frameMemory
	clear(mem)
	all := make([][]byte, batch)
	for i := range all {
		at := i*(size+6) + 6
		all[i] = mem[at : at+size : at+size]
		tcpFrame(all[i], i%*flows, uint32(i / *flows * max(size-54, 0)))
	}
	return all
}

// netns is the namespace that run made.
var netns int

// inside calls do on a thread of its own in that namespace.
func inside(done chan bool, do func()) {
	runtime.LockOSThread() // never unlocked
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		panic(err)
	}
	do()
	done <- true
}

// consume starts a consumer of a device, on the next CPU.
func consume(who, device string) (stop func(), err error) {
	switch who {
	case "none":
		return func() {}, nil
	case "tcpdump":
		c := exec.Command("taskset", "-c", fmt.Sprint((*cpu+1)%runtime.NumCPU()), "tcpdump", "-i", device, "-n", "-U", "-B", "65536", "-w", "/dev/null")
		errs, err := c.StderrPipe()
		if err != nil {
			return nil, err
		}
		if err := c.Start(); err != nil {
			return nil, err
		}
		buf := make([]byte, 256)
		for text := ""; !strings.Contains(text, "listening on"); {
			n, err := errs.Read(buf)
			if err != nil {
				return nil, fmt.Errorf("tcpdump: %s %w", text, err)
			}
			text += string(buf[:n])
		}
		go func() {
			for {
				if _, err := errs.Read(buf); err != nil {
					return
				}
			}
		}()
		time.Sleep(20 * time.Millisecond)
		return func() { c.Process.Signal(os.Interrupt); c.Wait() }, nil
	case "ring":
		r, err := ring.Open(ring.Config{Interface: device, Blocks: 64, Retire: time.Millisecond})
		if err != nil {
			return nil, err
		}
		quit, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			if cycles.Pin((*cpu+1)%runtime.NumCPU()) != nil {
				return
			}
			for {
				select {
				case <-quit:
					return
				default:
				}
				b, err := r.Take(10 * time.Millisecond)
				if err != nil {
					return
				}
				if b == nil {
					continue
				}
				for _, ok := b.Next(); ok; _, ok = b.Next() {
				}
				b.Release()
			}
		}()
		return func() { close(quit); <-done; r.Close() }, nil
	}
	return nil, fmt.Errorf("no consumer called %q", who)
}

// isolate drops what a device receives behind the packet taps, as the collector
// does.
func isolate(device string) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	if err != nil {
		return err
	}
	_, err = link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
	return err
}

// received returns the frames that a device has received.
func received(device string) int {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return 0
	}
	return int(l.Attrs().Statistics.RxPackets)
}

func command(line string) error {
	f := strings.Fields(line)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// tcpFrame makes b an Ethernet, IPv4 and TCP frame of a flow at a sequence
// number: what a NIC's or NAPI's GRO would join.
func tcpFrame(b []byte, flow int, seq uint32) {
	copy(b, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0})
	ip := b[14:]
	total := len(b) - 14
	copy(ip, []byte{0x45, 0, byte(total >> 8), byte(total), 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 1, 0, byte(flow), 10, 2, 0, 2})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	for sum > 0xFFFF {
		sum = sum>>16 + sum&0xFFFF
	}
	ip[10], ip[11] = byte(^sum>>8), byte(^sum)
	tcp := ip[20:]
	copy(tcp, []byte{0x10, byte(flow), 0, 80, byte(seq >> 24), byte(seq >> 16), byte(seq >> 8), byte(seq), 0, 0, 0, 1, 0x50, 0x10, 1, 0})
	// The checksum of TCP: over a pseudo header, and all that follows.
	sum = 6 + uint32(total-20)
	for i := 12; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	for i := 0; i < total-20; i += 2 {
		v := uint32(tcp[i]) << 8
		if i+1 < total-20 {
			v |= uint32(tcp[i+1])
		}
		sum += v
	}
	for sum > 0xFFFF {
		sum = sum>>16 + sum&0xFFFF
	}
	tcp[16], tcp[17] = byte(^sum>>8), byte(^sum)
}
