// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"fmt"
	"io"
	"time"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/perf"
	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring"
)

// A VXLAN says how a remote without a collector sends frames: as VXLAN to a
// VTEP, in clear.
type VXLAN struct {
	To       string         // HOST[:PORT]; no port: 4789
	VNI      uint32         // of all frames
	Oversize proto.Oversize // what becomes of frames that do not fit
	Ports    int            // source ports, by which the network can tell flows apart; 0: 16
}

// Chosen: batch's Fan has the figures.
const tunnelPorts = 16

// tunnelArena is how many bytes of a capture file's frames go together.
const tunnelArena = 1 << 20

// A tunnel is what a shard has in place of keys and a sender if there is no
// collector.
type tunnel struct {
	*tap
	fan     *batch.Fan
	heads   *proto.VXLANHeads
	slice   bool
	cut     proto.Cutter
	memory  batch.Lazy // of cut
	copies  []byte     // frames of a capture file, until they are flushed
	taken   uint64     // frames
	refused uint64     // frames too short to be Ethernet
	tooLong uint64     // frames, but for those that fan found out
	warned  int        // MTU that a warning was about last
	told    bool       // trouble, which is not over,
	said    time.Time
	account *TunnelAccount
}

// Chosen: trouble that comes and goes is told this often.
const sayAgain = 10 * time.Second

// A TunnelAccount says what became of the frames that a shard took from the
// kernel, in frames: Taken + Cut = Sent + TooLong + Refused + NotEthernet once
// the shard has ended.
type TunnelAccount struct {
	Taken       perf.Counter // as captured
	Cut         perf.Counter // that GSO frames make beyond the first of each
	Uncut       perf.Counter // GSO frames of those taken that could not be cut
	Sent        perf.Counter
	SentBytes   perf.Counter // of those, without VXLAN's header
	TooLong     perf.Counter // the path does not take them whole
	Refused     perf.Counter // the kernel did not take them, or they are too short to be frames
	NotEthernet perf.Counter // neither Ethernet nor raw IP
	Sliced      perf.Counter // frames that did not fit and were cut short
	Nobody      perf.Counter // times that the network said that nobody got what was sent
	_           perf.Pad
}

// newTunnel opens the sockets of one shard. All shards share their source
// ports, from first on; 0: the first dynamic ones that are free.
func (t *tap) newTunnel(first uint16) (*tunnel, error) {
	v := t.cfg.VXLAN
	to, err := proto.VXLANAddress(v.To)
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	if v.VNI > proto.MaxVNI {
		return nil, fmt.Errorf("remote: VNI %d has more than 24 bits: 0 to %d", v.VNI, proto.MaxVNI)
	}
	ports := v.Ports
	if ports == 0 {
		ports = tunnelPorts
	}
	fan, err := batch.NewFan(batch.FanConfig{
		To: to, What: "VTEP", Ports: ports, FirstPort: first, MTU: t.cfg.MTU, Fragment: v.Oversize == proto.OversizeFragment,
		Mark: t.cfg.Mark, SendBuffer: t.cfg.SendBuffer, Resolve: t.cfg.Resolve,
	})
	if err != nil {
		return nil, fmt.Errorf("remote: VXLAN: %w", err)
	}
	u := &tunnel{
		tap: t, fan: fan, heads: proto.NewVXLANHeads(v.VNI), slice: v.Oversize == proto.OversizeSlice, account: new(TunnelAccount),
	}
	u.cut.Memory = u.memory.Bytes
	return u, nil
}

// close closes the sockets, and gives memory back.
func (t *tunnel) close() {
	t.fan.Close()
	t.memory.Close()
}

// own says how the tunnel's own datagrams are known.
func (t *tunnel) own() *ring.OwnVXLAN {
	first, n := t.fan.Ports()
	return &ring.OwnVXLAN{
		VNI: t.cfg.VXLAN.VNI, FirstPort: first, Ports: uint16(n), Fragments: t.cfg.VXLAN.Oversize == proto.OversizeFragment,
	}
}

// put takes a frame as it was captured: what the wire saw of it is queued.
func (t *tunnel) put(r *proto.Record) {
	t.taken++
	if !r.Unfinished() {
		t.queue(r)
		return
	}
	n := t.cut.Finish(r, t.queue, t.flush)
	if n == 0 {
		t.account.Uncut.Add(1)
		t.queue(r)
		return
	}
	t.account.Cut.Add(uint64(n - 1))
}

