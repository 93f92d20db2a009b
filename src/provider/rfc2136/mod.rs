//! Provider `rfc2136`: authoritative DNS servers, read by plain questions and changed by signed dynamic updates.
//!
//! - Reading: every record set and the SOA in one round trip over TCP, without recursion; an answer without authority is none.
//!   These questions are not signed: what counts is what users' resolvers are told. Beside them one signed question proves the key.
//! - Changing: one update per call, all or nothing, under prerequisites on whole record sets (RFC 2136 §2.4), signed (RFC 8945).
//!   Prerequisites do not look at TTLs, so that those are compared by a reading just before, on the same connection.
//! - NOERROR does not mean that an update had an effect (§3.4.2.2: an address next to an alias is silently ignored): only
//!   `verify`, which asks anew, tells.

mod change;
mod client;
mod convert;
mod settings;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::Message;
use hickory_proto::rr::TSigner;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::change::Change;
use self::client::{Broken, Session, Signed};
use self::convert::{Fault, Standing, Verdict, counted};
use self::settings::Key;
pub use self::settings::{check, schema};
use super::{Outcome, Provider};
use crate::journal::Permit;
use crate::model::{
    Action, Condition, Epoch, Facts, NameServerFacts, Observed, RecordKey, Scope, Span, Target, Unreachable, ZoneName,
};
use crate::secret::SecretReader;

/// How often `verify` asks.
const POLL: Duration = Duration::from_millis(20);

/// How often `verify` tries to connect to a server that it cannot reach.
const RETRY: Duration = Duration::from_millis(100);

/// How long `verify` waits for one answer before it asks again, so that one lost question does not use all the time up.
const ATTEMPT: Duration = Duration::from_secs(2);

/// For how long the last answer counts as the present state while the next one is awaited.
const PATIENCE: Duration = Duration::from_secs(1);

/// Speaks to authoritative DNS servers.
#[derive(Debug)]
pub struct Rfc2136 {
    secrets: Arc<SecretReader>,
}

impl Rfc2136 {
    /// A provider that reads its keys' secrets by `secrets`, at use.
    pub fn new(secrets: Arc<SecretReader>) -> Self {
        Self { secrets }
    }

    /// The zone's key with its secret.
    async fn signer(&self, call: &Call<'_>) -> Result<(Key, TSigner), Unreachable> {
        let settings = &call.target.settings;
        let key = settings::credentials(settings).map_err(|finding| call.unreachable(finding.message))?;
        let secret = timeout_at(call.deadline, self.secrets.setting(settings, "secret"))
            .await
            .map_err(|_| call.unreachable("the key's secret could not be read in time"))?
            .map_err(|error| call.unreachable(error.to_string()))?;
        let signer = client::signer(&key, &secret).map_err(|fault| call.fault(fault))?;
        Ok((key, signer))
    }

    /// Proves the key before anything depends on it: a question that changes nothing, signed as an update would be.
    async fn prove_key(&self, target: &Target, zone: &ZoneName, deadline: Instant) -> Result<(), Unreachable> {
        let tried = format!("signed SOA question for {zone} at {}", target.address);
        let call = Call { target, tried, deadline };
        let (key, signer) = self.signer(&call).await?;
        let soa = convert::soa_message(zone).map_err(|fault| call.fault(fault))?;
        let mut session = call.within(Session::open(&target.address)).await?;
        let signed = client::sign(soa, &signer).map_err(|fault| call.fault(fault))?;
        match call.exchange(&mut session, signed, &key).await {
            Ok(_) => Ok(()),
            Err(Failure::Untouched(why) | Failure::Doubtful(why)) => Err(why),
        }
    }

