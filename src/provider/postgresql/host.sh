# What is done on a member's machine, as the owner of its data directory. One call does several things, so that each phase of a
# switchover costs one round trip. Arguments:
#   VERB DATA_DIRECTORY BIN_DIRECTORY LOG LIMIT CONNINFO SLOT SENDERS RUN SYSTEM TIMELINE  then five argument lists, each led by its
#   length: inhibit, stop, start, allow, control_data (empty: built in).
# VERB is state, fence, withdraw, unfence, unmark or rejoin; LIMIT is in seconds; CONNINFO and SLOT are escaped for a configuration
# file; SENDERS are process numbers of walsenders whose receivers need not confirm the last of the log; RUN is whose work it is;
# SYSTEM and TIMELINE are the history that an unfence restores.
# Fence and withdraw leave a mark in the data directory, before anything else: only what has the mark of a fence is made a primary again.
# Every verb ends by printing the state: `alive=yes|no`, `status=…`, `signal=yes|no`, `mark=…`, and the control data.
# Exit status: 0 done; 3 certainly nothing was done; 4 something may have been done.
set -u
export LC_ALL=C
verb=$1 D=$2 BIN=$3 LOG=$4 LIMIT=$5 CONNINFO=$6 SLOT=$7 SENDERS=$8 RUN=$9
shift 9
SYSTEM=$1 TIMELINE=$2 MARK=$D/handover.fenced
shift 2

refuse() { echo "$1" >&2; exit 3; }
fail() { echo "$1" >&2; exit 4; }

[ -f "$D/PG_VERSION" ] || refuse "$D is not a data directory of PostgreSQL"
[ -O "$D" ] || refuse "$D does not belong to $(id -un)"
if [ -z "$BIN" ]; then
  read -r version <"$D/PG_VERSION"
  BIN=/usr/lib/postgresql/$version/bin
  [ -x "$BIN/pg_ctl" ] || BIN=/usr/pgsql-$version/bin
  [ -x "$BIN/pg_ctl" ] || BIN=$(dirname "$(command -v pg_ctl || echo /usr/bin/pg_ctl)")
fi

# given INDEX LIST…: whether the INDEX-th of the counted lists holds anything
given() {
  index=$1; shift
  while [ "$index" -gt 1 ]; do n=$1; shift; shift "$n"; index=$((index - 1)); done
  [ "$1" -gt 0 ]
}

# custom INDEX LIST…: runs the INDEX-th of the counted lists
custom() {
  index=$1; shift
  while [ "$index" -gt 1 ]; do n=$1; shift; shift "$n"; index=$((index - 1)); done
  n=$1; shift
  total=$# i=0
  while [ "$i" -lt "$n" ]; do set -- "$@" "$1"; shift; i=$((i + 1)); done
  shift $((total - n))
  "$@" </dev/null
}

nap() { sleep 0.002 2>/dev/null || { sleep 1; naps=$((naps + 250)); }; }

# The postmaster's process number, and its own word for what it does (ready, standby, starting, stopping).
pid() {
  pid='' status=''
  [ -r "$D/postmaster.pid" ] || return 0
  { read -r pid; read -r _; read -r _; read -r _; read -r _; read -r _; read -r _; read -r status; } <"$D/postmaster.pid" 2>/dev/null
  return 0
}

# alive PID: a zombie is dead, and so is a number that another program got meanwhile.
alive() {
  [ -n "$1" ] && kill -0 "$1" 2>/dev/null || return 1
  [ -d /proc/self ] || return 0
  { read -r _ _ state parent _ <"/proc/$1/stat"; } 2>/dev/null || return 1
  [ "$state" != Z ] || return 1
  [ -e "/proc/$1/cwd" ] || return 0
  [ "/proc/$1/cwd" -ef "$D" ]
}

# A receiver that has frozen would delay the clean stop for `wal_sender_timeout`.
end_senders() {
  for sender in $SENDERS; do
    if { read -r _ _ _ parent _ <"/proc/$sender/stat"; } 2>/dev/null && [ "$parent" = "$1" ]; then
      kill -TERM "$sender" 2>/dev/null
    fi
  done
}

# wait_gone PID LIMIT
wait_gone() {
  end=$(($(date +%s) + $2 + 1)) naps=0 looked=0 ended=no
  while alive "$1"; do
    nap
    naps=$((naps + 1))
    if [ "$ended" = no ] && [ "$naps" -ge 70 ]; then ended=yes; end_senders "$1"; fi  # after about 200 ms
    [ $((naps - looked)) -ge 50 ] || continue
    looked=$naps
    [ "$(date +%s)" -lt "$end" ] || return 1
  done
  return 0
}

# Ends PID whatever it does. What it has acknowledged is in its log: to end it at once loses nothing, and takes a recovery.
end_soon() {
  kill -INT "$1" 2>/dev/null
  naps=0
  while alive "$1" && [ "$naps" -lt 150 ]; do nap; naps=$((naps + 1)); done  # about 500 ms
  alive "$1" || return 0
  kill -QUIT "$1" 2>/dev/null
  wait_gone "$1" "$LIMIT"
}

durable() { sync "$@" 2>/dev/null || sync; }

