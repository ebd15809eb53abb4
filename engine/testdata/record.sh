#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# record.sh [INTERFACE...]: prints what the choice of CPUs reads of this machine, as the files beside this one have it: a line
# for each file, its path and its text, or its path, -> and where a symbolic link leads.
set -eu
cd /
show() { for f; do if [ -f "$f" ] && [ -r "$f" ]; then v=$(tr '\n' ' ' <"$f" 2>/dev/null) && echo "${f#/} ${v% }"; fi; done; }
c=/sys/devices/system/cpu
show $c/online $c/isolated $c/cpu[0-9]*/topology/thread_siblings_list /sys/devices/system/node/node*/cpulist
echo "proc/self/status $(grep ^Cpus_allowed_list: /proc/self/status)"
for i; do
	n=/sys/class/net/$i
	show $n/queues/rx-*/rps_cpus
	for l in "$n"/lower_*; do [ ! -e "$l" ] || echo "${l#/}/ifindex $(cat "$l/ifindex")"; done
	[ -e "$n/device" ] || continue
	d=$(readlink -f "$n/device")
	echo "${n#/}/device -> $d"
	for at in "$d" "${d%/*}"; do
		show "$at/modalias" "$at/numa_node" "$at/irq"
		for irq in $(ls "$at/msi_irqs" 2>/dev/null); do
			show "$at/msi_irqs/$irq"
			show "/proc/irq/$irq/effective_affinity_list" "/proc/irq/$irq/smp_affinity_list"
			grep "^ *$irq:" /proc/interrupts | sed 's/^/proc\/interrupts /'
		done
	done
done
