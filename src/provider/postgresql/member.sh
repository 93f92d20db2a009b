# What is common to all that is done on a member's machine, as the owner of its data directory: arguments, locks, notes, start and stop.
# `host.sh` or `rebuild.sh` follows. Arguments:
#   VERB DATA_DIRECTORY BIN_DIRECTORY LOG LIMIT CONNINFO SLOT SENDERS RUN NUMBER SYSTEM TIMELINE  then argument lists, each led by its
#   length: inhibit, stop, start, allow, control_data (empty: built in), and what only one verb needs.
# LIMIT is in hundredths of a second; CONNINFO and SLOT are escaped for a configuration file; SENDERS are process numbers of walsenders
# whose receivers need not confirm the last of the log; RUN and NUMBER are whose word it is: within a run, who comes later has the higher
# number; SYSTEM and TIMELINE are a history.
# One call at a time changes something: it holds a lock on the data directory until it ends. So whoever comes after it finds what it
# did. What comes too late is refused: `void` and `unfence` leave a note that words of RUN with a lower number are void (for a fence: also
# that very one), so that one that was under way when its sender died stops nobody after its unfence.
# Every verb ends by printing the state: `alive=yes|no`, `status=…`, `signal=yes|no`, `mark=…`, `rebuild=…`, and the control data.
# Exit status: 0 done; 3 certainly nothing was done; 4 something may have been done.
set -u
export LC_ALL=C
verb=$1 D=$2 BIN=$3 LOG=$4 LIMIT=$5 CONNINFO=$6 SLOT=$7 SENDERS=$8 RUN=$9
shift 9
NUMBER=$1 SYSTEM=$2 TIMELINE=$3 MARK=$D/handover.fenced VOID=$D/handover.void
shift 3

refuse() { echo "$1" >&2; exit 3; }
fail() { echo "$1" >&2; exit 4; }

# Whether there is a data directory of ours.
present() {
  [ -f "$D/PG_VERSION" ] || refuse "$D is not a data directory of PostgreSQL"
  [ -O "$D" ] || refuse "$D does not belong to $(id -un)"
}

# Where the programs of its version are.
programs() {
  [ -z "$BIN" ] || return 0
  read -r version <"$D/PG_VERSION"
  BIN=/usr/lib/postgresql/$version/bin
  [ -x "$BIN/pg_ctl" ] || BIN=/usr/pgsql-$version/bin
  [ -x "$BIN/pg_ctl" ] || BIN=$(dirname "$(command -v pg_ctl || echo /usr/bin/pg_ctl)")
}

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
  exec "$@" </dev/null
}

# run NAME INDEX LIST…: the same, but no longer than LIMIT; what it prints on standard output is dropped. Says what went wrong, and fails.
run() {
  name=$1; shift
  custom "$@" >/dev/null 9<&- &
  job=$!
  { doze "$LIMIT"; kill -TERM "$job"; } >/dev/null 2>&1 9<&- &
  dog=$!
  wait "$job"; result=$?
  kill "$dog" 2>/dev/null; wait "$dog" 2>/dev/null
  [ "$result" -ne 143 ] || { echo "the command \`$name\` did not end in time" >&2; return 1; }  # by SIGTERM
  [ "$result" -eq 0 ] || { echo "the command \`$name\` failed with status $result" >&2; return 1; }
}

