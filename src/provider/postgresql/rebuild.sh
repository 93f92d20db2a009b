# Makes a replica of a member whose history is not the primary's, or that did not end cleanly. After `member.sh`; VERB is rebuild. A sixth
# list holds: SOURCE, how to connect to the primary; KEEP, `data` or `wal`: what is kept aside; FREE, the MiB that must stay free; CHOSEN,
# `chosen` where an operator has said that the primary's history counts, even if the member's is the later one.
#
# What would be lost is kept in DATA_DIRECTORY.diverged-TIME before anything is discarded: the log from the fork on, the list of its
# records with what they touched, and (KEEP data) the whole directory. Then pg_rewind; where that cannot be, a new copy beside the
# directory, and both change places.
#
# Each stage begins with a durable note in DATA_DIRECTORY.rebuild and can be ended by anything at any moment: the next call goes on.
#   keep     nothing was touched but that it can only start as a replica
#   recover  a crash recovery, as a replica that receives from nobody; nothing is listened on but a socket of its own
#   rewind   pg_rewind also removes the signal file: meanwhile the mode of the directory is one with which no server starts. One that was
#            cut short is not gone on with: what it left is good for nothing but for copying anew
#   copy     a new copy is made beside it
#   swap     the two change places
#   follow   it is started
STATE=$D.rebuild NEW=$D.rebuilt touched=no
export PGCONNECT_TIMEOUT=10
# Nothing here needs longer than a minute but what has no limit at all.
[ "$LIMIT" -le 6000 ] || LIMIT=6000

sixth() {
  for skipped in 1 2 3 4 5; do n=$1; shift; shift "$n"; done
  shift
  SOURCE=$1 KEEP=$2 FREE=$3 CHOSEN=${4:-}
}

# What the note says.
recall() {
  stage='' KEPT='' MODE=''
  [ -r "$STATE" ] || return 0
  while IFS='=' read -r key value; do
    case $key in stage) stage=$value ;; kept) KEPT=$value ;; mode) MODE=$value ;; esac
  done <"$STATE"
}

# begin STAGE
begin() {
  stage=$1
  printf 'stage=%s\nkept=%s\nmode=%s\n' "$stage" "$KEPT" "$MODE" >"$STATE.new" && durable "$STATE.new" && mv -f "$STATE.new" "$STATE" &&
    durable "$(dirname "$D")" || quit "$STATE cannot be written"
}

quit() {
  [ "$touched" = no ] || fail "$1"
  rm -rf "$PART"
  rm -f "$STATE"
  refuse "$1"
}

# ask QUESTION [MORE]: asks the primary; MORE is added to the connection.
ask() {
  client=$BIN/psql
  [ -x "$client" ] || client=psql
  "$client" -X -q -At -d "$SOURCE ${2:-}" -c "$1" </dev/null 9<&-
}

