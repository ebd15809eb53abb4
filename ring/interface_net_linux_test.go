// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ntap-project/ntap/internal/testnet"
)

func TestLookUp(t *testing.T) {
	iface, _ := testnet.Veth(t)
	testnet.Run(t, "ip link set "+iface+" address 02:11:22:33:44:55 mtu 9000")
	i, err := LookUp(iface)
	if err != nil || i.Name != iface || i.Index == 0 || i.MAC.String() != "02:11:22:33:44:55" || i.MTU != 9000 ||
		i.LinkType != linkEthernet || i.Speed != 10e9 || i.Loopback || !i.Up {
		t.Errorf("veth: %+v, %v", i, err)
	}
	if i, err = LookUp("lo"); err != nil || i.LinkType != linkEthernet || !i.Loopback || i.MAC != nil || i.Speed != 0 {
		t.Errorf("lo: %+v, %v", i, err)
	}
	if _, err := LookUp("nosuch"); !errors.Is(err, errNoDevice) {
		t.Errorf("%v", err)
	}
}

// tun returns a TUN interface of a hardware type, and what to write packets to.
func tun(t *testing.T, hardware int) (string, int) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	req, _ := unix.NewIfreq("tun%d")
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETLINK, hardware); err != nil {
		t.Fatal(err)
	}
	testnet.Run(t, "ip link set "+req.Name()+" addrgenmode none")
	testnet.Run(t, "ip link set "+req.Name()+" up")
	return req.Name(), fd
}

// Interfaces without a link-layer header give IP packets; hardware that is not
// known is refused.
func TestRawIP(t *testing.T) {
	testnet.Namespace(t)
	for _, hardware := range []int{unix.ARPHRD_NONE, unix.ARPHRD_PPP, unix.ARPHRD_TUNNEL, unix.ARPHRD_SIT, unix.ARPHRD_IPGRE} {
		name, fd := tun(t, hardware)
		r, err := Open(plenty(name))
		if err != nil {
			t.Fatal(err)
		}
		packet := udp4(1, 2, [4]byte{192, 0, 2, 1}, [4]byte{192, 0, 2, 2}, 60)[14:]
		if _, err := unix.Write(fd, packet); err != nil {
			t.Fatal(err)
		}
		take(t, r, 1, func(f Frame) {
			if !bytes.Equal(f.Data, packet) || f.Outgoing {
				t.Errorf("hardware type %d: %+v", hardware, f)
			}
		})
		if i := r.Interface(); i.LinkType != linkRaw || i.MAC != nil {
			t.Errorf("hardware type %d: %+v", hardware, i)
		}
		r.Close()
	}
	name, _ := tun(t, 280) // ARPHRD_CAN
	if _, err := Open(plenty(name)); err == nil || !strings.Contains(err.Error(), "hardware type 280") {
		t.Errorf("%v", err)
	}
}

func TestSimilar(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"eth0", "eth1", true}, {"eth0", "eht0", true}, {"enp3s0", "enp3s0f0", true}, {"enp3s0", "enp4s1f1", false},
		{"lo", "eth0", false}, {"lo", "l0", true}, {"a", "b", false}, {"", "", false},
	} {
		if similar(test.a, test.b) != test.want || similar(test.b, test.a) != test.want {
			t.Errorf("%q and %q: %v", test.a, test.b, !test.want)
		}
	}
}
