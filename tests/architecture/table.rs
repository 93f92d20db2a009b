//! The layer table of `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};

/// Who may use whom.
pub struct Table {
    layers: BTreeMap<String, u8>,
    allowed: BTreeMap<String, BTreeSet<String>>,
}

impl Table {
    /// Reads the first table whose head begins with `layer`. Its second column names modules, its last one what they may use:
    /// modules and layers (`0–1`, every module up to there), or `all`.
    pub fn read(document: &str) -> Result<Self, String> {
        let cells =
            |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let mut lines = document.lines().skip_while(|line| !line.starts_with("| layer |")).skip(2);
        let rows: Vec<_> = lines.by_ref().take_while(|line| line.starts_with('|')).map(cells).collect();
        let mut layers = BTreeMap::new();
        for row in &rows {
            let layer = row[0].parse().map_err(|_| format!("`{}` is not a layer", row[0]))?;
            for room in names(&row[1]) {
                if layers.insert(room.clone(), layer).is_some() {
                    return Err(format!("`{room}` has two rows"));
                }
            }
        }
        if layers.is_empty() {
            return Err("there is no table that begins with `| layer |`".to_owned());
        }
        let mut allowed = BTreeMap::new();
        for row in &rows {
            let uses = row.last().map_or("", String::as_str);
            let mut rooms: BTreeSet<String> = names(uses).into_iter().collect();
            if let Some(unknown) = rooms.iter().find(|room| !layers.contains_key(*room)) {
                return Err(format!("`{unknown}` is used by {} and has no row", row[1]));
            }
            for word in uses.split([',', ' ']) {
                let up_to = match word.split_once('–') {
                    Some(("0", last)) => last.parse().ok(),
                    _ if word == "all" => Some(u8::MAX),
                    _ => word.parse::<u8>().ok(),
                };
                let Some(up_to) = up_to else { continue };
                rooms.extend(layers.iter().filter(|(_, layer)| **layer <= up_to).map(|(room, _)| room.clone()));
            }
            allowed.extend(names(&row[1]).into_iter().map(|room| (room, rooms.clone())));
        }
        Ok(Self { layers, allowed })
    }

    /// Every module that has a row.
    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// The module with a row that a path lies in.
    pub fn room<'a>(&'a self, path: &[String]) -> Option<&'a str> {
        let prefixes = (1..=path.len()).rev().map(|length| path[..length].join("::"));
        prefixes.filter_map(|prefix| self.layers.get_key_value(&prefix)).map(|(room, _)| room.as_str()).next()
    }

    /// The layer of a module.
    pub fn layer(&self, room: &str) -> u8 {
        self.layers[room]
    }

    /// Whether a module may use another one.
    pub fn allows(&self, from: &str, to: &str) -> bool {
        self.allowed[from].contains(to)
    }
}

/// What stands in backticks; `a::{b, c}` is two names.
fn names(cell: &str) -> Vec<String> {
    let quoted = cell.split('`').skip(1).step_by(2);
    let expand = |name: &str| match name.split_once("::{") {
        Some((parent, rest)) => {
            rest.trim_end_matches('}').split(',').map(|child| format!("{parent}::{}", child.trim())).collect()
        }
        None => vec![name.to_owned()],
    };
    quoted.flat_map(expand).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const SMALL: &str = "text\n\n| layer | module | what | may use |\n|---|---|---|---|\n\
        | 0 | `model` | nouns | – |\n| 1 | `plan` | diff | 0 |\n| 2 | `provider` | traits | 0–1 |\n\
        | 3 | `provider::{dns, http}` | adapters | `model`, `provider` |\n| 4 | `cli` | all | all |\n\nmore | text |\n";

    #[test]
    fn rows_say_who_may_use_whom() {
        let table = Table::read(SMALL).unwrap();
        assert_eq!(
            table.rooms().collect::<Vec<_>>(),
            ["cli", "model", "plan", "provider", "provider::dns", "provider::http"]
        );
        let uses = |from: &str| table.rooms().filter(|to| table.allows(from, to)).collect::<Vec<_>>();
        assert_eq!(uses("model"), [""; 0]);
        assert_eq!(uses("plan"), ["model"]);
        assert_eq!(uses("provider"), ["model", "plan"]);
        assert_eq!(uses("provider::dns"), ["model", "provider"]);
        assert_eq!(uses("cli").len(), 6);
    }

    #[test]
    fn unknown_modules_and_missing_tables_are_errors() {
        assert!(Table::read("| module |\n").is_err());
        let unknown = SMALL.replace("`model`, `provider` |", "`modle` |");
        assert_eq!(Table::read(&unknown).err().unwrap(), "`modle` is used by `provider::{dns, http}` and has no row");
    }
}
