// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/ntap-project/ntap/proto"
)

// pcapngPlaces is how many interfaces a worker finds without a map.
const pcapngPlaces = 64

// farPast is what is added to times before 1970, s: pcapng's ticks are
// unsigned, and an interface can have an offset.
const farPast = 9223372037

// maxMark bounds a comment on a packet, bytes.
const maxMark = 128

// A pcapngKey stands for an interface block: what changes makes a new one.
type pcapngKey struct {
	tap     uint32
	session uint64
	number  uint32 // in the announce
	link    proto.LinkType
	early   bool            // times are before 1970
	known   bool            // was announced, as
	as      proto.Interface // this
	filter  string          // of the tap, which may be changed under way
	clock   string          // that its times are of
}

func (k *pcapngKey) of() ifKey { return ifKey{k.tap, k.session, k.number} }

// A pcapngSource is what an interface block is made of, and its statistics.
type pcapngSource struct {
	key      pcapngKey
	announce *proto.Announce // nil: nothing was heard yet
	tally    *tally          // nil: nothing is known of what was captured
}

// A pcapngTable numbers the interfaces of one section.
type pcapngTable struct {
	start   int64 // ns since 1970: the section began
	periods *periods
	ids     map[pcapngKey]uint32
	stats   []pcapngStats // by number
}

type pcapngStats struct {
	of          ifKey
	source      pcapngSource
	given, lost uint64 // frames
}

// number returns the number of the interface of a source, whose frames the stream
// cuts at snap bytes if that is not 0. It appends the interface's block to head
// if it is new.
func (t *pcapngTable) number(head []byte, of pcapngSource, snap int) ([]byte, uint32) {
	key, a := of.key, of.announce
	if id, ok := t.ids[key]; ok {
		return head, id
	}
	b := proto.PcapngInterface{
		LinkType: key.link, Resolution: proto.PcapngNanoseconds,
		// The same for all, and not that of the tap: libpcap refuses a file
		// whose interfaces differ in it (sf-pcapng.c, pcap_ng_next_packet).
		SnapLen:     proto.MaxFrame,
		Name:        fmt.Sprintf("if%d", key.number),
		Description: fmt.Sprintf("tap %d", key.tap),
		Comment:     fmt.Sprintf("tap %d, session %s, interface %d", key.tap, hex64(key.session), key.number),
	}
	if key.known {
		b.Name, b.Speed = key.as.Name, key.as.Speed
		b.MAC, _ = net.ParseMAC(key.as.MAC)
	}
	cut := uint32(snap)
	if a != nil {
		b.Description += fmt.Sprintf(" %q on %s", a.Name, a.Host)
		if a.Clock != "" {
			b.Description += ", timestamps: " + a.Clock
		}
		if a.SnapLen != 0 && (cut == 0 || a.SnapLen < cut) {
			cut = a.SnapLen
		}
		b.Filter = a.Filter
	}
	if cut != 0 {
		b.Description += fmt.Sprintf(", frames cut at %d bytes", cut)
	}
	if key.early {
		b.Offset = -farPast
	}
	id := uint32(len(t.stats))
	t.ids[key] = id
	s := pcapngStats{of: key.of(), source: of}
	t.periods.meet(s.of, of.tally)
	t.stats = append(t.stats, s)
	return b.Append(head), id
}

// statistics appends what became of the frames of every interface up to end, ns
// since 1970. Of several blocks of one interface, as when the filter changed, the
// last tells what was captured.
// lost are datagrams that were lost after the last frame.
func (t *pcapngTable) statistics(head []byte, end int64, lost map[shardKey]uint64) []byte {
	last := make(map[ifKey]int)
	for id, s := range t.stats {
		last[s.of] = id
	}
	told := t.ends(lost)
	if n := t.periods.left; n > 0 && told[0] == "" {
		told[0] = fmt.Sprintf("ntap: what was dropped on %d interfaces of earlier files since is not told, for there are more than %d", n, maxQuiet)
	}
	for id, s := range t.stats {
		b := proto.PcapngStatistics{Interface: uint32(id), Accepted: s.given, Delivered: s.given - s.lost, Comment: told[uint32(id)]}
		start := t.start
		if last[s.of] == id {
			var c ifCount
			start, c = t.periods.end(s.of, s.source.tally, t.start, end)
			c.put(&b)
		}
		b.Start, b.End = ticks(start, s.source.key.early), ticks(end, s.source.key.early)
		head = b.Append(head)
	}
	return head
}

