//! `serde` over the tree. `deserialize_struct` is told the keys of a struct: any other key is a finding that names the nearest one,
//! and the rest of the struct is read all the same. A text without quotes is a number, a boolean or a text as its reader asks, so
//! that `no` can be the code of a country and `1e3` a name.

use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::findings::Findings;
use super::tree::{Entry, Kind, NodeId, Tree, boolean};
use crate::diagnostic::Diagnostic;
use crate::model::Place;

/// The name by which [`Field`](super::field::Field) asks for a value with its place.
pub(super) const FIELD: &str = "\0field";
/// The name by which [`Raw`](super::field::Raw) asks for the node itself.
pub(super) const RAW: &str = "\0raw";
/// The name by which [`Section`](super::field::Section) asks for a node that is a map.
pub(super) const SECTION: &str = "\0section";
/// The name by which [`Items`](super::field::Items) asks for a node that is a list.
pub(super) const ITEMS: &str = "\0items";

/// Why a value could not be decoded; nothing where that is reported already.
#[derive(Debug)]
pub(super) struct Fault(Option<Box<Diagnostic>>);

impl Fault {
    /// Keeps the finding, if it is not yet kept.
    pub(super) fn report(self, findings: &Findings) {
        if let Some(finding) = self.0 {
            findings.add(*finding);
        }
    }

    fn new(finding: Diagnostic) -> Self {
        Self(Some(Box::new(finding)))
    }

    /// The same fault at `place`, where it has none yet.
    fn at(mut self, place: Place) -> Self {
        if let Some(finding) = self.0.as_mut().filter(|finding| finding.place == NOWHERE) {
            finding.place = place;
        }
        self
    }
}

/// The place of a fault whose value is not known yet.
const NOWHERE: Place = Place { start: u32::MAX, end: u32::MAX };

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |finding| f.write_str(&finding.message))
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Diagnostic::error("invalid-value", NOWHERE, message.to_string()))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match unexpected {
            de::Unexpected::Unsigned(number) => Self::custom(format_args!("`{number}` is too large")),
            other => Self::custom(format_args!("{expected} should stand here, not {other}")),
        }
    }
}

/// A node on its way into a type.
#[derive(Clone, Copy)]
pub(super) struct Deserializer<'a, 't> {
    pub(super) tree: &'a Tree<'t>,
    pub(super) findings: &'a Findings,
    pub(super) node: NodeId,
}

impl<'a> Deserializer<'a, '_> {
    /// The fault of being something else than what is `expected`, as in "a list".
    pub(super) fn unexpected(self, expected: &str) -> Fault {
        if matches!(self.kind(), Kind::Bad) {
            return Fault(None);
        }
        let found = self.tree.describe(self.node);
        Fault::new(Diagnostic::error("wrong-kind", self.place(), format!("{expected} should stand here, not {found}")))
    }

    fn kind(self) -> &'a Kind<'a> {
        self.tree.kind(self.node)
    }

    fn place(self) -> Place {
        self.tree.place(self.node)
    }

    /// The text of a scalar, quoted or not.
    fn text(self, expected: &str) -> Result<&'a str, Fault> {
        match self.kind() {
            Kind::Plain(text) | Kind::Quoted(text) => Ok(text),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn boolean(self) -> Result<bool, Fault> {
        match self.kind() {
            Kind::Plain(text) => boolean(text).ok_or(()),
            _ => Err(()),
        }
        .map_err(|()| self.unexpected("`true` or `false`"))
    }

    fn whole(self) -> Result<u64, Fault> {
        match self.kind() {
            Kind::Plain(text) => text.parse().map_err(|_| match text.parse::<f64>() {
                Ok(_) => de::Error::custom(format_args!("`{text}` is no whole number from 0 up")),
                Err(_) => self.unexpected("a whole number"),
            }),
            _ => Err(self.unexpected("a whole number")),
        }
        .map_err(|fault: Fault| fault.at(self.place()))
    }

    fn float(self) -> Result<f64, Fault> {
        match self.kind() {
            Kind::Plain(text) => text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or(()),
            _ => Err(()),
        }
        .map_err(|()| self.unexpected("a number"))
    }
}