    /// Carries a change out.
    async fn change(
        &self,
        target: &Target,
        zone: &ZoneName,
        change: Change<'_>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let tried = updating(zone, change, target);
        let call = Call { target, tried, deadline };
        let update = change.update(zone).map_err(|fault| call.fault(fault))?;
        let (key, signer) = self.signer(&call).await?;

        let keys = change.keys();
        let mut session = None;
        match change.standing(&call.read(&mut session, zone, &keys).await?) {
            Standing::Done => return Ok(()),
            Standing::AsAssumed => {}
            Standing::Other(found) => return Err(call.conflict(&found).into()),
        }
        let signed = client::sign(update, &signer).map_err(|fault| call.fault(fault))?;
        let open = session.as_mut().ok_or_else(|| call.unreachable("there is no connection"))?;
        // From here on the server may have the update.
        let answer = call.exchange(open, signed, &key).await?;
        match convert::verdict(&answer, zone, &key.name) {
            Verdict::Taken => Ok(()),
            Verdict::Refused(fault) => Err(call.fault(fault).into()),
            Verdict::Failed(fault) => Err(Failure::Doubtful(call.fault(fault))),
            // Somebody was faster by a moment.
            Verdict::Unmet => match change.standing(&call.read(&mut session, zone, &keys).await?) {
                Standing::Done => Ok(()),
                Standing::Other(found) => Err(call.conflict(&found).into()),
                Standing::AsAssumed => {
                    let why = "the server answers with what is assumed, but says that the zone does not hold it";
                    let advice = "a wildcard record answers for the name, or the server has several views: make the set explicit";
                    Err(call.unreachable(why).advice(advice).into())
                }
            },
        }
    }
}

/// Why something signed did not succeed.
enum Failure {
    /// Certainly nothing was done.
    Untouched(Unreachable),
    /// It may have been done.
    Doubtful(Unreachable),
}

impl From<Unreachable> for Failure {
    fn from(why: Unreachable) -> Self {
        Self::Untouched(why)
    }
}

#[async_trait]
impl Provider for Rfc2136 {
    async fn observe(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts> {
        let Scope::Records(keys) = scope else { return Observed::Unreachable(misdirected(target)) };
        let Some(zone) = target.id.scope().map(ZoneName::new) else {
            return Observed::Unreachable(misdirected(target));
        };
        // Beside each other: a secret that comes late must not use up the time that the server has.
        let mut session = None;
        let (mut seen, proof) =
            tokio::join!(poll(target, keys, &mut session, deadline), self.prove_key(target, &zone, deadline));
        if let Observed::Known { value: Facts::NameServer(facts), .. } = &mut seen {
            facts.rejects_key = proof.err();
        }
        seen
    }

    async fn apply(&self, target: &Target, action: &Action, _permit: &Permit, deadline: Instant) -> Outcome {
        let Some((zone, change)) = Change::of(action) else { return Outcome::NotApplied(misdirected(target)) };
        match self.change(target, zone, change, deadline).await {
            Ok(()) => Outcome::Applied,
            Err(Failure::Untouched(why)) => Outcome::NotApplied(why),
            Err(Failure::Doubtful(why)) => Outcome::Unknown(why),
        }
    }

    fn impossible(&self, target: &Target, action: &Action) -> Option<Unreachable> {
        let (zone, change) = Change::of(action)?;
        // Settings are judged elsewhere.
        let key = settings::credentials(&target.settings).ok()?;
        let fault = change.update(zone).and_then(|update| client::fits(update, &key)).err()?;
        let tried = updating(zone, change, target);
        Some(Unreachable { why: fault.why, tried, advice: fault.advice })
    }

    async fn verify(&self, target: &Target, condition: &Condition, deadline: Instant) -> Observed<Facts> {
        let keys = match condition {
            Condition::Records { sets } => sets.keys().cloned().collect(),
            Condition::Epoch { .. } => BTreeSet::new(),
            _ => return Observed::Unreachable(misdirected(target)),
        };
        let mut session = None;
        let mut last = None;
        loop {
            let asked = Instant::now();
            let patience = deadline.min(asked + ATTEMPT);
            let seen = poll(target, &keys, &mut session, patience).await;
            let (holds, pause) = match &seen {
                Observed::Known { value, .. } => (condition.holds(value).is_ok(), POLL),
                Observed::Unreachable(_) => (false, RETRY),
            };
            // The deadline may cut the last question off; what was seen right before it tells more then.
            let cut_off = Instant::now() >= deadline && asked.elapsed() < PATIENCE;
            let seen = match (last, seen) {
                (Some(known @ Observed::Known { .. }), Observed::Unreachable(_)) if cut_off => known,
                (_, seen) => seen,
            };
            let next = Instant::now() + pause;
            if holds || next >= deadline {
                return seen;
            }
            last = Some(seen);
            sleep_until(next).await;
        }
    }
}

/// The epoch that a name server publishes for its zone; none where it says with authority that there is none. Nothing is signed: this
/// needs no secret.
///
/// # Errors
/// If it does not answer, or what it publishes is no epoch.
pub async fn epoch(target: &Target, deadline: Instant) -> Result<Option<Epoch>, Unreachable> {
    match poll(target, &BTreeSet::new(), &mut None, deadline).await {
        Observed::Known { value: Facts::NameServer(NameServerFacts { epoch_fault: None, epoch, .. }), .. } => Ok(epoch),
        Observed::Known { value: Facts::NameServer(facts), .. } => {
            let why = facts.epoch_fault.unwrap_or_default();
            Err(Unreachable::new(
                format!("its epoch cannot be read: {why}"),
                format!("TXT over TCP from {}", target.address),
            ))
        }
        Observed::Known { .. } => Err(misdirected(target)),
        Observed::Unreachable(why) => Err(why),
    }
}

/// One reading, with the time that it took.
async fn poll(
    target: &Target,
    keys: &BTreeSet<RecordKey>,
    session: &mut Option<Session>,
    deadline: Instant,
) -> Observed<Facts> {
    let began = Instant::now();
    let Some(zone) = target.id.scope().map(ZoneName::new) else { return Observed::Unreachable(misdirected(target)) };
    let tried = format!("SOA and epoch of {zone} and {} over TCP from {}", counted(keys.len()), target.address);
    let call = Call { target, tried, deadline };
    match call.read(session, &zone, keys).await {
        Ok(facts) => Observed::Known { value: Facts::NameServer(facts), took: began.elapsed() },
        Err(why) => Observed::Unreachable(why),
    }
}

/// What is being tried at which server by when: for the errors.
struct Call<'a> {
    target: &'a Target,
    tried: String,
    deadline: Instant,
}

