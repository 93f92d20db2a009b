//! What an init system does on real machines: `/srv/units/unit stop|start|check NAME` stops and starts a server by its name, for hosts
//! whose `stop_server`, `start_server` and `check_server` say so.

use std::path::Path;

use anyhow::Result;

use super::{Server, write};

const SCRIPT: &str = r#"#!/bin/sh
# unit stop|start|check NAME: a server of the lab, as an init system would; check ends with 0 while it runs and with 1 when it does not.
dir=/srv/units/$2
[ -n "$2" ] && [ -d "$dir" ] || { echo "there is no server $2 here" >&2; exit 64; }
pids() {
    if [ -e "$dir/data" ]; then
        pid=$(head -n 1 "$(cat "$dir/data")/postmaster.pid" 2>/dev/null) && [ -d "/proc/$pid" ] && echo "$pid"
        return
    fi
    for argv in "$dir"/*.argv; do
        for process in /proc/[0-9]*; do
            # Through a pipe: cmp would believe the size 0 of files in /proc.
            cat "$process/cmdline" 2>/dev/null | cmp -s - "$argv" && echo "${process#/proc/}"
        done
    done
}
case "$1" in
check) [ -n "$(pids)" ] || exit 1 ;;
stop)
    signal=TERM
    [ -e "$dir/data" ] && signal=INT
    pids=$(pids)
    [ -z "$pids" ] || kill -s $signal $pids
    while [ -n "$(pids)" ]; do sleep 0.05; done ;;
start)
    [ -z "$(pids)" ] || exit 0
    for argv in "$dir"/*.argv; do
        user=$(cat "${argv%.argv}.user")
        as="env -i LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        [ -z "$user" ] || [ "$user" = "$(id -un)" ] || as="setpriv --reuid $user --regid $(id -gn "$user") --init-groups $as"
        cd / && setsid xargs -0 -a "$argv" $as </dev/null >>"/srv/log/$2.unit.log" 2>&1 &
    done
    while [ -z "$(pids)" ]; do sleep 0.05; done ;;
*) echo "usage: $0 stop|start|check NAME" >&2; exit 64 ;;
esac
"#;

/// Writes the script, and for each server its command lines.
pub fn units(servers: &[Server]) -> Result<()> {
    write(Path::new("/srv/units/unit"), SCRIPT, None, 0o755)?;
    let known = |server: &&Server| !server.targets.is_empty() && server.kind != "job";
    for (index, server) in servers.iter().enumerate().filter(|(_, server)| known(server)) {
        let home = format!("/srv/units/{}", server.name);
        let argv: String = server.argv.iter().map(|word| format!("{word}\0")).collect();
        write(Path::new(&format!("{home}/{index}.argv")), &argv, None, 0o644)?;
        write(Path::new(&format!("{home}/{index}.user")), server.user.unwrap_or_default(), None, 0o644)?;
        write(Path::new(&format!("/srv/log/{}.unit.log", server.name)), "", None, 0o666)?;
        if let Some(data) = server.pid_file.as_deref().and_then(Path::parent) {
            write(Path::new(&format!("{home}/data")), &data.to_string_lossy(), None, 0o644)?;
        }
    }
    Ok(())
}
