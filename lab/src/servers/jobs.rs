//! Jobs: the control script that the topology names, and a worker that writes about once a second through the poolers.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use handover::model::Job;

use super::{APP, PGPASS, Ready, Server, Site, command_of, directory, write};

/// One worker for each job.
pub fn jobs(site: &Site<'_>) -> Result<Vec<Server>> {
    site.topology.jobs.values().map(|job| worker(site, job)).collect()
}

fn worker(site: &Site<'_>, job: &Job) -> Result<Server> {
    let command = |key: &str| {
        command_of(&job.target.settings, key).with_context(|| format!("{}: no command `{key}`", job.target.id))
    };
    let (start, check) = (command("start")?, command("check")?);
    let script = start.first().with_context(|| format!("{}: the command `start` is empty", job.target.id))?;
    ensure!(
        check.first() == Some(script) && command("stop")?.first() == Some(script),
        "{}: the lab needs one script for start, stop and check",
        job.target.id
    );
    let mut statements = String::new();
    for database in &job.writes_to {
        let (pooler, entry) = site.pooler(database, &job.target.facility)?;
        statements += &format!(
            "        psql -qAt 'host={} port={} dbname={entry} user={APP} passfile={PGPASS} connect_timeout=5' -c \"insert into job_runs(job) values ('{}')\"\n",
            pooler.ip(),
            pooler.port(),
            job.name
        );
    }
    let script = Path::new(script);
    let home = script.parent().context("a job's script needs a directory")?;
    directory(home, Some("postgres"))?;
    let text = format!(
        r#"#!/bin/sh
# Job {name}: start | stop | check (status 0 while it runs, 1 when it does not).
pid_file={script}.pid
running() {{ [ -s "$pid_file" ] && grep -qs work "/proc/$(cat "$pid_file")/cmdline"; }}
case "$1" in
check) running || exit 1 ;;
start)
    running && exit 0
    setsid "$0" work </dev/null >>"$0.log" 2>&1 &
    until running; do sleep 0.05; done ;;
stop)
    running || exit 0
    # The worker ends between two runs, never within one.
    kill -TERM "$(cat "$pid_file")"
    until ! running; do sleep 0.05; done
    rm -f "$pid_file" ;;
work)
    ended=0
    trap 'ended=1' TERM
    echo $$ >"$pid_file"
    while [ $ended = 0 ]; do
{statements}        n=0
        while [ $ended = 0 ] && [ $n -lt 10 ]; do sleep 0.1; n=$((n + 1)); done
    done ;;
*) echo "usage: $0 start|stop|check" >&2; exit 64 ;;
esac
"#,
        name = job.name,
        script = script.display(),
    );
    write(script, &text, Some("postgres"), 0o755)?;
    Ok(Server {
        name: job.name.to_string(),
        kind: "job",
        targets: vec![job.target.id.to_string()],
        place: job.target.facility.to_string(),
        argv: start.clone(),
        user: Some("postgres"),
        wave: 1,
        pid_file: Some(format!("{}.pid", script.display()).into()),
        by_command: true,
        ready: vec![Ready::Command(check)],
    })
}