impl Call<'_> {
    /// Reads SOA and record sets over `session`, which is opened where there is none and dropped where it broke.
    async fn read(
        &self,
        session: &mut Option<Session>,
        zone: &ZoneName,
        keys: &BTreeSet<RecordKey>,
    ) -> Result<NameServerFacts, Unreachable> {
        let questions = convert::questions(zone, keys).map_err(|fault| self.fault(fault))?;
        let mut open = match session.take() {
            Some(open) => open,
            None => self
                .within(Session::open(&self.target.address))
                .await
                .map_err(|why| why.advice("check that the name server runs and that its TCP port is open from here"))?,
        };
        let answers = self.within(open.ask(&questions)).await.map_err(|why| {
            why.advice(
                "check that a name server listens there and is not overloaded, and that no firewall eats its answers",
            )
        })?;
        *session = Some(open);
        convert::facts(keys, &questions, &answers).map_err(|fault| self.fault(fault))
    }

    /// Sends a signed message and returns its verified answer.
    async fn exchange(&self, session: &mut Session, mut signed: Signed, key: &Key) -> Result<Message, Failure> {
        let answer = self.within(session.send(&signed)).await.map_err(Failure::Doubtful)?;
        let message = signed.parse(&answer).map_err(|broken| Failure::Doubtful(self.broken(&broken)))?;
        // Rejected signatures are answered unsigned, or signed by a clock that is off (RFC 8945 §5.2): they come first.
        if let Some(fault) = convert::signature_fault(&message, &key.name, signed.signed_at) {
            return Err(self.fault(fault).into());
        }
        if !signed.vouches(&answer) {
            let why = "the answer is not signed with the same key, so that it proves nothing";
            return Err(Failure::Doubtful(self.unreachable(why)));
        }
        Ok(message)
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, Broken>>) -> Result<T, Unreachable> {
        let began = Instant::now();
        match timeout_at(self.deadline, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(broken)) => Err(self.broken(&broken)),
            Err(_) => {
                let waited = Span::millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                Err(self.unreachable(format!("no answer within {waited}")))
            }
        }
    }

    fn unreachable(&self, why: impl Into<String>) -> Unreachable {
        Unreachable::new(why, self.tried.clone())
    }

    fn broken(&self, broken: &Broken) -> Unreachable {
        self.unreachable(broken.to_string())
    }

    fn fault(&self, fault: Fault) -> Unreachable {
        Unreachable { why: fault.why, tried: self.tried.clone(), advice: fault.advice }
    }

    fn conflict(&self, found: &str) -> Unreachable {
        self.unreachable(format!("somebody else changed it: {found}")).advice("make a new plan from what is there now")
    }
}

fn misdirected(target: &Target) -> Unreachable {
    Unreachable::new("a name server knows record sets and nothing else", format!("provider rfc2136 at {}", target.id))
}

fn updating(zone: &ZoneName, change: Change<'_>, target: &Target) -> String {
    format!("updating {} of {zone} at {}", change.text(), target.address)
}
