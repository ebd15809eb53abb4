#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# arm64.sh: the tests of crypto and proto as arm64 runs them, under qemu-user; none may be skipped. Then the program itself: capture
# files in, pcapng out, over real UDP, judged by tcpdump. Then the kernels once more on an arm64 without the AES and PMULL instructions.
set -euo pipefail
cd "$(dirname "$0")/../.."
qemu=$(command -v qemu-aarch64-static qemu-aarch64 | head -1) || true
[ -n "$qemu" ] || { echo "no qemu-aarch64-static; on Debian: apt-get install qemu-user-static"; exit 1; }
export GOARCH=arm64 CGO_ENABLED=0
t=$(mktemp -d)
collector=""
trap '[ -z "$collector" ] || kill "$collector" 2>/dev/null || true; rm -rf "$t"' EXIT
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

# What qemu-user has no socket option for, ntap does without.
command -v tcpdump >/dev/null || { echo "no tcpdump; on Debian: apt-get install tcpdump"; exit 1; }
go build -o "$t/ntap" ./cmd/ntap
"$qemu" "$t/ntap" key new --out "$t/key"
see() { tcpdump -n -tt -xx --time-stamp-precision=nano -r "$1" 2>/dev/null; }
through() { # SUITE FILE
	"$qemu" "$t/ntap" collector -p 127.0.0.1:0 --key-file "$t/key" --state none --no-tap -w "$t/out.pcapng" --once 2>"$t/c.log" &
	collector=$!
	for _ in $(seq 300); do
		port=$(sed -n 's/.*collector started.*address=127.0.0.1:\([0-9]*\).*/\1/p' "$t/c.log")
		[ -z "$port" ] || break
		sleep 0.1
	done
	[ -n "$port" ] || { cat "$t/c.log"; echo "FAIL: the collector does not start"; exit 1; }
	"$qemu" "$t/ntap" remote -r "$2" --pace max --suite "$1" --tap 1 --key-file "$t/key" -c "127.0.0.1:$port" 2>"$t/r.log" || { cat "$t/r.log"; exit 1; }
	for _ in $(seq 600); do kill -0 "$collector" 2>/dev/null || break; sleep 0.1; done
	wait "$collector" || { cat "$t/c.log"; exit 1; }
	collector=""
	see "$2" >"$t/want"
	see "$t/out.pcapng" >"$t/got"
	[ -s "$t/want" ] && diff -q "$t/want" "$t/got" >/dev/null || { cat "$t/r.log" "$t/c.log"; echo "FAIL: $2: $1: what came out is not what went in"; exit 1; }
	grep -q "suite=$1" "$t/c.log" || { cat "$t/c.log"; echo "FAIL: not sealed with $1"; exit 1; }
}
captures=internal/testnet/testdata/captures
through aes-256-gcm $captures/arp-oobr.pcap
through chacha20-poly1305 $captures/802.1D_spanning_tree.pcap
echo "arm64, emulated: remote and collector: what went in came out, with both ciphers"

export GODEBUG=cpu.aes=off,cpu.pmull=off
least=3 run -run '^TestKernel(NIST|Wycheproof|Lengths)$/^generic$' ./crypto
