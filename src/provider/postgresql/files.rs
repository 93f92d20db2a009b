//! What a member's machine says of its process and files: pure.

use std::collections::BTreeMap;

use crate::model::{Diverged, KEPT, Lineage, MemberCapabilities, MemberFacts, Position, Role, SwitchoverStyle};

/// Among the settings: the stage of a rebuild that was cut short.
const REBUILDING: &str = "rebuilding";

/// What the host says of a member's process and files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostState {
    /// True while its server process lives.
    pub alive: bool,
    /// What that process says it does: `ready`, `standby`, `starting`, `stopping`.
    pub status: String,
    /// True where it can only start as a replica.
    pub signal: bool,
    /// What of ours left a mark: `fence`, `withdraw`, or nothing.
    pub mark: String,
    /// The stage of a rebuild that has not ended; empty where there is none.
    pub rebuild: String,
    /// What a rebuild found beyond the fork.
    pub diverged: Option<Diverged>,
    /// "Database cluster state" of the control data.
    pub cluster: String,
    /// Location of the latest checkpoint.
    pub checkpoint: Position,
    /// As far as it has certainly replayed, on what was a replica.
    recovered: Option<Position>,
    /// The control data's history.
    pub lineage: Lineage,
    checksums: bool,
    wal_log_hints: bool,
    version: String,
}

impl HostState {
    /// True where it ended cleanly as a primary and can only come back as a replica.
    pub fn fenced(&self) -> bool {
        self.withdrawn() && self.cluster == "shut down"
    }

    /// True where it ended cleanly, as a primary or as a replica, and can only come back as a replica.
    pub fn withdrawn(&self) -> bool {
        !self.alive && self.signal && ["shut down", "shut down in recovery"].contains(&self.cluster.as_str())
    }

    /// True where it does not run, however it ended, and can only come back as a replica.
    pub fn kept(&self) -> bool {
        !self.alive && self.signal && self.rebuild.is_empty()
    }

    /// True where starting it as a replica needs no rewind. One that was withdrawn as a primary had been promoted: its history is not
    /// that of the others.
    pub fn may_follow(&self) -> bool {
        let interrupted = !self.alive && self.signal && self.cluster == "in archive recovery";
        (self.withdrawn() || interrupted) && !(self.mark == "withdraw" && self.fenced()) && self.rebuild.is_empty()
    }

    /// In words, for messages.
    pub fn describe(&self) -> String {
        let process = if self.alive { format!("its process runs ({})", self.status) } else { "no process".to_owned() };
        let signal = if self.signal { "there" } else { "missing" };
        format!("{process}, control data say `{}`, standby.signal is {signal}", self.cluster)
    }

    /// As facts of a member that does not run.
    pub fn facts(&self, no_control: Option<String>) -> MemberFacts {
        let rewind = self.checksums || self.wal_log_hints;
        let mut settings = BTreeMap::from([("cluster_state".to_owned(), self.cluster.clone())]);
        if self.kept() {
            settings.insert(KEPT.to_owned(), "yes".to_owned());
        }
        if !self.rebuild.is_empty() {
            settings.insert(REBUILDING.to_owned(), self.rebuild.clone());
        }
        let position = self.recovered.filter(|recovered| *recovered > self.checkpoint).unwrap_or(self.checkpoint);
        MemberFacts {
            version: self.version.clone(),
            // What a rebuild has left half done is nothing that could be started.
            role: if self.withdrawn() && self.rebuild.is_empty() { Role::Fenced } else { Role::Stopped },
            lineage: self.lineage.clone(),
            position,
            replayed: position,
            replay_paused: false,
            receives_from: None,
            receiver: None,
            set_to_follow: None,
            replicas: Vec::new(),
            slots: Vec::new(),
            synchronous_names: String::new(),
            clients: Vec::new(),
            long_transactions: Vec::new(),
            settings,
            archive_backlog: 0,
            history: Vec::new(),
            diverged: self.diverged.clone(),
            capabilities: MemberCapabilities { switchover: SwitchoverStyle::Phased, rewind, no_control },
        }
    }
}

/// What a rebuild prints of what it found and kept.
fn diverged(marks: &BTreeMap<&str, &str>, output: &str) -> Option<Diverged> {
    let number = |name| marks.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let text = |name| marks.get(name).copied().unwrap_or_default().to_owned();
    Some(Diverged {
        from: marks.get("diverged_from")?.parse().ok()?,
        bytes: number("diverged_bytes"),
        records: number("diverged_records"),
        transactions: number("diverged_transactions"),
        listed: text("diverged_listed") == "yes",
        relations: output.lines().filter_map(|line| line.strip_prefix("relation=")).map(str::to_owned).collect(),
        kept_in: text("kept"),
        data_kept: text("diverged_data") == "yes",
        by: text("diverged_by"),
    })
}

