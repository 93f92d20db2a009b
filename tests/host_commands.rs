//! Commands of hosts that fail, hang or lie: a precise word, nothing promoted, and the member serves again once the fence is undone.
#![allow(clippy::disallowed_methods, reason = "tests start servers and write their files")]

mod common;
#[path = "common/postgres.rs"]
mod servers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use handover::journal::Permit;
use handover::model::{Action, Condition, Host, Lineage, Observed, Role, Scope, Target, TransportKind};
use handover::provider::postgresql::Postgresql;
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use servers::{Member, Site};
use tokio::time::Instant;

struct World {
    old: Member,
    new: Member,
    postgresql: Postgresql,
    permit: Permit,
    site: Site,
}

impl World {
    async fn start() -> Self {
        let site = Site::new();
        let old = Member::primary(&site, "a-pg1");
        let new = Member::replica(&site, "b-pg1", &old);
        let postgresql = Postgresql::new(site.secrets(), Arc::new(Transport::new()));
        Self { old, new, postgresql, permit: common::permit().await, site }
    }

    /// The old primary with commands of its host, as shell text.
    fn with(&self, commands: &[(&str, &str)]) -> Target {
        let command = |text: &str| ["sh", "-c", text].map(str::to_owned).to_vec();
        let commands: BTreeMap<_, _> =
            commands.iter().map(|(name, text)| ((*name).to_owned(), command(text))).collect();
        let host = Host { name: "here".into(), transport: TransportKind::Local, commands };
        Target { host: Some(Arc::new(host)), ..self.old.target() }
    }

    async fn act(&self, target: &Target, action: &Action, seconds: u64) -> Outcome {
        self.postgresql.apply(target, action, &self.permit, Instant::now() + Duration::from_secs(seconds)).await
    }

    async fn lineage(&self) -> Lineage {
        match self
            .postgresql
            .observe(&self.old.target(), &Scope::Member, Instant::now() + Duration::from_secs(20))
            .await
        {
            Observed::Known { value, .. } => value.member().unwrap().lineage.clone(),
            Observed::Unreachable(why) => panic!("{why}"),
        }
    }

    /// Undoes the fence and sees that clients are served.
    async fn serves_again(&self, target: &Target, lineage: &Lineage) {
        let unfence = Action::Unfence { lineage: lineage.clone() };
        common::taken(&self.act(target, &unfence, 30).await);
        let primary = Condition::Role { role: Role::Primary, lineage: Some(lineage.clone()) };
        match self.postgresql.verify(target, &primary, Instant::now() + Duration::from_secs(20)).await {
            Observed::Known { value, .. } => assert_eq!(primary.holds(&value), Ok(())),
            Observed::Unreachable(why) => panic!("{why}"),
        }
        self.old.sql("INSERT INTO ledger (id) SELECT coalesce(max(id), 0) + 1 FROM ledger");
        assert!(!self.old.data.join("standby.signal").exists());
        assert!(!self.old.data.join("handover.fenced").exists());
    }
}