# The time in hundredths of a second.
clock() {
  if { read -r up _ </proc/uptime; } 2>/dev/null; then
    now=$((${up%.*} * 100 + 1${up#*.} - 100))
  else
    now=$(($(date +%s) * 100))
  fi
}

# Nothing is begun after this time.
latest=''

nap() { sleep 0.002 2>/dev/null || { sleep 1; naps=$((naps + 250)); }; }

doze() {
  clock; over=$((now + $1))
  while [ "$now" -lt "$over" ]; do sleep 0.02 2>/dev/null || sleep 1; clock; done
}

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
  clock
  end=$((now + $2)) naps=0 looked=0 ended=no
  while alive "$1"; do
    nap
    naps=$((naps + 1))
    if [ "$ended" = no ] && [ "$naps" -ge 70 ]; then ended=yes; end_senders "$1"; fi  # after about 200 ms
    [ $((naps - looked)) -ge 5 ] || continue
    looked=$naps
    clock
    [ "$now" -lt "$end" ] || return 1
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

# An old `sync` takes no files and says so; what the disk refuses is no such case.
durable() {
  said=$(sync "$@" 2>&1) && return 0
  case $said in *rror* | *"No space"* | *uota*) return 1 ;; esac
  sync
}

# in_time: whether something may still be begun
in_time() {
  [ -n "$latest" ] || return 0
  clock
  [ "$now" -lt "$latest" ]
}

# holds LINE FILE
holds() {
  while IFS= read -r line || [ -n "$line" ]; do
    [ "$line" != "$1" ] || return 0
  done <"$2"
  return 1
}

# From now on it can only start as a replica, of the member that CONNINFO names. What is written here is durable after `settle`.
follow() {
  auto=$D/postgresql.auto.conf
  connection="primary_conninfo = '$CONNINFO'" slot="primary_slot_name = '$SLOT'"
  if ! holds "$connection" "$auto" || ! holds "$slot" "$auto"; then
    umask 077
    { grep -v -e '^primary_conninfo *=' -e '^primary_slot_name *=' "$auto"; printf '%s\n%s\n' "$connection" "$slot"; } >"$auto.handover" &&
      durable "$auto.handover" && mv -f "$auto.handover" "$auto" || return 1
  fi
  : >"$D/standby.signal"
}

# note FILE TEXT
note() {
  if [ -e "$1" ]; then
    # On a full disk the old one stays.
    printf '%s\n' "$2" >"$1.new" && mv -f "$1.new" "$1"
  else
    printf '%s\n' "$2" >"$1"
  fi
}

# mark KIND
mark() { note "$MARK" "$1 run=$RUN"; }

# Takes the lock, which ends with this shell, whatever ends that: no other process may inherit it that could outlive it. Status 1: others
# kept it for all the time; 2: it cannot be had here, `said` tells why.
lock() {
  clock; over=$((now + LIMIT))
  { command exec 9<"$D"; } 2>/dev/null || { said="$D cannot be opened"; return 2; }
  while :; do
    # Not every `flock` knows how long to wait.
    said=$(flock -n 9 2>&1); result=$?
    [ "$result" -ne 0 ] || return 0
    [ "$result" -eq 1 ] && [ -z "$said" ] || return 2
    clock
    [ "$now" -lt "$over" ] && in_time || return 1
    sleep 0.005 2>/dev/null || sleep 1
  done
}

# alone: for what must not fail because there is no lock.
alone() {
  lock
  [ $? -ne 1 ] || refuse "$BUSY"
}
BUSY="another call of handover is at work on $D"

# void NUMBER: whether words of RUN up to NUMBER were called off.
void() {
  [ -n "$NUMBER" ] && [ -r "$VOID" ] || return 1
  whose='' number=''
  read -r whose number <"$VOID"
  [ "$whose" = "$RUN" ] && [ "$1" -lt "${number:-0}" ]
}

# What was said by somebody who has been superseded is not done.
timely() { ! void "$NUMBER" || refuse "the run has gone on without this word, which comes too late"; }

# From now on what earlier ones of RUN have said is void. This need not survive a loss of power, which ends every word that is on its way.
# On a full disk it fails, and so does the mark without which nothing is fenced.
call_off() { [ -z "$NUMBER" ] || note "$VOID" "$RUN $NUMBER"; }

# Forgets what another run has called off: none of its words can still be on its way.
forget() {
  [ -r "$VOID" ] || return 0
  whose=''
  read -r whose _ <"$VOID"
  [ "$whose" = "$RUN" ] || rm -f "$VOID"
}

# The mark and the signal survive a loss of power.
settle() {
  if [ -e "$MARK" ]; then durable "$MARK" "$D/standby.signal" "$D"; else durable "$D/standby.signal" "$D"; fi
}

# What left the mark: fence, withdraw or nothing.
marked() {
  kind=''
  [ ! -r "$MARK" ] || read -r kind _ <"$MARK"
}

unmark() { rm -f "$MARK" && durable "$D"; }

# of LABEL: a value of the control data that were read into `data`.
of() { printf '%s\n' "$data" | sed -n "s/^$1: *//p"; }

# Whether its history is still SYSTEM and TIMELINE, and it has heard of none that began later.
same_history() {
  data=$(control "$@") || return 1
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
  told="its stop signal"
  if given 2 "$@"; then
    told="the command \`stop\` had ended with status 0"
    run stop 2 "$@" || exit 4
  else
    kill -INT "$pid" || fail "process $pid cannot be signalled"
  fi
  wait_gone "$pid" "$LIMIT" || fail "process $pid still runs, some time after $told"
}

# Restart managers may take care of it again.
release() {
  if given 4 "$@"; then run allow 4 "$@" || exit 4; fi
}

# As it was started last, with the same options. Whoever says that he has started it is not believed before it runs.
start() {
  told="pg_ctl has started it"
  if given 3 "$@"; then
    told="the command \`start\` ended with status 0"
    run start 3 "$@" || exit 4
  else
    options=$(sed -n '1s/^[^"]*//p' "$D/postmaster.opts" 2>/dev/null)
    "$BIN/pg_ctl" start -W -s -D "$D" -l "$LOG" -o "$options" </dev/null >/dev/null 2>&1 8<&- 9<&- ||
      fail "it did not start; see $LOG"
  fi
  clock; over=$((now + LIMIT))
  pid
  until alive "$pid"; do
    nap
    clock
    [ "$now" -lt "$over" ] || fail "$told, but nothing runs; see its log"
    pid
  done
}

control() {
  if given 5 "$@"; then (custom 5 "$@" 9<&-); else "$BIN/pg_controldata" -D "$D" </dev/null; fi
}

show() {
  pid
  if alive "$pid"; then echo "alive=yes"; else echo "alive=no"; status=''; fi
  echo "status=$status"
  if [ -e "$D/standby.signal" ]; then echo "signal=yes"; else echo "signal=no"; fi
  marked
  echo "mark=$kind"
  stage=''
  [ ! -r "$D.rebuild" ] || stage=$(sed -n 's/^stage=//p' "$D.rebuild")
  echo "rebuild=$stage"
  control "$@"
}

