// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"

	"github.com/ntap-project/ntap/proto"
)

// finish gives the outputs what the wire saw of r, which the kernel had not
// finished when it was captured. What it cannot cut it gives as it is; what it is
// not to cut with its checksum, which programs that read whole frames look at, too.
func (w *worker) finish(o *Origin, r *proto.Record) {
	frames := 0
	if w.cfg.KeepGSO && r.GSOType != 0 {
		r.Complete()
	} else {
		frames = w.cut.Finish(r, func(r *proto.Record) { w.give(o, r) }, func() {
			w.flushed = errors.Join(w.flushed, w.flushSinks())
		})
	}
	if frames == 0 {
		w.account.Uncut.Add(1)
		w.give(o, r)
		return
	}
	w.account.Cut.Add(uint64(frames - 1))
}

// give gives a frame to all outputs.
func (w *worker) give(o *Origin, r *proto.Record) {
	for _, out := range w.sinks {
		out.Write(o, r)
	}
}
