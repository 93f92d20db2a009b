//! What this machine says of itself and of its processes (proc(5)).

use std::fs;

use crate::journal::{Here, Holder, Life, Process};

#[expect(clippy::disallowed_methods, reason = "the command line reads what the machine tells of itself")]
fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The twentieth field behind the name, which may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')')?;
    // A zombie does nothing any more.
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// This machine, and what it says of a process number; none where it does not tell.
fn here(pid: u32) -> Option<Here> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(Here {
        machine: read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/hostname"))?,
        boot: read("/proc/sys/kernel/random/boot_id")?,
        namespace: namespace.to_string_lossy().into_owned(),
        started: started(pid),
    })
}

/// A process that lives here.
pub fn of(pid: u32) -> Option<Process> {
    let Here { machine, boot, namespace, started } = here(pid)?;
    Some(Process { machine, boot, namespace, pid, started: started? })
}

/// Whether the holder of a lock lives.
pub fn life(holder: &Holder) -> Life {
    let process = holder.process.as_ref();
    process.and_then(|process| Some(process.life(&here(process.pid)?))).unwrap_or(Life::Unknown)
}

/// Whether this process was started so that the end of its terminal does not concern it, as by nohup(1).
pub fn ignores_hangup() -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    // SIGHUP is signal 1, the lowest bit.
    ignored.is_some_and(|ignored| ignored & 1 == 1)
}

/// Who acts here: `user@host pid N`.
#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
pub fn holder() -> Holder {
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "unknown".to_owned());
    let host = read("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".to_owned());
    Holder { name: format!("{user}@{host} pid {}", std::process::id()), process: of(std::process::id()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_known_while_it_lives_and_gone_afterwards() {
        let own = holder();
        assert_eq!((own.process.is_some(), life(&own)), (true, Life::Lives));
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let process = Process { pid, started: started(pid).unwrap(), ..own.process.clone().unwrap() };
        let other = Holder { process: Some(process), ..own };
        assert_eq!(life(&other), Life::Lives);
        child.kill().unwrap();
        // Not yet waited for: a zombie.
        while life(&other) == Life::Lives {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(life(&other), Life::Gone);
        assert_eq!(life(&"ada@elsewhere pid 1".into()), Life::Unknown);
    }
}