number() { echo $(((0x${1%/*} << 32) | 0x${1#*/})); }

# logical LSN: the number of its segment, whatever the timeline.
logical() { echo $(($(number "$1") / segment_size)); }

kilobytes_free() { df -Pk "$(dirname "$D")" | awk 'NR == 2 { print $4 }'; }

# spans LAST: the timelines of a history file on standard input, which LAST ends: number, begin and end of each.
spans() {
  awk -v last="$1" '
    BEGIN { begin = "0/0" }
    $1 ~ /^[0-9]+$/ && $2 ~ /^[0-9A-F]+\/[0-9A-F]+$/ && $1 + 0 < last + 0 { print $1, begin, $2; begin = $2 }
    END { print last, begin, "-" }'
}

# fork THEIRS OWN: where two histories part, as pg_rewind has it; then what there is of the second one from there on.
fork() {
  awk '
    function key(lsn, part, text) {
      split(lsn, part, "/"); text = sprintf("%8s%8s", part[1], part[2]); gsub(/ /, "0", text); return text
    }
    NR == FNR { timeline[NR] = $1; begin[NR] = $2; end[NR] = $3; next }
    {
      own[FNR] = $0; count = FNR
      if (!apart && $1 == timeline[FNR] && $2 == begin[FNR]) { last = FNR; mine = $3; fork = end[FNR] } else apart = 1
    }
    END {
      if (!last) exit 1
      if (fork == "-" || (mine != "-" && key(mine) < key(fork))) fork = mine
      print "fork", fork, "-"
      for (i = last; i <= count; i++) {
        split(own[i], part, " ")
        if (i == last && fork != "-") part[2] = fork
        if (part[2] != part[3]) print part[1], part[2], part[3]
      }
    }' "$1" "$2"
}

# Finds out where its history leaves the primary's, into `forked` (nothing where it does not) and PART/spans.
compare() {
  # Its warnings are no part of the answer.
  said=$(ask IDENTIFY_SYSTEM replication=true 2>"$PART/error") ||
    quit "the primary cannot be asked with the replication login: $(tail -n 3 "$PART/error")"
  system=$(of 'Database system identifier')
  [ "${said%%|*}" = "$system" ] || quit "the primary is of system ${said%%|*}, this member of $system"
  theirs=${said#*|} theirs=${theirs%%|*}
  timeline=$(of "Latest checkpoint's TimeLineID")
  recovered=$(of "Min recovery ending loc's timeline")
  [ "${recovered:-0}" -le "$timeline" ] || timeline=$recovered
  [ "$timeline" -le "$theirs" ] || [ "$CHOSEN" = chosen ] || quit "it is on timeline $timeline, the primary on $theirs: the primary has the older history"
  if [ "$theirs" -gt 1 ]; then
    ask "TIMELINE_HISTORY $theirs" replication=true >"$PART/theirs.history" || quit "the primary does not tell its timeline history"
  else
    : >"$PART/theirs.history"
  fi
  # The first line of the answer begins with the name of the file.
  sed 's/^[0-9A-F]*\.history|//' "$PART/theirs.history" | spans "$theirs" >"$PART/theirs"
  own=$D/pg_wal/$(printf '%08X' "$timeline").history
  if [ -r "$own" ]; then spans "$timeline" <"$own"; else spans "$timeline" </dev/null; fi >"$PART/own"
  fork "$PART/theirs" "$PART/own" >"$PART/spans" || quit "its history has nothing in common with the primary's"
  segment_size=$(of 'Bytes per WAL segment')
  read -r _ forked _ <"$PART/spans"
  [ "$forked" != - ] || forked=''
}

# Lists what it has beyond the fork, into PART/records. False where it has nothing.
list() {
  : >"$PART/records"
  [ -n "$forked" ] || return 1
  while read -r timeline from to; do
    [ "$timeline" != fork ] || continue
    if [ "$to" = - ]; then to=''; else to="-e $to"; fi
    # shellcheck disable=SC2086
    "$BIN/pg_waldump" -p "$D/pg_wal" -t "$timeline" -s "$from" $to 2>>"$PART/pg_waldump.log" </dev/null | grep '^rmgr' >>"$PART/records"
  done <"$PART/spans"
  [ ! -s "$PART/records" ] || return 0
  # The log may be gone: the control data tell all the same that there was some.
  [ "$(number "$(of 'Latest checkpoint location')")" -ge "$(number "$forked")" ]
}

# named DATABASE SPACE/NODE…: the relations of a database, as the primary calls them; those that it does not know stay numbers.
named() {
  whose=$1; shift
  name=$(ask "SELECT datname FROM pg_database WHERE oid = $whose" 2>/dev/null)
  values=''
  for file in "$@"; do values="$values, (${file%/*}::oid, ${file#*/}::oid)"; done
  case $name in *[\'\\]*) name='' ;; esac
  [ "$whose" != 0 ] || name=postgres
  [ -n "$name" ] && ask "
    SELECT DISTINCT CASE WHEN o.oid IS NULL THEN format('%s: relfilenode %s', current_database(), node)
             ELSE format('%s.%I.%I', CASE WHEN space <> 1664 THEN current_database() ELSE 'shared' END, nspname, o.relname) END
      FROM (VALUES ${values#, }) AS file(space, node)
      LEFT JOIN pg_class c ON c.oid = pg_filenode_relation(space, node)
      LEFT JOIN pg_index i ON i.indexrelid = c.oid
      LEFT JOIN pg_class t ON t.reltoastrelid = coalesce(i.indrelid, c.oid)
      LEFT JOIN pg_class o ON o.oid = coalesce(t.oid, i.indrelid, c.oid)
      LEFT JOIN pg_namespace n ON n.oid = o.relnamespace" "dbname='$name'" 2>/dev/null && return
  for file in "$@"; do echo "database $whose: relfilenode ${file#*/}"; done
}

# Sums the list up, into PART/summary and PART/relations.
sum_up() {
  awk '
    { count++ }
    /^rmgr: Transaction/ && /desc: COMMIT/ { commits++ }
    { last = $0; rest = $0
      while (match(rest, /rel [0-9]+\/[0-9]+\/[0-9]+/)) {
        split(substr(rest, RSTART + 4, RLENGTH - 4), part, "/"); touched[part[2] " " part[1] "/" part[3]] = 1
        rest = substr(rest, RSTART + RLENGTH)
      } }
    END {
      lsn = last; sub(/.*lsn: /, "", lsn); sub(/,.*/, "", lsn)
      total = last; sub(/.*len \(rec\/tot\): *[0-9]+\/ */, "", total); sub(/,.*/, "", total)
      print count + 0, commits + 0, (count ? lsn : "0/0"), total + 0
      for (one in touched) print one
    }' "$PART/records" >"$PART/touched"
  read -r records commits lsn total <"$PART/touched"
  bytes=0 listed=no until=''
  if [ "$records" -gt 0 ]; then listed=yes bytes=$(($(number "$lsn") + total - $(number "$forked"))) until=$lsn; fi
  sed 1d "$PART/touched" | sort | {
    before='' nodes=''
    while read -r database node; do
      # shellcheck disable=SC2086
      [ "$database" = "$before" ] || { [ -z "$before" ] || named "$before" $nodes; before=$database nodes=''; }
      nodes="$nodes $node"
    done
    # shellcheck disable=SC2086
    [ -z "$before" ] || named "$before" $nodes
  } | sort -u >"$PART/names"
  # Catalogs last: everybody touches them.
  { grep -v '\.pg_catalog\.' "$PART/names"; grep '\.pg_catalog\.' "$PART/names"; } >"$PART/relations"
  rm -f "$PART/touched" "$PART/names"
  printf 'from=%s\nlisted=%s\nrecords=%s\nbytes=%s\ntransactions=%s\n' "$forked" "$listed" "$records" "$bytes" "$commits" >"$PART/summary"
}

# The segments from the fork to the end of the list (all, where there is none), and what tells one timeline from another.
diverged_log() {
  first=$(logical "$forked") last=''
  [ -z "$until" ] || last=$(logical "$until")
  for file in "$D"/pg_wal/*; do
    name=${file##*/}
    case $name in
    *.history) echo "$file" ;;
    ????????????????????????)
      high=${name#????????} low=${high#????????} high=${high%????????}
      at=$((0x$high * (0x100000000 / segment_size) + 0x$low))
      [ "$at" -ge "$first" ] && [ "$at" -le "${last:-$at}" ] && echo "$file"
      ;;
    esac
  done
}

# What is the member's own: a rewind and a copy bring the primary's files. All that is not PostgreSQL's, and its last options.
configuration() {
  mkdir "$PART/configuration" || return 1
  for file in "$D"/* "$D"/.[!.]*; do
    case ${file##*/} in
    base | global | log | pg_log | pg_wal | pg_xact | pg_multixact | pg_commit_ts | pg_dynshmem | pg_logical | pg_notify | pg_replslot | \
      pg_serial | pg_snapshots | pg_stat | pg_stat_tmp | pg_subtrans | pg_tblspc | pg_twophase | PG_VERSION | backup_label* | \
      backup_manifest* | tablespace_map* | postmaster.pid | *.signal | current_logfiles* | handover.*) continue ;;
    esac
    [ ! -e "$file" ] && [ ! -L "$file" ] || cp -a "$file" "$PART/configuration/" || return 1
  done
}

# whole: whether the directory can be kept and exchanged as one.
whole() {
  [ ! -L "$D" ] && [ ! -L "$D/pg_wal" ] && [ -z "$(ls "$D/pg_tblspc")" ] && [ -w "$(dirname "$D")" ] &&
    [ "$(stat -c %d "$D" 2>/dev/null)" = "$(stat -c %d "$(dirname "$D")" 2>/dev/null)" ]
}
NOT_WHOLE="$D has tablespaces, or it or its pg_wal is a link or a file system of its own"

# From now on it can only start as a replica, whatever happens, and does not run.
protect() {
  touched=yes
  mark withdraw && follow && settle || fail "$D/standby.signal or postgresql.auto.conf cannot be written"
  if given 1 "$@"; then run inhibit 1 "$@" || exit 4; fi
  halt "$@"
}

# Keeps aside what would be lost. Nothing is discarded before this has ended, nor done a second time after it.
keep() {
  sum_up
  mkdir "$PART/wal" || quit "$PART cannot be written"
  diverged_log >"$PART/segments"
  need=$(xargs -r -d '\n' du -ck <"$PART/segments" | awk '$2 == "total" { sum += $1 } END { print sum + 0 }')
  reserve=$((FREE * 1024))
  free=$(kilobytes_free)
  [ $((need + reserve)) -le "$free" ] || quit "not enough space beside $D to keep what would be lost: $((need / 1024)) MiB of log, and \
$FREE MiB that must stay free, of $((free / 1024)) MiB; make room, or set keep_free lower"
  protect "$@"
  xargs -r -d '\n' cp -a -t "$PART/wal" <"$PART/segments" || quit "the log cannot be copied to $PART"
  configuration || quit "the configuration cannot be copied to $PART"
  data_kept=no
  if [ "$KEEP" = data ] && rewindable; then
    all=$(du -sk "$D" | awk '{ print $1 }')
    if ! whole; then
      data_kept="no: $NOT_WHOLE"
    elif [ $((need + all + reserve)) -gt "$free" ]; then
      data_kept="no: not enough space for another $((all / 1024)) MiB"
    else
      # No hard links: a rewind writes into the files.
      cp -a --reflink=auto "$D" "$PART/data" || quit "$D cannot be copied to $PART"
      data_kept=yes
    fi
  fi
  echo "data=$data_kept" >>"$PART/summary"
  sync -f "$PART" 2>/dev/null || sync
  mv "$PART" "$KEPT" && durable "$(dirname "$D")" || quit "$KEPT cannot be made"
}

rewindable() {
  [ "$(of 'wal_log_hints setting')" = on ] || [ "$(of 'Data page checksum version')" != 0 ]
}

# by HOW: notes how it was rebuilt.
by() {
  { grep -v '^by=' "$KEPT/summary"; echo "by=$1"; } >"$KEPT/summary.new" && mv -f "$KEPT/summary.new" "$KEPT/summary"
}

# A crash recovery that makes no primary of it and removes no log. Single-user mode could not do it: it refuses the signal file.
recover() {
  data=$(control "$@") || return 1
  case $(of 'Database cluster state') in "shut down" | "shut down in recovery") return 0 ;; esac
  begin recover
  socket=$(mktemp -d) || return 1
  options=$(sed -n '1s/^[^"]*//p' "$KEPT/configuration/postmaster.opts" 2>/dev/null)
  "$BIN/pg_ctl" start -W -s -D "$D" -l "$KEPT/recovery.log" -o "$options -c listen_addresses= -c unix_socket_directories=$socket \
    -c hot_standby=on -c primary_conninfo= -c restore_command= -c archive_mode=off -c recovery_target_timeline=current \
    -c wal_keep_size=1000000" </dev/null >/dev/null 2>&1 9<&- || return 1
  clock; over=$((now + 60000))
  while :; do
    pid
    # The file may still be that of the server whose power failed.
    if alive "$pid"; then
      case $status in ready*) break ;; esac
    fi
    clock
    [ "$now" -lt "$over" ] || break
    [ $((over - now)) -gt 59000 ] || alive "$pid" || break
    sleep 0.05 2>/dev/null || sleep 1
  done
  ! alive "$pid" || { kill -INT "$pid"; wait_gone "$pid" "$LIMIT"; }
  ! alive "$pid" || return 1
  rm -rf "$socket"
  data=$(control "$@") || return 1
  [ "$(of 'Database cluster state')" = "shut down in recovery" ]
}