#[track_caller]
fn says(outcome: &Outcome, touched: bool, text: &str) {
    let why = match (outcome, touched) {
        (Outcome::NotApplied(why), false) | (Outcome::Unknown(why), true) => why.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(why.contains(text) && why.contains("a-pg1"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_hangs_or_lies_is_named_and_its_fence_undone() {
    let world = World::start().await;
    let lineage = world.lineage().await;
    let fence = Action::Fence { successor: world.new.peer() };
    let control = format!("exec /usr/lib/postgresql/15/bin/pg_controldata -D {}", world.old.data.display());
    let first_only =
        format!("test -e {0}/once && echo nonsense || {{ touch {0}/once; {control}; }}", world.site.path().display());
    for (commands, touched, text) in [
        // Nothing was touched before it is known that there is a way back.
        (vec![("inhibit", "exit 7")], false, "the command `inhibit` failed with status 7"),
        (vec![("inhibit", "exec sleep 60")], false, "the command `inhibit` did not end in time"),
        (vec![("control_data", "echo nonsense")], false, "holds no `Database system identifier:`"),
        (vec![("control_data", "exit 1")], false, "the control data cannot be read"),
        // Stopped or not: it may have acted.
        (vec![("stop", "exit 9")], true, "the command `stop` failed with status 9"),
        (vec![("stop", "exec sleep 60")], true, "the command `stop` did not end in time"),
        (vec![("stop", "true")], true, "still runs, some time after the command `stop` had ended with status 0"),
        (vec![("control_data", first_only.as_str())], true, "the control data have no `Database cluster state`"),
    ] {
        let target = world.with(&commands);
        says(&world.act(&target, &fence, 4).await, touched, text);
        // An operator corrects the command; what lies only in stopping does not hinder the undo.
        let mended = if commands[0].0 == "stop" { target } else { world.old.target() };
        world.serves_again(&mended, &lineage).await;
    }

    // What does not start it is named, and the next attempt works.
    common::taken(&world.act(&world.old.target(), &fence, 30).await);
    let unfence = Action::Unfence { lineage: lineage.clone() };
    for (start, text) in [
        ("true", "the command `start` ended with status 0, but nothing runs"),
        ("exit 3", "the command `start` failed with status 3"),
        ("exec sleep 60", "the command `start` did not end in time"),
    ] {
        says(&world.act(&world.with(&[("start", start)]), &unfence, 4).await, true, text);
    }
    says(
        &world.act(&world.with(&[("allow", "exit 5")]), &unfence, 4).await,
        true,
        "the command `allow` failed with status 5",
    );
    world.serves_again(&world.old.target(), &lineage).await;
    world.new.until("SELECT status FROM pg_stat_wal_receiver", "streaming");
}

/// A machine with systemd, or what this member's provider sees of one.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$1" in
status) for pid; do :; done; printf '* postgresql@15-main.service - PostgreSQL\n   Loaded: %s\n' "$pid" ;;
show) printf 'Restart=%s\n' "$(cat "${0%/*}/restart")" ;;
esac
"#;

/// The programs that commands of this machine find come by the environment of the process that runs them: this test runs itself again
/// with one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_would_start_what_was_stopped_is_another_manager() {
    const FOLDER: &str = "HANDOVER_TEST_SYSTEMCTL";
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("systemctl");
        std::fs::write(&program, SYSTEMCTL).unwrap();
        for (path, mode) in [(folder.path(), 0o755), (&program, 0o755)] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "a_unit_that_would_start_what_was_stopped_is_another_manager", "--nocapture"]);
        let output = again.env("PATH", path).env(FOLDER, folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let world = World::start().await;
    let manager = async |restart: &str, target: &Target| {
        std::fs::write(folder.join("restart"), restart).unwrap();
        // A unit is asked for once in the life of a provider.
        let postgresql = Postgresql::new(world.site.secrets(), Arc::new(Transport::new()));
        let deadline = Instant::now() + Duration::from_secs(20);
        match postgresql.observe(target, &Scope::Member, deadline).await {
            Observed::Known { value, .. } => value.member().unwrap().settings.get("manager").cloned(),
            Observed::Unreachable(why) => panic!("{why}"),
        }
    };
    let plain = world.old.target();
    for (restart, seen) in [("no", false), ("on-failure", false), ("always", true), ("on-success", true)] {
        let expected = seen.then(|| format!("systemd (postgresql@15-main.service has Restart={restart})"));
        assert_eq!(manager(restart, &plain).await, expected, "{restart}");
    }
    // systemd keeps down what it was itself told to stop, and a host may have another way.
    assert_eq!(manager("always", &world.with(&[("stop", "true")])).await, None);
    assert_eq!(manager("always", &world.with(&[("inhibit", "true"), ("allow", "true")])).await, None);
    // A member that runs in no unit, as after `pg_ctl start` by hand.
    world.old.stop();
    world.old.start();
    std::fs::write(folder.join("systemctl"), "#!/bin/sh\necho Failed >&2; exit 4\n").unwrap();
    assert_eq!(manager("always", &plain).await, None);
}
