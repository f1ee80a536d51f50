#!/bin/bash
# Runs kernel_check's AVX-512 build on a processor that has no AVX-512.
#
#   tests/native/emulate_avx512.sh [KERNEL_CHECK_ARGUMENT...]        (default: --isa avx512 --quick)
#
# Builds kernel_check statically, boots a Debian kernel with it inside Bochs, which emulates a
# Skylake-X with its opmasks and 64-byte registers, prints what it prints and exits with its status.
# For releases and for work on the vector code; not part of CI.
#
# Needs Debian 12 or its like on x86-64, apt's package lists up to date, g++, CMake and Ninja, but no
# root: Debian packages (41 MB) are fetched with apt and unpacked in a temporary directory, which is
# removed at the end. Took about 5 minutes on one shared core, 3 of them in the emulator.
set -euo pipefail

source_dir=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
emulator=
trap '[[ -z $emulator ]] || kill "$emulator" 2>/dev/null || true; rm -rf "$work"' EXIT
(($# > 0)) || set -- --isa avx512 --quick

# ---- the program ---------------------------------------------------------------------------------
cmake -S "$source_dir" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DSBC_TESTS=ON -DSBC_PYTHON=OFF -DSBC_CUDA=OFF -DCMAKE_EXE_LINKER_FLAGS=-static >"$work/log"
cmake --build "$work/build" >>"$work/log" || { cat "$work/log"; exit 2; }

# ---- Debian packages, unpacked, not installed ----------------------------------------------------
mkdir -p "$work/debs/partial" "$work/root" && cd "$work/debs"
linux=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
fetch() {
  apt-get -q "$@" -o Debug::NoLocking=1 -o Dir::Cache::archives="$work/debs" >>"$work/log" 2>&1
}
fetch install --yes --reinstall --download-only --no-install-recommends \
  bochs bochs-term bochsbios vgabios genisoimage
fetch download "$linux" busybox-static isolinux syslinux-common
for package in *.deb; do dpkg -x "$package" "$work/root"; done

# ---- a system whose first process runs the program -----------------------------------------------
mkdir -p "$work/initrd/proc" "$work/iso" && cd "$work/initrd"
cp "$work/root/bin/busybox" "$work/build/tests/native/kernel_check" .
cat >init <<INIT
#!/busybox sh
/busybox mount -t proc proc /proc
/busybox grep -m 1 -o 'avx512[a-z]*' /proc/cpuinfo
/kernel_check $*
echo "exit status \$?"
/busybox sleep 1  # the serial port drains
/busybox reboot -f
INIT
chmod +x init
find . | ./busybox cpio -o -H newc >"$work/iso/initrd" 2>>"$work/log"
cp "$work/root"/boot/vmlinuz-* "$work/iso/vmlinuz"
cp "$work/root/usr/lib/ISOLINUX/isolinux.bin" \
  "$work/root/usr/lib/syslinux/modules/bios/ldlinux.c32" "$work/iso"
options="console=ttyS0 loglevel=0 mitigations=off panic=-1 reboot=triple"
# Bochs 2.7 misstates the size of XSAVEC's area, on which Linux would give up all vector registers.
options+=" clearcpuid=xsavec,xsaves"
cat >"$work/iso/isolinux.cfg" <<CFG
default check
label check
  kernel vmlinuz
  append initrd=initrd $options
CFG
"$work/root/usr/bin/genisoimage" -quiet -o "$work/disc" -b isolinux.bin -c boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table "$work/iso"

# ---- the machine: the console goes to a file, a reboot ends the emulation ------------------------
library="$work/root/usr/lib/x86_64-linux-gnu"
cat >"$work/bochsrc" <<RC
cpu: model=corei7_skylake_x, ips=100000000, reset_on_triple_fault=0
memory: guest=512, host=512
romimage: file="$work/root/usr/share/bochs/BIOS-bochs-latest"
vgaromimage: file="$work/root/usr/share/vgabios/vgabios.bin"
ata0-master: type=cdrom, path="$work/disc", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev="$work/console"
display_library: term
log: "$work/bochs.log"
panic: action=fatal
RC
echo continue >"$work/commands"  # Debian's Bochs starts in its debugger
touch "$work/console"
TERM=vt100 LD_LIBRARY_PATH="$library" LTDL_LIBRARY_PATH="$library/bochs/plugins" \
  script -qfc "'$work/root/usr/bin/bochs-bin' -q -rc '$work/commands' -f '$work/bochsrc'" \
  /dev/null >/dev/null </dev/null &
emulator=$!
tail -f --pid="$emulator" "$work/console"
wait "$emulator" || true
emulator=
status=$(sed -n 's/^exit status \([0-9]*\).*/\1/p' "$work/console")
if [[ -z $status ]]; then
  echo "the emulated machine stopped early:" && tail -n 20 "$work/bochs.log"
  exit 2
fi
exit "$status"
