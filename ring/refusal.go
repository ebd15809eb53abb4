// SPDX-License-Identifier: Apache-2.0

package ring

// A Refusal says why something cannot be done here, each part as a line for an
// operator.
type Refusal struct {
	Cause string
	Mend  string // what to do about that cause; "": not known
}

func (r Refusal) String() string {
	if r.Mend == "" {
		return r.Cause
	}
	return r.Cause + "; " + r.Mend
}
