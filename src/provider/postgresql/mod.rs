//! PostgreSQL members: SQL on the member, and commands on its machine for what SQL cannot do (stop, start, control data).
//!
//! May use `model`, `journal` (the permit), `provider`, `transport` and `secret`. Needs PostgreSQL 15 or newer; what a member needs
//! to be configured, and the rights of the role, are in `docs/providers.md`. Why each step is as it is: the PostgreSQL manual,
//! chapters 27 (replication) and 9.27 (administration functions), and the traps that `docs/providers.md` lists.
//!
//! # Native verbs
//! Each has the arguments below, all lists of texts; a condition [`Native`](Condition::Native) of the same verb and arguments asks
//! whether it is in place, and with `done: false` whether nothing of it is left. All are idempotent. An `un…` verb takes the
//! arguments of what it takes back.
//!
//! | verb | at | arguments | does |
//! | --- | --- | --- | --- |
//! | [`prepare_promotion`](PREPARE_PROMOTION) | the candidate | `followers`: members; `synchronous`: one text; where they are known, `kept`: followers whose slots were there before, `synchronous_before`: the text before | creates a physical slot for each follower, sets `synchronous_standby_names` to `synchronous` (empty: nobody), lowers `wal_retrieve_retry_interval`, CHECKPOINT |
//! | [`unprepare_promotion`](UNPREPARE_PROMOTION) | the candidate | the same | drops the slots that nobody uses and that are not `kept`, resets both settings, or sets the names to `synchronous_before` |
//! | [`prepare_demotion`](PREPARE_DEMOTION) | the old primary | `primary`: member and `host:port` of its successor | sets `primary_conninfo` and `primary_slot_name` (of no effect on a primary), CHECKPOINT |
//! | [`unprepare_demotion`](UNPREPARE_DEMOTION) | the old primary | the same | resets both |
//! | [`make_slots`](MAKE_SLOTS) | any member | `followers`, `kept` as above | creates a physical slot for each follower |
//! | [`unmake_slots`](UNMAKE_SLOTS) | the same | the same | drops those that nobody uses and that are not `kept` |
//! | [`set_synchronous`](SET_SYNCHRONOUS) | a primary | `synchronous`: one text; `synchronous_before`: the text before; `awaited`: replicas by the names that they give | sets `synchronous_standby_names` |
//! | [`unset_synchronous`](UNSET_SYNCHRONOUS) | the same | the same | sets it to `synchronous_before` once all `awaited` stream; before that commits would wait for them |
//! | [`follow_later`](FOLLOW_LATER) | a replica | `primary`: member and `host:port` | sets `primary_conninfo` and `primary_slot_name`, and does not wait until it streams |
//! | [`finish_promotion`](FINISH_PROMOTION) | the new primary, after the rejoin | `followers`: who keeps a slot; `synchronous`: the complete set; `awaited`, `needed`: how many of which must stream before it is set | makes the slots that are missing, sets it, unless it is so already, resets the temporary setting, drops the slot in its own name, CHECKPOINT |
//! | [`finish_demotion`](FINISH_DEMOTION) | the rejoined old primary | `stale`: members that followed it | resets the temporary setting, drops their slots where nobody uses them |
//!
//! Without `synchronous` the names are left alone. A member's slot is its name with underscores for hyphens; its
//! `application_name` is its name. Replicas other than the candidate that commits will wait for must follow the candidate *before*
//! the pause ([`Action::Rejoin`] at each, once its slot is there): else every commit after the promotion waits until they do.

mod at_rest;
mod client;
mod convert;
mod fence;
mod files;
mod native;
mod promote;
mod rebuild;
mod settings;
mod systemd;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub use at_rest::{AtRest, at_rest};
use client::{Client, Failure, HostArguments, explain};
use native::Arguments;
pub use settings::{check, schema};

use super::pgwire::column;
use super::{Outcome, Provider};
use crate::journal::Permit;
use crate::model::{Action, Condition, Facts, MemberFacts, Observed, Role, Scope, Target, Unreachable};
use crate::secret::SecretReader;
use crate::transport::Transport;

