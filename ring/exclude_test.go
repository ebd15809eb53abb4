// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
)

// udp4 returns an Ethernet, IPv4 and UDP frame with n bytes of payload.
func udp4(from, to uint16, src, dst [4]byte, n int) []byte {
	f := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0}
	f = append(append(f, src[:]...), dst[:]...)
	f = binary.BigEndian.AppendUint16(f, from)
	f = binary.BigEndian.AppendUint16(f, to)
	f = binary.BigEndian.AppendUint16(f, uint16(n+8))
	f = append(f, 0, 0)
	f = append(f, make([]byte, n)...)
	binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14))
	return f
}

func udp6(to uint16, dst [16]byte, n int) []byte {
	f := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xDD, 0x60, 0, 0, 0, 0, 0, 17, 64}
	f = append(append(f, make([]byte, 16)...), dst[:]...)
	f = append(f, 0x30, 0x39)
	f = binary.BigEndian.AppendUint16(f, to)
	f = append(f, 0, 0, 0, 0)
	return append(f, make([]byte, n)...)
}

// isOwn is the plain twin of Exclude, without the mark.
func isOwn(f []byte, own Own) bool {
	to := netip.AddrPortFrom(own.Collector.Addr().Unmap(), own.Collector.Port())
	v4 := to.Addr().Is4()
	if own.LinkType == linkEthernet {
		at := 12
		if len(f) >= 14 && (f[12] == 0x81 && f[13] == 0 || f[12] == 0x88 && f[13] == 0xA8) {
			at += 4
		}
		if len(f) < at+2 || binary.BigEndian.Uint16(f[at:]) != map[bool]uint16{true: 0x0800, false: 0x86DD}[v4] {
			return false
		}
		f = f[at+2:]
	}
	if isOwnError(f, own) {
		return true
	}
	n, fragments := 40, own.VXLAN != nil && own.VXLAN.Fragments
	if v4 {
		if len(f) < 28 || f[0]>>4 != 4 || f[0]&0xF < 5 || f[9] != 17 || [4]byte(f[16:]) != to.Addr().As4() {
			return false
		}
		if binary.BigEndian.Uint16(f[6:])&0x3FFF != 0 {
			return fragments
		}
		n = int(f[0]&0xF) * 4
	} else if len(f) < 48 || f[0]>>4 != 6 || [16]byte(f[24:]) != to.Addr().As16() {
		return false
	} else if f[6] == 44 && f[40] == 17 {
		return fragments
	} else if f[6] != 17 {
		return false
	}
	return len(f) >= n+int(own.looked()) && hasOwnPorts(f[n:], own) && hasOwnPayload(f[n:], own)
}

func hasOwnPorts(udp []byte, own Own) bool {
	if x := own.VXLAN; x != nil {
		if from := binary.BigEndian.Uint16(udp); from < x.FirstPort || from-x.FirstPort >= x.Ports {
			return false
		}
	}
	return binary.BigEndian.Uint16(udp[2:]) == own.Collector.Port()
}

func hasOwnPayload(udp []byte, own Own) bool {
	if x := own.VXLAN; x != nil {
		return bytes.Equal(udp[8:16], []byte{8, 0, 0, 0, byte(x.VNI >> 16), byte(x.VNI >> 8), byte(x.VNI), 0})
	}
	return binary.BigEndian.Uint32(udp[12:]) == own.Tap && binary.BigEndian.Uint64(udp[16:]) == own.Session
}

// The program drops exactly what its twin calls the tap's own: of frames that
// are, and of the same with any byte changed, cut anywhere, tagged, with
// options of every length, or as fragments.
func TestExcludeAgainstTwin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	dropped, passed := 0, 0
	for _, to := range []string{"192.0.2.9:5678", "[2001:db8::9]:5678", "[::ffff:192.0.2.9]:5678"} {
		for _, link := range []uint16{linkEthernet, linkRaw} {
			for _, vxlan := range []*OwnVXLAN{nil, {VNI: 0x123456, FirstPort: 12340, Ports: 16}, {VNI: 7, FirstPort: 12345, Ports: 1, Fragments: true}} {
				own := Own{Collector: netip.MustParseAddrPort(to), Tap: 7, Session: 0x6925e2c080004d2b, LinkType: link, VXLAN: vxlan}
				vm := machine(t, nil, own)
				check := func(f []byte) {
					t.Helper()
					n, err := vm.Run(f)
					if err != nil {
						t.Fatal(err)
					}
					if want := isOwn(f, own); (n == 0) != want && len(f) > 0 {
						t.Fatalf("%s, link type %d: %x: dropped %v, want %v", to, link, f, n == 0, want)
					}
					if n == 0 {
						dropped++
					} else {
						passed++
					}
				}
				for _, form := range ownForms(own) {
					if link == linkRaw {
						form = form[14:]
					}
					if !isOwn(form, own) {
						t.Fatalf("%x is not what it was made for", form)
					}
					check(form)
					for n := range form {
						check(form[:n])
					}
					for i := range form {
						for bit := range 8 { // near misses in each field
							g := bytes.Clone(form)
							g[i] ^= 1 << bit
							check(g)
							check(g[:rnd.IntN(len(g))])
						}
						g := bytes.Clone(form)
						for range 5 {
							g[rnd.IntN(len(g))] ^= byte(rnd.Uint32())
							check(g)
						}
					}
				}
			}
		}
	}
	if dropped < 1000 || passed < 10000 {
		t.Errorf("%d dropped, %d passed: the frames do not test much", dropped, passed)
	}
}

