#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# path.sh FRAME PPS [SECS]: one remote and one collector with its TAP, in two namespaces joined by a veth, and a traffic
# source of PPS frames a second of FRAME bytes (or imix), in FLOWS flows (64), all on this machine. Root. Prints one line:
#
#	frame 300 offered 900000 delivered 900000 remote_ns 240 collector_ns 900 busy_cores 1.20
#
# remote_ns and collector_ns are CPU (user and system) of the whole process for a frame delivered, in ns. busy_cores is all CPU of the
# machine while the source ran, softirq included: cpus x time - idle. Flags for either side: REMOTE_FLAGS, COLLECTOR_FLAGS.
# With OUTPUT, those flags in the place of the TAP: OUTPUT='--no-tap -w /data/x.pcapng --direct'. What was written is removed by you. With
# --vxlan 10.99.0.1 datagrams go to the remote's host, and are dropped where they come in.
# With DROP=ingress or DROP=prerouting a firewall drops what comes to the collector there; delivered is what the remote sealed.
# With PROFILE=DIR: what perf(1) records of each process, in DIR/remote-FRAME.data and DIR/collector-FRAME.data, and the functions that take most.
# With PPROF=DIR: CPU profiles of each process for go tool pprof, in DIR/remote-FRAME.pprof and DIR/collector-FRAME.pprof, and what takes most of
# forward and of deliver, with what these call.
# With TREE=DIR: of the ntap of that checkout, an older commit's.
# With COUNTERS=1: instructions and cycles of each process for a frame, in user and kernel mode, as perf(1) counts them.
set -eu
cd "$(dirname "$0")/.."
frame=$1 pps=$2 secs=${3:-3}
. benchmarks/hosts.sh
tree=${TREE:-.} overlay=""
if [ -n "${PPROF:-}" ]; then
	mkdir -p "$PPROF"
	PPROF=$(realpath "$PPROF") overlay="-overlay $t/overlay"
	echo "{\"Replace\": {\"$(realpath "$tree")/cmd/ntap/pprof.go\": \"$PWD/benchmarks/testdata/pprof.go\"}}" >"$t/overlay"
fi
go build -C "$tree" $overlay -o "$t/ntap" ./cmd/ntap
go build -o "$t/gen" ./benchmarks/gen
case "${OUTPUT:-}" in # the wire would end there
*--vxlan*) ip netns exec $S nft "add table netdev wire; add chain netdev wire in { type filter hook ingress device up0 priority 0 ; }; add rule netdev wire in udp dport 4789 drop" ;;
esac
case "${DROP:-}" in
ingress) ip netns exec $C nft "add table netdev d; add chain netdev d i { type filter hook ingress device up1 priority 0; }; add rule netdev d i udp dport 5678 drop" ;;
prerouting) ip netns exec $C nft "add table ip d; add chain ip d i { type filter hook prerouting priority -400; }; add rule ip d i udp dport 5678 drop" ;;
esac
tap cap0
"$t/ntap" key new --out "$t/key" >/dev/null
idle() { awk '/^cpu /{print $5 + $6}' /proc/stat; }

PPROF_FILE=${PPROF:-}/collector-$frame.pprof ip netns exec $C "$t/ntap" collector -p 5678 --key-file "$t/key" ${OUTPUT:--i ntap0} --state none ${COLLECTOR_FLAGS:-} >"$t/c.log" 2>&1 &
c=$! pids="$c"
for _ in $(seq 50); do grep -q 'collector started' "$t/c.log" && break; sleep 0.1; done
PPROF_FILE=${PPROF:-}/remote-$frame.pprof ip netns exec $S "$t/ntap" remote -i cap0 -c 10.99.0.2:5678 --key-file "$t/key" --tap 1 ${REMOTE_FLAGS:-} >"$t/r.log" 2>&1 &
r=$! pids="$pids $r"
sleep 1
counters=""
if [ -n "${COUNTERS:-}" ]; then
	for side in r c; do
		perf stat -x, -e instructions:u,instructions:k,cycles:u,cycles:k -p ${!side} -o "$t/$side.perf" &
		counters="$counters $!"
	done
	sleep 0.4
