//! `handover admit`: asks the witnesses whether a server of this machine may start. No store, no secret.

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::args;
use super::context::{print, read_topology};
use super::exit::Exit;
use super::voice::Voice;
use crate::model::{Lineage, Span};
use crate::plan::admit::{Ruling, Subject, Testimony, rule, witnesses};
use crate::provider::postgresql::{AtRest, at_rest};
use crate::provider::rfc2136;
use crate::topology::Topology;
use crate::transport::Transport;

/// How long one question may take before it is asked again.
const ATTEMPT: Span = Span::secs(2);

/// How long after an attempt the next one begins.
const PAUSE: Span = Span::millis(200);

/// Says whether it may start.
///
/// # Errors
/// None; whatever keeps it from being told is a refusal.
pub async fn run(args: args::Admit) -> Result<Exit> {
    let voice = Voice { json: false, output: args.output };
    let topology = match read_topology(&args.topology, voice) {
        Ok((_, topology)) => topology,
        Err(exit) => return Ok(exit),
    };
    let subject = match Subject::named(&topology, &args.name) {
        Ok(subject) => subject,
        Err(error) => return Ok(voice.error(Exit::Usage, &error.to_string())),
    };
    let deadline = Instant::now() + args.timeout.0;
    let primary = match lineage(&subject, deadline).await {
        Ok(Some(AtRest::Replica)) => {
            print(&format!("{} would start as a replica: admitted\n", args.name));
            return Ok(Exit::Success);
        }
        Ok(Some(AtRest::Primary(lineage))) => Some(lineage),
        Ok(None) => None,
        Err(why) => return Ok(voice.refuse(&format!("what {} would start as is not known: {why}", args.name))),
    };
    let ruling = ask(&topology, &subject, primary.as_ref(), args.allow_unpublished, deadline).await;
    if ruling.admitted {
        print(&format!("{}: admitted\n", ruling.why));
        return Ok(Exit::Success);
    }
    Ok(voice.refuse(&format!("{} does not start: {}", args.name, ruling.why)))
}

/// What a database member would start as; none for anything else.
async fn lineage(subject: &Subject, deadline: Instant) -> Result<Option<AtRest>, String> {
    let Some(member) = subject.member() else { return Ok(None) };
    if member.provider.as_str() != "postgresql" {
        return Err(format!("provider `{}` cannot tell it", member.provider));
    }
    at_rest(member, &Transport::new(), deadline).await.map(Some).map_err(|why| why.to_string())
}

/// Asks all witnesses at once, again and again, until it is admitted, all have answered, or the time is over.
async fn ask(
    topology: &Topology,
    subject: &Subject,
    primary: Option<&Lineage>,
    unpublished: bool,
    deadline: Instant,
) -> Ruling {
    loop {
        let attempt = deadline.min(Instant::now() + ATTEMPT.0);
        let mut asked = JoinSet::new();
        for witness in witnesses(topology, subject) {
            asked.spawn(async move {
                let answer = rfc2136::epoch(&witness, attempt).await.map_err(|why| why.to_string());
                Testimony { witness, answer }
            });
        }
        let mut heard = asked.join_all().await;
        heard.sort_by(|one, other| one.witness.id.cmp(&other.witness.id));
        let ruling = rule(subject, primary, &heard, unpublished);
        let again = Instant::now() + PAUSE.0;
        if ruling.admitted || !ruling.open || again >= deadline {
            return ruling;
        }
        sleep_until(again).await;
    }
}
