//! What the structs of `syntax` are made of, so that they can derive `Deserialize` and still every finding is reported at once.
//!
//! A [`Field`] catches the error of its value, reports it and lets its struct go on. [`Section`] and [`Items`] hold the entries of a
//! map or list undecoded, so that each is decoded by itself, with little memory. A [`Raw`] is a node as it is, for what belongs to
//! providers.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Visitor};

use super::decode::{Deserializer, FIELD, ITEMS, RAW, SECTION};
use super::findings::Findings;
use super::tree::{Entry, Kind, NodeId, Tree};
use crate::model::Place;

/// A key of a struct that may be absent or wrong without harm to its neighbours.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Field<T> {
    /// The key does not stand there.
    #[default]
    Absent,
    /// The key stands there without a value.
    Empty(Place),
    /// The value is unusable, which is reported.
    Wrong,
    /// The value and its place.
    Is(T, Place),
}

impl<T> Field<T> {
    /// The value, where there is a usable one.
    pub(super) fn get(self) -> Option<T> {
        self.placed().map(|(value, _)| value)
    }

    /// The value with its place, where there is a usable one.
    pub(super) fn placed(self) -> Option<(T, Place)> {
        match self {
            Self::Is(value, place) => Some((value, place)),
            Self::Absent | Self::Empty(_) | Self::Wrong => None,
        }
    }

    /// Where the key's value stands, where the key does.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Empty(place) | Self::Is(_, place) => Some(*place),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// The same field, borrowed.
    pub(super) fn as_ref(&self) -> Field<&T> {
        match self {
            Self::Absent => Field::Absent,
            Self::Empty(place) => Field::Empty(*place),
            Self::Wrong => Field::Wrong,
            Self::Is(value, place) => Field::Is(value, *place),
        }
    }

    /// The value of a key that must be there. `at` is the place of what needs it, `whose` its name, as in "facility `west`".
    pub(super) fn required(self, key: &str, whose: &str, at: Place, findings: &Findings) -> Option<T> {
        match self {
            Self::Absent => findings.error("missing-key", at, format!("{whose} has no `{key}`")),
            Self::Empty(place) => findings.error("missing-value", place, format!("`{key}` of {whose} has no value")),
            Self::Wrong => {}
            Self::Is(value, _) => return Some(value),
        }
        None
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `deserialize_option` is what serde calls for a missing field.
        deserializer.deserialize_option(FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Field::Absent)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_newtype_struct(FIELD, self)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let (Some(start), Some(end), Some(empty)) =
            (parts.next_element()?, parts.next_element()?, parts.next_element()?)
        else {
            return Ok(Field::Wrong);
        };
        let place = Place { start, end };
        if empty {
            return Ok(Field::Empty(place));
        }
        // The deserializer has reported the error.
        Ok(parts.next_element().ok().flatten().map_or(Field::Wrong, |value| Field::Is(value, place)))
    }
}

/// A node as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw(pub(super) NodeId);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(RAW, NodeVisitor).map(Self)
    }
}

struct NodeVisitor;

impl Visitor<'_> for NodeVisitor {
    type Value = NodeId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node")
    }

    fn visit_u32<E: de::Error>(self, node: u32) -> Result<NodeId, E> {
        Ok(NodeId(node))
    }
}

/// A map from names to `T`, decoded entry by entry.
#[derive(Debug)]
pub(super) struct Section<T>(NodeId, PhantomData<fn() -> T>);

impl<'de, T> Deserialize<'de> for Section<T> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(SECTION, NodeVisitor).map(|node| Self(node, PhantomData))
    }
}

/// A list of `T`, decoded item by item.
#[derive(Debug)]
pub(super) struct Items<T>(NodeId, PhantomData<fn() -> T>);

impl<'de, T> Deserialize<'de> for Items<T> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(ITEMS, NodeVisitor).map(|node| Self(node, PhantomData))
    }
}

/// A name with its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    /// The text.
    pub(super) text: &'a str,
    /// Where it stands.
    pub(super) place: Place,
}

/// Decodes nodes of one tree and keeps the findings.
pub(super) struct Reader<'a, 't> {
    pub(super) tree: &'a Tree<'t>,
    pub(super) findings: &'a Findings,
}

impl<'a, 't> Reader<'a, 't> {
    /// The node as a `T`.
    pub(super) fn decode<T: Deserialize<'a>>(&self, node: NodeId) -> Field<T> {
        Field::deserialize(self.at(node)).unwrap_or(Field::Wrong)
    }

    /// The entries of a section, in the file's order.
    pub(super) fn section<T: Deserialize<'a>>(
        &self,
        section: &Field<Section<T>>,
    ) -> impl Iterator<Item = (Key<'a>, Field<T>)> {
        let node = section.as_ref().get().map(|section| section.0);
        let entries = node.map(|node| self.tree.entries(node)).into_iter().flatten();
        entries.map(|Entry { key, place, value }| (Key { text: key, place }, self.decode(value)))
    }

    /// The names of a section, also of entries that are wrong.
    pub(super) fn names<T>(&self, section: &Field<Section<T>>) -> impl Iterator<Item = &'a str> + use<'a, T> {
        let (tree, node) = (self.tree, section.as_ref().get().map(|section| section.0));
        node.map(|node| tree.entries(node).map(|entry| entry.key)).into_iter().flatten()
    }

    /// The texts that the entries of a section have under `key`.
    pub(super) fn texts<T>(&self, section: &Field<Section<T>>, key: &str) -> impl Iterator<Item = &'a str> {
        let (tree, node) = (self.tree, section.as_ref().get().map(|section| section.0));
        let entries = node.map(|node| tree.entries(node)).into_iter().flatten();
        entries.filter_map(move |entry| tree.entry(entry.value, key).and_then(|entry| tree.text(entry.value)))
    }

    /// The text that the entry `name` of a section has under `key`.
    pub(super) fn text_of<T>(&self, section: &Field<Section<T>>, name: &str, key: &str) -> Option<&'a str> {
        let node = section.as_ref().get()?.0;
        let entry = self.tree.entry(node, name)?;
        self.tree.text(self.tree.entry(entry.value, key)?.value)
    }

    /// Whether there is no item in a list, not even a wrong one.
    pub(super) fn is_empty<T>(&self, list: &Field<Items<T>>) -> bool {
        list.as_ref().get().is_none_or(|list| self.tree.items(list.0).next().is_none())
    }

    /// Whether a node is a map.
    pub(super) fn is_map(&self, node: NodeId) -> bool {
        matches!(self.tree.kind(node), Kind::Map)
    }

    /// The items of a list, in the file's order; those with findings are left out.
    pub(super) fn list<T: Deserialize<'a>>(&self, list: &Field<Items<T>>) -> Vec<(T, Place)> {
        let node = list.as_ref().get().map(|list| list.0);
        let items = node.map(|node| self.tree.items(node)).into_iter().flatten();
        items
            .filter_map(|item| match self.decode(item) {
                Field::Empty(place) => {
                    self.findings.error("missing-value", place, "this item of the list has no value");
                    None
                }
                field => field.placed(),
            })
            .collect()
    }

    fn at(&self, node: NodeId) -> Deserializer<'a, 't> {
        Deserializer { tree: self.tree, findings: self.findings, node }
    }
}
