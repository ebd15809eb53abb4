#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# arm64.sh: the tests of crypto and proto as arm64 runs them, under qemu-user; none may be skipped. Then the kernels once more on
# an arm64 without the AES and PMULL instructions.
set -euo pipefail
cd "$(dirname "$0")/../.."
qemu=$(command -v qemu-aarch64-static qemu-aarch64 | head -1) || true
[ -n "$qemu" ] || { echo "no qemu-aarch64-static; on Debian: apt-get install qemu-user-static"; exit 1; }
export GOARCH=arm64 CGO_ENABLED=0
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
run() {
	go test -v -count=1 -timeout 10m -exec "$qemu" "$@" >"$t/output" 2>&1 || { grep -vE '^=== |^ *--- PASS' "$t/output"; exit 1; }
	if grep -A5 -e '--- SKIP' "$t/output"; then echo "FAIL: skipped tests"; exit 1; fi
	n=$(grep -c '^--- PASS' "$t/output")
	[ "$n" -ge "$least" ] || { cat "$t/output"; echo "FAIL: only $n tests ran"; exit 1; }
	grep '^ok' "$t/output"
	echo "arm64, emulated: $n passed, 0 failed"
}
least=40 run ./crypto ./proto
for k in armv8 generic; do
	[ "$(grep -c "^ *--- PASS: TestKernel.*/$k" "$t/output")" -ge 8 ] || { echo "FAIL: the kernel $k did not run"; exit 1; }
done
export GODEBUG=cpu.aes=off,cpu.pmull=off
least=3 run -run '^TestKernel(NIST|Wycheproof|Lengths)$/^generic$' ./crypto
