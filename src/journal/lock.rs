//! Who holds a topology's lock, and how the death of a holder is proven. Pure: what the machine says comes as a value.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RunId;

/// A process, told from every other one before and after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The machine (machine-id(5)).
    pub machine: String,
    /// The machine's present start (`boot_id` in random(4)).
    pub boot: String,
    /// Its process number space (pid_namespaces(7)).
    pub namespace: String,
    /// Its number there.
    pub pid: u32,
    /// When it began, in clock ticks since the start of the machine (`starttime` in proc_pid_stat(5)): numbers are used again.
    pub started: u64,
}

/// What the machine on which somebody asks says of itself and of one process number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// As in [`Process`].
    pub machine: String,
    /// As in [`Process`].
    pub boot: String,
    /// As in [`Process`].
    pub namespace: String,
    /// When the process with the number began; none if there is none.
    pub started: Option<u64>,
}

/// Whether a process lives, as far as can be told from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Lives,
    /// It certainly does not.
    Gone,
    /// It is of another machine, or of a container that cannot be seen from here.
    Unknown,
}

impl Process {
    /// Judges by what a machine says of the process's number.
    pub fn life(&self, here: &Here) -> Life {
        if self.machine != here.machine {
            Life::Unknown
        } else if self.boot != here.boot {
            // The machine was started since.
            Life::Gone
        } else if self.namespace != here.namespace {
            Life::Unknown
        } else if here.started == Some(self.started) {
            Life::Lives
        } else {
            Life::Gone
        }
    }
}

/// Who wants or holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// `user@host pid N`.
    pub name: String,
    /// Its process, where the machine tells it.
    pub process: Option<Process>,
}

impl From<&str> for Holder {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), process: None }
    }
}

/// The lock while somebody holds it, expired or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// For which run.
    pub run: RunId,
    /// Who.
    pub holder: Holder,
    /// Its token.
    pub token: u64,
    /// Since when.
    pub since: Timestamp,
    /// Until when it is good without a further sign of life.
    pub until: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_is_called_gone() {
        let text = |text: &str| text.to_owned();
        let process =
            Process { machine: text("ops"), boot: text("b"), namespace: text("pid:[1]"), pid: 7, started: 100 };
        let here = |machine, boot, namespace, started| {
            process.life(&Here { machine: text(machine), boot: text(boot), namespace: text(namespace), started })
        };
        assert_eq!(here("ops", "b", "pid:[1]", Some(100)), Life::Lives);
        assert_eq!(here("ops", "b", "pid:[1]", None), Life::Gone);
        // Its number belongs to another one now.
        assert_eq!(here("ops", "b", "pid:[1]", Some(101)), Life::Gone);
        assert_eq!(here("ops", "c", "pid:[1]", Some(100)), Life::Gone);
        // A container of the same machine, and another machine: not seen from here.
        assert_eq!(here("ops", "b", "pid:[2]", None), Life::Unknown);
        assert_eq!(here("other", "b", "pid:[1]", None), Life::Unknown);
    }
}
