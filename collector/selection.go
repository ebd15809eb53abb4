// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ntap-project/ntap/proto"
	"github.com/ntap-project/ntap/ring/filter"
)

// A Selection says which frames an output gets, and how much of each. The zero
// Selection takes all of them, whole.
type Selection struct {
	Taps    TapSet // which taps; nil: all
	SnapLen int    // bytes of each frame that are kept; 0: all
	// Filter is an expression in the language of docs/FILTER.md, or bytecode for
	// Ethernet frames as tcpdump -y EN10MB -ddd prints it, its lines ended by
	// newlines or commas; "": no filter. It sees whole frames. Frames of link
	// types that it means nothing for do not match.
	Filter string
}

// ParseSelection reads a selection as it stands on a command line: words
// taps=1,3-5 and snaplen=96, and at the end filter=… with all that follows.
func ParseSelection(text string) (s Selection, err error) {
	for rest := strings.TrimSpace(text); rest != ""; {
		if filter, ok := strings.CutPrefix(rest, "filter="); ok {
			s.Filter = strings.TrimSpace(filter)
			if s.Filter == "" {
				return s, errors.New("filter= without a filter")
			}
			break
		}
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		rest = strings.TrimLeft(rest, " ")
		switch key, value, _ := strings.Cut(word, "="); key {
		case "taps":
			s.Taps, err = ParseTapSet(value)
		case "snaplen":
			if s.SnapLen, err = strconv.Atoi(value); err != nil || s.SnapLen < 0 || s.SnapLen > proto.MaxFrame {
				err = fmt.Errorf("snaplen=%s: want 0 (whole frames) to %d bytes", value, proto.MaxFrame)
			}
		default:
			err = fmt.Errorf("%q: want taps=1,3-5 or snaplen=BYTES, and at the end filter=FILTER", word)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// A choice is a selection that is ready for use.
type choice struct {
	Selection
	filter frameFilter
}

// choose says what is wrong with the selection, or makes it a choice. names says
// that names of hosts in its filter are looked up.
func (s Selection) choose(names bool) (c choice, err error) {
	if s.SnapLen < 0 || s.SnapLen > proto.MaxFrame {
		return c, fmt.Errorf("snap length %d: want 0 (whole frames) to %d bytes", s.SnapLen, proto.MaxFrame)
	}
	c.Selection = s
	if s.Filter != "" {
		c.filter, err = compileFrameFilter(s.Filter, names)
	}
	return c, err
}

// all says that the selection leaves nothing out.
func (s *Selection) all() bool { return s.Taps == nil && s.SnapLen == 0 && s.Filter == "" }

// A TapSet is a set of tap IDs: ranges in ascending order that do not touch.
type TapSet []TapRange

// A TapRange is the tap IDs from First to Last.
type TapRange struct{ First, Last uint32 }

// ParseTapSet reads a list like 1,3-5.
func ParseTapSet(text string) (TapSet, error) {
	var s TapSet
	for part := range strings.SplitSeq(text, ",") {
		from, to, dash := strings.Cut(part, "-")
		first, err1 := strconv.ParseUint(from, 10, 32)
		last, err2 := first, error(nil)
		if dash {
			last, err2 = strconv.ParseUint(to, 10, 32)
		}
		if err1 != nil || err2 != nil || last < first {
			return nil, fmt.Errorf("taps %q: %q is no tap ID and no range of them; want a list like 1,3-5", text, part)
		}
		s = append(s, TapRange{uint32(first), uint32(last)})
	}
	slices.SortFunc(s, func(a, b TapRange) int { return cmp.Compare(a.First, b.First) })
	out := s[:1]
	for _, r := range s[1:] {
		if end := &out[len(out)-1]; uint64(r.First) <= uint64(end.Last)+1 {
			end.Last = max(end.Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out, nil
}

// Has says whether the tap is in the set. A nil set has all.
func (s TapSet) Has(tap uint32) bool {
	if s == nil {
		return true
	}
	i, _ := slices.BinarySearchFunc(s, tap, func(r TapRange, tap uint32) int { return cmp.Compare(r.Last, tap) })
	return i < len(s) && s[i].First <= tap
}

// String returns the set as ParseTapSet reads it.
func (s TapSet) String() string {
	parts := make([]string, len(s))
	for i, r := range s {
		if parts[i] = strconv.FormatUint(uint64(r.First), 10); r.Last != r.First {
			parts[i] += "-" + strconv.FormatUint(uint64(r.Last), 10)
		}
	}
	return strings.Join(parts, ",")
}

// A selector decides on frames for one worker. It belongs to one goroutine.
type selector struct {
	choice
	o        *Origin // whose frames came last,
	takes    bool    // and whether its tap is selected
	machines map[proto.LinkType]*filter.Machine
	link     proto.LinkType  // of machine
	machine  *filter.Machine // nil: no frame of that link type matches
	cut      proto.Record    // of which a part is given on
}

func newSelector(c choice) *selector {
	s := &selector{choice: c, machines: make(map[proto.LinkType]*filter.Machine)}
	for link, program := range c.filter {
		s.machines[link], _ = filter.NewMachine(program)
	}
	s.link, s.machine = proto.LinkTypeEthernet, s.machines[proto.LinkTypeEthernet]
	return s
}

// pick returns the record as the output gets it, or nil if it is left out. It
// is good until the next call, and r's data is.
func (s *selector) pick(o *Origin, r *proto.Record) *proto.Record {
	if o != s.o {
		s.o, s.takes = o, s.Taps.Has(o.Tap)
	}
	if !s.takes {
		return nil
	}
	if s.filter != nil {
		if r.LinkType != s.link {
			s.link, s.machine = r.LinkType, s.machines[r.LinkType]
		}
		if s.machine == nil || s.machine.Run(r.Data, r.OrigLen) == 0 {
			return nil
		}
	}
	if s.SnapLen > 0 && len(r.Data) > s.SnapLen {
		s.cut = *r
		s.cut.Data = r.Data[:s.SnapLen:s.SnapLen]
		return &s.cut
	}
	return r
}

// A selectSink gives a sink the frames that are selected.
type selectSink struct {
	sink
	counts *SinkCounts
	*selector
	left uint64 // frames left out since Flush
}

// selected returns the sink behind the selection.
func selected(s sink, by choice) sink {
	if by.all() {
		return s
	}
	return &selectSink{sink: s, counts: s.Counts(), selector: newSelector(by)}
}

// Write gives the record on if it is selected, see sink.
func (s *selectSink) Write(o *Origin, r *proto.Record) {
	if p := s.pick(o, r); p != nil {
		s.sink.Write(o, p)
		return
	}
	s.left++
}

// Flush accounts for what was left out, and ends the batch, see sink.
func (s *selectSink) Flush() error {
	s.counts.LeftOut.Add(s.left)
	s.left = 0
	return s.sink.Flush()
}
