#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs Suricata, as root on Debian. Debian 12 has it among its backports only: they are taken from where its packages
# come from, and nothing else is taken from them.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq install -y --no-install-recommends suricata >/dev/null 2>&1 && exit
. /etc/os-release
from=$VERSION_CODENAME-backports
site=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' "Codename: $VERSION_CODENAME" | head -1)
[ -n "$site" ] || { echo "Suricata: apt knows no packages of $VERSION_CODENAME; install suricata by hand"; exit 1; }
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f $keys ] && signed="[signed-by=$keys] " || signed=
echo "deb $signed$site $from main" >/etc/apt/sources.list.d/ntap-backports.list
apt-get -qq update
apt-get -qq install -y --no-install-recommends "suricata/$from" "libhtp2/$from" >/dev/null
