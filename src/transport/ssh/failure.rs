//! What `ssh` died of, and what to do about it. Pure.

use super::super::{TransportError, process};
use super::Destination;
use crate::model::Unreachable;

pub(super) fn not_started(error: &std::io::Error, tried: String) -> TransportError {
    let why = format!("ssh: {}", process::cannot_start(error));
    let advice = match error.kind() {
        std::io::ErrorKind::NotFound => "install OpenSSH's client (Debian: openssh-client)",
        std::io::ErrorKind::ArgumentListTooLong => "hand long texts over on standard input",
        _ => "check that `ssh` runs on this machine",
    };
    TransportError::NotRun(Unreachable::new(why, tried).advice(advice))
}

/// Failures of which `ssh` says that they came before any command, and what to do about each. `{}` stands for the destination.
const BEFORE: [(&str, &str); 11] = [
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host was installed anew, or somebody stands in between: compare its key with the host's own before you take the \
         old one out with `ssh-keygen -R`",
    ),
    ("Host key verification failed", "compare the host's key and accept it once by hand: `ssh {}`"),
    ("Permission denied (", "check that `ssh -o BatchMode=yes {} true` works: key, agent (`ssh-add -l`), user"),
    (
        "Too many authentication failures",
        "name the key for this host in your ssh configuration (IdentityFile, IdentitiesOnly)",
    ),
    ("Could not resolve hostname", "check the host's address in the topology"),
    ("Connection refused", "check that sshd runs there and listens on that port"),
    ("Connection timed out", "check the host and the firewalls on the way"),
    ("No route to host", "check the network between here and the host"),
    ("Network is unreachable", "check the network between here and the host"),
    (
        "kex_exchange_identification",
        "something on the way ended the connection: where your ssh configuration leads through another host (ProxyJump, ProxyCommand), \
         try that one by itself; `ssh -o BatchMode=yes {} true` says more",
    ),
    ("Bad configuration option", "correct your ssh configuration"),
];

/// What an `ssh` that ended by itself without an answer died of.
pub(super) fn failure(stderr: &str, began: bool, destination: &Destination<'_>, tried: String) -> TransportError {
    let said = said(stderr);
    if began {
        return TransportError::Unknown(
            Unreachable::new(format!("the connection broke while it ran{said}"), tried)
                .advice("look on the host whether it still runs"),
        );
    }
    match BEFORE.iter().find(|(text, _)| stderr.contains(text)) {
        Some((_, advice)) => {
            let why = said.trim_start_matches(": ").to_owned();
            let advice = advice.replace("{}", &destination.to_string());
            TransportError::NotRun(Unreachable::new(why, tried).advice(advice))
        }
        None => TransportError::Unknown(
            Unreachable::new(format!("the connection broke{said}"), tried)
                .advice(format!("check that `ssh -o BatchMode=yes {destination} true` works")),
        ),
    }
}

/// The last lines of what `ssh` said, after a colon; nothing where it said nothing.
fn said(stderr: &str) -> String {
    let lines: Vec<&str> =
        stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@')).collect();
    let last = lines[lines.len().saturating_sub(2)..].join(" ");
    let short: String = last.chars().take(300).collect();
    if short.is_empty() { short } else { format!(": {short}") }
}

impl TransportError {
    /// The same with advice.
    pub(super) fn with_advice(self, advice: impl Into<String>) -> Self {
        match self {
            Self::NotRun(why) => Self::NotRun(why.advice(advice)),
            Self::Unknown(why) => Self::Unknown(why.advice(advice)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Destination<'static> = Destination { address: "db1", user: Some("postgres"), port: Some(2222) };

    #[test]
    fn failures_before_the_command_are_certain_and_say_what_to_do() {
        let refused = "postgres@db1: Permission denied (publickey).";
        let error = failure(refused, false, &HERE, "ssh to db1".to_owned());
        assert_eq!(
            error.to_string(),
            "postgres@db1: Permission denied (publickey). (ssh to db1); check that `ssh -o BatchMode=yes -p 2222 \
             postgres@db1 true` works: key, agent (`ssh-add -l`), user"
        );
        assert!(matches!(error, TransportError::NotRun(_)));
        let broken = failure("client_loop: send disconnect: Broken pipe", false, &HERE, String::new());
        assert!(matches!(broken, TransportError::Unknown(_)));
        // The words of a command that ran prove nothing.
        assert!(matches!(failure(refused, true, &HERE, String::new()), TransportError::Unknown(_)));
    }
}
