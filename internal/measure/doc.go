// SPDX-License-Identifier: Apache-2.0

// Package measure is what `ntap bench` and the harness of benchmarks measure
// with: hosts in namespaces, a traffic source, both sides of the tap in
// processes of their own, and what the kernel and the processor say they cost.
//
// Nothing of it is on the path of a frame.
package measure
