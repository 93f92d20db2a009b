//! Who commits wait for, while a primary changes: `synchronous_standby_names` as text (PostgreSQL manual, 20.6.2). Pure.

use std::collections::BTreeSet;

/// A parsed setting: how many of which names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    /// `FIRST`, `ANY`, or none where a bare list is written (which means `FIRST 1`).
    method: Option<&'static str>,
    count: usize,
    names: Vec<String>,
}

/// How many replicas each commit waits for.
pub fn demand(setting: &str) -> usize {
    parse(setting).map_or(0, |names| names.count)
}

/// How many names are listed; none where `*` stands for any.
pub fn listed(setting: &str) -> Option<usize> {
    parse(setting).filter(|names| !names.anyone()).map(|names| names.names.len())
}

/// How many of `following` (the names that they give) count.
pub fn counting(setting: &str, following: &BTreeSet<String>) -> usize {
    let Some(names) = parse(setting) else { return 0 };
    let listed = |name: &&String| names.anyone() || names.names.iter().any(|listed| same(listed, name));
    following.iter().filter(listed).count()
}

/// The setting with as many to wait for as there are among `following`; empty where there is none.
pub fn reachable(setting: &str, following: &BTreeSet<String>) -> String {
    let (demand, there) = (demand(setting), counting(setting, following));
    match there {
        0 => String::new(),
        _ if there >= demand => setting.trim().to_owned(),
        _ => rewritten(setting, |names| names.count = there),
    }
}

/// The setting of a primary whom only `member` follows for a while: it always counts, and commits wait for nobody else. Empty stays
/// empty.
pub fn narrowed(setting: &str, member: &str) -> String {
    match demand(setting) {
        0 => String::new(),
        1 if counting(setting, &BTreeSet::from([member.to_owned()])) == 1 => setting.trim().to_owned(),
        _ => format!("FIRST 1 (\"{member}\")"),
    }
}

/// The setting with replicas under the names that they give: the comparison is of whole names.
pub fn spelled(setting: &str, called: &BTreeSet<String>) -> String {
    rewritten(setting, |names| {
        for listed in &mut names.names {
            if let Some(name) = called.iter().find(|name| same(listed, name)) {
                listed.clone_from(name);
            }
        }
    })
}

/// The setting once the old primary follows the new one: it takes the new primary's place in the list.
pub fn after(setting: &str, primary: &str, old: &str) -> String {
    rewritten(setting, |Names { names, .. }| {
        if names.iter().any(|name| same(name, old)) {
            names.retain(|name| !same(name, primary));
        } else if let Some(name) = names.iter_mut().find(|name| same(name, primary)) {
            *name = old.to_owned();
        }
    })
}

/// The setting without members whose power goes: it asks for no more than remain.
pub(super) fn without(setting: &str, members: &[&str]) -> String {
    rewritten(setting, |parsed| {
        parsed.names.retain(|name| !members.iter().any(|member| same(name, member)));
        parsed.count = parsed.count.min(parsed.names.len());
    })
}

/// The setting that asks for `count` of `members`, which replicate: names that are listed stay, more are added only where they are
/// too few.
pub(super) fn demanding<S: AsRef<str>>(setting: &str, count: usize, members: &[S]) -> String {
    let members: Vec<&str> = members.iter().map(AsRef::as_ref).collect();
    if parse(setting).is_none() {
        return format!("FIRST {count} (\"{}\")", members.join("\", \""));
    }
    rewritten(setting, |parsed| {
        if parsed.method.is_none() && count != 1 {
            parsed.method = Some("FIRST");
        }
        parsed.count = count;
        let enough =
            members.iter().filter(|member| parsed.names.iter().any(|name| same(name, member))).count() >= count;
        if !enough && !parsed.anyone() {
            let missing = members.iter().filter(|member| !parsed.names.iter().any(|name| same(name, member)));
            let missing: Vec<String> = missing.map(ToString::to_string).collect();
            parsed.names.extend(missing);
        }
    })
}

/// The setting that asks for as many of `able` as are declared, as far as there are so many.
pub(super) fn as_declared<S: AsRef<str>>(setting: &str, declared: usize, able: &[S]) -> String {
    let (asked, reachable) = (demand(setting), declared.min(able.len()));
    // Nothing more can be had.
    let short = reachable < declared && reachable <= asked;
    if asked == declared || short { setting.to_owned() } else { demanding(setting, reachable, able) }
}

/// True if both make commits wait alike, however they are written.
pub(super) fn alike(one: &str, other: &str) -> bool {
    match (parse(one), parse(other)) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            let method = |names: &Names| names.method.unwrap_or("FIRST");
            method(&one) == method(&other)
                && one.count == other.count
                && one.names.len() == other.names.len()
                && one.names.iter().zip(&other.names).all(|(name, other)| same(name, other))
        }
        _ => false,
    }
}

/// The arguments by which a provider sets the names only once as many stream as commits will wait for; none where that is nobody.
pub(super) fn awaiting(setting: &str) -> Vec<(&'static str, Vec<String>)> {
    let Some(Names { count, names, .. }) = parse(setting) else { return Vec::new() };
    vec![("awaited", names), ("needed", vec![count.to_string()])]
}

/// The member that alone is named, where a run that was cut short may have left it so ([`narrowed`]).
pub(super) fn only(setting: &str) -> Option<String> {
    let parsed = parse(setting)?;
    match parsed.names.as_slice() {
        [name] if parsed.method.is_some() && !parsed.anyone() => Some(name.clone()),
        _ => None,
    }
}

impl Names {
    /// `*` stands for every replica.
    fn anyone(&self) -> bool {
        self.names.iter().any(|name| name == "*")
    }
}

