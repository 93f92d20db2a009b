# reach.sh MILLISECONDS [HOST PORT]…
# Tries a TCP connection to each address, all at once, and prints those that were made, one a line. What has not answered in time was not
# reached. bash connects by itself (/dev/tcp); without it `nc -z` does; without either: status 3.
body='
time=$1
shift
tries= all=
while [ $# -gt 1 ]; do
  connect "$1" "$2" </dev/null >/dev/null 2>&1 &
  tries="$tries $!"
  all="$all $! $1 $2"
  shift 2
done
[ -n "$tries" ] || exit 0
# A sleep that takes no fractions takes the whole second.
(
  trap "kill \$! 2>/dev/null; exit" TERM
  sleep "$((time / 1000)).$(printf %03d $((time % 1000)))" &
  wait $! || { sleep 1 & wait $!; }
  kill $tries
) >/dev/null 2>&1 &
clock=$!
set -- $all
while [ $# -gt 2 ]; do
  if wait "$1" 2>/dev/null; then echo "$2 $3"; fi
  shift 3
done
kill "$clock" 2>/dev/null
exit 0
'
# A bash that is built without /dev/tcp looks for a file of that name.
if command -v bash >/dev/null 2>&1 && ! LC_ALL=C bash -c 'exec 3<>/dev/tcp/127.0.0.1/0' 2>&1 | grep -q "No such file"; then
  exec bash -c "connect() { exec 3<>\"/dev/tcp/\$1/\$2\"; }$body" bash "$@"
elif command -v nc >/dev/null 2>&1; then
  connect() { exec nc -z -w 2 "$1" "$2"; }
  eval "$body"
fi
echo "neither bash with /dev/tcp nor nc is installed" >&2
exit 3