func machine(t *testing.T, user []bpf.RawInstruction, own Own) *bpf.VM {
	t.Helper()
	raw, err := Exclude(user, own)
	if err != nil {
		t.Fatal(err)
	}
	ins, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("an instruction that is none")
	}
	// The VM has no frame marks: let all frames have mark 42.
	for i, in := range ins {
		if in == (bpf.LoadExtension{Num: bpf.ExtMark}) {
			ins[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: 42}
		}
	}
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// ownForms returns one of the tap's own datagrams as frames: plain, tagged, and
// with IP options of every length.
func ownForms(own Own) (forms [][]byte) {
	to := own.Collector.Addr().Unmap()
	var f []byte
	if to.Is4() {
		f = udp4(12345, 5678, [4]byte{10, 0, 0, 1}, to.As4(), 16)
	} else {
		f = udp6(5678, to.As16(), 16)
	}
	payload := f[len(f)-16:]
	binary.BigEndian.PutUint32(payload[4:], own.Tap)
	binary.BigEndian.PutUint64(payload[8:], own.Session)
	if own.VXLAN != nil {
		binary.BigEndian.PutUint32(payload, 0x08000000)
		binary.BigEndian.PutUint32(payload[4:], own.VXLAN.VNI<<8)
	}
	forms = [][]byte{f}
	if own.VXLAN != nil && own.VXLAN.Fragments {
		first, later := bytes.Clone(f), slices.Concat(f[:len(f)-16], make([]byte, 8))
		if to.Is4() {
			first[14+6], later[14+6], later[14+7] = 0x20, 0, 185
		} else {
			first = slices.Concat(f[:54], []byte{17, 0, 0, 1, 0, 0, 0, 9}, f[54:])
			later = slices.Concat(f[:54], []byte{17, 0, 5, 0xC8, 0, 0, 0, 9}, []byte{1, 2, 3})
			first[14+6], later[14+6] = 44, 44
		}
		forms = append(forms, first, later)
	}
	if to.Is4() {
		for words := 1; words <= 10; words++ {
			o := slices.Concat(f[:34], bytes.Repeat([]byte{1}, words*4), f[34:], make([]byte, words%3))
			o[14] += byte(words)
			forms = append(forms, o)
		}
	}
	forms = append(forms, ownErrors(forms[0], own)...)
	if own.LinkType == linkEthernet {
		for _, g := range forms {
			forms = append(forms, slices.Concat(g[:12], []byte{0x81, 0, 0, 5}, g[12:]), slices.Concat(g[:12], []byte{0x88, 0xA8, 0, 5}, g[12:]))
		}
	}
	return forms
}

// What passes the tests for its own goes to the user's program, also a frame
// too short for those tests. Such a one was dropped by a load beyond its end:
// with 15 words of IP header, and fewer bytes than that, the length left over
// was less than 0, which is much.
func TestExcludeThenUser(t *testing.T) {
	for _, link := range []uint16{linkEthernet, linkRaw} {
		vm := machine(t, []bpf.RawInstruction{{Op: bpfReturn, K: 77}}, Own{Collector: netip.MustParseAddrPort("192.0.2.9:1"), Tap: 7, LinkType: link})
		for words := range byte(16) {
			for n := 1; n < 100; n++ {
				f := udp4(1, 1, [4]byte{1, 1, 1, 1}, [4]byte{192, 0, 2, 9}, 60)
				if f[14] = 0x40 | words; link == linkRaw {
					f = f[14:]
				}
				f = f[:min(n, len(f))]
				if got, err := vm.Run(f); err != nil || got != 77 {
					t.Fatalf("link type %d, %d words of header, %d bytes: %d, %v", link, words, n, got, err)
				}
			}
		}
	}
}

// The mark drops a frame whatever it holds, and a mark of 0 none.
func TestExcludeMark(t *testing.T) {
	const all = 1<<32 - 1
	f := udp4(1, 2, [4]byte{1}, [4]byte{2}, 20)
	for _, link := range []uint16{linkEthernet, linkRaw, 105} {
		for mark, want := range map[uint32]int{0: all, 41: all, 42: 0} {
			for _, to := range []netip.AddrPort{{}, netip.MustParseAddrPort("192.0.2.9:1")} {
				if n, err := machine(t, nil, Own{Mark: mark, Collector: to, LinkType: link}).Run(f); err != nil || n != want {
					t.Errorf("link type %d, mark %d for 42, to %v: %d, %v", link, mark, to, n, err)
				}
			}
		}
	}
}
