//! Between pgbouncer's words and the model's: its configuration file and its console's answers. Pure.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::model::PoolMode;

/// Why a route cannot be read or written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RouteError {
    /// The section has no such database.
    #[error("its [databases] section has no entry `{0}`")]
    NoEntry(String),
    /// There are several.
    #[error("its [databases] section has several entries `{0}`")]
    Ambiguous(String),
    /// The entry names no single host, so that there is nothing to replace.
    #[error("the entry `{0}` names no single `host`")]
    NoHost(String),
    /// The entry leads elsewhere than was assumed.
    #[error("the entry leads to {0}")]
    Differs(String),
    /// The new route is no address.
    #[error("`{0}` is not an address such as `10.10.0.100:5432`")]
    Address(String),
}

/// Where an entry's host and port stand in the text.
struct Entry {
    host: Range<usize>,
    port: Option<Range<usize>>,
}

/// `host:port`, `[v6]:port`.
pub(super) fn address(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The route that the configuration file `text` gives `database`.
pub(super) fn written_route(text: &str, database: &str) -> Result<String, RouteError> {
    let entry = find(text, database)?;
    Ok(route(text, &entry))
}

fn route(text: &str, entry: &Entry) -> String {
    // PostgreSQL's own port is pgbouncer's default.
    let port = entry.port.clone().map_or("5432", |port| unquoted(&text[port]));
    address(unquoted(&text[entry.host.clone()]), port)
}

/// The configuration with another route for `database`; every other byte stays. `Ok(None)` where it is written so already.
///
/// # Errors
/// If the entry is missing, ambiguous or leads elsewhere than `from`.
pub(super) fn with_route(text: &str, database: &str, from: &str, to: &str) -> Result<Option<String>, RouteError> {
    let entry = find(text, database)?;
    let present = route(text, &entry);
    if present == to {
        return Ok(None);
    }
    if present != from {
        return Err(RouteError::Differs(present));
    }
    let wrong = || RouteError::Address(to.to_owned());
    let (host, port) = crate::provider::pgwire::split_address(to).ok_or_else(wrong)?;
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:%".contains(&b)) {
        return Err(wrong());
    }
    let port = match entry.port {
        Some(range) => (range, port.to_string()),
        None => (entry.host.end..entry.host.end, format!(" port={port}")),
    };
    let mut edits = [(entry.host, host.to_owned()), port];
    edits.sort_by_key(|(range, _)| std::cmp::Reverse((range.start, range.end)));
    let mut result = text.to_owned();
    for (range, new) in edits {
        result.replace_range(range, &new);
    }
    Ok(Some(result))
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(value)
}

/// The `min_pool_size` that an entry of the configuration file has of its own; 0 where it has none.
pub(super) fn own_min_size(text: &str, database: &str) -> u64 {
    let Ok(range) = line(text, database) else { return 0 };
    let pairs = pairs(text, range);
    let own = pairs.iter().find(|(name, _)| *name == "min_pool_size");
    own.and_then(|(_, range)| unquoted(&text[range.clone()]).parse().ok()).unwrap_or(0)
}

/// Finds host and port of an entry.
fn find(text: &str, database: &str) -> Result<Entry, RouteError> {
    let pairs = pairs(text, line(text, database)?);
    let value = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, range)| range.clone());
    match value("host") {
        // A comma separates hosts among which pgbouncer chooses itself; a slash begins a socket's path.
        Some(host)
            if !unquoted(&text[host.clone()]).contains([',', '/']) && !unquoted(&text[host.clone()]).is_empty() =>
        {
            Ok(Entry { host, port: value("port") })
        }
        _ => Err(RouteError::NoHost(database.to_owned())),
    }
}

/// Finds the entry in the section `[databases]`; a file without headings is included from that section.
fn line(text: &str, database: &str) -> Result<Range<usize>, RouteError> {
    let mut in_section = true;
    let mut found = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim();
        if let Some(heading) = content.strip_prefix('[') {
            in_section = heading.trim_end_matches(']').trim().eq_ignore_ascii_case("databases");
        } else if in_section
            && !content.starts_with([';', '#', '%'])
            && let Some((name, _)) = line.split_once('=')
            && name.trim().trim_matches('"') == database
        {
            if found.is_some() {
                return Err(RouteError::Ambiguous(database.to_owned()));
            }
            found = Some(start + name.len() + 1..start + line.trim_end().len());
        }
        start += line.len();
    }
    found.ok_or_else(|| RouteError::NoEntry(database.to_owned()))
}

