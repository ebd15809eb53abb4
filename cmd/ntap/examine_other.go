// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

func examine() []finding {
	return []finding{{"system", stateFail, "ntap captures and delivers on Linux only", ""}}
}