# True once it is rewound; `why` says why not.
rewind() {
  why="neither wal_log_hints nor checksums are on"
  rewindable || return 1
  why="the crash recovery failed; see $KEPT/recovery.log"
  recover "$@" || return 1
  begin rewind
  chmod 0720 "$D" && durable "$D" || { why="the mode of $D cannot be changed"; return 1; }
  "$BIN/pg_rewind" -D "$D" --source-server="$SOURCE" --no-ensure-shutdown >"$KEPT/pg_rewind.log" 2>&1 </dev/null 9<&-
  result=$?
  why="pg_rewind: $(grep -e 'error:' -e 'no rewind required' "$KEPT/pg_rewind.log" | tail -n 1)"
  [ "$result" -eq 0 ] && ! grep -q 'no rewind required' "$KEPT/pg_rewind.log" || return 1
  configured "$D" || { why="the configuration cannot be put back"; return 1; }
  chmod "$MODE" "$D" && durable "$D" || fail "the mode of $D cannot be set back to $MODE"
  by pg_rewind
}

# configured DIRECTORY: with the member's own files again, and as a replica.
configured() {
  cp -a "$KEPT/configuration/." "$1/" || return 1
  there=$D D=$1
  follow && durable "$D/standby.signal" "$D/postgresql.auto.conf" "$D"
  result=$?
  D=$there
  return "$result"
}

