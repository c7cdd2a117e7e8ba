#!/bin/sh
# Install the storage servers that the tests start and that pip does not bring. Safe to run again: what is there stays.
#
# Debian packages: Apache, nginx and lighttpd for WebDAV, sshd for SFTP; and programs that load the SQLite extension:
# sqlite3, Python's sqlite3, PHP, Ruby, with a C compiler and valgrind. npm, below .servers/ in this project: azurite,
# and Node and Bun, which load the extension too.
# No service stays running: the tests start every server themselves, on loopback.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
servers="$here/.servers"
mkdir -p "$servers"

wanted="apache2-bin lighttpd lighttpd-mod-webdav nginx-light libnginx-mod-http-dav-ext openssh-client openssh-server openssl
gcc libc6-dev php-cli php-sqlite3 python3 ruby ruby-sqlite3 sqlite3 valgrind"
missing=""
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    policy=/usr/sbin/policy-rc.d
    ours=""
    if [ ! -e "$policy" ]; then # lets apt start nothing while it installs
        ours=yes
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
        $sudo chmod 755 "$policy"
    fi
    status=0
    { $sudo apt-get update -qq &&
        # shellcheck disable=SC2086
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >"$servers/apt.log" 2>&1 || status=$?
    [ -z "$ours" ] || $sudo rm -f "$policy"
    [ "$status" = 0 ] || { tail -20 "$servers/apt.log" >&2; exit "$status"; }
fi

if [ ! -e "$servers/node_modules/azurite/dist/src/blob/main.js" ] ||
    [ ! -e "$servers/node_modules/node/bin/node" ] || [ ! -e "$servers/node_modules/bun/bin/bun.exe" ]; then
    command -v npm >/dev/null || { echo "npm is missing: install Node.js 18 or later" >&2; exit 1; }
    npm install --prefix "$servers" --no-audit --no-fund --no-save \
        azurite@3.35.0 bun@1.4.5 node@24 >"$servers/npm.log" 2>&1 ||
        { tail -20 "$servers/npm.log" >&2; exit 1; }
fi
