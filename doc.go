// SPDX-License-Identifier: Apache-2.0

// Package ntap is the root of a software network tap; see README.md. The code
// is in the folders below, of which CONTRIBUTING.md has the map.
package ntap
