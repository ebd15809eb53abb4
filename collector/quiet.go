// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"slices"

	"github.com/ntap-project/ntap/proto"
)

// maxQuiet bounds the interfaces of a recording that are looked after while no frame
// of them comes. Chosen.
const maxQuiet = 256

// quiet gives interfaces a block at the end of a recording's file that have no frame
// in it, and of whose frames the kernel of the remote dropped some since the file
// before: its statistics tell that, and there may be no later file that does. The
// blocks take no more than room bytes with their statistics; what has no room, the
// next file tells.
func (t *pcapngTable) quiet(head []byte, snap int, room int64) []byte {
	told := make(map[ifKey]bool)
	rings := make(map[ifKey]bool) // sessions: what was dropped in common is told with one of their interfaces
	note := func(k ifKey, c ifCount) {
		if told[k] = true; c.common {
			rings[ifKey{tap: k.tap, session: k.session}] = true
		}
	}
	for _, s := range t.stats {
		if y := s.source.tally; y != nil {
			note(s.of, y.now(s.of.number))
		}
	}
	for _, q := range t.periods.quiet {
		k := q.key.of()
		c := t.periods.since(k, q.tally)
		if c.dropped == 0 || told[k] || c.common && rings[ifKey{tap: k.tap, session: k.session}] {
			continue
		}
		at := len(head)
		head, _ = t.number(head, q, snap)
		if took := int64(len(head) - at + statistics); took > room {
			delete(t.ids, q.key)
			head, t.stats = head[:at], t.stats[:len(t.stats)-1]
		} else {
			room -= took
			note(k, c)
		}
	}
	return head
}

// since returns what was captured on an interface since its statistics were told.
func (p *periods) since(k ifKey, y *tally) ifCount {
	was, known := p.of[k]
	if !known {
		return ifCount{} // there were too many
	}
	return was.upTo(k, y, y.now(k.number))
}

// leave is called at the end of a recording's file: its interfaces may have no frame
// in the next one. Those of sessions that ended have nothing more to tell.
func (p *periods) leave(stats []pcapngStats) {
	last := make(map[ifKey]pcapngSource)
	for _, s := range stats {
		if s.source.tally != nil {
			last[s.of] = s.source.short()
		}
	}
	all := slices.DeleteFunc(p.quiet, func(q pcapngSource) bool { _, has := last[q.key.of()]; return has })
	for _, s := range stats {
		if q, has := last[s.of]; has {
			all = append(all, q)
			delete(last, s.of)
		}
	}
	p.quiet = slices.DeleteFunc(all, func(q pcapngSource) bool {
		return q.tally.final() && p.since(q.key.of(), q.tally).dropped == 0
	})
	if n := len(p.quiet) - maxQuiet; n > 0 {
		p.left += n
		p.quiet = slices.DeleteFunc(p.quiet, func(q pcapngSource) bool { // first those that have nothing to tell, and have been quiet for the longest
			gives := n > 0 && p.since(q.key.of(), q.tally).dropped == 0
			if gives {
				n--
			}
			return gives
		})
		p.quiet = slices.Delete(p.quiet, 0, n)
	}
}

// short returns the source with as little of its announce as an interface block needs.
func (s pcapngSource) short() pcapngSource {
	if a := s.announce; a != nil {
		s.announce = &proto.Announce{Name: a.Name, Host: a.Host, Clock: a.Clock, SnapLen: a.SnapLen, Filter: a.Filter}
	}
	return s
}