copy() {
  whole || fail "it needs a new copy, which cannot be made from here: $NOT_WHOLE"
  begin copy
  rm -rf "$NEW"
  need=$(du -sk "$D" | awk '{ print $1 }')
  free=$(kilobytes_free)
  [ $((need + FREE * 1024)) -le "$free" ] ||
    fail "not enough space beside $D for a new copy: $((need / 1024)) MiB, and $FREE MiB that must stay free, of $((free / 1024)) MiB"
  "$BIN/pg_basebackup" -D "$NEW" -d "$SOURCE" -c fast -X stream >"$KEPT/pg_basebackup.log" 2>&1 </dev/null 9<&- ||
    fail "pg_basebackup failed: $(grep error: "$KEPT/pg_basebackup.log" | tail -n 1)"
  configured "$NEW" || fail "the configuration cannot be put into $NEW"
  chmod "$MODE" "$NEW" || fail "the mode of $NEW cannot be set"
  by "a new copy ($1)"
  begin swap
}

# The old directory is kept, unless it was kept before or is not to be. The lock goes over to the new one before that has the name.
swap() {
  if [ -d "$NEW" ]; then
    { command exec 8<"$NEW"; } 2>/dev/null && flock -n 8 2>/dev/null
    old=$KEPT/data
    if [ "$KEEP" = wal ] || [ -e "$old" ] || [ -e "$KEPT/pg_rewind.log" ]; then old=$D.discarded; rm -rf "$old"; fi
    if [ -e "$D" ]; then mv "$D" "$old" || fail "$D cannot be moved to $old"; fi
    mv "$NEW" "$D" || fail "$NEW cannot be moved to $D"
    { command exec 9<&8 8<&-; } 2>/dev/null
    durable "$(dirname "$D")"
  fi
  [ ! -d "$KEPT/data" ] || chmod "$MODE" "$KEPT/data"
  if [ -d "$KEPT/data" ]; then sed -i 's/^data=.*/data=yes/' "$KEPT/summary"; fi
  rm -rf "$D.discarded"
}

