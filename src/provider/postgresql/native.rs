//! What surrounds a switchover on its two members: slots, synchronous names, checkpoints and temporary settings.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, Failure, explain};
use super::convert::{QUICK_RETRY, SLOT_BOUND, connection, literal, slot_name};
use crate::model::text::list;
use crate::model::{Peer, Target, TargetId, Unreachable};
use crate::provider::pgwire::{Session, WireError};

/// How long is waited for a receiver that was led away to be gone.
const LEAVING: Duration = Duration::from_secs(2);

/// The arguments of native verbs, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Members that will follow, or follow.
    pub followers: Vec<String>,
    /// The exact value of `synchronous_standby_names`; none leaves it alone.
    pub synchronous: Option<String>,
    /// Members whose slots were there before the preparation: they stay.
    pub kept: Vec<String>,
    /// `synchronous_standby_names` before the preparation.
    pub synchronous_before: Option<String>,
    /// Whom to follow.
    pub primary: Option<Peer>,
    /// Members whose power goes or comes back.
    pub released: Vec<String>,
    /// Members whose slots are of no more use.
    pub stale: Vec<String>,
    /// Replicas that must stream before commits may wait for them, by the names that they give; `*` stands for any.
    pub awaited: Vec<String>,
    /// How many of them, if not all.
    pub needed: Option<usize>,
}

impl Arguments {
    /// Reads the arguments of a native action or condition.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(target: &Target, args: &BTreeMap<String, Vec<String>>) -> Result<Self, String> {
        let mut read = Self::default();
        for (key, values) in args {
            match (key.as_str(), values.as_slice()) {
                ("followers", _) => read.followers.clone_from(values),
                ("released", _) => read.released.clone_from(values),
                ("stale", _) => read.stale.clone_from(values),
                ("kept", _) => read.kept.clone_from(values),
                ("awaited", _) => read.awaited.clone_from(values),
                ("needed", [count]) => {
                    let count = count.parse().map_err(|_| format!("the argument `needed` is no number: {count}"))?;
                    read.needed = Some(count);
                }
                ("synchronous_before", []) => read.synchronous_before = Some(String::new()),
                ("synchronous_before", [value]) => read.synchronous_before = Some(value.clone()),
                ("synchronous", []) => read.synchronous = Some(String::new()),
                ("synchronous", [value]) => read.synchronous = Some(value.clone()),
                ("primary", [member, address]) => {
                    let database = target.id.scope().unwrap_or_default();
                    let member = TargetId::member(&database.into(), member);
                    read.primary = Some(Peer { member, address: address.clone() });
                }
                _ => return Err(format!("the argument `{key}` is none of postgresql's, or has too many values")),
            }
        }
        for member in read.followers.iter().chain(&read.stale).chain(&read.kept).chain(&read.released) {
            slot_name(member)?;
        }
        Ok(read)
    }

    /// The followers whose slots the preparation makes.
    pub fn new_slots(&self) -> Vec<String> {
        self.followers.iter().filter(|member| !self.kept.contains(member)).cloned().collect()
    }

    /// What is missing while not enough replicas stream, as a fragment.
    fn lacking(&self) -> String {
        match self.needed.filter(|needed| *needed < self.awaited.len()) {
            Some(needed) => format!("less than {needed} of {} stream", list(&self.awaited)),
            None => format!("not all of {} stream", list(&self.awaited)),
        }
    }

    /// How `target` connects to `primary`.
    ///
    /// # Errors
    /// If there is none, or its address is none.
    pub fn connection(&self, target: &Target) -> Result<String, String> {
        let primary = self.primary.as_ref().ok_or("the argument `primary` is missing")?;
        connection(primary, target.name(), target.settings.text("replication").unwrap_or_default())
    }
}

/// One session's work; a failure after the first statement that acts leaves the outcome unknown.
struct Work<'a> {
    target: &'a Target,
    session: Session,
    deadline: Instant,
    touched: bool,
}

