// SPDX-License-Identifier: Apache-2.0

package collector

// A Drop is a reason why a datagram did not become records. It is an error,
// and it is also the index of the counter that counts it.
type Drop uint8

const (
	DropShort     Drop = iota // shorter than a header and a tag
	DropVersion               // not version 1
	DropKind                  // a kind that this version does not have
	DropSuite                 // plaintext without leave, or a suite that this version does not have
	DropTap                   // a tap that the key file does not open
	DropKey                   // under a key that is not good, or not any more
	DropUnkeyed               // of a session in public-key mode whose keying has not come
	DropSession               // a session older than the newest of its tap
	DropClock                 // of a tap that is not known, and sent at another time than now
	DropAstray                // of a stream that is another worker's
	DropLimited               // of an unknown session, while too many of those come
	DropEpoch                 // a counter further ahead than any remote could be
	DropForged                // the tag does not verify
	DropReplay                // came before
	DropLate                  // so old that it cannot be told whether it came before, or given up for lost
	DropMalformed             // verified, but not what WIRE.md says
	NumDrops
)

var dropText = [NumDrops]string{
	DropShort:     "short",
	DropVersion:   "of another version",
	DropKind:      "of an unknown kind",
	DropSuite:     "of a refused suite",
	DropTap:       "of a tap without a key",
	DropKey:       "under a key that is not good",
	DropUnkeyed:   "of a session whose keys have not come yet",
	DropSession:   "of an old session",
	DropClock:     "of a clock too far off",
	DropAstray:    "astray",
	DropLimited:   "over the limit for unknown sessions",
	DropEpoch:     "of an impossible epoch",
	DropForged:    "forged",
	DropReplay:    "replayed",
	DropLate:      "late",
	DropMalformed: "malformed",
}

func (d Drop) Error() string { return "collector: datagram dropped: " + dropText[d] }

func (d Drop) text() string { return dropText[d] }