macro_rules! through {
    ($($method:ident => $read:ident, $visit:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            visitor.$visit(self.$read()?).map_err(|fault: Fault| fault.at(self.place()))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Deserializer<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind() {
            Kind::Null => visitor.visit_unit(),
            Kind::Plain(text) | Kind::Quoted(text) => visitor.visit_borrowed_str(text),
            Kind::List => self.deserialize_seq(visitor),
            Kind::Map => self.deserialize_map(visitor),
            Kind::Bad => Err(Fault(None)),
        }
    }

    through! {
        deserialize_bool => boolean, visit_bool;
        deserialize_u16 => whole, visit_u64;
        deserialize_u32 => whole, visit_u64;
        deserialize_u64 => whole, visit_u64;
        deserialize_f64 => float, visit_f64;
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text("a text")?).map_err(|fault: Fault| fault.at(self.place()))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        match name {
            FIELD => visitor.visit_seq(FieldParts { value: self, next: 0 }),
            RAW => visitor.visit_u32(self.node.0),
            SECTION if !matches!(self.kind(), Kind::Map) => Err(self.unexpected("a map")),
            ITEMS if !matches!(self.kind(), Kind::List) => Err(self.unexpected("a list")),
            SECTION | ITEMS => visitor.visit_u32(self.node.0),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if !matches!(self.kind(), Kind::List) {
            return Err(self.unexpected("a list"));
        }
        let items = self.tree.items(self.node).map(move |node| Self { node, ..self });
        visitor.visit_seq(Items(items)).map_err(|fault| fault.at(self.place()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if !matches!(self.kind(), Kind::Map) {
            return Err(self.unexpected("a map"));
        }
        let entries = self.tree.entries(self.node);
        visitor.visit_map(Entries { of: self, entries, value: None }).map_err(|fault| fault.at(self.place()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if !matches!(self.kind(), Kind::Map) {
            return Err(self.unexpected("a map"));
        }
        for Entry { key, place, .. } in self.tree.entries(self.node) {
            if !keys.contains(&key) {
                let help = self.findings.advice(key, "keys here", keys.iter().copied());
                self.findings.add(Diagnostic::error("unknown-key", place, format!("unknown key `{key}`")).help(help));
            }
        }
        let entries = self.tree.entries(self.node).filter(|entry| keys.contains(&entry.key));
        visitor.visit_map(Entries { of: self, entries, value: None }).map_err(|fault| fault.at(self.place()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let text = self.text("a text")?;
        if !variants.contains(&text) {
            let finding = Diagnostic::error("unknown-value", self.place(), format!("unknown value `{text}`"));
            let help = self.findings.advice(text, "values here", variants.iter().copied());
            return Err(Fault::new(finding.help(help)));
        }
        let text: BorrowedStrDeserializer<'de, Fault> = BorrowedStrDeserializer::new(text);
        visitor.visit_enum(text).map_err(|fault| fault.at(self.place()))
    }

    serde::forward_to_deserialize_any! {
        u8 i8 i16 i32 i64 i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// A value with its place, in the four parts that [`Field`](super::field::Field) asks for: start, end, whether it is empty, value.
struct FieldParts<'a, 't> {
    value: Deserializer<'a, 't>,
    next: u8,
}

impl<'a> de::SeqAccess<'a> for FieldParts<'a, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.next += 1;
        let place = self.value.place();
        match self.next {
            1 => seed.deserialize(place.start.into_deserializer()).map(Some),
            2 => seed.deserialize(place.end.into_deserializer()).map(Some),
            3 => seed.deserialize(matches!(self.value.kind(), Kind::Null).into_deserializer()).map(Some),
            4 => match seed.deserialize(self.value) {
                Ok(value) => Ok(Some(value)),
                Err(fault) => {
                    fault.at(place).report(self.value.findings);
                    Err(Fault(None))
                }
            },
            _ => Ok(None),
        }
    }
}

struct Items<I>(I);

impl<'a, 't: 'a, I: Iterator<Item = Deserializer<'a, 't>>> de::SeqAccess<'a> for Items<I> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.0.next().map(|item| seed.deserialize(item)).transpose()
    }
}

struct Entries<'a, 't, I> {
    of: Deserializer<'a, 't>,
    entries: I,
    value: Option<NodeId>,
}

impl<'a, I: Iterator<Item = Entry<'a>>> de::MapAccess<'a> for Entries<'a, '_, I> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(Entry { key, value, .. }) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        let key: BorrowedStrDeserializer<'a, Fault> = BorrowedStrDeserializer::new(key);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let node = self.value.take().ok_or(Fault(None))?;
        seed.deserialize(Deserializer { node, ..self.of })
    }
}
