# What a server of PostgreSQL would start as: DATA_DIRECTORY BIN_DIRECTORY (empty: as in host.sh). Prints `signal=yes|no`, and without a
# signal the control data. Only reads. Exit status: 0, or 3 with the reason on standard error.
set -u
export LC_ALL=C
D=$1 BIN=$2
[ -f "$D/PG_VERSION" ] || { echo "$D is not a data directory of PostgreSQL" >&2; exit 3; }
if [ -e "$D/standby.signal" ]; then
  echo signal=yes
  exit 0
fi
if [ -z "$BIN" ]; then
  read -r version <"$D/PG_VERSION"
  BIN=/usr/lib/postgresql/$version/bin
  [ -x "$BIN/pg_controldata" ] || BIN=/usr/pgsql-$version/bin
  [ -x "$BIN/pg_controldata" ] || BIN=$(dirname "$(command -v pg_controldata || echo /usr/bin/pg_controldata)")
fi
echo signal=no
"$BIN/pg_controldata" -D "$D" || exit 3