/// Native verb: what the candidate needs before it is promoted.
pub const PREPARE_PROMOTION: &str = "prepare_promotion";
/// Native verb: takes [`PREPARE_PROMOTION`] back.
pub const UNPREPARE_PROMOTION: &str = "unprepare_promotion";
/// Native verb: what the old primary needs before it is fenced.
pub const PREPARE_DEMOTION: &str = "prepare_demotion";
/// Native verb: takes [`PREPARE_DEMOTION`] back.
pub const UNPREPARE_DEMOTION: &str = "unprepare_demotion";
/// Native verb: slots for followers.
pub const MAKE_SLOTS: &str = "make_slots";
/// Native verb: takes [`MAKE_SLOTS`] back.
pub const UNMAKE_SLOTS: &str = "unmake_slots";
/// Native verb: whom commits wait for at a primary.
pub const SET_SYNCHRONOUS: &str = "set_synchronous";
/// Native verb: takes [`SET_SYNCHRONOUS`] back, as soon as that makes no commit wait.
pub const UNSET_SYNCHRONOUS: &str = "unset_synchronous";
/// Native verb: a replica that cannot follow yet is told whom to follow once it can.
pub const FOLLOW_LATER: &str = "follow_later";
/// Native verb: what remains to be done at the new primary.
pub const FINISH_PROMOTION: &str = "finish_promotion";
/// Native verb: what remains to be done at the old primary.
pub const FINISH_DEMOTION: &str = "finish_demotion";
/// Commits stop waiting for members whose power goes, and the log that slots keep for them is bounded.
pub const RELEASE_REPLICAS: &str = "release_replicas";
/// Takes that back.
pub const UNRELEASE_REPLICAS: &str = "unrelease_replicas";

/// How often a member is asked for all its facts, and its machine for its process.
const POLL: Duration = Duration::from_millis(10);

/// The provider `postgresql`.
pub struct Postgresql {
    client: Client,
    units: systemd::Units,
}

impl Postgresql {
    /// A provider without open sessions.
    pub fn new(secrets: Arc<SecretReader>, transport: Arc<Transport>) -> Self {
        Self { units: systemd::Units::new(Arc::clone(&transport)), client: Client::new(secrets, transport) }
    }

    /// The facts that `condition` is about, once.
    async fn facts_for(
        &self,
        target: &Target,
        condition: &Condition,
        deadline: Instant,
    ) -> Result<MemberFacts, Unreachable> {
        match condition {
            Condition::Kept | Condition::Role { role: Role::Fenced | Role::Stopped, .. } => {
                let state = self.client.host(target, "state", HostArguments::default(), deadline).await;
                let state = state.map_err(|failure| failure.why)?;
                if state.alive {
                    self.client.facts(target, deadline).await
                } else {
                    Ok(state.facts(settings::no_control(target)))
                }
            }
            Condition::Native { verb, args, .. } => {
                let wrong = |why: String| Unreachable::new(why, format!("{verb} at {}", target.name()));
                let args = Arguments::read(target, args).map_err(wrong)?;
                let follows = match verb.as_str() {
                    PREPARE_DEMOTION | FOLLOW_LATER => self.follows(target, &args, deadline).await?,
                    _ => false,
                };
                let mut facts = self.client.facts(target, deadline).await?;
                let state = convert::native_state(verb, &args, &facts, follows);
                facts.settings.insert(format!("native:{verb}"), state);
                Ok(facts)
            }
            Condition::AppliedBeyond { .. } | Condition::Promoted { .. } => {
                self.client.progress(target, deadline).await
            }
            _ => self.client.facts(target, deadline).await,
        }
    }

    /// Whether it is set to follow whom the arguments name; the setting itself may hold a password and is not read.
    async fn follows(&self, target: &Target, args: &Arguments, deadline: Instant) -> Result<bool, Unreachable> {
        let wrong = |why: String| Unreachable::new(why, format!("{PREPARE_DEMOTION} at {}", target.name()));
        let connection = args.connection(target).map_err(wrong)?;
        let slot = convert::slot_name(target.name()).map_err(wrong)?;
        let sql = format!(
            "SELECT current_setting('primary_conninfo') = {} AND current_setting('primary_slot_name') = {} AS follows",
            convert::literal(&connection),
            convert::literal(&slot)
        );
        let rows = self.client.ask(target, &sql, deadline).await.map_err(|error| explain(target, &error))?;
        Ok(rows.first().and_then(|row| column(row, "follows")) == Some("t"))
    }

    async fn act(&self, target: &Target, action: &Action, permit: &Permit, deadline: Instant) -> Result<(), Failure> {
        let client = &self.client;
        match action {
            Action::Native { verb, args } => native::apply(client, target, verb, args, deadline).await,
            Action::Withdraw { successor } => fence::withdraw(client, target, successor, permit, deadline).await,
            Action::Keep { successor } => fence::keep(client, target, successor, permit, deadline).await,
            Action::Unfence { lineage } => fence::unfence(client, target, lineage, permit, deadline).await,
            Action::CatchUp { behind, position } => {
                promote::catch_up(client, target, behind, *position, deadline).await
            }
            Action::Promote { lineage } => promote::promote(client, target, lineage, deadline).await,
            Action::Rejoin { primary } => fence::rejoin(client, target, primary, permit, deadline).await,
            other => Err(Failure::untouched(Unreachable::new(
                format!("the provider `postgresql` cannot {}", other.verb()),
                target.name(),
            ))),
        }
    }

