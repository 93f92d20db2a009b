//! The file as a flat tree of values, each with its place.
//!
//! The tree is made from the events of `granit-parser`, not by `serde_yaml`: that one takes the last of two equal keys without a word,
//! expands aliases, stops at the first error and keeps no places. One pass over the events gives places of every key and value,
//! finds every duplicate and refuses what could grow (anchors, aliases, merge keys) before anything is built from it. The nodes lie
//! in one vector in the order of the file and texts point into the file: about 48 bytes for a value.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle};

use super::complaint::{complaint, too_deep};
use super::findings::Findings;
use crate::diagnostic::Diagnostic;
use crate::model::{Place, Setting, SettingValue, Settings};

/// The deepest nesting of maps and lists; what the language itself needs is 7, the rest is for providers' settings.
pub(super) const DEPTH: usize = 64;
/// Maps of more keys than this are searched for duplicates with a hash table.
const FEW: usize = 16;

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind<'t> {
    /// Nothing written, or `null`.
    Null,
    /// A text without quotes: a number, a boolean or a text, as the reader needs it.
    Plain(Cow<'t, str>),
    /// A text that is one for certain.
    Quoted(Cow<'t, str>),
    /// A list; its items follow.
    List,
    /// A map; its keys and values follow in turn.
    Map,
    /// Something with a finding of its own.
    Bad,
}

#[derive(Debug)]
struct Node<'t> {
    place: Place,
    /// Index after the last node that belongs to this one.
    end: u32,
    kind: Kind<'t>,
}

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(pub(super) u32);

impl NodeId {
    /// The whole document.
    pub(super) const ROOT: Self = Self(0);
}

/// A key of a map with its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// The key's text.
    pub(super) key: &'a str,
    /// The key's place.
    pub(super) place: Place,
    /// The value.
    pub(super) value: NodeId,
}

/// The file's values.
#[derive(Debug, Default)]
pub(super) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
}

