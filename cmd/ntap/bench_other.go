// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ntap-project/ntap/perf/sizing"
)

func makeProfile(context.Context, time.Duration, func(string)) (*sizing.Profile, error) {
	return nil, fmt.Errorf("it measures the kernel's side, which is Linux's; on other systems ntap size works with profiles of Linux hosts")
}

func newMeasureChild() *cobra.Command { return &cobra.Command{Use: "measure-child", Hidden: true} }
