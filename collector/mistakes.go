// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"time"

	"github.com/rs/zerolog"
)

// mistakes are the drops that a remote with a wrong key or setting makes, and
// what to look at; "": it is none. Nobody else would tell: nothing goes back to it.
var mistakes = [NumDrops]string{
	DropVersion: "the version of ntap there and here",
	DropSuite:   "a remote sends in clear: --allow-plaintext, if that is meant",
	DropTap:     "neither the key file nor the allow-list here has that tap: give the master key, or the tap's key or line",
	DropKey:     "the key's ID is not among the keys here, or its time is over (docs/KEYS.md, Rotation); or a remote's --collector-key is not of this collector",
	DropForged:  "a remote's key is not of the master key here, or datagrams are damaged on the way: make the tap's key anew with ntap key tap",
}

// Chosen: who can send to the port can have as many lines written.
const mistakeAgain = time.Minute

// A mistakeLog tells the drops that look like mistakes, when they begin and, while
// they go on, once in mistakeAgain.
type mistakeLog struct {
	told [NumDrops]uint64 // datagrams
	at   [NumDrops]time.Time
}

// look tells what came since it was told last.
func (m *mistakeLog) look(now time.Time, count func(Drop) uint64, log zerolog.Logger) {
	for i, mend := range mistakes {
		d := Drop(i)
		n := count(d)
		if mend == "" || n == m.told[d] || now.Sub(m.at[d]) < mistakeAgain {
			continue
		}
		log.Warn().Uint64("datagrams", n-m.told[d]).Str("reason", d.text()).Str("look_at", mend).Msg("datagrams are dropped")
		m.told[d], m.at[d] = n, now
	}
}