impl<'t> Tree<'t> {
    /// Reads `text`. None where it is no single YAML document; the findings say why.
    pub(super) fn read(text: &'t str, findings: &Findings) -> Option<Self> {
        let mut options = Options::default();
        options.emit_comments = false;
        options.emit_anchor_events = true;
        options.emit_unresolved_aliases = true;
        let mut builder = Builder { text, findings, tree: Self::default(), open: Vec::new(), documents: 0 };
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    findings.add(complaint(text, &error, builder.open_bracket()));
                    return None;
                }
            };
            let range = span.byte_range().unwrap_or_default();
            if let Some(tag) = span.tag_span().and_then(|tag| tag.byte_range()) {
                builder.refuse_tag(place(tag));
            }
            builder.take(event, place(range))?;
        }
        let tree = builder.tree;
        match tree.nodes.first() {
            None | Some(Node { kind: Kind::Null, .. }) => {
                findings.add(
                    Diagnostic::error("empty-file", Place::default(), "the file says nothing")
                        .help("begin with `topology: 1`, `name: …` and `facilities: …`"),
                );
                None
            }
            Some(_) => Some(tree),
        }
    }

    /// Where a node stands.
    pub(super) fn place(&self, node: NodeId) -> Place {
        self.nodes.get(node.0 as usize).map(|node| node.place).unwrap_or_default()
    }

    /// What a node is.
    pub(super) fn kind(&self, node: NodeId) -> &Kind<'t> {
        self.nodes.get(node.0 as usize).map_or(&Kind::Bad, |node| &node.kind)
    }

    fn end(&self, node: NodeId) -> u32 {
        self.nodes.get(node.0 as usize).map_or(node.0 + 1, |node| node.end)
    }

    /// The nodes directly below a list (its items) or map (keys and values in turn).
    fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let end = self.end(node);
        let mut next = node.0 + 1;
        std::iter::from_fn(move || {
            let child = NodeId(next);
            (next < end).then(|| {
                next = self.end(child);
                child
            })
        })
    }

    /// The items of a list; none for anything else.
    pub(super) fn items(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let list = matches!(self.kind(node), Kind::List);
        self.children(node).filter(move |_| list)
    }

    /// The entries of a map in the file's order; none for anything else. Keys with a finding are left out.
    pub(super) fn entries(&self, node: NodeId) -> impl Iterator<Item = Entry<'_>> {
        let map = matches!(self.kind(node), Kind::Map);
        let mut children = self.children(node);
        std::iter::from_fn(move || {
            loop {
                let (key, value) = (children.next().filter(|_| map)?, children.next()?);
                if let Kind::Plain(text) | Kind::Quoted(text) = self.kind(key) {
                    return Some(Entry { key: text, place: self.place(key), value });
                }
            }
        })
    }

    /// The entry `key` of a map.
    pub(super) fn entry(&self, node: NodeId, key: &str) -> Option<Entry<'_>> {
        self.entries(node).find(|entry| entry.key == key)
    }

    /// The text of a scalar.
    pub(super) fn text(&self, node: NodeId) -> Option<&str> {
        match self.kind(node) {
            Kind::Plain(text) | Kind::Quoted(text) => Some(text),
            Kind::Null | Kind::List | Kind::Map | Kind::Bad => None,
        }
    }

    /// What a node is, in the words of an operator.
    pub(super) fn describe(&self, node: NodeId) -> &'static str {
        match self.kind(node) {
            Kind::Null => "nothing",
            Kind::Plain(text) if boolean(text).is_some() => "a boolean",
            Kind::Plain(text) if text.parse::<f64>().is_ok() => "a number",
            Kind::Plain(_) | Kind::Quoted(_) => "a text",
            Kind::List => "a list",
            Kind::Map => "a map",
            Kind::Bad => "something unusable",
        }
    }

    /// A node as a provider's setting. Something with a finding becomes `Null`: the file is refused anyway.
    pub(super) fn setting(&self, node: NodeId) -> Setting {
        let value = match self.kind(node) {
            Kind::Null | Kind::Bad => SettingValue::Null,
            Kind::Quoted(text) => SettingValue::Text(text.clone().into_owned()),
            Kind::Plain(text) => {
                if let Some(value) = boolean(text) {
                    SettingValue::Bool(value)
                } else if let Ok(value) = text.parse() {
                    SettingValue::Integer(value)
                } else if let (true, Ok(value)) = (text.contains(|c: char| c.is_ascii_digit()), text.parse()) {
                    SettingValue::Float(value)
                } else {
                    SettingValue::Text(text.clone().into_owned())
                }
            }
            Kind::List => SettingValue::List(self.items(node).map(|item| self.setting(item)).collect()),
            Kind::Map => SettingValue::Map(self.settings(node).entries),
        };
        Setting { value, place: self.place(node) }
    }

    /// A map as a provider's settings.
    pub(super) fn settings(&self, node: NodeId) -> Settings {
        let entries =
            self.entries(node).map(|entry| (entry.key.to_owned(), (entry.place, self.setting(entry.value)))).collect();
        Settings { entries, place: self.place(node) }
    }
}

/// The booleans of YAML 1.2's core schema; `yes`, `no`, `on` and `off` are texts.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// An offset as places hold it; files are far smaller than it can be.
pub(super) fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A range of the parser as a place.
pub(super) fn place(range: std::ops::Range<usize>) -> Place {
    Place { start: offset(range.start), end: offset(range.end) }
}

/// Puts the parser's events together.
struct Builder<'t, 'f> {
    text: &'t str,
    findings: &'f Findings,
    tree: Tree<'t>,
    /// Lists and maps that have begun and not ended.
    open: Vec<NodeId>,
    documents: usize,
}

