#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# avx512.sh: the tests of crypto's AVX-512 kernel where the CPU has no AVX-512, on an emulated one (run.sh). Each test of every
# kernel (TestKernel…) must say that it passed with this one, and the fuzzer of all kernels try 2000 inputs; what did not run is a
# failure. With FORCE=1 also where the CPU has it, and the other tests run the kernel without emulation.
set -euo pipefail
cd "$(dirname "$0")/../.."
has() { grep -qw "$1" /proc/cpuinfo; }
if [ -z "${FORCE:-}" ] && has avx512f && has avx512bw && has avx512dq && has avx512vl && has vaes && has vpclmulqdq; then
	echo "this CPU has AVX-512 and VAES: go test ./crypto runs the kernel itself (FORCE=1 emulates all the same)"
	exit 0
fi
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go test -c -o "$t/crypto.test" ./crypto
mkdir "$t/here"
cp -r crypto/testdata "$t/here/"
status=0
internal/emulate/run.sh -t 400 -d "$t/here" NTAP_CPU=avx512 "$t/crypto.test" -test.v -test.run '^(TestKernel|TestSuitesOutsideVectors$)/^avx512$' \
	-test.fuzz '^FuzzGCMKernels$' -test.fuzztime 2000x -test.fuzzcachedir /tmp/fuzz -test.parallel 1 |
	tee "$t/output" | grep -vE '^=== |^warning: ' || status=$?
[ "$status" = 0 ] || { echo "FAIL: status $status"; exit 1; }
grep -q '^fuzz: .*execs: 2000 ' "$t/output" || { echo "FAIL: not 2000 inputs of the fuzzer"; exit 1; }
# Which tests there are, the binary says without emulation.
passed=0
for name in $("$t/crypto.test" -test.list '^TestKernel'); do
	grep -q "^ *--- PASS: $name/avx512 (" "$t/output" || { echo "FAIL: $name did not run with the kernel avx512"; exit 1; }
	passed=$((passed + 1))
done
[ "$passed" -ge 8 ] || { echo "FAIL: only $passed tests of kernels"; exit 1; }
echo "avx512, emulated: $passed passed, 0 failed"
