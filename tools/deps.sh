#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Installs the Debian packages that are missing (Debian 12 and 13); says nothing when none is.
# usage: tools/deps.sh [build|check]     build: to build and run; check (default): also to test
set -eu

# To build and to run: compiler, meson, DPDK (its drivers come with it), YAML, JSON, gzip, ZIP, pcap, manual pages.
BUILD="gcc libc6-dev meson ninja-build pkgconf libdpdk-dev libyaml-dev libjansson-dev libarchive-dev zlib1g-dev libpcap-dev"
BUILD="$BUILD liblbfgs-dev scdoc"
# To test: units, clang with its sanitizers and fuzzer, the live tests (namespaces, replay), plots, the RoCE lab (docs/lab.md).
CHECK="libcmocka-dev clang libclang-rt-dev python3 python3-numpy python3-yaml iproute2 tcpreplay gnuplot-nox"
CHECK="$CHECK qemu-system-x86 tcpdump libibverbs-dev ibverbs-providers perftest openmpi-bin libopenmpi-dev"

case "${1:-check}" in
build) wanted=$BUILD ;;
check) wanted="$BUILD $CHECK" ;;
*)
	sed -n 's/^# usage: //p' "$0" >&2
	exit 2
	;;
esac

if ! command -v dpkg-query >/dev/null; then
	echo "tools/deps.sh: this is no Debian; install what these packages hold: $wanted" >&2
	exit 1
fi

missing=
for p in $wanted; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "tools/deps.sh: missing:$missing" >&2
		echo "tools/deps.sh: as root: apt-get install$missing" >&2
		exit 1
	}
	root=sudo
fi

echo "installing:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
	$root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}
# A stale or broken foreign package list must not stop us: the installation decides.
apt update || true
# shellcheck disable=SC2086 # a list of words
apt install --no-install-recommends $missing || {
	cat "$log" >&2
	echo "tools/deps.sh: apt-get could not install:$missing" >&2
	exit 1
}