/// `key=value` pairs with the place of each value; values may be quoted, with `''` for a quote (pgbouncer's `cstr_get_pair`).
fn pairs(text: &str, range: Range<usize>) -> Vec<(&str, Range<usize>)> {
    let bytes = text.as_bytes();
    let mut at = range.start;
    let mut pairs = Vec::new();
    let blank = |at: usize| bytes[at].is_ascii_whitespace();
    while at < range.end {
        while at < range.end && blank(at) {
            at += 1;
        }
        let key = at;
        while at < range.end && bytes[at] != b'=' && !blank(at) {
            at += 1;
        }
        let name = &text[key..at];
        while at < range.end && (bytes[at] == b'=' || blank(at)) {
            at += 1;
        }
        let value = at;
        if at < range.end && bytes[at] == b'\'' {
            at += 1;
            while at < range.end {
                if bytes[at] == b'\'' {
                    if at + 1 < range.end && bytes[at + 1] == b'\'' {
                        at += 1;
                    } else {
                        break;
                    }
                }
                at += 1;
            }
            at = (at + 1).min(range.end);
        } else {
            while at < range.end && !blank(at) {
                at += 1;
            }
        }
        pairs.push((name, value..at));
    }
    pairs
}

/// A pool mode by its name; an empty one is the configured default.
pub(super) fn pool_mode(own: &str, default: &str) -> PoolMode {
    match if own.is_empty() { default } else { own } {
        "transaction" => PoolMode::Transaction,
        "statement" => PoolMode::Statement,
        _ => PoolMode::Session,
    }
}

/// A text's SHA-256 as `sha256sum` writes it.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An identifier in a console command.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "; routes\r\n[databases]\n# accounts = host=9.9.9.9\naccounts  =  dbname=accounts host = 10.10.0.100 port=5432 connect_query='select ''host=x'''\n\
        plain = host=10.10.0.100\n\"quoted-db\" = host='10.10.0.100' port='5433'\nmany = host=a,b\nsocket = dbname=x\n\n[pgbouncer]\naccounts = host=1.1.1.1\n";

    #[test]
    fn a_route_is_read_from_its_entry_only() {
        assert_eq!(written_route(FILE, "accounts").unwrap(), "10.10.0.100:5432");
        assert_eq!(written_route(FILE, "plain").unwrap(), "10.10.0.100:5432");
        assert_eq!(written_route(FILE, "quoted-db").unwrap(), "10.10.0.100:5433");
        assert_eq!(written_route(FILE, "many"), Err(RouteError::NoHost("many".to_owned())));
        assert_eq!(written_route(FILE, "socket"), Err(RouteError::NoHost("socket".to_owned())));
        assert_eq!(written_route(FILE, "none"), Err(RouteError::NoEntry("none".to_owned())));
        assert_eq!(
            written_route("a = host=1.1.1.1\na = host=2.2.2.2\n", "a"),
            Err(RouteError::Ambiguous("a".to_owned()))
        );
        assert_eq!(written_route("a = host=fd00::1 port=1", "a").unwrap(), "[fd00::1]:1");
    }

    #[test]
    fn an_entrys_own_min_pool_size_is_seen() {
        let text = "[databases]\na = host=h min_pool_size=3\nb = host=h min_pool_size='2' port=1\nc = host=h\n";
        assert_eq!(["a", "b", "c", "d"].map(|name| own_min_size(text, name)), [3, 2, 0, 0]);
    }

    #[test]
    fn only_host_and_port_change() {
        let moved = with_route(FILE, "accounts", "10.10.0.100:5432", "10.20.0.100:5434").unwrap().unwrap();
        assert_eq!(moved, FILE.replace("host = 10.10.0.100 port=5432 conn", "host = 10.20.0.100 port=5434 conn"));
        let moved = with_route(FILE, "plain", "10.10.0.100:5432", "10.20.0.100:5434").unwrap().unwrap();
        assert_eq!(moved, FILE.replace("plain = host=10.10.0.100", "plain = host=10.20.0.100 port=5434"));
        assert_eq!(with_route(FILE, "plain", "10.20.0.100:1", "10.10.0.100:5432"), Ok(None));
        assert_eq!(
            with_route(FILE, "plain", "10.20.0.100:1", "10.20.0.100:2"),
            Err(RouteError::Differs("10.10.0.100:5432".to_owned()))
        );
        assert!(with_route(FILE, "plain", "10.10.0.100:5432", "a b:1").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_there_is_a_way_back(
            before in "([ -~]{0,30}\n){0,4}",
            after in "(\n[ -~é]{0,30}){0,4}",
        ) {
            let text = format!("{before}[databases]\ndb = host=10.0.0.1 port=5432 dbname=é{after}");
            let _ = written_route(&text, &after);
            if let Ok(Some(there)) = with_route(&text, "db", "10.0.0.1:5432", "10.0.0.2:5433") {
                prop_assert_eq!(with_route(&there, "db", "10.0.0.2:5433", "10.0.0.1:5432").unwrap().unwrap(), text);
            }
        }
    }
}
