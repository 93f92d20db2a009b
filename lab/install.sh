#!/bin/sh
# Installs the Debian packages whose servers the lab runs, and those that are named as arguments. No service is started on this
# machine: a temporary policy-rc.d forbids it, and what was there before is put back, also after a failure. Does nothing where all
# packages are installed. Minimal systems lack procps too: `ps` and `kill`.
set -eu

packages="bind9 bind9-dnsutils haproxy pgbouncer unbound postgresql-15 openssh-server openssh-client iproute2 curl procps libfaketime netcat-openbsd $*"

missing=
for package in $packages; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "lab/install.sh: these packages are missing:$missing" >&2
    echo "Installing them needs root: run it with sudo." >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "lab/install.sh: these packages are missing, and there is no apt-get to install them:$missing" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
saved=
restore() {
    rm -f "$policy"
    if [ -n "$saved" ]; then
        mv "$saved" "$policy"
    fi
}
if [ -e "$policy" ] || [ -L "$policy" ]; then
    saved=$(mktemp "$policy.XXXXXX")
    mv "$policy" "$saved"
fi
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# Exit status 101: the action is not allowed (invoke-rc.d(8)).
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of packages
apt-get install -y -qq --no-install-recommends $missing