fn rewritten(setting: &str, change: impl FnOnce(&mut Names)) -> String {
    let Some(before) = parse(setting) else { return String::new() };
    let mut parsed = before.clone();
    change(&mut parsed);
    if parsed == before {
        return setting.trim().to_owned();
    }
    if parsed.names.is_empty() {
        return String::new();
    }
    let quoted = |name: &String| match name.as_str() {
        "*" => name.clone(),
        _ => format!("\"{}\"", name.replace('"', "\"\"")),
    };
    let names: Vec<String> = parsed.names.iter().map(quoted).collect();
    let names = names.join(", ");
    let most = if parsed.anyone() { parsed.count } else { parsed.count.min(parsed.names.len()) };
    match parsed.method {
        Some(method) => format!("{method} {most} ({names})"),
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

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_count_falls_to_what_can_be_reached_and_the_absent_stay_listed() {
        for (setting, following, expected) in [
            ("FIRST 1 (\"a\", \"c\")", &["c"][..], "FIRST 1 (\"a\", \"c\")"),
            ("FIRST 2 (\"a\", \"c\")", &["c"], "FIRST 1 (\"a\", \"c\")"),
            ("FIRST 2 (\"a\", \"c\", \"d\")", &["c", "d"], "FIRST 2 (\"a\", \"c\", \"d\")"),
            ("ANY 3 (a, c, d)", &["c", "d", "e"], "ANY 2 (\"a\", \"c\", \"d\")"),
            ("ANY 2 (*)", &["c"], "ANY 1 (*)"),
            ("2 (*)", &["c", "d"], "2 (*)"),
            ("FIRST 1 (\"a\")", &["c"], ""),
            ("a, c", &["c"], "a, c"),
            ("", &["c"], ""),
        ] {
            assert_eq!(reachable(setting, &set(following)), expected, "{setting}");
        }
    }

    #[test]
    fn while_only_the_candidate_follows_it_alone_counts() {
        for (setting, expected) in [
            ("FIRST 1 (b, c)", "FIRST 1 (b, c)"),
            ("ANY 1 (c, b)", "ANY 1 (c, b)"),
            ("*", "*"),
            ("ANY 2 (*)", "FIRST 1 (\"b\")"),
            ("FIRST 2 (b, c)", "FIRST 1 (\"b\")"),
            ("FIRST 1 (c)", "FIRST 1 (\"b\")"),
            ("", ""),
        ] {
            assert_eq!(narrowed(setting, "b"), expected, "{setting}");
        }
    }

    #[test]
    fn names_are_spelled_as_the_replicas_give_them() {
        assert_eq!(spelled("ANY 1 (east_pg1, X)", &set(&["east-pg1", "x"])), "ANY 1 (\"east-pg1\", \"x\")");
        assert_eq!(spelled("ANY 1 (b, c)", &set(&["b", "c"])), "ANY 1 (b, c)");
        assert_eq!((demand("ANY 2 (a, b, c)"), demand("a, b"), demand(""), demand("3 (*)")), (2, 1, 0, 3));
    }

    #[test]
    fn members_whose_power_goes_are_waited_for_no_longer() {
        assert_eq!(without("FIRST 1 (\"west-pg1\")", &["west-pg1"]), "");
        assert_eq!(without("FIRST 2 (b, c, d)", &["c"]), "FIRST 2 (\"b\", \"d\")");
        assert_eq!(without("ANY 2 (b, c)", &["c"]), "ANY 1 (\"b\")");
        assert_eq!(without("*", &["c"]), "*", "whoever is there");
    }

    #[test]
    fn what_is_declared_is_asked_for_and_listed_names_stay() {
        for (setting, count, members, expected) in [
            ("FIRST 1 (\"b\")", 2, &["b", "c"][..], "FIRST 2 (\"b\", \"c\")"),
            ("ANY 1 (b, c)", 2, &["b", "c"], "ANY 2 (\"b\", \"c\")"),
            // One that the operator has left out is not wanted.
            ("ANY 1 (b, c)", 2, &["b", "c", "d"], "ANY 2 (\"b\", \"c\")"),
            ("FIRST 3 (b, c, d)", 2, &["b", "c", "d"], "FIRST 2 (\"b\", \"c\", \"d\")"),
            ("b, c", 2, &["b", "c"], "FIRST 2 (\"b\", \"c\")"),
            ("ANY 1 (*)", 2, &["b", "c"], "ANY 2 (*)"),
            ("FIRST 2 (b_1, c)", 2, &["b-1", "c"], "FIRST 2 (b_1, c)"),
            ("", 2, &["b", "c"], "FIRST 2 (\"b\", \"c\")"),
        ] {
            assert_eq!(demanding(setting, count, members), expected, "{setting}");
        }
        assert_eq!(only("FIRST 1 (\"b\")").as_deref(), Some("b"));
        assert_eq!([only("b"), only("FIRST 1 (b, c)"), only("ANY 1 (*)"), only("")], [None, None, None, None]);
    }

    #[test]
    fn settings_are_compared_by_what_they_ask_for() {
        for (one, other) in [("a", "FIRST 1 (\"a\")"), ("any 1 (a_b)", "ANY 1 (\"A-b\")"), ("", " ")] {
            assert!(alike(one, other), "{one} {other}");
        }
        for (one, other) in [("a", ""), ("ANY 1 (a)", "FIRST 1 (a)"), ("2 (a, b)", "1 (a, b)"), ("a, b", "b, a")] {
            assert!(!alike(one, other), "{one} {other}");
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        assert_eq!(after("*", "b", "a"), "*");
        assert_eq!(after("  ", "b", "a"), "");
    }
}
