# Each phase of a switchover on a member's machine, in one round trip. After `member.sh`. VERB is state, void, fence, withdraw, keep, unfence,
# unmark or rejoin.
# A fence without a RUN is one that waits: it looks whether it can be done, prints `armed`, reads `go AGE LIMIT RUN NUMBER SENDERS` from
# its standard input, and does nothing if that ends without. AGE is how long it has waited; LIMIT after that nothing is begun any more,
# however late the word or the disk was: somebody may have gone back meanwhile.
# Fence and withdraw leave a mark in the data directory, before anything else: only what has the mark of a fence is made a primary again.
# SYSTEM and TIMELINE are what an unfence restores.
present
programs

case $verb in
state) ;;
void)
  alone
  timely
  call_off || fail "$VOID cannot be written"
  ;;
fence | withdraw | keep)
  if [ "$verb" != fence ]; then
    alone
    timely
  fi
  if [ "$verb" = keep ]; then
    pid
    ! alive "$pid" || refuse "it runs: process $pid"
    verb=withdraw
  fi
  marked
  before=$kind
  if [ "$verb" = fence ] && [ "$before" != fence ]; then
    # A replica must never get the mark that would let an unfence make it a primary.
    [ ! -e "$D/standby.signal" ] || refuse "it is a replica"
    data=$(control "$@") || refuse "the control data cannot be read"
    case $data in *"in archive recovery"* | *"shut down in recovery"*) refuse "it is a replica" ;; esac
    # Without them nobody could tell later whether it ended cleanly, nor make it a primary again.
    for label in "Database system identifier:" "Database cluster state:" "Latest checkpoint location:" \
      "Latest checkpoint's TimeLineID:"; do
      case $data in *"$label"*) ;; *) refuse "what should be the control data holds no \`$label\`" ;; esac
    done
  fi
  if [ -z "$RUN" ]; then
    command -v flock >/dev/null || refuse "there is no flock(1) on this machine: install util-linux or busybox"
    clock
    waits=$now
    echo armed
    IFS=' ' read -r word age LIMIT RUN NUMBER SENDERS && [ "$word" = go ] || refuse "it was not told to go on"
    latest=$((waits + age + LIMIT))
    in_time || refuse "it was told to go on too late"
  fi
  if [ "$verb" = fence ]; then
    # Whoever unfences it waits until this ends, or finds that it never begins.
    lock
    case $? in
    1) refuse "$BUSY" ;;
    2) refuse "flock(1) cannot lock $D, without which a fence could act after it was undone: $said" ;;
    esac
    ! void $((NUMBER - 1)) || refuse "the fence was called off before it began"
    # It may have been made a replica while this waited.
    marked
    before=$kind
    [ "$before" = fence ] || [ ! -e "$D/standby.signal" ] || refuse "it is a replica"
    in_time || refuse "another call of handover has taken all the time"
  fi
  signalled=no
  [ ! -e "$D/standby.signal" ] || signalled=yes
  back() {
    [ "$signalled" = yes ] || rm -f "$D/standby.signal"
    [ -n "$before" ] || unmark
    release "$@"
  }
  mark "$verb" || { [ -n "$before" ] || rm -f "$MARK"; refuse "$MARK cannot be written"; }
  if given 1 "$@"; then
    durable "$MARK" "$D" || { back "$@"; refuse "$MARK cannot be made durable"; }
    run inhibit 1 "$@" || { back "$@"; exit 3; }
    in_time || { back "$@"; refuse "\`inhibit\` has taken all the time"; }
  fi
  # Before the stop, so that no restart, however soon, brings a primary back.
  follow || { back "$@"; refuse "$D/standby.signal or postgresql.auto.conf cannot be written"; }
  in_time || { back "$@"; refuse "the time was over before it was stopped"; }
  # A loss of power before the end of this finds nothing promoted: it is not said to be fenced before.
  settle 9<&- & settling=$!
  halt "$@"
  wait "$settling" || fail "$D/standby.signal cannot be made durable"
  ;;
unfence)
  alone
  timely
  call_off || echo "$VOID cannot be written" >&2
  pid
  case $(control "$@") in *"in production"*) primary=yes ;; *) primary=no ;; esac
  case $status in stopping*) primary=no ;; esac
  marked
  if [ "$kind" != fence ]; then
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
    alive "$pid" || start "$@"
  fi
  ;;
unmark)
  alone
  timely
  forget
  unmark || fail "$MARK cannot be removed"
  ;;
rejoin)
  alone
  timely
  forget
  pid
  if ! alive "$pid"; then
    follow && settle && unmark || fail "$D/standby.signal or postgresql.auto.conf cannot be written"
    release "$@"
    start "$@"
  fi
  ;;
*) refuse "unknown verb $verb" ;;
esac
show "$@"