/// Lines `mark=value`, and the control data by their labels.
pub(super) fn marks_and_control_data(output: &str) -> (BTreeMap<&str, &str>, BTreeMap<&str, &str>) {
    let marks = output.lines().filter_map(|line| line.split_once('='));
    let control = output.lines().filter_map(|line| line.split_once(':'));
    (marks.collect(), control.map(|(label, value)| (label.trim(), value.trim())).collect())
}

/// Reads what the scripts print (the control data's labels as of `pg_controldata` with `LC_ALL=C`).
///
/// # Errors
/// What is missing.
pub(super) fn host_state(output: &str) -> Result<HostState, String> {
    let (marks, control) = marks_and_control_data(output);
    let mark = |name: &'static str| marks.get(name).copied().ok_or_else(|| format!("`{name}` is missing"));
    let datum =
        |label: &'static str| control.get(label).copied().ok_or_else(|| format!("the control data have no `{label}`"));
    Ok(HostState {
        alive: mark("alive")? == "yes",
        status: mark("status")?.trim().to_owned(),
        signal: mark("signal")? == "yes",
        mark: mark("mark")?.to_owned(),
        rebuild: mark("rebuild")?.to_owned(),
        diverged: diverged(&marks, output),
        recovered: control.get("Minimum recovery ending location").and_then(|lsn| lsn.parse().ok()),
        cluster: datum("Database cluster state")?.to_owned(),
        checkpoint: datum("Latest checkpoint location")?
            .parse()
            .map_err(|error: crate::model::position::PositionError| error.to_string())?,
        lineage: Lineage {
            system: datum("Database system identifier")?.to_owned(),
            timeline: datum("Latest checkpoint's TimeLineID")?
                .parse()
                .map_err(|_| "its timeline is no number".to_owned())?,
        },
        checksums: control.get("Data page checksum version").is_some_and(|version| *version != "0"),
        wal_log_hints: control.get("wal_log_hints setting").is_some_and(|setting| *setting == "on"),
        version: match control.get("pg_control version number") {
            Some(number) => format!("PostgreSQL, control data version {number}"),
            None => "PostgreSQL".to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = "alive=no\nstatus=\nsignal=yes\nmark=fence\nrebuild=\n\
        pg_control version number:            1300\n\
        Database system identifier:           7301234567890123456\n\
        Database cluster state:               shut down\n\
        Latest checkpoint location:           0/5000028\n\
        Latest checkpoint's TimeLineID:       3\n\
        wal_log_hints setting:                on\n\
        Data page checksum version:           0\n";

    #[test]
    fn only_a_clean_end_with_a_signal_file_is_a_fence() {
        let state = host_state(STATE).unwrap();
        assert!(state.fenced());
        assert_eq!(state.checkpoint.to_string(), "0/5000028");
        assert_eq!(state.lineage, Lineage { system: "7301234567890123456".to_owned(), timeline: 3 });
        assert_eq!(state.facts(None).role, Role::Fenced);
        assert!(state.facts(None).capabilities.rewind);
        for (from, to) in [
            ("alive=no", "alive=yes"),
            ("signal=yes", "signal=no"),
            ("shut down\n", "in production\n"),
            ("shut down\n", "shut down in recovery\n"),
            ("shut down\n", "shutting down\n"),
        ] {
            assert!(!host_state(&STATE.replace(from, to)).unwrap().fenced(), "{to}");
        }
        assert!(host_state("alive=no\nstatus=\nsignal=yes\nmark=\nrebuild=\n").is_err());
    }

    #[test]
    fn a_replica_that_was_withdrawn_may_follow_and_a_primary_may_not() {
        let state = |edits: &[(&str, &str)]| {
            host_state(&edits.iter().fold(STATE.to_owned(), |text, (from, to)| text.replace(from, to))).unwrap()
        };
        let recovery = ("shut down\n", "shut down in recovery\n");
        for edits in
            [&[][..], &[recovery], &[("mark=fence", "mark=withdraw"), recovery], &[("mark=fence", "mark="), recovery]]
        {
            assert!(state(edits).may_follow(), "{edits:?}");
            assert_eq!(state(edits).facts(None).role, Role::Fenced, "{edits:?}");
        }
        let promoted = state(&[("mark=fence", "mark=withdraw")]);
        assert_eq!((promoted.may_follow(), promoted.facts(None).role), (false, Role::Fenced));
        let stopped = state(&[("signal=yes", "signal=no")]);
        assert_eq!((stopped.may_follow(), stopped.facts(None).role), (false, Role::Stopped));
    }
}
