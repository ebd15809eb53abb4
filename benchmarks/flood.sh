#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# flood.sh [FRAME [SECS]]: a collector under attack, while another tap's traffic runs on the same worker at the rate that half of
# its CPU carries. Root, two CPUs: the collector has one, all else the other. First a run without attack says what that rate is; then
# each attack runs, one datagram a call and in trains (UDP_SEGMENT, where FLOODS says so), as fast as it goes. One line each:
#
#	attack forged+ flood_kpps 812 good_kpps 310 sealed 930112 lost 0 socket_full 0 strangers_full 12 collector_cpu 0.91 rss_grew_kb 240 : 2436004 forged
#
# flood_kpps is what the attacker's kernel took; collector_cpu is user and system time of the process over the time; behind the colon
# is what the collector says it refused. Attacks: FLOODS, a list of KIND or KIND+ for trains. RATE sets the good traffic's, frames a second.
set -eu
cd "$(dirname "$0")/.."
frame=${1:-300} secs=${2:-3}
floods=${FLOODS:-none short random taps session shards old forged epoch replay mix short+ random+ taps+ session+ shards+ old+ forged+ epoch+ replay+ mix+}
. benchmarks/hosts.sh
go build -o "$t/ntap" ./cmd/ntap
go build -o "$t/gen" ./benchmarks/gen
go build -o "$t/flood" ./benchmarks/flood
tap cap0
tap cap1
"$t/ntap" key new --out "$t/key" >/dev/null
nice="nice -n ${NICE:-0}" # on a machine that does other work: NICE=-15
# What taps needs its share of the CPU that it has in common with the attacker, or there is no traffic to lose.
low="nice -n $((${NICE:-0} + 10))"
rss() { awk '/^VmRSS/{print $2}' "/proc/$1/status"; }

# run KIND RATE: sets good (sealed), lost, full, used (ns), grew, refused, flooded (kpps), took (s).
run() {
	local kind=$1 rate=$2 c r v g0 trains="" f=""
	$nice taskset -c 1 ip netns exec $C "$t/ntap" collector -p 5678 --key-file "$t/key" -i ntap0 --state none ${COLLECTOR_FLAGS:-} >"$t/c.log" 2>&1 &
	c=$!
	pids="$c"
	for _ in $(seq 100); do grep -q "collector started" "$t/c.log" && break; sleep 0.1; done
	$nice taskset -c 0 ip netns exec $S "$t/ntap" remote -i cap0 -c 10.99.0.2:5678 --key-file "$t/key" --tap 1 >"$t/r.log" 2>&1 &
	r=$!
	$nice taskset -c 0 ip netns exec $S "$t/ntap" remote -i cap1 -c 10.99.0.2:5678 --key-file "$t/key" --tap 8 >"$t/v.log" 2>&1 &
	v=$!
	pids="$c $r $v"
	sleep 1
	$nice taskset -c 0 ip netns exec $S "$t/gen" -dev cap1 -size "$frame" -rate 200 -for $((secs + 8))s >/dev/null &
	local g1=$!
	sleep 0.5
	flooded=0
	if [ "$kind" != none ]; then
		case $kind in *+) trains=-trains ;; esac
		$low taskset -c 0 ip netns exec $S "$t/flood" -to 10.99.0.2:5678 -dev up0 -tap 8 -kind "${kind%+}" $trains \
			${FLOOD_FLAGS:-} -for $((secs + 1))s >"$t/f" 2>&1 &
		f=$!
		for _ in $(seq 100); do grep -q flooding "$t/f" && break; sleep 0.1; done # it listens first
		sleep 0.2
	fi
	local m0 m1 c0 c1 t0 t1
	m0=$(rss $c) c0=$(cpu $c) t0=$(date +%s%N)
	$nice taskset -c 0 ip netns exec $S "$t/gen" -dev cap0 -size "$frame" -rate "$rate" -for "${secs}s" >"$t/g"
	c1=$(cpu $c) t1=$(date +%s%N) m1=$(rss $c)
	if [ -n "$f" ]; then
		wait $f || { cat "$t/f"; exit 1; }
		flooded=$(awk '{for (i = 1; i < NF; i++) if ($i == "mpps") print $(i+1) * 1000}' "$t/f")
	fi
	kill $g1 2>/dev/null || true
	kill -INT $r $v
	wait $r || { cat "$t/r.log"; exit 1; }
	wait $v || true
	sleep 0.3
	kill -INT $c
	wait $c || { cat "$t/c.log"; exit 1; }
	pids=""
	used=$((c1 - c0)) grew=$((m1 - m0)) took=$(awk -v n=$((t1 - t0)) 'BEGIN {print n / 1e9}')
	good=$(awk '/^tap /{on = $2 == 1} on && /frames sealed/{print $1}' "$t/c.log")
	lost=$(awk '/^tap /{on = $2 == 1} on && /frames lost/{print $1}' "$t/c.log")
	full=$(sed -n 's/.*the socket was full \([0-9]*\) times, that for strangers \([0-9]*\) times.*/\1/p' "$t/c.log" | tail -1)
	strange=$(sed -n 's/.*the socket was full [0-9]* times, that for strangers \([0-9]*\) times.*/\1/p' "$t/c.log" | tail -1)
	refused=$(sed -n 's/.*datagrams received\(.*\); the socket was full.*/\1/p' "$t/c.log" | tail -1 | sed 's/^, //')
	[ -z "${VERBOSE:-}" ] || cat "$t/c.log" "$t/r.log" >&2
}

rate=${RATE:-}
if [ -z "$rate" ]; then
	run none 100000
	each=$(awk -v u="$used" -v n="$good" 'BEGIN {printf "%d", u / n}')
	rate=$((500000000 / each))
	echo "frame $frame collector_ns $each half_a_cpu_fps $rate"
fi
for kind in $floods; do
	run "$kind" "$rate"
	awk -v k="$kind" -v f="$flooded" -v g="$good" -v l="$lost" -v s="$full" -v x="$strange" -v u="$used" -v w="$took" -v m="$grew" -v r="$refused" \
		'BEGIN {printf "attack %s flood_kpps %d good_kpps %d sealed %d lost %d socket_full %d strangers_full %d collector_cpu %.2f rss_grew_kb %d : %s\n",
			k, f, g / w / 1000, g, l, s, x, u / w / 1e9, m, r}'
done
