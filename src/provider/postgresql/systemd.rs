//! Whether systemd would start a member again that was stopped. A fence ends the server by a signal, which systemd takes for an end of the
//! server's own; a unit with `Restart=always` would start it again, as a replica that nobody expects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::client::AS_OWNER;
use super::settings::no_control;
use crate::model::{Target, TargetId};
use crate::transport::{Command, Transport};

/// The most that is waited for a host: a member is known without it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the units of members; a unit is asked for once in the life of a program.
#[derive(Debug)]
pub(super) struct Units {
    transport: Arc<Transport>,
    known: Mutex<BTreeMap<TargetId, Option<String>>>,
}

impl Units {
    pub fn new(transport: Arc<Transport>) -> Self {
        Self { transport, known: Mutex::default() }
    }

    /// The manager that would undo a fence of `target`, such as `systemd (postgresql.service has Restart=always)`. None as well where
    /// its machine cannot be asked, and where its host has commands that keep that from happening.
    pub async fn manager(&self, target: &Target, deadline: Instant) -> Option<String> {
        let (Some(host), Some(data)) = (&target.host, target.settings.text("data_directory")) else { return None };
        // systemd restarts nothing that it was itself told to stop.
        let prevented = ["inhibit", "stop"].iter().any(|name| host.commands.contains_key(*name));
        if prevented || no_control(target).is_some() {
            return None;
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manager) = known().get(&target.id) {
            return manager.clone();
        }
        // As the owner of the directory, which `AS_OWNER` finds as its fourth argument.
        let script = include_str!("systemd.sh").to_owned();
        let args = vec![script, "handover".to_owned(), data.to_owned(), data.to_owned()];
        let command = Command::Script { text: AS_OWNER, args };
        let until = deadline.min(Instant::now() + PATIENCE);
        let output = self.transport.run(host, &command, None, until).await.ok().filter(|output| output.status == 0)?;
        let manager = manager(&output.stdout);
        known().insert(target.id.clone(), manager.clone());
        manager
    }
}

/// What the script said, in words.
fn manager(said: &str) -> Option<String> {
    let (unit, restart) = said.trim().split_once(' ')?;
    Some(format!("systemd ({unit} has Restart={restart})"))
}