fi
if [ -n "${PROFILE:-}" ]; then
	mkdir -p "$PROFILE"
	perf record -q -F 3999 -p $r -o "$PROFILE/remote-$frame.data" -- sleep "$secs" &
	profiles="$!"
	perf record -q -F 3999 -p $c -o "$PROFILE/collector-$frame.data" -- sleep "$secs" &
	profiles="$profiles $!"
fi
[ -z "${PPROF:-}" ] || kill -USR2 $r $c
cr0=$(cpu $r) cc0=$(cpu $c) i0=$(idle) t0=$(date +%s%N)
ip netns exec $S "$t/gen" -dev cap0 -flows "${FLOWS:-64}" -frame "$frame" -rate "$pps" -for "${secs}s" -cpu 0 >"$t/g"
i1=$(idle) t1=$(date +%s%N)
[ -z "${PPROF:-}" ] || kill -USR2 $r $c
sleep 1
cr1=$(cpu $r) cc1=$(cpu $c)
if [ -n "$counters" ]; then
	kill -INT $counters
	wait $counters || true
fi
if [ -n "${PPROF:-}" ]; then
	for side in remote:forward collector:deliver; do
		go tool pprof -top -cum -nodecount "${NODES:-25}" -focus "${side#*:}\$" "$t/ntap" "$PPROF/${side%:*}-$frame.pprof" 2>/dev/null
	done
fi
if [ -n "${PROFILE:-}" ]; then
	wait $profiles || true
	for side in remote collector; do
		echo "profile of the $side, $frame bytes:"
		perf report -i "$PROFILE/$side-$frame.data" --stdio --sort symbol --percent-limit "${LIMIT:-1.5}" 2>/dev/null | sed -n '/^ *[0-9.]*%/p'
	done
fi
[ -n "${OUTPUT:-}" ] || delivered=$(ip netns exec $C cat /sys/class/net/ntap0/statistics/rx_packets)
kill -INT $r
wait $r || { cat "$t/r.log"; exit 1; }
sleep 0.3
kill -INT $c
wait $c || { cat "$t/c.log"; exit 1; }
pids=""
[ -z "${OUTPUT:-}" ] || delivered=$(sed -n 's/^ *\([0-9]*\) frames written to.*/\1/p' "$t/c.log")
[ -z "${DROP:-}" ] || delivered=$(sed -n 's/^ *\([0-9]*\) frames, .* sealed in .*/\1/p' "$t/r.log")
if [ -n "$counters" ]; then
	for side in r c; do
		awk -F, -v n="$delivered" -v f="$frame" -v s="$side" '/,/ {v[$3] = $1 / n} END {
			printf "frame %s %s delivered %d instructions user %d kernel %d cycles user %d kernel %d\n", f, s == "r" ? "remote" : "collector", n,
				v["instructions:u"], v["instructions:k"], v["cycles:u"], v["cycles:k"]}' "$t/$side.perf"
	done
fi
[ -z "${VERBOSE:-}" ] || cat "$t/g" "$t/r.log" "$t/c.log"
awk -v f="$frame" -v o="$(sed 's/offered \([0-9]*\).*/\1/' "$t/g")" -v d="$delivered" -v r=$((cr1 - cr0)) -v c=$((cc1 - cc0)) \
	-v i=$((i1 - i0)) -v w=$((t1 - t0)) -v n="$(nproc)" -v hz="$hz" -v s="$secs" \
	'BEGIN {printf "frame %s offered %d delivered %d remote_ns %d collector_ns %d busy_cores %.2f\n", f, o, d, r/d, c/d, (n*w/1e9 - i/hz)/s}'