// queue queues a frame as the wire saw it. Its memory is lent until flush.
func (t *tunnel) queue(r *proto.Record) {
	head, flow := t.heads.Of(r)
	frame := r.Data
	switch over := len(head) + len(frame) - t.fan.Room(); {
	case head == nil:
		t.account.NotEthernet.Add(1)
		return
	case len(head)+len(frame) < proto.VXLANHeaderLen+proto.EtherLen:
		t.refused++
		return
	case over > 0:
		t.warn(len(frame), over)
		if !t.slice {
			t.tooLong++
			return
		}
		frame = frame[:len(frame)-over]
		t.account.Sliced.Add(1)
	}
	t.fan.Queue(flow, head, frame)
}

// copyIn is put for a frame whose memory is not lent beyond the call.
func (t *tunnel) copyIn(r *proto.Record) {
	if t.copies == nil {
		t.copies = make([]byte, 0, tunnelArena)
	}
	if len(t.copies)+len(r.Data) > cap(t.copies) {
		t.flush()
	}
	at := len(t.copies)
	t.copies = append(t.copies, r.Data...) // MaxFrame bytes fit
	c := *r
	c.Data = t.copies[at:len(t.copies):len(t.copies)]
	t.put(&c)
}

// flush sends what is queued. Nothing that was lent is in use any more.
func (t *tunnel) flush() {
	t.fan.Flush()
	t.cut.Reset()
	t.copies = t.copies[:0]
	if !t.fan.Troubled() {
		t.told = false
	} else if now := time.Now(); !t.told && now.Sub(t.said) >= sayAgain {
		t.told, t.said = true, now
		t.log.Warn().Err(t.fan.Trouble()).Msg("frames go on being sent, and those that are not taken are counted")
	}
}

// warn says, once for each MTU of the path, that frames do not fit.
func (t *tunnel) warn(size, over int) {
	if mtu := t.fan.MTU(); mtu != t.warned {
		t.warned = mtu
		t.log.Warn().Msg(proto.OversizeText(t.cfg.VXLAN.Oversize, size, over, mtu))
	}
}

// count brings the account up to date.
func (t *tunnel) count() {
	n, a := t.fan.Stats(), t.account
	a.Taken.Set(t.taken)
	a.Sent.Set(n.Datagrams.Load())
	a.SentBytes.Set(n.Bytes.Load() - n.Datagrams.Load()*proto.VXLANHeaderLen)
	a.TooLong.Set(t.tooLong + n.TooLong.Load())
	a.Refused.Set(t.refused + n.Unsent.Load())
	a.Nobody.Set(n.Refused.Load())
}

// check returns an error if the account does not add up.
func (a *TunnelAccount) check(captured, left uint64) error {
	taken, cut := a.Taken.Load(), a.Cut.Load()
	if captured != left+taken {
		return fmt.Errorf("%d frames captured, but %d taken and %d left out or dropped by the kernel", captured, taken, left)
	}
	if out := a.Sent.Load() + a.TooLong.Load() + a.Refused.Load() + a.NotEthernet.Load(); taken+cut != out {
		return fmt.Errorf("%d frames taken and %d cut out of them, but sent and dropped make %d", taken, cut, out)
	}
	return nil
}

// add adds other to a.
func (a *TunnelAccount) add(other *TunnelAccount) {
	for _, c := range []struct{ to, from *perf.Counter }{
		{&a.Taken, &other.Taken}, {&a.Cut, &other.Cut}, {&a.Uncut, &other.Uncut}, {&a.Sent, &other.Sent}, {&a.SentBytes, &other.SentBytes},
		{&a.TooLong, &other.TooLong}, {&a.Refused, &other.Refused}, {&a.NotEthernet, &other.NotEthernet}, {&a.Sliced, &other.Sliced},
		{&a.Nobody, &other.Nobody},
	} {
		c.to.Add(c.from.Load())
	}
}

// print writes the account in the manner of tcpdump.
func (a *TunnelAccount) print(w io.Writer) {
	fmt.Fprintf(w, "%10d frames, as the wire saw them, of %d captured\n", a.Taken.Load()+a.Cut.Load(), a.Taken.Load())
	if n := a.Uncut.Load(); n > 0 {
		fmt.Fprintf(w, "%10d of them are GSO frames that could not be cut\n", n)
	}
	fmt.Fprintf(w, "%10d frames sent as VXLAN, %d bytes; %d too long for the path, %d refused, %d not Ethernet; %d cut; %d times nobody got them\n",
		a.Sent.Load(), a.SentBytes.Load(), a.TooLong.Load(), a.Refused.Load(), a.NotEthernet.Load(), a.Sliced.Load(), a.Nobody.Load())
}
