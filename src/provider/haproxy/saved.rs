//! The state file on a proxy's host, from which HAProxy takes weights and states when it starts or reloads (Configuration Manual,
//! `server-state-file` and `load-server-state-from-file`). Nothing here keeps a proxy from being set: what could not be saved is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::convert;
use crate::model::{Host, ProxyFacts, Saved, Target, TargetId, Unreachable};
use crate::transport::{Command, Transport, TransportError};

/// How long saving may take: a proxy must be set in time even where its host hangs.
const SAVING: Duration = Duration::from_secs(2);

/// For how long the last reading counts: gates look at proxies twice a second.
const FRESH: Duration = Duration::from_secs(5);

/// Exit status of [`READ`] for a file that is not there.
const MISSING: i32 = 4;

const READ: &str = r#"[ -e "$1" ] || exit 4
exec cat -- "$1""#;

/// Replaces the file `$1` by the standard input of `$2` bytes in one step, keeps its owner and mode, and prints what is there then. A sender
/// that dies leaves a part of it.
const WRITE: &str = r#"
set -u
file=$(readlink -f -- "$1") || { echo "its folder is not there" >&2; exit 3; }
new=$(mktemp -- "$file.XXXXXX") || exit 3
if [ -e "$file" ]; then cp -p -- "$file" "$new"; else chmod 644 -- "$new"; fi \
  && cat >"$new" && [ "$(wc -c <"$new")" -eq "$2" ] && { sync "$new" 2>/dev/null || sync; } && mv -f -- "$new" "$file" \
  || { rm -f -- "$new"; exit 3; }
exec cat -- "$file"
"#;

/// The state files, and what was last known of each.
#[derive(Debug)]
pub(super) struct StateFiles {
    transport: Arc<Transport>,
    known: Mutex<BTreeMap<TargetId, (Instant, Saved)>>,
}

/// What is there.
pub(super) enum Seen {
    /// Nothing new: what was known before.
    Recalled(Saved),
    /// The file's text.
    Text(String),
}

/// Where a proxy's state file is; none where nothing is configured.
pub(super) fn place(target: &Target) -> Option<Result<(&Host, &str), Unreachable>> {
    let path = target.settings.text("state_file")?;
    Some(target.host.as_deref().map(|host| (host, path)).ok_or_else(|| {
        Unreachable::new("the proxy has no host on which that file could be", format!("state file {path}"))
            .advice(format!("give {} a `host` in the topology, or take `state_file` away", target.name()))
    }))
}

impl StateFiles {
    pub fn new(transport: Arc<Transport>) -> Self {
        Self { transport, known: Mutex::default() }
    }

    /// What was last known, however long ago.
    pub fn recall(&self, target: &Target) -> Saved {
        self.known(target).map(|(_, saved)| saved).unwrap_or_default()
    }

    fn known(&self, target: &Target) -> Option<(Instant, Saved)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&target.id).cloned()
    }

    fn remember(&self, target: &Target, saved: &Saved) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(target.id.clone(), (Instant::now(), saved.clone()));
    }

    /// Reads the file, unless it was read or written a moment ago.
    pub async fn look(&self, target: &Target, fresh: bool, deadline: Instant) -> Seen {
        let recent = self.known(target).filter(|(at, _)| !fresh && at.elapsed() < FRESH);
        match (place(target), recent) {
            (None, _) => Seen::Recalled(Saved::No),
            (_, Some((_, saved))) => Seen::Recalled(saved),
            (Some(Err(why)), _) => Seen::Recalled(Saved::Unknown(why)),
            (Some(Ok((host, path))), None) => {
                let tried = format!("reading {path} on {}", host.name);
                match self.run(host, READ, path, None, deadline).await {
                    Ok((0, text, _)) => Seen::Text(text),
                    Ok((MISSING, ..)) => Seen::Text(String::new()),
                    Ok((_, _, said)) => {
                        self.failed(target, Unreachable::new(said, tried).advice("let the host's login read it"))
                    }
                    Err(why) => self.failed(target, why),
                }
            }
        }
    }

    fn failed(&self, target: &Target, why: Unreachable) -> Seen {
        let saved = Saved::Unknown(why);
        self.remember(target, &saved);
        Seen::Recalled(saved)
    }

    /// Judges what was seen by the facts that were read beside it.
    pub fn judge(&self, target: &Target, seen: Seen, facts: &ProxyFacts) -> Saved {
        match seen {
            Seen::Recalled(saved) => saved,
            Seen::Text(text) => {
                let saved = convert::saved(facts, &text);
                self.remember(target, &saved);
                saved
            }
        }
    }

    /// Writes a proxy's whole state, as `show servers state` tells it, and reads it back.
    pub async fn save(&self, target: &Target, state: Result<String, Unreachable>, deadline: Instant) -> Saved {
        let saved = match place(target) {
            None => return Saved::No,
            Some(place) => match self.written(place, state, deadline).await {
                Ok(()) => Saved::Yes,
                Err(why) => Saved::Unknown(why),
            },
        };
        self.remember(target, &saved);
        saved
    }

    async fn written(
        &self,
        place: Result<(&Host, &str), Unreachable>,
        state: Result<String, Unreachable>,
        deadline: Instant,
    ) -> Result<(), Unreachable> {
        let ((host, path), state) = (place?, state? + "\n");
        let deadline = deadline.min(Instant::now() + SAVING);
        let tried = || format!("writing {path} on {}", host.name);
        match self.run(host, WRITE, path, Some(&state), deadline).await? {
            (0, text, _) if text == state => Ok(()),
            (0, ..) => Err(Unreachable::new("something else is there than was written", tried())
                .advice("see who else writes that file")),
            (_, _, said) => {
                Err(Unreachable::new(said, tried()).advice("let the host's login write the file and its folder"))
            }
        }
    }

    async fn run(
        &self,
        host: &Host,
        text: &'static str,
        path: &str,
        input: Option<&str>,
        deadline: Instant,
    ) -> Result<(i32, String, String), Unreachable> {
        let command = Command::Script { text, args: vec![path.to_owned(), input.map_or(0, str::len).to_string()] };
        match self.transport.run(host, &command, input.map(str::as_bytes), deadline).await {
            Ok(output) => Ok((output.status, output.stdout, output.stderr.trim().to_owned())),
            Err(TransportError::NotRun(why) | TransportError::Unknown(why)) => Err(why),
        }
    }
}
