#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [-t SECS] [-d DIR] [NAME=VALUE ...] PROGRAM [ARGUMENT ...]: run a static linux/amd64 program on an emulated CPU that
# has AVX-512 with VAES and VPCLMULQDQ (Ice Lake), print what it prints, and end with its exit status.
#
#	CGO_ENABLED=0 go test -c -o bin/crypto.test ./crypto
#	internal/emulate/run.sh NTAP_CPU=avx512 bin/crypto.test -test.v -test.run Kernel
#
# The emulator is bochs: of those in Debian the only one with AVX-512. It boots Debian's cloud kernel from a CD image with the
# program in its initramfs; the package is fetched and unpacked, not installed. About 25 s to boot, then some 30 million
# instructions a second. -t: give up after so long (default 600 s). -d: a folder to bring along, which becomes the working
# directory. The status is 125 if the program did not come to its end. CPU: the model, as in `bochs --help cpu`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${EMULATE_CACHE:-$here/../../bin/emulate}
limit=600 folder="" env=()
fail() { echo "emulate: $*" >&2; exit 125; }
while getopts t:d: o; do
	case $o in t) limit=$OPTARG ;; d) folder=$OPTARG ;; *) exit 125 ;; esac
done
shift $((OPTIND - 1))
while [[ ${1:-} == *=* ]]; do env+=("$1"); shift; done
[ $# -gt 0 ] || fail "which program?"
program=$1; shift
[ -f "$program" ] || fail "$program: no such file"
for f in /usr/bin/bochs-bin /usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so /usr/share/bochs/BIOS-bochs-latest \
	/usr/share/vgabios/vgabios.bin /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 \
	/usr/bin/xorriso /usr/bin/cpio /usr/bin/script; do
	[ -e "$f" ] || fail "no $f; on Debian: apt-get install --no-install-recommends bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso cpio bsdutils"
done

# The kernel, once.
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
if [ ! -s "$cache/vmlinuz" ]; then
	package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
	[ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64: apt-get update"
	rm -rf "$cache/deb" && mkdir "$cache/deb"
	(cd "$cache/deb" && apt-get -qq download "$package" 2>/dev/null) || fail "apt-get download $package failed"
	dpkg-deb --fsys-tarfile "$cache"/deb/*.deb | tar -C "$cache/deb" -xf - --wildcards './boot/vmlinuz*'
	mv "$cache"/deb/boot/vmlinuz* "$cache/vmlinuz"
	rm -r "$cache/deb"
fi

t=$(mktemp -d)
emulator=""
trap '[ -z "$emulator" ] || kill "$emulator" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$t"' EXIT

# The initramfs, and the CD that boots it.
mkdir -p "$t/tree/here" "$t/cd/isolinux"
(cd "$here/init" && CGO_ENABLED=0 GOARCH=amd64 GOOS=linux go build -trimpath -ldflags='-s -w' -o "$t/tree/init" .)
cp "$program" "$t/tree/program"
if [ -n "$folder" ]; then cp -r "$folder/." "$t/tree/here/"; fi
: >"$t/tree/args"; [ $# -eq 0 ] || printf '%s\0' "$@" >"$t/tree/args"
: >"$t/tree/env"; [ ${#env[@]} -eq 0 ] || printf '%s\0' "${env[@]}" >"$t/tree/env"
(cd "$t/tree" && find . | cpio -o -H newc --quiet) >"$t/cd/initrd"
cp "$cache/vmlinuz" "$t/cd/"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$t/cd/isolinux/"
# What bochs 2.7 gets wrong, kept from the kernel by clearcpuid: it offers protection keys without their XSAVE state (515,
# pku); says a wrong size for compacted XSAVE (321 xsavec, 323 xsaves); and has FSRM (580) while fast strings are off in
# IA32_MISC_ENABLE, on which memmove of Linux 6.1 runs away. The rest saves time.
clear=515,321,323,580
cat >"$t/cd/isolinux/isolinux.cfg" <<-END
	default l
	prompt 0
	label l
	kernel /vmlinuz
	append initrd=/initrd console=ttyS0 loglevel=1 panic=-1 clearcpuid=$clear nokaslr mitigations=off cryptomgr.notests tsc=reliable lpj=1000000 idle=halt
END
xorriso -as mkisofs -quiet -o "$t/cd.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
	-boot-info-table "$t/cd" >"$t/xorriso.log" 2>&1 || { cat "$t/xorriso.log" >&2; fail "xorriso makes no CD image"; }

cat >"$t/bochsrc" <<-END
	plugin_ctrl: voodoo=0, es1370=0, sb16=0, e1000=0, gameport=0, usb_uhci=0, usb_ohci=0
	display_library: term
	sound: waveoutdrv=dummy, midioutdrv=dummy, waveindrv=dummy
	speaker: enabled=0
	cpu: model=${CPU:-corei7_icelake_u}, count=1, ips=50000000, reset_on_triple_fault=0
	memory: guest=1024, host=1024
	romimage: file=/usr/share/bochs/BIOS-bochs-latest
	vgaromimage: file=/usr/share/vgabios/vgabios.bin
	ata0: enabled=1
	ata0-master: type=cdrom, path=$t/cd.iso, status=inserted
	boot: cdrom
	com1: enabled=1, mode=file, dev=$t/serial
	log: $t/bochs.log
	panic: action=fatal
	error: action=ignore
	info: action=ignore
	clock: sync=none, time0=1700000000
END
echo c >"$t/commands" # Debian builds bochs with its debugger, which waits for "continue"
: >"$t/serial"

# The display is a terminal that script makes; nobody looks at it. bochs ends when the machine is switched off.
TERM=vt100 timeout -k 5 "$limit" script -qfec "exec bochs-bin -q -f $t/bochsrc -rc $t/commands" /dev/null </dev/null >"$t/display" 2>&1 &
emulator=$!
tail -n +1 -s 0.2 -f --pid="$emulator" "$t/serial" | sed -u 's/\r$//' | tee "$t/output"
wait "$emulator" || true
emulator=""
status=$(sed -n 's/^emulated: exit status \([0-9]*\)$/\1/p' "$t/output" | tail -1)
if [ -z "$status" ]; then
	tail -n 3 "$t/bochs.log" >&2 || true
	fail "$program did not come to its end in $limit s"
fi
exit "$status"
