// SPDX-License-Identifier: Apache-2.0

//go:build !linux

// Package cycles counts CPU cycles of threads, on Linux.
package cycles