    /// Catches up or promotes, and reads in the same breath what came of it: clients wait.
    async fn advance(
        &self,
        target: &Target,
        action: &Action,
        permit: &Permit,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        // The position that is waited for is there at once, nearly always.
        if let Action::CatchUp { position: Some(position), .. } = action
            && let Ok(facts) = self.client.progress(target, deadline).await
            && facts.replayed > *position
        {
            return Ok(seen(facts));
        }
        self.act(target, action, permit, deadline).await?;
        Ok(self.client.progress(target, deadline).await.map_or(Outcome::Applied, seen))
    }
}

fn seen(facts: MemberFacts) -> Outcome {
    Outcome::Seen(Box::new(Facts::Member(Box::new(facts))))
}

#[async_trait]
impl Provider for Postgresql {
    async fn observe(&self, target: &Target, _scope: &Scope, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        // How far away it is shows in its own answer: what its machine is asked beside it takes longer.
        let asking = async { (self.client.facts_or_files(target, deadline).await, began.elapsed()) };
        let ((facts, took), manager) = tokio::join!(asking, self.units.manager(target, deadline));
        match facts {
            Ok(mut facts) => {
                if let Some(manager) = manager {
                    facts.settings.entry("manager".to_owned()).or_insert(manager);
                }
                Observed::Known { value: Facts::Member(Box::new(facts)), took }
            }
            Err(why) => Observed::Unreachable(why),
        }
    }

    async fn apply(&self, target: &Target, action: &Action, permit: &Permit, deadline: Instant) -> Outcome {
        let done = match action {
            Action::Fence { successor } => fence::fence(&self.client, target, successor, permit, deadline)
                .await
                .map(|state| seen(state.facts(settings::no_control(target)))),
            Action::Rebuild { primary, chosen } => {
                rebuild::rebuild(&self.client, target, primary, *chosen, permit, deadline).await.map(seen)
            }
            Action::CatchUp { .. } | Action::Promote { .. } => self.advance(target, action, permit, deadline).await,
            _ => self.act(target, action, permit, deadline).await.map(|()| Outcome::Applied),
        };
        done.unwrap_or_else(Failure::outcome)
    }

    async fn verify(&self, target: &Target, condition: &Condition, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        // What can be awaited by a cheap question is; whatever comes of it, the facts below are what counts.
        match condition {
            Condition::AppliedBeyond { position: Some(position) } => {
                drop(
                    promote::wait_applied(&self.client, target, *position, deadline - deadline_reserve(deadline)).await,
                );
            }
            Condition::Promoted { beyond } => {
                let reserve = deadline_reserve(deadline);
                drop(promote::wait_promoted(&self.client, target, beyond.timeline, deadline - reserve).await);
            }
            _ => {}
        }
        let mut last = None;
        loop {
            match self.facts_for(target, condition, deadline).await {
                Ok(facts) => {
                    let facts = Facts::Member(Box::new(facts));
                    let holds = condition.holds(&facts).is_ok();
                    last = Some(Observed::Known { value: facts, took: began.elapsed() });
                    if holds {
                        break;
                    }
                }
                // A member that is starting or stopping will answer again; one that ran out of time said enough before.
                Err(why) => {
                    if last.is_none() || Instant::now() < deadline {
                        last = Some(Observed::Unreachable(why));
                    }
                }
            }
            if Instant::now() + POLL >= deadline {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        last.unwrap_or_else(|| Observed::Unreachable(Unreachable::new("no time was left", target.name())))
    }

    async fn prepare(&self, target: &Target, action: &Action, permit: &Permit, deadline: Instant) -> Option<Outcome> {
        if let Action::Fence { successor } = action {
            fence::arm(&self.client, target, successor, permit, deadline).await;
        }
        None
    }

    async fn supersede(&self, target: &Target, permit: &Permit, deadline: Instant) -> Outcome {
        let superseded = fence::supersede(&self.client, target, permit, deadline).await;
        superseded.map_or_else(Failure::outcome, |()| Outcome::Applied)
    }

    async fn warm_up(&self, target: &Target, deadline: Instant) {
        self.client.warm_up(target, deadline).await;
    }
}

/// What is kept of the time for the facts themselves.
fn deadline_reserve(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()) / 4
}
