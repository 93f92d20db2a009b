//! Who commits wait for, while a primary changes: `synchronous_standby_names` as text (PostgreSQL manual, 20.6.2). Pure.

/// A parsed setting: how many of which names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    /// `FIRST`, `ANY`, or none where a bare list is written (which means `FIRST 1`).
    method: Option<&'static str>,
    count: usize,
    names: Vec<String>,
}

/// The setting once the old primary follows the new one: it takes the new primary's place in the list.
pub fn after(setting: &str, primary: &str, old: &str) -> String {
    rewritten(setting, |names| {
        if names.iter().any(|name| same(name, old)) {
            names.retain(|name| !same(name, primary));
        } else if let Some(name) = names.iter_mut().find(|name| same(name, primary)) {
            *name = old.to_owned();
        }
    })
}

/// The setting without members whose power goes.
pub(super) fn without(setting: &str, members: &[&str]) -> String {
    rewritten(setting, |names| names.retain(|name| !members.iter().any(|member| same(name, member))))
}

fn rewritten(setting: &str, change: impl FnOnce(&mut Vec<String>)) -> String {
    let Some(mut parsed) = parse(setting) else { return String::new() };
    if parsed.names.iter().any(|name| name == "*") {
        return setting.trim().to_owned();
    }
    change(&mut parsed.names);
    if parsed.names.is_empty() {
        return String::new();
    }
    let names: Vec<String> = parsed.names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let names = names.join(", ");
    match parsed.method {
        Some(method) => format!("{method} {} ({names})", parsed.count.min(parsed.names.len())),
        None => names,
    }
}

fn same(listed: &str, member: &str) -> bool {
    crate::model::text::same_member(&listed.to_lowercase(), &member.to_lowercase())
}

fn parse(setting: &str) -> Option<Names> {
    let text = setting.trim();
    if text.is_empty() {
        return None;
    }
    let Some((head, list)) = text.split_once('(') else {
        return Some(Names { method: None, count: 1, names: split(text) });
    };
    let list = list.trim_end().strip_suffix(')').unwrap_or(list);
    let mut words = head.split_whitespace();
    let (first, second) = (words.next().unwrap_or("1"), words.next());
    let method = if first.eq_ignore_ascii_case("any") { "ANY" } else { "FIRST" };
    let count = second.unwrap_or(first).parse().unwrap_or(1);
    Some(Names { method: Some(method), count, names: split(list) })
}

/// Splits a list of names, some in double quotes.
fn split(list: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            other if other.is_whitespace() && !quoted => {}
            other => name.push(other),
        }
    }
    names.push(name);
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_replica_becomes_primary() {
        assert_eq!(after("FIRST 1 (\"east-pg1\")", "east-pg1", "west-pg1"), "FIRST 1 (\"west-pg1\")");
        assert_eq!(after("east_pg1", "east-pg1", "west-pg1"), "\"west-pg1\"");
    }

    #[test]
    fn one_of_several_becomes_primary() {
        assert_eq!(after("ANY 1 (b, c)", "b", "a"), "ANY 1 (\"a\", \"c\")");
        assert_eq!(after("FIRST 2 (b, c)", "b", "a"), "FIRST 2 (\"a\", \"c\")");
    }

    #[test]
    fn members_whose_power_goes_are_waited_for_no_longer() {
        assert_eq!(without("FIRST 1 (\"west-pg1\")", &["west-pg1"]), "");
        assert_eq!(without("FIRST 2 (b, c, d)", &["c"]), "FIRST 2 (\"b\", \"d\")");
        assert_eq!(without("ANY 2 (b, c)", &["c"]), "ANY 1 (\"b\")");
        assert_eq!(without("*", &["c"]), "*", "whoever is there");
    }

    #[test]
    fn nothing_stays_nothing() {
        assert_eq!(after("*", "b", "a"), "*");
        assert_eq!(after("  ", "b", "a"), "");
    }
}
