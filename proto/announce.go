// SPDX-License-Identifier: Apache-2.0

package proto

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// An Announce is what a tap says of itself: at the start, every second, and
// more than once with Bye at the end (WIRE.md, section 6). It crosses as JSON,
// in as many parts as need be.
type Announce struct {
	Tap        uint32      `json:"tap"`
	Name       string      `json:"name,omitempty"`
	Host       string      `json:"host,omitempty"`
	Software   string      `json:"software,omitempty"`
	Started    int64       `json:"started"` // ns since 1970 UTC
	Interfaces []Interface `json:"interfaces,omitempty"`
	Filter     string      `json:"filter,omitempty"`
	SnapLen    uint32      `json:"snaplen,omitempty"` // bytes; 0: whole frames
	Clock      string      `json:"clock,omitempty"`   // where timestamps come from
	Shards     int         `json:"shards"`
	Bye        bool        `json:"bye,omitempty"`

	// What was captured on each of Interfaces since the session began; missing:
	// the remote does not say. Dropped are frames that the kernel dropped of those
	// interfaces that have a ring in common.
	Captured []InterfaceCount `json:"captured,omitempty"`
	Dropped  uint64           `json:"dropped,omitempty"`

	Pad bool  `json:"-"` // Split makes all parts as long as they may be
	Now int64 `json:"-"` // when it was sent, ns since 1970 UTC; in the prologue of each part
}

// An Interface is one place where a tap captures; a record names it by its
// index in Announce.Interfaces.
type Interface struct {
	Name     string   `json:"name"`
	LinkType LinkType `json:"linktype"`
	MAC      string   `json:"mac,omitempty"`
	Speed    uint64   `json:"speed,omitempty"` // bit/s; 0: not known
}

// An InterfaceCount says how many frames were captured on an interface: two
// numbers where it has rings of its own, the frames that the kernel counted behind
// the filter, and those of them that found the ring full; one where it has a ring
// in common with others, the frames taken from there; none where it is not known.
// Further numbers mean nothing yet.
type InterfaceCount []uint64

// An AnnouncePart is the plaintext of one announce datagram.
type AnnouncePart struct {
	Revision uint32 // parts of one text have the same
	Part     uint8  // 0 …
	Parts    uint8  // 1 …
	Time     int64  // ns since 1970 UTC
	Text     []byte // of this part; aliases what was parsed
}

// Bounds of an announce.
const (
	announcePrologue = 14
	maxParts         = 255
	// MaxAnnounce bounds the JSON text, bytes: some thousand interfaces.
	MaxAnnounce = 128 << 10
)

// Append appends the plaintext of p to dst.
func (p *AnnouncePart) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, p.Revision)
	dst = append(dst, p.Part, p.Parts)
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.Time))
	return append(dst, p.Text...)
}

// ParseAnnouncePart reads the plaintext of an announce datagram.
func ParseAnnouncePart(b []byte) (AnnouncePart, error) {
	if len(b) < announcePrologue || b[5] == 0 || b[4] >= b[5] {
		return AnnouncePart{}, ErrMalformed
	}
	return AnnouncePart{
		Revision: binary.BigEndian.Uint32(b), Part: b[4], Parts: b[5],
		Time: int64(binary.BigEndian.Uint64(b[6:])), Text: b[announcePrologue:],
	}, nil
}

// Split returns the plaintexts of a, each at most size bytes.
func (a *Announce) Split(revision uint32, size int) ([][]byte, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("proto: announce: %w", err)
	}
	room := size - announcePrologue
	parts := (len(text) + room - 1) / room
	if n := parts*room - len(text); a.Pad && parts*room <= MaxAnnounce {
		text = append(text, bytes.Repeat([]byte(" "), n)...)
	}
	if parts > maxParts || len(text) > MaxAnnounce {
		return nil, fmt.Errorf("proto: announce of %d interfaces is %d bytes in %d parts: at most %d bytes in %d parts; capture on fewer interfaces",
			len(a.Interfaces), len(text), parts, MaxAnnounce, maxParts)
	}
	out := make([][]byte, 0, parts)
	for i := range parts {
		p := AnnouncePart{
			Revision: revision, Part: uint8(i), Parts: uint8(parts), Time: a.Now,
			Text: text[i*room : min(len(text), (i+1)*room)],
		}
		out = append(out, p.Append(nil))
	}
	return out, nil
}

// An AnnounceJoiner puts the parts of announces together again. Parts come in
// any order; those of an older revision than the newest are left aside.
type AnnounceJoiner struct {
	revision uint32
	parts    [][]byte
	missing  int
	size     int // bytes kept
}

// Add takes the plaintext of one announce datagram, and returns the announce
// that it completes, or nil. It keeps no reference to b.
func (j *AnnounceJoiner) Add(b []byte) (*Announce, error) {
	p, err := ParseAnnouncePart(b)
	if err != nil {
		return nil, err
	}
	if len(j.parts) == 0 || p.Revision > j.revision || len(j.parts) != int(p.Parts) && p.Revision == j.revision {
		*j = AnnounceJoiner{revision: p.Revision, parts: make([][]byte, p.Parts), missing: int(p.Parts)}
	}
	if p.Revision != j.revision || j.parts[p.Part] != nil || j.missing == 0 {
		return nil, nil
	}
	if j.size += len(p.Text); j.size > MaxAnnounce {
		*j = AnnounceJoiner{}
		return nil, ErrMalformed
	}
	j.parts[p.Part] = append(make([]byte, 0, len(p.Text)), p.Text...)
	if j.missing--; j.missing > 0 {
		return nil, nil
	}
	a := &Announce{Now: p.Time}
	if err := json.Unmarshal(bytes.Join(j.parts, nil), a); err != nil {
		return nil, ErrMalformed
	}
	clear(j.parts)
	return a, nil
}
