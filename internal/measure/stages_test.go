// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"testing"
	"time"
)

// Every stage that is measured alone does its work on every kind of frame, and
// what it says of bytes and datagrams is what the wire has: full datagrams,
// and no more than their overhead.
func TestStages(t *testing.T) {
	for _, frame := range []string{"64", "128", "300", "imix", "594", "1514", "9000", "gso"} {
		for _, stage := range PureStages {
			for _, suite := range []string{"", "chacha20-poly1305", "plaintext"} {
				c, err := RunStage(StageRun{Stage: stage, Frame: frame, Suite: suite, For: time.Millisecond})
				if err != nil {
					t.Fatalf("%s of %s: %v", stage, frame, err)
				}
				mean, _ := MeanLength(frame)
				if c.Nanoseconds <= 0 || c.Bytes < mean*0.9 || c.Bytes > mean*1.1 || c.Sealed < c.Bytes || c.Sealed > c.Bytes*1.2 ||
					c.Datagrams < c.Sealed/(datagramSize+1) {
					t.Errorf("%s of %s: %+v", stage, frame, c)
				}
				if suite == "" {
					t.Logf("%s of %s: %+v", stage, frame, c)
				}
			}
		}
	}
	if _, err := RunStage(StageRun{Stage: "fold", Frame: "64"}); err == nil {
		t.Error("a stage that is not there is measured")
	}
}
