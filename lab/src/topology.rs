//! Reads the topology that the lab runs, and shortens its times for `--fast`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use handover::diagnostic::SettingsCheck;
use handover::report::diagnostic::{Style, render};
use handover::topology::Topology;

/// The providers whose servers the lab can run.
const PROVIDERS: [&str; 6] = ["rfc2136", "haproxy", "postgresql", "pgbouncer", "http", "command"];

/// Reads a topology. Settings are judged by `handover`'s providers; the lab asks only for those that it needs.
pub fn read(path: &Path) -> Result<Topology> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let accept: SettingsCheck = |_, _| Vec::new();
    let checks: BTreeMap<&str, SettingsCheck> = PROVIDERS.map(|provider| (provider, accept)).into();
    match handover::topology::parse(&bytes, &checks) {
        Ok(parsed) => Ok(parsed.topology),
        Err(findings) => Err(anyhow!(render(&bytes, &path.to_string_lossy(), &findings, Style::PLAIN))),
    }
}

/// Times that `--fast` shortens: the key, and what it becomes. Everything else stays as it is.
const SHORTENED: [(&str, &str); 5] =
    [("ttl", "2s"), ("soak", "1s"), ("after", "10s"), ("hold_down", "3s"), ("settle", "3s")];

/// The same topology with only TTLs, soaks, hold-down, settling and the drain deadline shortened; comments and layout stay.
pub fn fast(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| {
        let comment = line.find(" #").unwrap_or(line.len());
        let (content, comment) = line.split_at(comment);
        let mut content = content.to_owned();
        for (key, short) in SHORTENED {
            content = shorten(&content, key, short);
        }
        content + comment
    });
    lines.collect()
}

/// Replaces the duration after `key: ` where it is one.
fn shorten(line: &str, key: &str, short: &str) -> String {
    let pattern = format!("{key}: ");
    let Some(at) = line.find(&pattern) else { return line.to_owned() };
    let begins = line[..at].chars().next_back().is_none_or(|before| matches!(before, ' ' | '{' | ','));
    let value = &line[at + pattern.len()..];
    let end = value.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(value.len());
    let is_duration = value[..end].starts_with(|c: char| c.is_ascii_digit()) && value[..end].ends_with(['s', 'm', 'h']);
    if !(begins && is_duration) {
        return line.to_owned();
    }
    format!("{}{pattern}{short}{}", &line[..at], &value[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_changes_times_and_nothing_else() {
        let text = "    ttl: 30s   # ttl: 30s is the default\n  shift: {stages: [10%, 100%], soak: 30s}\n  battery: {runtime: 15m}\n  drain_deadline: {after: 10m, then: leave}\n  subtitle: 5s\n  ttl: soon\n";
        let expected = "    ttl: 2s   # ttl: 30s is the default\n  shift: {stages: [10%, 100%], soak: 1s}\n  battery: {runtime: 15m}\n  drain_deadline: {after: 10s, then: leave}\n  subtitle: 5s\n  ttl: soon\n";
        assert_eq!(fast(text), expected);
    }
}