impl<'t> Builder<'t, '_> {
    /// Takes one event; none where reading on is pointless.
    fn take(&mut self, event: Event<'t>, place: Place) -> Option<()> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.findings.add(
                        Diagnostic::error("second-document", place, "a second document begins here")
                            .help("a topology is one YAML document; remove the `---`"),
                    );
                    return None;
                }
            }
            Event::Scalar(text, style, ..) => {
                let kind = match (style, text.as_ref()) {
                    (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Kind::Null,
                    (ScalarStyle::Plain, _) => Kind::Plain(text),
                    _ => Kind::Quoted(text),
                };
                self.push(kind, place)?;
            }
            Event::SequenceStart(..) => self.begin(Kind::List, place)?,
            Event::MappingStart(..) => self.begin(Kind::Map, place)?,
            Event::SequenceEnd => self.close(place),
            Event::MappingEnd => {
                if let Some(map) = self.open.last().copied() {
                    self.check_keys(map);
                }
                self.close(place);
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.findings.add(
                    Diagnostic::error("anchor", place, "an alias stands here")
                        .help("write the value out: anchors and aliases are not part of the language"),
                );
                self.push(Kind::Bad, place)?;
            }
            Event::Anchor(..) => self.findings.add(
                Diagnostic::error("anchor", place, "an anchor is set here")
                    .help("remove it: anchors and aliases are not part of the language"),
            ),
            _ => {}
        }
        Some(())
    }

    /// The innermost `[` or `{` that is still open.
    fn open_bracket(&self) -> Option<Place> {
        let start = self.tree.place(*self.open.last()?).start;
        let bracket = matches!(self.text.as_bytes().get(start as usize), Some(b'[' | b'{'));
        bracket.then_some(Place { start, end: start + 1 })
    }

    fn refuse_tag(&self, place: Place) {
        self.findings.add(
            Diagnostic::error("tag", place, "a tag stands here")
                .help("remove it: tags are not part of the language; quotes make a text of anything"),
        );
    }

    fn push(&mut self, kind: Kind<'t>, place: Place) -> Option<NodeId> {
        let index = u32::try_from(self.tree.nodes.len()).ok()?;
        self.tree.nodes.push(Node { place, end: index + 1, kind });
        Some(NodeId(index))
    }

    fn begin(&mut self, kind: Kind<'t>, place: Place) -> Option<()> {
        if self.open.len() >= DEPTH {
            self.findings.add(too_deep(place));
            return None;
        }
        let node = self.push(kind, place)?;
        self.open.push(node);
        Some(())
    }

    fn close(&mut self, place: Place) {
        let end = offset(self.tree.nodes.len());
        let Some(node) = self.open.pop().and_then(|open| self.tree.nodes.get_mut(open.0 as usize)) else { return };
        node.end = end;
        // A block's end is where the next thing begins; what belongs to the block ends before the white space between.
        let inside = self.text.get(node.place.start as usize..place.end as usize).unwrap_or_default();
        node.place.end = node.place.start + offset(inside.trim_end().len());
    }

    /// Finds keys that stand twice in a map, and those that are no texts; both become unusable. The map has not ended yet.
    fn check_keys(&mut self, map: NodeId) {
        if let Some(node) = self.tree.nodes.get_mut(map.0 as usize) {
            node.end = u32::MAX;
        }
        let total = offset(self.tree.nodes.len());
        let mut bad = Vec::new();
        let mut few: Vec<(&str, Place)> = Vec::new();
        let mut many: HashMap<&str, Place> = HashMap::new();
        let mut next = map.0 + 1;
        while next < total {
            let key = NodeId(next);
            next = self.tree.end(NodeId(self.tree.end(key)));
            let place = self.tree.place(key);
            let text = match self.tree.kind(key) {
                Kind::Plain(text) if text == "<<" => {
                    self.findings.add(
                        Diagnostic::error("anchor", place, "a merge key stands here")
                            .help("write the keys out: merging is not part of the language"),
                    );
                    bad.push(key);
                    continue;
                }
                Kind::Plain(text) | Kind::Quoted(text) => text.as_ref(),
                Kind::Bad => continue,
                Kind::Null | Kind::List | Kind::Map => {
                    let what = self.tree.describe(key);
                    self.findings.error("wrong-kind", place, format!("a key must be a text, not {what}"));
                    bad.push(key);
                    continue;
                }
            };
            let earlier = if many.is_empty() {
                few.iter().find(|(known, _)| *known == text).map(|(_, place)| *place)
            } else {
                many.get(text).copied()
            };
            if let Some(earlier) = earlier {
                self.findings.add(
                    Diagnostic::error("duplicate-key", place, format!("`{text}` stands here a second time"))
                        .related(earlier, "it stands here first"),
                );
                bad.push(key);
            } else if few.len() < FEW && many.is_empty() {
                few.push((text, place));
            } else {
                many.extend(few.drain(..));
                many.insert(text, place);
            }
        }
        for key in bad {
            if let Some(node) = self.tree.nodes.get_mut(key.0 as usize) {
                node.kind = Kind::Bad;
            }
        }
    }
}
