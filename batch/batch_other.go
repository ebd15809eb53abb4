// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package batch

import (
	"errors"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/bpf"
)

type Arena struct{}

func NewArena(int) (*Arena, error) { return nil, errors.ErrUnsupported }
func (*Arena) Bytes() []byte       { return nil }
func (*Arena) Close() error        { return nil }

func Writev(f *os.File, b [][]byte) (int, error) { return f.Write(b[0]) }

type Sender struct{ stats SenderStats }

func NewSender(SenderConfig) (*Sender, error) { return nil, errors.ErrUnsupported }
func (*Sender) Slot() []byte                  { return nil }
func (*Sender) Size() int                     { return 0 }
func (*Sender) Queue(int)                     {}
func (*Sender) Flush() error                  { return errors.ErrUnsupported }
func (s *Sender) Stats() *SenderStats         { return &s.stats }
func (*Sender) Collector() netip.AddrPort     { return netip.AddrPort{} }
func (*Sender) Segmented() bool               { return false }
func (*Sender) Marked() bool                  { return false }
func (*Sender) Buffer() int                   { return 0 }
func (*Sender) Astray() error                 { return nil }
func (*Sender) Trouble() error                { return errors.ErrUnsupported }
func (*Sender) Close() error                  { return nil }

type Fan struct{ stats SenderStats }

func NewFan(FanConfig) (*Fan, error)      { return nil, errors.ErrUnsupported }
func (*Fan) Room() int                    { return 0 }
func (*Fan) Queue(uint32, []byte, []byte) {}
func (*Fan) Flush()                       {}
func (f *Fan) Stats() *SenderStats        { return &f.stats }
func (*Fan) Trouble() error               { return errors.ErrUnsupported }
func (*Fan) Troubled() bool               { return true }
func (*Fan) To() netip.AddrPort           { return netip.AddrPort{} }
func (*Fan) Ports() (first uint16, n int) { return 0, 0 }
func (*Fan) MTU() int                     { return 0 }
func (*Fan) Segmented() bool              { return false }
func (*Fan) Marked() bool                 { return false }
func (*Fan) Buffer() int                  { return 0 }
func (*Fan) Close() error                 { return nil }

func (*Sender) UseRing(Ring) error             { return errors.ErrUnsupported }
func (*Sender) UseZeroCopy(ZeroCopyRing) error { return errors.ErrUnsupported }
func (*Sender) Copying() bool                  { return false }
func (*Sender) Paced() (uint64, bool, string)  { return 0, false, "" }
func (*Sender) Pace(uint64)                    {}
func (*Sender) Spent() (uint64, time.Duration) { return 0, 0 }

type (
	Ring         interface{ Discard() int }
	ZeroCopyRing interface{ Discard() int }
	Inbox        interface {
		Recv(time.Duration) (int, error)
	}
)

const (
	RingFlights                     = 1
	ZeroCopyFlights, ZeroCopyMemory = 1, 1
	MaxPayload                      = 1 << 16
)

type Receiver struct{ stats ReceiverStats }

func Listen(ListenConfig) ([]*Receiver, error)     { return nil, errors.ErrUnsupported }
func (*Receiver) Recv() (int, error)               { return 0, errors.ErrUnsupported }
func (*Receiver) TryRecv() (int, bool, error)      { return 0, false, errors.ErrUnsupported }
func (*Receiver) Steer([]bpf.RawInstruction) error { return errors.ErrUnsupported }
func Wait(a, b *Receiver, d time.Duration) (hasA, hasB bool, err error) {
	return false, false, errors.ErrUnsupported
}
func (*Receiver) Next() ([]byte, bool)    { return nil, false }
func (*Receiver) From() netip.AddrPort    { return netip.AddrPort{} }
func (*Receiver) Memory() []byte          { return nil }
func (r *Receiver) Stats() *ReceiverStats { return &r.stats }
func (*Receiver) Addr() netip.AddrPort    { return netip.AddrPort{} }
func (*Receiver) Buffer() int             { return 0 }
func (*Receiver) Grouped() bool           { return false }
func (*Receiver) Close() error            { return nil }
func (*Receiver) UseInbox(Inbox)          {}
func (*Receiver) FD() int                 { return -1 }
func (*Receiver) Drops() uint64           { return 0 }

// A Router is Linux only.
type Router struct{}

// OpenRouter fails: netlink is Linux only.
func OpenRouter() (*Router, error) { return nil, errors.ErrUnsupported }

func (*Router) Egress(netip.AddrPort) (int, error) { return 0, errors.ErrUnsupported }
func (*Router) Close()                             {}
