// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package ring

import (
	"errors"
	"time"
)

// A Uring is an io_uring; only Linux has them.
type Uring struct{}

// SQE and CQE are a request and its completion.
type (
	SQE struct {
		Flags    uint8
		UserData uint64
	}
	CQE struct {
		UserData uint64
		Res      int32
	}
)

// SQEFixedFile says that a request names a registered file.
const SQEFixedFile uint8 = 1

// SetupUring fails: there is no io_uring here.
func SetupUring(uint32) (*Uring, error) { return nil, errors.ErrUnsupported }

// UringSupported reports that there is no io_uring here.
func UringSupported() (bool, Refusal) { return false, Refusal{Cause: "io_uring is Linux only"} }

// UringSends and UringReceives report the same of datagrams.
func UringSends() (bool, Refusal)    { return UringSupported() }
func UringReceives() (bool, Refusal) { return UringSupported() }

// UringSendsZeroCopy reports the same.
func UringSendsZeroCopy(int) (bool, Refusal) { return UringSupported() }

// UringRefusal says what an error means.
func UringRefusal(err error) Refusal { return Refusal{Cause: err.Error()} }

// An Inbox receives by io_uring; only Linux has them.
type Inbox struct{}

// NewInbox fails: there is no io_uring here.
func NewInbox(int, int, int) (*Inbox, error) { return nil, errors.ErrUnsupported }

func (*Inbox) Recv(time.Duration) (int, error) { return 0, errors.ErrUnsupported }
func (*Inbox) Close() error                    { return nil }

func (s *SQE) PrepWrite(int, []byte)              {}
func (s *SQE) PrepWriteFixed(int, []byte, uint16) {}

func (u *Uring) GetSQE() *SQE                              { return nil }
func (u *Uring) Pending() int                              { return 0 }
func (u *Uring) Submit() (int, error)                      { return 0, errors.ErrUnsupported }
func (u *Uring) SubmitAndWait(uint32) (int, error)         { return 0, errors.ErrUnsupported }
func (u *Uring) Discard() int                              { return 0 }
func (u *Uring) CQReady() uint32                           { return 0 }
func (u *Uring) PeekCQE() *CQE                             { return nil }
func (u *Uring) CQEAt(uint32) *CQE                         { return nil }
func (u *Uring) CQAdvance(uint32)                          {}
func (u *Uring) RegisterFiles([]int32) error               { return errors.ErrUnsupported }
func (u *Uring) RegisterFilesUpdate(uint32, []int32) error { return errors.ErrUnsupported }
func (u *Uring) UnregisterFiles() error                    { return errors.ErrUnsupported }
func (u *Uring) RegisterBuffers([][]byte) error            { return errors.ErrUnsupported }
func (u *Uring) Probe(uint8) bool                          { return false }
func (u *Uring) Close() error                              { return nil }
