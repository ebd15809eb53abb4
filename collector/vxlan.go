// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/ntap-project/ntap/batch"
	"github.com/ntap-project/ntap/proto"
)

// A VXLAN is an output that sends frames as VXLAN (RFC 7348) to one VTEP, as
// Open vSwitch is one.
type VXLAN struct {
	To       string         // HOST[:PORT]; no port: 4789
	VNI      VNIs           // the zero value: the tap ID
	Oversize proto.Oversize // what becomes of frames that do not fit
	MTU      int            // IP MTU of the path, bytes; 0: what the route says
	Ports    int            // source ports, by which the network can tell flows apart; 0: 16
	Select   Selection
}

// Chosen: batch's Fan has the figures. More ports spread flows better, and
// make runs of frames shorter.
const vxlanPorts = 16

// vxlanBuffer is SO_SNDBUF of each source port, bytes. Beyond it frames are
// dropped, so that a slow path does not hold up other outputs.
const vxlanBuffer = 4 << 20

// VNIs say which VXLAN network identifier the frames of a tap get. The zero
// value gives each tap its ID, if that has no more than 24 bits.
type VNIs struct {
	taps  map[uint32]uint32
	other vniRule // for those that are not in taps
	fixed uint32
}

type vniRule uint8

const (
	vniTap   vniRule = iota // the tap ID
	vniFixed                // fixed
	vniNone
)

// ParseVNI reads a list, separated by commas, of TAP=VNI for single taps, and
// at most one rule for all others: tap, which is the tap ID, or a VNI. Where
// only single taps are named, others have none.
func ParseVNI(text string) (VNIs, error) {
	v := VNIs{other: vniNone}
	vni := func(s string) (uint32, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n > proto.MaxVNI {
			return 0, fmt.Errorf("%q is no VNI: 0 to %d, 24 bits", s, proto.MaxVNI)
		}
		return uint32(n), nil
	}
	rules := 0
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		tap, to, single := strings.Cut(word, "=")
		var err error
		switch {
		case single:
			id, e := strconv.ParseUint(tap, 10, 32)
			if e != nil {
				return VNIs{}, fmt.Errorf("%q is no tap ID: 0 to %d", tap, uint32(1<<32-1))
			}
			if _, twice := v.taps[uint32(id)]; twice {
				return VNIs{}, fmt.Errorf("tap %d has two VNIs", id)
			}
			if v.taps == nil {
				v.taps = make(map[uint32]uint32)
			}
			v.taps[uint32(id)], err = vni(to)
		case word == "tap":
			v.other = vniTap
			rules++
		default:
			v.other = vniFixed
			v.fixed, err = vni(word)
			rules++
		}
		if err != nil {
			return VNIs{}, fmt.Errorf("%w; want tap, a number, or TAP=VNI,TAP=VNI", err)
		}
	}
	if rules > 1 {
		return VNIs{}, errors.New("two rules for all other taps: give tap, or one number")
	}
	return v, nil
}

// Of returns the VNI of a tap; the error says why it has none.
func (v *VNIs) Of(tap uint32) (uint32, error) {
	if n, ok := v.taps[tap]; ok {
		return n, nil
	}
	switch {
	case v.other == vniFixed:
		return v.fixed, nil
	case v.other == vniNone:
		return 0, fmt.Errorf("tap %d has no VNI: it is not in --vni; add %d=VNI, or tap for all others", tap, tap)
	case tap > proto.MaxVNI:
		return 0, fmt.Errorf("tap %d has no VNI: its ID has more than 24 bits; give it one: --vni tap,%d=VNI", tap, tap)
	}
	for other, n := range v.taps {
		if n == tap {
			return 0, fmt.Errorf("tap %d has no VNI: --vni gives %d to tap %d; give it another: %d=VNI", tap, n, other, tap)
		}
	}
	return tap, nil
}

// A vxlanSet is one VXLAN output: a Fan for each worker.
type vxlanSet struct {
	how    atomic.Pointer[VXLAN] // which alter replaces
	to     string                // HOST:PORT
	fans   []*batch.Fan
	warn   func(error)
	warned atomic.Int64 // MTU that a warning was about last
	aliens atomic.Bool  // frames came that no Ethernet carries; said
}

// newVXLANSet opens the sockets of an output, on the calling goroutine: in its
// network namespace.
func newVXLANSet(cfg VXLAN, workers int, warn func(error)) (*vxlanSet, error) {
	to, err := proto.VXLANAddress(cfg.To)
	if err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	s := &vxlanSet{to: to, warn: warn}
	s.how.Store(&cfg)
	for range workers {
		f, err := batch.NewFan(batch.FanConfig{
			To: to, What: "VTEP", Ports: cmp.Or(cfg.Ports, vxlanPorts), MTU: cfg.MTU, Fragment: cfg.Oversize == proto.OversizeFragment,
			Drop: true, SendBuffer: vxlanBuffer,
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("collector: VXLAN: %w", err), s.close())
		}
		s.fans = append(s.fans, f)
	}
	return s, nil
}

// alter returns what makes the output another one with the same sockets, of
// which only VNIs differ, and which frames are cut; nil: more does.
func (s *vxlanSet) alter(how any) (apply func()) {
	next := how.(VXLAN)
	now := *s.how.Load()
	like := next
	like.VNI, like.To = now.VNI, now.To
	if now.Oversize != proto.OversizeFragment && next.Oversize != proto.OversizeFragment {
		like.Oversize = now.Oversize
	}
	if !reflect.DeepEqual(like, now) {
		return nil
	}
	return func() { s.how.Store(&next) }
}

func (s *vxlanSet) name() string { return "VXLAN " + s.to }

func (s *vxlanSet) close() error {
	var err error
	for _, f := range s.fans {
		err = errors.Join(err, f.Close())
	}
	s.fans = nil
	return err
}

// tooLong warns, once for each MTU of the path, that frames do not fit: one of
// size bytes is over the room there is.
func (s *vxlanSet) tooLong(f *batch.Fan, size, over int) {
	mtu := f.MTU()
	if s.warned.Load() == int64(mtu) || s.warned.Swap(int64(mtu)) == int64(mtu) {
		return
	}
	s.warn(fmt.Errorf("collector: %s: %s", s.name(), proto.OversizeText(s.how.Load().Oversize, size, over, mtu)))
}
