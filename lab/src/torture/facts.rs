//! Everything that `handover` could change, as the servers and their files say themselves; nothing here goes through `handover`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use handover::journal::Store;
use handover::store::SqliteStore;
use handover::topology::Topology;

use crate::Lab;
use crate::layout::socket;

/// What `handover` leaves where a run was gone on with: which of its words come too late. It means nothing to any other run.
const NOTE: &str = "handover.void";

/// Facts by what they are about.
pub type Facts = BTreeMap<String, String>;

/// All questions are asked at once; each answer is a file of its own until all are there.
const PRELUDE: &str = "export PGCONNECT_TIMEOUT=5
folder=$(mktemp -d) number=100
ask() { name=$1; shift; number=$((number + 1)); timeout 10 \"$@\" 2>&1 | sed \"s/^/$name\\t/\" >$folder/$number & }
";

/// How long the world may take to settle: replicas connect, health checks pass.
const SETTLING: Duration = Duration::from_secs(30);

/// Reads all facts. A server that does not answer is a fact as well.
///
/// # Errors
/// If the lab does not run.
pub fn read(lab: &Lab, topology: &Topology, state: &Path) -> Result<Facts> {
    let mut bash = lab.command("bash")?;
    let output = bash.arg("-c").arg(script(topology)?).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    ensure!(output.status.success(), "the facts could not be read: {}", output.status);
    let mut facts = Facts::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (what, value) = line.split_once('\t').with_context(|| format!("a fact without a name: {line}"))?;
        let slot = facts.entry(what.to_owned()).or_default();
        *slot = format!("{slot}{value}; ");
    }
    for (name, member) in topology.databases.values().flat_map(|database| &database.members) {
        let data = member.target.settings.text("data_directory").context("a member without a data directory")?;
        facts.insert(format!("{name} files"), files(&lab.directory().join(data.trim_start_matches("/srv/")))?);
    }
    facts.extend(holds(topology, state)?);
    Ok(facts)
}

/// Reads until the facts are as expected; the differences if they do not become so.
///
/// # Errors
/// As [`read`].
pub fn settle(lab: &Lab, topology: &Topology, state: &Path, expected: &Facts) -> Result<Vec<String>> {
    settle_in(lab, topology, state, expected, &|facts| facts.clone())
}

/// The same, whatever timelines the databases are on.
///
/// # Errors
/// As [`read`].
pub fn settle_in_any_history(lab: &Lab, topology: &Topology, state: &Path, expected: &Facts) -> Result<Vec<String>> {
    settle_in(lab, topology, state, expected, &|facts| without_timelines(topology, facts))
}