# From now on it can only start as a replica, of the member that CONNINFO names.
follow() {
  auto=$D/postgresql.auto.conf
  connection="primary_conninfo = '$CONNINFO'" slot="primary_slot_name = '$SLOT'"
  if ! grep -qxF "$connection" "$auto" || ! grep -qxF "$slot" "$auto"; then
    umask 077
    { grep -v -e '^primary_conninfo *=' -e '^primary_slot_name *=' "$auto"; printf '%s\n%s\n' "$connection" "$slot"; } >"$auto.handover" &&
      durable "$auto.handover" && mv -f "$auto.handover" "$auto" || return 1
  fi
  : >"$D/standby.signal" && durable "$D/standby.signal" "$D"
}

# mark KIND
mark() {
  printf '%s run=%s\n' "$1" "$RUN" >"$MARK.new" && durable "$MARK.new" && mv -f "$MARK.new" "$MARK" && durable "$D"
}

# What left the mark: fence, withdraw or nothing.
marked() {
  kind=''
  [ ! -r "$MARK" ] || read -r kind _ <"$MARK"
  echo "$kind"
}

unmark() { rm -f "$MARK" && durable "$D"; }

# Whether its history is still SYSTEM and TIMELINE, and it has heard of none that began later.
same_history() {
  data=$(control "$@") || return 1
  of() { printf '%s\n' "$data" | sed -n "s/^$1: *//p"; }
  [ "$(of 'Database system identifier')" = "$SYSTEM" ] || return 1
  [ "$(of "Latest checkpoint's TimeLineID")" = "$TIMELINE" ] || return 1
  replayed=$(of "Min recovery ending loc's timeline")
  [ "${replayed:-0}" -le "$TIMELINE" ] || return 1
  for history in "$D"/pg_wal/????????.history; do
    [ -e "$history" ] || continue
    history=${history##*/}
    [ $((0x${history%.history})) -le "$TIMELINE" ] || return 1
  done
}

# Stops it for good: SIGINT is a fast stop.
halt() {
  pid
  alive "$pid" || return 0
  if given 2 "$@"; then
    custom 2 "$@" >/dev/null || fail "the command \`stop\` failed"
  else
    kill -INT "$pid" || fail "process $pid cannot be signalled"
  fi
  wait_gone "$pid" "$LIMIT" || fail "process $pid did not end within $LIMIT s of its stop signal"
}

# Restart managers may take care of it again.
release() {
  if given 4 "$@"; then custom 4 "$@" >/dev/null || fail "the command \`allow\` failed"; fi
}

# As it was started last, with the same options.
start() {
  if given 3 "$@"; then custom 3 "$@"; return; fi
  options=$(sed -n '1s/^[^"]*//p' "$D/postmaster.opts" 2>/dev/null)
  "$BIN/pg_ctl" start -W -s -D "$D" -l "$LOG" -o "$options" </dev/null >/dev/null 2>&1
}

control() {
  if given 5 "$@"; then custom 5 "$@"; else "$BIN/pg_controldata" -D "$D" </dev/null; fi
}

show() {
  pid
  if alive "$pid"; then echo "alive=yes"; else echo "alive=no"; status=''; fi
  echo "status=$status"
  if [ -e "$D/standby.signal" ]; then echo "signal=yes"; else echo "signal=no"; fi
  echo "mark=$(marked)"
  control "$@"
}

case $verb in
state) ;;
fence | withdraw)
  before=$(marked)
  if [ "$verb" = fence ] && [ "$before" != fence ]; then
    # A replica must never get the mark that would let an unfence make it a primary.
    [ ! -e "$D/standby.signal" ] || refuse "it is a replica"
    case $(control "$@") in *"in archive recovery"* | *"shut down in recovery"*) refuse "it is a replica" ;; esac
  fi
  signalled=no
  [ ! -e "$D/standby.signal" ] || signalled=yes
  back() {
    [ "$signalled" = yes ] || rm -f "$D/standby.signal"
    [ -n "$before" ] || unmark
    release "$@"
  }
  mark "$verb" || { [ -n "$before" ] || rm -f "$MARK"; refuse "$MARK cannot be written"; }
  if given 1 "$@"; then custom 1 "$@" >/dev/null || { back "$@"; refuse "the command \`inhibit\` failed"; }; fi
  # Before the stop, so that no restart, however soon, brings a primary back.
  follow || { back "$@"; refuse "$D/standby.signal or postgresql.auto.conf cannot be written"; }
  halt "$@"
  ;;
unfence)
  pid
  case $(control "$@") in *"in production"*) primary=yes ;; *) primary=no ;; esac
  case $status in stopping*) primary=no ;; esac
  if [ "$(marked)" != fence ]; then
    # Not our work. A primary that runs is as wished; everything else is left alone.
    alive "$pid" || refuse "it does not run, and was not fenced from here"
    [ "$primary" = yes ] || [ ! -e "$D/standby.signal" ] || refuse "it is a replica that was not fenced from here"
  else
    same_history "$@" || refuse "its history is no longer the one that it had as primary"
    if alive "$pid" && [ "$primary" = no ]; then
      end_soon "$pid" || fail "process $pid does not end"
    fi
    rm -f "$D/standby.signal" || fail "$D/standby.signal cannot be removed"
    durable "$D"
    release "$@"
    pid
    alive "$pid" || start "$@" || fail "it did not start; see $LOG"
  fi
  ;;
unmark) unmark || fail "$MARK cannot be removed" ;;
rejoin)
  pid
  if ! alive "$pid"; then
    follow && unmark || fail "$D/standby.signal or postgresql.auto.conf cannot be written"
    release "$@"
    start "$@" || fail "it did not start; see $LOG"
  fi
  ;;
*) refuse "unknown verb $verb" ;;
esac
show "$@"