impl Work<'_> {
    fn failure(&self, error: &WireError) -> Failure {
        Failure { certain: !self.touched && error.certain(), why: explain(self.target, error) }
    }

    async fn act(&mut self, sql: &str) -> Result<(), Failure> {
        match self.session.query(sql, self.deadline).await {
            Ok(_) => {
                self.touched = true;
                Ok(())
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    async fn ask(&self, sql: &str) -> Result<Option<String>, Failure> {
        let rows = self.session.query(sql, self.deadline).await.map_err(|error| self.failure(&error))?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    async fn create_slots(&mut self, members: &[String]) -> Result<(), Failure> {
        for slot in members.iter().flat_map(|member| slot_name(member)) {
            let slot = literal(&slot);
            // It keeps the log from now on, not only from the follower's first connection.
            self.act(&format!(
                "SELECT pg_create_physical_replication_slot({slot}, true) \
                 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot})"
            ))
            .await?;
        }
        Ok(())
    }

    /// Drops slots that nobody uses. Whoever was just led away may still hold his for a moment: that is waited for.
    async fn drop_slots(&mut self, members: &[String]) -> Result<(), Failure> {
        let names: Vec<String> =
            members.iter().flat_map(|member| slot_name(member)).map(|slot| literal(&slot)).collect();
        if !names.is_empty() {
            let names = names.join(", ");
            let sql =
                format!("SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE active AND slot_name IN ({names}))");
            let idle = |rows: &[tokio_postgres::SimpleQueryRow]| rows.first().and_then(|row| row.get(0)) == Some("t");
            let until = self.deadline.min(Instant::now() + LEAVING);
            self.session
                .poll(&sql, Duration::from_millis(5), until, idle)
                .await
                .map_err(|error| self.failure(&error))?;
        }
        for slot in members.iter().flat_map(|member| slot_name(member)) {
            self.act(&format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                 WHERE slot_name = {} AND slot_type = 'physical' AND NOT active",
                literal(&slot)
            ))
            .await?;
        }
        Ok(())
    }

    async fn quick_retry(&mut self) -> Result<(), Failure> {
        // A value that an operator has set by ALTER SYSTEM could not be put back: it is left alone.
        let theirs = "SELECT count(*) FROM pg_settings WHERE name = 'wal_retrieve_retry_interval' \
                      AND sourcefile LIKE '%postgresql.auto.conf'";
        if self.ask(theirs).await?.as_deref() == Some("0") {
            self.act(&format!("ALTER SYSTEM SET wal_retrieve_retry_interval = '{QUICK_RETRY}'")).await?;
        }
        Ok(())
    }

    /// Resets a setting that still has the value that we gave it by ALTER SYSTEM.
    async fn reset(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let ours = format!(
            "SELECT count(*) FROM pg_settings WHERE name = '{name}' \
             AND sourcefile LIKE '%/postgresql.auto.conf' AND current_setting(name) = '{value}'"
        );
        if self.ask(&ours).await?.as_deref() == Some("1") {
            self.act(&format!("ALTER SYSTEM RESET {name}")).await?;
        }
        Ok(())
    }

    async fn usual_retry(&mut self) -> Result<(), Failure> {
        self.reset("wal_retrieve_retry_interval", QUICK_RETRY).await
    }

    /// Loads the configuration and waits until this session has taken it over.
    async fn reload(&mut self) -> Result<(), Failure> {
        let before = self.ask("SELECT pg_conf_load_time()").await?.unwrap_or_default();
        self.act("SELECT pg_reload_conf()").await?;
        let sql = format!("SELECT pg_conf_load_time() > {}", literal(&before));
        let loaded = |rows: &[tokio_postgres::SimpleQueryRow]| rows.first().and_then(|row| row.get(0)) == Some("t");
        match self.session.poll(&sql, Duration::from_millis(1), self.deadline, loaded).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failure(&WireError::Deadline)),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Bounds the log that slots keep: a member that stays away must not fill the disk. A bound that somebody has set stays.
    async fn bound_slots(&mut self) -> Result<(), Failure> {
        if self.ask("SHOW max_slot_wal_keep_size").await?.as_deref() == Some("-1") {
            self.act(&format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{SLOT_BOUND}'")).await?;
        }
        Ok(())
    }

    async fn unbound_slots(&mut self) -> Result<(), Failure> {
        self.reset("max_slot_wal_keep_size", SLOT_BOUND).await
    }

    /// Sets whom to receive from; of effect on a replica only, at once.
    async fn connect_to(&mut self, connection: &str, slot: &str) -> Result<(), Failure> {
        self.act(&format!("ALTER SYSTEM SET primary_conninfo = {}", literal(connection))).await?;
        self.act(&format!("ALTER SYSTEM SET primary_slot_name = {}", literal(slot))).await?;
        self.reload().await
    }

    /// Sets the names back once those whom commits would wait for are there. What somebody else has set meanwhile stays.
    async fn restore_synchronous(&mut self, args: &Arguments) -> Result<(), Failure> {
        let Some(before) = &args.synchronous_before else { return Ok(()) };
        let stay = |why: String| {
            let tried = format!("setting synchronous_standby_names of {} back to `{before}`", self.target.name());
            Failure::untouched(Unreachable::new(why, tried).advice(format!(
                "commits go on, with fewer copies; once the replica streams again: ALTER SYSTEM SET synchronous_standby_names = {}",
                literal(before)
            )))
        };
        let now = self.ask("SHOW synchronous_standby_names").await?;
        if now.as_ref() == Some(before) {
            return Ok(());
        }
        if now != args.synchronous {
            return Err(stay(format!("somebody has set it to `{}` meanwhile", now.unwrap_or_default())));
        }
        if !self.streaming(args).await? {
            return Err(stay(format!("{}: commits would wait for them", args.lacking())));
        }
        self.synchronous(Some(before)).await?;
        self.reload().await
    }

    /// Waits until as many of the awaited replicas stream as commits will wait for; false if they do not before the deadline.
    async fn streaming(&mut self, args: &Arguments) -> Result<bool, Failure> {
        let needed = args.needed.unwrap_or(args.awaited.len());
        if args.awaited.is_empty() || needed == 0 {
            return Ok(true);
        }
        let listed: Vec<String> = args.awaited.iter().map(|name| literal(&name.to_lowercase())).collect();
        let sql = format!(
            "SELECT count(*) >= {needed} FROM pg_stat_replication WHERE state = 'streaming' \
             AND ('*' IN ({names}) OR lower(application_name) IN ({names}))",
            names = listed.join(", ")
        );
        let enough = |rows: &[tokio_postgres::SimpleQueryRow]| rows.first().and_then(|row| row.get(0)) == Some("t");
        // The rest of the time is for the change itself.
        let until = self.deadline - self.deadline.saturating_duration_since(Instant::now()) / 4;
        let streaming = self.session.poll(&sql, Duration::from_millis(20), until, enough).await;
        streaming.map_err(|error| self.failure(&error))
    }

    /// Sets the names of a complete primary, once those whom commits would then wait for are there. Names that are set already stay.
    async fn complete_synchronous(&mut self, args: &Arguments) -> Result<(), Failure> {
        let Some(names) = &args.synchronous else { return Ok(()) };
        if self.ask("SHOW synchronous_standby_names").await?.as_ref() == Some(names) {
            return Ok(());
        }
        if !self.streaming(args).await? {
            let tried = format!("setting synchronous_standby_names of {} to `{names}`", self.target.name());
            let why = format!("{}: commits would wait for them", args.lacking());
            return Err(Failure::untouched(Unreachable::new(why, tried).advice(
                "it was left as it is, so that commits go on; bring the replica back (its log says why it does not stream), then \
                 `handover plan`",
            )));
        }
        self.synchronous(Some(names)).await
    }

    async fn synchronous(&mut self, names: Option<&String>) -> Result<(), Failure> {
        match names {
            Some(names) => self.act(&format!("ALTER SYSTEM SET synchronous_standby_names = {}", literal(names))).await,
            None => Ok(()),
        }
    }
}

/// Carries out a native verb.
pub(super) async fn apply(
    client: &Client,
    target: &Target,
    verb: &str,
    args: &BTreeMap<String, Vec<String>>,
    deadline: Instant,
) -> Result<(), Failure> {
    let refused = |why: String| Failure::untouched(Unreachable::new(why, format!("{verb} at {}", target.name())));
    let args = Arguments::read(target, args).map_err(refused)?;
    let known = [
        super::MAKE_SLOTS,
        super::UNMAKE_SLOTS,
        super::SET_SYNCHRONOUS,
        super::UNSET_SYNCHRONOUS,
        super::FOLLOW_LATER,
        super::PREPARE_PROMOTION,
        super::UNPREPARE_PROMOTION,
        super::PREPARE_DEMOTION,
        super::UNPREPARE_DEMOTION,
        super::FINISH_PROMOTION,
        super::FINISH_DEMOTION,
        super::RELEASE_REPLICAS,
        super::UNRELEASE_REPLICAS,
    ];
    if !known.contains(&verb) {
        return Err(refused(format!("the provider `postgresql` has no verb `{verb}`")));
    }
    let connection = match verb {
        super::PREPARE_DEMOTION | super::FOLLOW_LATER => args.connection(target).map_err(refused)?,
        _ => String::new(),
    };
    let own_slot = slot_name(target.name()).map_err(refused)?;
    let session = client
        .session(target, deadline)
        .await
        .map_err(|error| Failure { certain: error.certain(), why: explain(target, &error) })?;
    let mut work = Work { target, session, deadline, touched: false };
    match verb {
        super::PREPARE_PROMOTION => {
            work.create_slots(&args.followers).await?;
            work.synchronous(args.synchronous.as_ref()).await?;
            work.quick_retry().await?;
            work.reload().await?;
            // On a replica a restartpoint: what is written now need not be written while clients wait.
            work.act("CHECKPOINT").await?;
        }
        super::UNPREPARE_PROMOTION => {
            work.drop_slots(&args.new_slots()).await?;
            work.usual_retry().await?;
            if work.ask("SHOW synchronous_standby_names").await? == args.synchronous {
                work.act("ALTER SYSTEM RESET synchronous_standby_names").await?;
            }
            work.reload().await?;
            // What ALTER SYSTEM had set before, unless postgresql.conf says the same.
            if let Some(before) = &args.synchronous_before
                && work.ask("SHOW synchronous_standby_names").await?.as_ref() != Some(before)
            {
                work.synchronous(Some(before)).await?;
                work.reload().await?;
            }
        }
        super::MAKE_SLOTS => work.create_slots(&args.followers).await?,
        super::UNMAKE_SLOTS => work.drop_slots(&args.new_slots()).await?,
        super::SET_SYNCHRONOUS => {
            work.synchronous(args.synchronous.as_ref()).await?;
            work.reload().await?;
        }
        super::UNSET_SYNCHRONOUS => work.restore_synchronous(&args).await?,
        super::FOLLOW_LATER => {
            if work.ask("SELECT pg_is_in_recovery()").await?.as_deref() != Some("t") {
                return Err(refused("it is a primary: fence it first".to_owned()));
            }
            work.connect_to(&connection, &own_slot).await?;
        }
        super::PREPARE_DEMOTION => {
            work.connect_to(&connection, &own_slot).await?;
            work.act("CHECKPOINT").await?;
        }
        super::UNPREPARE_DEMOTION => {
            work.act("ALTER SYSTEM RESET primary_conninfo").await?;
            work.act("ALTER SYSTEM RESET primary_slot_name").await?;
            work.reload().await?;
        }
        super::RELEASE_REPLICAS => {
            // The bound first: where the right for it is missing, nothing has changed yet.
            work.bound_slots().await?;
            work.synchronous(args.synchronous.as_ref()).await?;
            work.reload().await?;
        }
        super::UNRELEASE_REPLICAS => {
            work.restore_synchronous(&args).await?;
            work.unbound_slots().await?;
            work.reload().await?;
        }
        _ => {
            // They are there, unless what a dead process said came late and took them back.
            work.create_slots(&args.followers).await?;
            work.complete_synchronous(&args).await?;
            work.usual_retry().await?;
            work.reload().await?;
            work.drop_slots(&args.stale).await?;
            // Nobody follows himself: this one is from before the promotion.
            work.drop_slots(&[target.name().to_owned()]).await?;
            if verb == super::FINISH_PROMOTION {
                work.act("CHECKPOINT").await?;
            }
        }
    }
    client.keep(target, work.session);
    Ok(())
}

#[cfg(test)]
mod tests {
    // What the verbs do is shown on real servers: tests/contract/postgresql.rs and tests/switchover.rs.
    use std::sync::Arc;

    use super::*;
    use crate::model::{DatabaseName, Settings, TargetKind};

    #[test]
    fn arguments_are_read_or_refused() {
        let target = Target {
            id: TargetId::member(&DatabaseName::new("accounts"), "west-pg1"),
            kind: TargetKind::Member,
            facility: "west".into(),
            provider: "postgresql".into(),
            address: "10.10.0.100:5432".to_owned(),
            settings: Settings::default(),
            host: None,
        };
        let target = Arc::new(target);
        let args = |key: &str, values: &[&str]| {
            let values = values.iter().map(ToString::to_string).collect();
            Arguments::read(&target, &BTreeMap::from([(key.to_owned(), values)]))
        };
        assert_eq!(args("synchronous", &[""]).unwrap().synchronous.as_deref(), Some(""));
        assert_eq!(args("followers", &["east-pg1"]).unwrap().followers, ["east-pg1"]);
        let primary = args("primary", &["east-pg1", "10.20.0.100:5432"]).unwrap();
        assert_eq!(primary.primary.as_ref().unwrap().member.as_str(), "member/accounts/east-pg1");
        assert_eq!(primary.connection(&target).unwrap(), "host=10.20.0.100 port=5432 application_name=west-pg1");
        assert!(args("followers", &["Ost"]).is_err());
        assert!(args("primary", &["east-pg1"]).is_err());
        assert!(args("colour", &["blue"]).is_err());
    }
}
