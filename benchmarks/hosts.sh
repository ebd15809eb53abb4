# SPDX-License-Identifier: Apache-2.0
#
# For path.sh and flood.sh: two hosts in namespaces, $S and $C, joined by a veth, and a folder, $t. All is taken away at the end, and
# so are the processes of $pids.
t=$(mktemp -d) S=nts$$ C=ntc$$ pids=""
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; ip netns del $S; ip netns del $C; rm -rf "$t"' EXIT
export CGO_ENABLED=0
ip netns add $S
ip netns add $C
ip link add up0 netns $S type veth peer name up1 netns $C
ip -n $S addr add 10.99.0.1/24 dev up0
ip -n $C addr add 10.99.0.2/24 dev up1
ip -n $S link set up0 up
ip -n $C link set up1 up

# tap NAME: an interface of $S to be tapped.
tap() {
	ip -n $S tuntap add dev "$1" mode tap
	ip netns exec $S sysctl -qw "net.ipv6.conf.$1.disable_ipv6=1"
	ip -n $S link set "$1" up
}

# cpu PID: user and system time so far, ns, all threads.
hz=$(getconf CLK_TCK)
cpu() { awk -v hz="$hz" '{sub(/.*\) /, ""); printf "%d", ($12 + $13) * 1e9 / hz}' "/proc/$1/stat"; }