// ends says what the statistics of which interface tell of datagrams lost after the
// last frame: the first one of the session; or of the file, if the session has no
// frame in that, since it is a later one of a recording.
func (t *pcapngTable) ends(lost map[shardKey]uint64) map[uint32]string {
	type ended struct {
		shards int
		shard  uint16
		n      uint64
	}
	sums, first := make(map[ifKey]ended), make(map[ifKey]uint32)
	for k, n := range lost {
		of := ifKey{tap: k.tap, session: k.session}
		sums[of] = ended{sums[of].shards + 1, k.shard, sums[of].n + n}
	}
	for id := len(t.stats) - 1; id >= 0; id-- {
		first[ifKey{tap: t.stats[id].of.tap, session: t.stats[id].of.session}] = uint32(id)
	}
	told := make(map[uint32]string)
	tell := func(id uint32, k ifKey) {
		text := fmt.Sprintf("ntap: %d datagrams of tap %d, shard %d, were lost after its last frame", sums[k].n, k.tap, sums[k].shard)
		if sums[k].shards > 1 {
			text = fmt.Sprintf("ntap: %d datagrams of tap %d, %d shards, were lost after their last frames", sums[k].n, k.tap, sums[k].shards)
		}
		told[id] = more(told[id], text)
	}
	for k := range sums {
		if id, has := first[k]; has {
			tell(id, k)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(sums), func(a, b ifKey) int { return cmp.Or(cmp.Compare(a.tap, b.tap), cmp.Compare(a.session, b.session)) }) {
		if _, has := first[k]; !has && len(told[0]) < maxMark {
			tell(0, k)
		}
	}
	return told
}

// more returns a comment with one more line.
func more(comment, line string) string {
	if comment == "" {
		return line
	}
	return comment + "\n" + line
}

// A pcapngStream is what an encoder's blocks go to. It numbers their interfaces
// anew with each section.
type pcapngStream interface {
	describe(e *pcapngEncoder, of pcapngSource) uint32
}

// A pcapngEncoder makes blocks of the records that one worker gives to one
// stream of pcapng. A frame tells what is missing before it: in a comment
// datagrams that did not come, in epb_dropcount frames that the stream had no
// room for.
type pcapngEncoder struct {
	to     pcapngStream
	buf    []byte // blocks
	frames uint64 // in buf
	bytes  uint64 // of those frames

	section uint64 // whose numbers these are
	places  [pcapngPlaces]pcapngPlace
	ids     map[pcapngKey]uint32
	known   []pcapngKnown // by number; those that only others need are empty
	touched []uint32      // numbers with frames in buf

	missing map[pcapngKey]uint64 // frames dropped of interfaces of earlier sections
	lost    map[shardKey]toldLoss
	marks   []lossMark // in buf
	mark    [maxMark]byte
}

// A toldLoss is how many datagrams a shard had lost when it was last told.
type toldLoss struct {
	n uint64
	o *Origin
}

// A lossMark is a comment that tells of n datagrams of a shard, in the block at
// at.
type lossMark struct {
	at    int
	shard shardKey
	n     uint64
}

// A shardKey is one shard of one session.
type shardKey struct {
	tap     uint32
	session uint64
	shard   uint16
}

// A pcapngKnown is what an encoder knows of an interface.
type pcapngKnown struct {
	pcapngSource
	given   uint64 // frames in buf
	dropped uint64 // frames since the last that is encoded
}

// A pcapngPlace keeps the interface block that the frames of an origin's
// interface need, for as long as its tap says nothing new.
type pcapngPlace struct {
	o        *Origin // nil: empty
	announce *proto.Announce
	lost     uint64 // of the origin, as told
	number   uint32
	link     proto.LinkType
	early    bool
	id       uint32
}

func newPcapngEncoder(to pcapngStream) pcapngEncoder {
	return pcapngEncoder{to: to, ids: make(map[pcapngKey]uint32), missing: make(map[pcapngKey]uint64), lost: make(map[shardKey]toldLoss)}
}

// add encodes a record's frame.
func (e *pcapngEncoder) add(o *Origin, r *proto.Record) {
	p := e.place(o, r)
	k := &e.known[p.id]
	b := proto.PcapngPacket{
		Interface: p.id, Ticks: ticks(r.Time, p.early), OrigLen: r.OrigLen, Direction: r.Direction, Dropped: k.dropped, Data: r.Data,
	}
	k.dropped = 0
	if p.lost != o.lost {
		b.Comment = e.gap(p, o)
	}
	e.buf = b.Append(e.buf)
	e.bytes += uint64(len(r.Data))
	e.count(p.id)
}

// count counts a frame of an interface in buf.
func (e *pcapngEncoder) count(id uint32) {
	e.frames++
	if k := &e.known[id]; k.given == 0 {
		e.touched = append(e.touched, id)
		k.given = 1
	} else {
		k.given++
	}
}

// drop notes that the block of buf at at does not get to the stream. What it tells
// is told with a later one.
func (e *pcapngEncoder) drop(at int) {
	block := e.buf[at : at+blockLen(e.buf[at:])]
	for _, m := range e.marks {
		if m.at == at {
			t := e.lost[m.shard]
			t.n -= min(m.n, t.n)
			e.lost[m.shard] = t
			for i := range e.places {
				if p := &e.places[i]; p.o != nil && shardOf(p.o) == m.shard {
					p.lost = t.n
				}
			}
		}
	}
	k := &e.known[binary.LittleEndian.Uint32(block[8:])]
	k.dropped++
	if n := int(binary.LittleEndian.Uint32(block[20:])); len(block) > 32+n+(-n&3)+12 { // more options than epb_flags
		if p, err := proto.ParsePcapngPacket(block, proto.LittleEndian); err == nil {
			k.dropped += p.Dropped
		}
	}
}

// place returns the place of the interface that a record is of.
func (e *pcapngEncoder) place(o *Origin, r *proto.Record) *pcapngPlace {
	announce, early := o.Announce(), r.Time < 0
	p := &e.places[(r.Interface+uint32(o.Shard)+o.Tap*7)%pcapngPlaces]
	if p.o != o || p.announce != announce || p.number != r.Interface || p.link != r.LinkType || p.early != early {
		now := pcapngPlace{o, announce, e.told(o), r.Interface, r.LinkType, early, 0}
		now.id = e.find(&now) // which may clear all places
		*p = now
	}
	return p
}

// told returns how many lost datagrams of a shard were told here.
func (e *pcapngEncoder) told(o *Origin) uint64 {
	t, ok := e.lost[shardOf(o)]
	if !ok || t.o != o { // the stream was joined again: it counts anew
		if len(e.lost) == 1<<16 {
			clear(e.lost)
		}
		t = toldLoss{o.lost, o} // what was lost before its first frame is not missing here
		e.lost[shardOf(o)] = t
	}
	return t.n
}

func shardOf(o *Origin) shardKey { return shardKey{o.Tap, o.Session, o.Shard} }

// untold returns the datagrams lost that no frame tells of, since none came later.
func (e *pcapngEncoder) untold() map[shardKey]uint64 {
	all := make(map[shardKey]uint64)
	for k, t := range e.lost {
		if n := t.o.lost - t.n; n > 0 {
			all[k] = n
		}
	}
	return all
}

// gap tells the datagrams that o lost.
func (e *pcapngEncoder) gap(p *pcapngPlace, o *Origin) []byte {
	n := o.lost - e.told(o)
	p.lost = o.lost
	e.lost[shardOf(o)] = toldLoss{o.lost, o}
	if n == 0 {
		return nil // told with a frame of another interface
	}
	e.marks = append(e.marks, lossMark{len(e.buf), shardOf(o), n})
	return fmt.Appendf(e.mark[:0], "ntap: %d datagrams of tap %d, shard %d, were lost before this frame", n, o.Tap, o.Shard)
}

// find returns the number of the interface block that p's frames need.
func (e *pcapngEncoder) find(p *pcapngPlace) uint32 {
	key := pcapngKey{tap: p.o.Tap, session: p.o.Session, number: p.number, link: p.link, early: p.early}
	if a := p.announce; a != nil {
		key.filter, key.clock = a.Filter, a.Clock
		if uint64(p.number) < uint64(len(a.Interfaces)) {
			key.known, key.as = true, a.Interfaces[p.number]
		}
	}
	id, ok := e.ids[key]
	if !ok {
		of := pcapngSource{key, p.announce, p.o.tally}
		id = e.to.describe(e, of)
		e.learn(id, of)
	}
	return id
}

func (e *pcapngEncoder) learn(id uint32, of pcapngSource) {
	e.ids[of.key] = id
	for uint64(id) >= uint64(len(e.known)) {
		e.known = append(e.known, pcapngKnown{})
	}
	e.known[id] = pcapngKnown{pcapngSource: of, dropped: e.missing[of.key]}
	delete(e.missing, of.key)
}

// begin goes on with a new section: what is encoded gets its numbers. number
// gives them; the stream is locked.
func (e *pcapngEncoder) begin(section uint64, number func(pcapngSource) uint32) {
	old := e.known
	for _, k := range old {
		if k.dropped > 0 && len(e.missing) < 1<<16 {
			e.missing[k.key] = k.dropped
		}
	}
	clear(e.ids)
	e.section, e.places, e.known, e.touched, e.frames = section, [pcapngPlaces]pcapngPlace{}, nil, e.touched[:0], 0
	for b := e.buf; len(b) > 0; b = b[blockLen(b):] {
		was := &old[binary.LittleEndian.Uint32(b[8:])]
		id, known := e.ids[was.key]
		if !known {
			id = number(was.pcapngSource)
			e.learn(id, was.pcapngSource)
		}
		binary.LittleEndian.PutUint32(b[8:], id)
		e.count(id)
	}
}

// reset forgets what is encoded.
func (e *pcapngEncoder) reset() {
	for _, id := range e.touched {
		e.known[id].given = 0
	}
	e.buf, e.frames, e.bytes, e.touched, e.marks = e.buf[:0], 0, 0, e.touched[:0], e.marks[:0]
}

// blockLen returns the length of the block that b begins with.
func blockLen(b []byte) int { return int(binary.LittleEndian.Uint32(b[4:])) }

// ticks returns a time in ns since 1970 as an interface counts it.
func ticks(ns int64, early bool) uint64 {
	if early {
		return uint64(ns) + farPast*1e9
	}
	return uint64(ns)
}
