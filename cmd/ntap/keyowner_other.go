// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "io/fs"

func keepOwner(string, fs.FileInfo) error { return nil }
