// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// A byteCount is what a flag about memory takes: bytes, or KiB, MiB or GiB.
type byteCount int

// byteType stands for a byteCount in the help.
const byteType = "bytes|k|m|g"

// bytesVar defines such a flag.
func bytesVar(f *pflag.FlagSet, to *int, name string, value int, usage string) {
	*to = value
	f.Var((*byteCount)(to), name, usage)
}

func (b *byteCount) String() string { return strconv.Itoa(int(*b)) }

// Type is what the help calls it.
func (b *byteCount) Type() string { return byteType }

// Set reads the flag's value.
func (b *byteCount) Set(text string) error {
	n, err := parseBytes(text)
	if err == nil {
		*b = byteCount(n)
	}
	return err
}

// parseBytes reads a number of bytes, or of KiB, MiB or GiB with k, m or g behind it.
func parseBytes(text string) (int, error) {
	number, shift := text, 0
	if i := strings.IndexAny(text, "kmgKMG"); i > 0 && i == len(text)-1 {
		number, shift = text[:i], 10*(1+strings.IndexByte("kmg", text[i]|0x20))
	}
	n, err := strconv.ParseInt(number, 0, 64)
	if err != nil || n > math.MaxInt64>>shift || n < math.MinInt64>>shift || n<<shift > math.MaxInt || n<<shift < math.MinInt {
		return 0, errors.New("want a number of bytes, or with a unit, as in 512k, 64m or 1g")
	}
	return int(n << shift), nil
}