[ "$verb" = rebuild ] || refuse "unknown verb $verb"
[ "$(id -u)" != 0 ] || refuse "$D does not belong to $(id -un), or is not there"
sixth "$@"
recall
if [ "$stage" = swap ] && [ ! -e "$D" ]; then
  # Ended between two renames.
  there=$D D=$NEW
  present
  programs
  alone
  D=$there
  mv "$NEW" "$D" || refuse "$NEW cannot be moved to $D"
else
  present
  programs
  alone
fi
timely
forget
recall
data=$(control "$@") || refuse "the control data cannot be read"
pid
if alive "$pid"; then
  case $data in *"in production"*) refuse "it runs as a primary: fence it first" ;; esac
  [ -e "$D/standby.signal" ] || refuse "it runs, and not as a replica: fence it first"
fi
if [ -z "$stage" ]; then
  KEPT=$D.diverged-$(date -u +%Y%m%dT%H%M%SZ) MODE=$(stat -c %a "$D" 2>/dev/null || echo 700)
fi
PART=$KEPT.part
case $stage in
'' | keep | recover)
  ! alive "$pid" || protect "$@"
  begin "${stage:-keep}"
  if [ ! -d "$KEPT" ]; then
    rm -rf "$PART"
    mkdir "$PART" || quit "$PART cannot be made"
    data=$(control "$@")
    compare
    if list; then
      keep "$@"
    else
      rm -rf "$PART"
      KEPT=''
    fi
  fi
  protect "$@"
  if [ -n "$KEPT" ]; then rewind "$@" || copy "$why"; fi
  ;;
rewind | copy)
  touched=yes
  copy "the rewind was cut short"
  ;;
esac
[ "$stage" != swap ] || swap
begin follow
unmark || fail "$MARK cannot be removed"
release "$@"
pid
alive "$pid" || start "$@"
rm -f "$STATE" || fail "$STATE cannot be removed"
echo "kept=$KEPT"
if [ -n "$KEPT" ]; then
  sed 's/^/diverged_/' "$KEPT/summary"
  sed -n '1,40s/^/relation=/p' "$KEPT/relations"
fi
show "$@"
