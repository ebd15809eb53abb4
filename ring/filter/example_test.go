// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"errors"
	"fmt"

	"github.com/ntap-project/ntap/ring/filter"
)

func ExampleCompile() {
	program, err := filter.Compile("tcp dst port 443", filter.Options{LinkType: filter.Raw})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(program)
	// Output:
	// (000) ldb      [0]
	// (001) and      #0xf0
	// (002) jeq      #0x60            jt 3	jf 7
	// (003) ldb      [6]
	// (004) jeq      #0x6             jt 5	jf 16
	// (005) ldh      [42]
	// (006) jeq      #0x1bb           jt 15	jf 16
	// (007) jeq      #0x40            jt 8	jf 16
	// (008) ldb      [9]
	// (009) jeq      #0x6             jt 10	jf 16
	// (010) ldh      [6]
	// (011) jset     #0x1fff          jt 16	jf 12
	// (012) ldxb     4*([0]&0xf)
	// (013) ldh      [x + 2]
	// (014) jeq      #0x1bb           jt 15	jf 16
	// (015) ret      #262144
	// (016) ret      #0
}

// Live, the kernel has taken the VLAN tag out of the frame.
func ExampleCompile_live() {
	program, err := filter.Compile("vlan 100", filter.Options{LinkType: filter.Ethernet, Live: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(program)
	// Output:
	// (000) ldb      [vlanp]
	// (001) jeq      #0x1             jt 2	jf 5
	// (002) ldb      [vlan_tci]
	// (003) and      #0xfff
	// (004) jeq      #0x64            jt 12	jf 13
	// (005) ldh      [12]
	// (006) jeq      #0x8100          jt 9	jf 7
	// (007) jeq      #0x88a8          jt 9	jf 8
	// (008) jeq      #0x9100          jt 9	jf 13
	// (009) ldh      [14]
	// (010) and      #0xfff
	// (011) jeq      #0x64            jt 12	jf 13
	// (012) ret      #262144
	// (013) ret      #0
}

// An error points at the word that is wrong.
func ExampleError() {
	_, err := filter.Compile("tcp prot 443 or icmp", filter.Options{LinkType: filter.Ethernet})
	var e *filter.Error
	if errors.As(err, &e) {
		fmt.Println(e)
		fmt.Println(e.Pointer())
	}
	// Output:
	// filter: column 5: expected src, dst, host, net, port, portrange, proto, [, and, or, or the end after "tcp", not "prot"; did you mean port or proto?
	// tcp prot 443 or icmp
	//     ^^^^
}

// A Machine runs a program where there is no kernel to run it: on frames of a
// file.
func ExampleMachine() {
	program, err := filter.Compile("arp", filter.Options{LinkType: filter.Ethernet})
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := filter.NewMachine(program)
	if err != nil {
		fmt.Println(err)
		return
	}
	frame := make([]byte, 60)
	frame[12], frame[13] = 0x08, 0x06
	fmt.Println(m.Run(frame, 60) != 0)
	// Output:
	// true
}