/// The same for what `view` makes of the facts.
fn settle_in(
    lab: &Lab,
    topology: &Topology,
    state: &Path,
    expected: &Facts,
    view: &dyn Fn(&Facts) -> Facts,
) -> Result<Vec<String>> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let (expected, found) = (view(expected), view(&read(lab, topology, state)?));
        if found == expected {
            return Ok(Vec::new());
        }
        if Instant::now() >= deadline {
            return Ok(differences(&expected, &found));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What a member says of itself begins with its role, its timeline and the names that its commits wait for. Those mean nothing at a replica,
/// and who was primary once goes on having the setting, be it empty.
fn without_timelines(topology: &Topology, facts: &Facts) -> Facts {
    let members = topology.databases.values().flat_map(|database| database.members.keys());
    let mut facts = facts.clone();
    for name in members {
        let Some(fact) = facts.get_mut(name) else { continue };
        let mut rows = fact.split("; ").filter(|row| !row.contains("|synchronous_standby_names = "));
        let first = match rows.next().unwrap_or_default().splitn(3, '|').collect::<Vec<_>>()[..] {
            ["t", ..] => "a replica".to_owned(),
            [_, _, names] => format!("a primary that waits for `{names}`"),
            ref other => other.join("|"),
        };
        *fact = std::iter::once(first.as_str()).chain(rows).collect::<Vec<_>>().join("; ");
    }
    facts
}

/// What differs, in words.
fn differences(expected: &Facts, found: &Facts) -> Vec<String> {
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let of = |facts: &Facts, name: &str| facts.get(name).cloned().unwrap_or_else(|| "nothing".to_owned());
    let differing = names.into_iter().filter(|name| expected.get(*name) != found.get(*name));
    differing.map(|name| format!("{name}: {} instead of {}", of(found, name), of(expected, name))).collect()
}

/// One script for all servers, in the operator's place: lines of name, tab, value.
fn script(topology: &Topology) -> Result<String> {
    let mut text = PRELUDE.to_owned();
    for (name, proxy) in &topology.proxies {
        let (ip, _) = socket(&proxy.target)?;
        let port = proxy.target.settings.text("control").and_then(|control| control.rsplit(':').next());
        let port = port.context("a proxy without a control channel")?;
        // Name, administrative state, weight of each server.
        let command = format!(
            "exec 3<>/dev/tcp/{ip}/{port} && printf \"show servers state\\n\" >&3 && cat <&3 | awk \"/^[0-9]+ [a-z]/ {{print \\$2, \\$4, \\$7, \\$8}}\" | sort"
        );
        writeln!(text, "ask '{name}' bash -c '{command}'")?;
    }
    for (zone, servers) in topology.zones.iter().map(|(name, zone)| (name, &zone.servers)) {
        let hostnames = topology.services.values().flat_map(|service| &service.hostnames);
        let hostnames: Vec<&str> = hostnames.filter(|(_, of)| *of == zone).map(|(name, _)| name.as_str()).collect();
        for (name, server) in servers {
            let (ip, port) = socket(&server.target)?;
            for hostname in &hostnames {
                let dig = format!("dig @{ip} -p {port} +norecurse +noall +answer {hostname} A | sort");
                writeln!(text, "ask '{name} {hostname}' bash -c '{dig}'")?;
            }
        }
    }
    for (database, members) in topology.databases.values().map(|database| (&database.name, &database.members)) {
        for (name, member) in members {
            let (ip, port) = socket(&member.target)?;
            let user = member.target.settings.text("user").unwrap_or("handover");
            // Slots that nobody uses, and followers that do not stream, are differences too. Where a primary last received from, when it
            // was a replica, means nothing.
            let sql = "select pg_is_in_recovery(), case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver) else ($$x$$ || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end, current_setting($$synchronous_standby_names$$) union all select * from (select active, 0, slot_name::text from pg_replication_slots order by 3) slots union all select * from (select state = $$streaming$$, 0, application_name || sync_state from pg_stat_replication order by 3) followers union all select status = $$streaming$$, 0, sender_host || sender_port from pg_stat_wal_receiver union all select * from (select true, 0, name || $$ = $$ || setting from pg_file_settings where sourcefile ~ $$auto.conf$$ and (pg_is_in_recovery() or name !~ $$^primary_$$) order by 3) settings";
            writeln!(text, "export PGPASSWORD=$(awk -F: '$4 == \"{user}\" {{print $5}}' /srv/secrets/pgpass)")?;
            writeln!(text, "ask '{name}' psql -XAtq -h {ip} -p {port} -U {user} -d {database} -c '{sql}'")?;
        }
    }
    for (name, pooler) in &topology.poolers {
        let (ip, port) = socket(&pooler.target)?;
        let admin = pooler.target.settings.text("admin").context("a pooler without an administrator")?;
        let file = pooler.target.settings.text("databases").context("a pooler without a file of databases")?;
        let psql = format!("psql -XAtq -h {ip} -p {port} -U {admin} -d pgbouncer");
        writeln!(text, "export PGPASSWORD=$(awk -F'\"' '$2 == \"{admin}\" {{print $4}}' /srv/{name}/users.txt)")?;
        // Current connections, the eleventh column, come and go.
        let databases = format!("{psql} -c \"show databases\" | cut -d\"|\" -f 1-4,6-10,12-");
        writeln!(text, "ask '{name}' bash -c '{databases}'")?;
        writeln!(text, "ask '{name} settings' bash -c '{psql} -c \"show config\" | cut -d\"|\" -f 1,2'")?;
        writeln!(text, "ask '{name} file' sort {file}")?;
    }
    for (name, job) in &topology.jobs {
        let check = crate::servers::command_of(&job.target.settings, "check").context("a job without a check")?;
        let check = check.join(" ");
        writeln!(text, "ask '{name}' bash -c '{check} && echo runs || echo rests'")?;
    }
    Ok(text + "wait; cat $folder/*; rm -r $folder")
}

/// What else lies in a data directory: signals, marks, what `handover` might leave.
fn files(data: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data).with_context(|| format!("cannot read {}", data.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let ordinary = name.starts_with("pg_") || name.starts_with("postmaster.") || name.ends_with(".log");
        // What PostgreSQL makes and removes by itself, and the note that stays.
        // A promotion that is asked for twice may leave its request behind; PostgreSQL removes it at its next start.
        let temporary = name == NOTE
            || name == "promote"
            || name.starts_with("current_logfiles")
            || name.ends_with(".tmp")
            || name.ends_with(".old");
        if !ordinary && !temporary {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.join(" "))
}

/// Holds in force, and whether somebody holds the lock.
fn holds(topology: &Topology, state: &Path) -> Result<Facts> {
    let store = SqliteStore::open(state, topology.name.as_str())?;
    let (holds, lock) = super::within(async { Ok::<_, anyhow::Error>((store.holds().await?, store.lock().await?)) })?;
    let mut kinds: Vec<String> =
        holds.iter().map(|hold| serde_json::to_string(&hold.kind)).collect::<Result<_, _>>()?;
    kinds.sort();
    let lock = lock.map_or_else(|| "free".to_owned(), |lock| format!("held by run {}", lock.run));
    Ok(Facts::from([("holds".to_owned(), kinds.join(" ")), ("lock".to_owned(), lock)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timelines_and_what_replicas_would_wait_for_are_left_out() {
        let topology = crate::topology::read(Path::new("layouts/lost.yaml")).unwrap();
        let view = |member: &str| {
            let facts =
                Facts::from([("west-pg1".to_owned(), member.to_owned()), ("west-lb1".to_owned(), "a|1|b".to_owned())]);
            let facts = without_timelines(&topology, &facts);
            assert_eq!(facts["west-lb1"], "a|1|b");
            facts["west-pg1"].clone()
        };
        let primary = "a primary that waits for `\"east-pg1\"`; t|0|east_pg1; ";
        assert_eq!(view("f|1|\"east-pg1\"; t|0|east_pg1; "), primary);
        assert_eq!(view("f|3|\"east-pg1\"; t|0|east_pg1; t|0|synchronous_standby_names = \"east-pg1\"; "), primary);
        assert_eq!(view("t|3|\"east-pg1\"; t|0|west_pg1; "), view("t|1|; t|0|west_pg1; "));
        assert_eq!(view("psql: no answer; "), "psql: no answer; ");
    }
}
