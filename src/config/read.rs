//! The tree → configuration types, through their plain `#[derive(Deserialize)]`, finding all mistakes.
//!
//! serde stops at the first error. So the tree is read again and again: what failed is reported and left out of the
//! next pass, until a pass succeeds. A mapping that lacks a key only because its value was left out is left out
//! itself, without another message. What comes out at the end is everything that is sound: of the elements of a part
//! (`metrics`, `sources`, …) those in which nothing was left out, so that no stage is asked about half of one.

use super::mistake::{Error, What, shortened};
use super::plain::visit_plain;
use super::unbuilt;
use super::yaml::{Node, Scalar, Value};
use crate::limits::CONFIG_PROBLEMS;
use crate::place::{LOCATED, LOCATED_FIELDS, Place, Problem, did_you_mean};
use serde::de::value::{BoolDeserializer, BorrowedStrDeserializer, U32Deserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use std::cell::RefCell;
use std::collections::HashSet;

/// Reads `root` as a `T` and adds what is wrong to `problems`. None when the root itself cannot be read.
pub(super) fn read<T: DeserializeOwned>(root: &Node, problems: &mut Vec<Problem>) -> Option<T> {
    let notes = Notes::default();
    let mut value = None;
    for _ in 0..CONFIG_PROBLEMS {
        match T::deserialize(Reader { node: root, notes: &notes, section: None, depth: 0, tagged: false }) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(error) => {
                let (failed, problem) = (error.failed, error.into_problem(root.place));
                notes.problems.borrow_mut().extend(problem);
                let Some(failed) = failed else { break };
                notes.left_out.borrow_mut().insert(failed);
            }
        }
    }
    problems.append(&mut notes.problems.borrow_mut());
    value
}

/// What the passes found so far.
#[derive(Default)]
struct Notes {
    problems: RefCell<Vec<Problem>>,
    /// Values that the next pass steps over. Compared, never followed.
    left_out: RefCell<HashSet<*const Node>>,
    /// Unknown keys that were reported, for each pass meets them again.
    unknown: RefCell<HashSet<*const Node>>,
}

/// Reads one node.
#[derive(Clone, Copy)]
struct Reader<'n> {
    node: &'n Node,
    notes: &'n Notes,
    /// The top-level key that this stands under; none at the top.
    section: Option<&'n str>,
    /// Levels above this node: 0 is the root, 1 a part (`metrics`), 2 one of its elements.
    depth: u32,
    /// The node's key `type` was read already.
    tagged: bool,
}

impl<'n> Reader<'n> {
    fn inside(self, node: &'n Node) -> Self {
        Self { node, depth: self.depth + 1, tagged: false, ..self }
    }

    fn is_left_out(self, node: &Node) -> bool {
        self.notes.left_out.borrow().contains(&std::ptr::from_ref(node))
    }

    /// The value, unless some of what it was made of was left out.
    fn whole<T>(self, value: T, lacks: bool, tolerant: u32) -> Result<T, Error> {
        if lacks && self.depth > tolerant { Err(Error::reported()) } else { Ok(value) }
    }

    fn wrong(self, expected: &str) -> Error {
        let unexpected = match &self.node.value {
            Value::Broken => return Error::reported().placed(self.node.place),
            Value::Scalar(scalar) if scalar.is_null() => Unexpected::Unit,
            Value::Scalar(scalar) => Unexpected::Str(&scalar.text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        };
        <Error as de::Error>::invalid_type(unexpected, &expected).placed(self.node.place)
    }

    fn scalar(self, expected: &str) -> Result<&'n Scalar, Error> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => Ok(scalar),
            Value::Scalar(_) => {
                let hint = "inside { … } a comma begins the next key: put a text that has commas into quotes";
                let message = format!("cannot use nothing here, expected {expected}");
                Err(Error::new(message, Some(hint.to_owned())).placed(self.node.place))
            }
            _ => Err(self.wrong(expected)),
        }
    }

    /// The entries of a mapping; a key with nothing behind it is an empty one.
    fn entries(self) -> Result<&'n [(Node, Node)], Error> {
        match &self.node.value {
            Value::Map(entries) => Ok(entries),
            Value::Scalar(scalar) if scalar.is_null() => Ok(&[]),
            _ => Err(self.wrong("a mapping")),
        }
    }

    fn report_unknown(self, entries: &[(Node, Node)], fields: &'static [&'static str]) {
        for (key, _) in entries {
            let name = key.text();
            if fields.contains(&name) || (self.tagged && name == "type") {
                continue;
            }
            if self.notes.unknown.borrow_mut().insert(std::ptr::from_ref(key)) {
                self.notes.problems.borrow_mut().push(self.unknown_key(key, fields));
            }
        }
    }

    fn unknown_key(self, key: &Node, fields: &[&'static str]) -> Problem {
        let name = key.text();
        if unbuilt::is_key(self.section, name) {
            return unbuilt::problem(key.place, name, &[]);
        }
        let hint = match did_you_mean(name, fields.iter().copied()) {
            Some(close) => format!("did you mean `{close}`?"),
            None if fields.is_empty() => "there are no other keys here".to_owned(),
            None => format!("keys here: {}", fields.join(", ")),
        };
        Problem::new(key.place, format!("cannot use the key `{name}`, it is unknown here")).hint(hint)
    }

    /// A missing key is silent where its value was left out, or where an unknown key is a slip of it.
    fn explain_missing(self, error: Error, entries: &[(Node, Node)], fields: &[&'static str]) -> Error {
        let What::Missing(missing) = error.what else { return error };
        let is_meant = |key: &str| key == missing || slip_of(key, fields) == Some(missing);
        if entries.iter().any(|(key, _)| is_meant(key.text())) {
            return Error::reported();
        }
        Error::new(format!("cannot find the key `{missing}`, it is required"), None).placed(self.node.place)
    }

    /// An enum of which the mapping's `type` tells the variant.
    fn typed(self, entries: &'n [(Node, Node)], variants: &'static [&'static str]) -> Result<Variant<'n>, Error> {
        let Some((_, kind)) = entries.iter().find(|(key, _)| key.text() == "type") else {
            let hint = format!("types: {}", variants.join(", "));
            return Err(
                Error::new("cannot find the key `type`, it is required".to_owned(), Some(hint)).placed(self.node.place)
            );
        };
        let name = &self.inside(kind).scalar("the name of a type")?.text;
        self.known_variant(name, kind.place, variants)?;
        Ok(Variant { name, content: Some(Self { tagged: true, ..self }), is_typed: true })
    }

    /// An enum that is written as a mapping with one key: the variant.
    fn keyed(self, entries: &'n [(Node, Node)], variants: &'static [&'static str]) -> Result<Variant<'n>, Error> {
        let [(key, content), more @ ..] = entries else { return Err(self.wrong(&listed(variants))) };
        self.known_variant(key.text(), key.place, variants)?;
        if let Some((second, _)) = more.first() {
            let message = format!("cannot use `{}` beside `{}`, one key stands here", second.text(), key.text());
            let hint = Some("begin each with a dash on a line of its own".to_owned());
            return Err(Error::new(message, hint).placed(second.place));
        }
        if self.is_left_out(content) {
            return Err(Error::reported());
        }
        Ok(Variant { name: key.text(), content: Some(self.inside(content)), is_typed: false })
    }

    fn known_variant(self, name: &str, place: Place, variants: &'static [&'static str]) -> Result<(), Error> {
        if variants.contains(&name) {
            return Ok(());
        }
        if unbuilt::is_variant(self.section, name) {
            let problem = unbuilt::problem(place, name, variants);
            return Err(Error::new(problem.message, problem.hint).placed(place));
        }
        let hint = match did_you_mean(name, variants.iter().copied()) {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!("expected {}", listed(variants)),
        };
        Err(Error::new(format!("cannot use `{}` here, it is unknown", shortened(name)), Some(hint)).placed(place))
    }
}

/// The field that an unknown key was probably meant to be.
fn slip_of(key: &str, fields: &[&'static str]) -> Option<&'static str> {
    if fields.contains(&key) { None } else { did_you_mean(key, fields.iter().copied()) }
}

fn listed(variants: &[&str]) -> String {
    format!("one of: {}", variants.join(", "))
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Broken => Err(Error::reported()),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar(scalar) if scalar.is_null() => visitor.visit_unit(),
            Value::Scalar(scalar) if scalar.plain => visit_plain(&scalar.text, visitor),
            Value::Scalar(scalar) => visitor.visit_borrowed_str(&scalar.text),
        }
        .map_err(|error| error.placed(self.node.place))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(&self.scalar("a text")?.text).map_err(|error: Error| error.placed(self.node.place))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(scalar) if scalar.is_null() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::List(items) => {
                let value = visitor.visit_seq(Items { rest: items.iter(), reader: self })?;
                self.whole(value, items.iter().any(|item| self.is_left_out(item)), 1)
            }
            Value::Scalar(scalar) if scalar.is_null() => visitor.visit_seq(Items { rest: [].iter(), reader: self }),
            Value::Scalar(scalar) => {
                let hint = Some(format!("write [{}]", shortened(&scalar.text)));
                let message = format!("cannot use `{}` here, expected a list", shortened(&scalar.text));
                Err(Error::new(message, hint).placed(self.node.place))
            }
            _ => Err(self.wrong("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let entries = self.entries()?;
        let value = visitor.visit_map(Fields { rest: entries.iter(), only: None, value: None, reader: self })?;
        self.whole(value, entries.iter().any(|(_, value)| self.is_left_out(value)), 1)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == LOCATED {
            return visitor.visit_map(LocatedParts { reader: self, next: 0 });
        }
        let entries = self.entries()?;
        self.report_unknown(entries, fields);
        visitor
            .visit_map(Fields { rest: entries.iter(), only: Some(fields), value: None, reader: self })
            .map_err(|error| self.explain_missing(error, entries, fields))
            .and_then(|value| {
                let lacks = entries.iter().any(|(key, v)| self.is_left_out(v) || slip_of(key.text(), fields).is_some());
                self.whole(value, lacks, 0)
            })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant = match &self.node.value {
            Value::Map(entries) if unbuilt::is_typed(self.section) => self.typed(entries, variants)?,
            Value::Map(entries) => self.keyed(entries, variants)?,
            _ => {
                let name = &self.scalar(&listed(variants))?.text;
                self.known_variant(name, self.node.place, variants)?;
                Variant { name, content: None, is_typed: unbuilt::is_typed(self.section) }
            }
        };
        visitor.visit_enum(variant).map_err(|error| error.placed(self.node.place))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

struct Items<'n> {
    rest: std::slice::Iter<'n, Node>,
    reader: Reader<'n>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let reader = self.reader;
        let Some(node) = self.rest.find(|node| !reader.is_left_out(node)) else { return Ok(None) };
        seed.deserialize(reader.inside(node)).map(Some).map_err(|error| error.at(node))
    }
}

struct Fields<'n> {
    rest: std::slice::Iter<'n, (Node, Node)>,
    /// The keys to be given; all where none.
    only: Option<&'static [&'static str]>,
    value: Option<(&'n str, &'n Node)>,
    reader: Reader<'n>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let (reader, only) = (self.reader, self.only);
        let wanted = |key: &str| only.is_none_or(|fields| fields.contains(&key) && !(reader.tagged && key == "type"));
        let Some((key, value)) = self.rest.find(|(k, v)| wanted(k.text()) && !reader.is_left_out(v)) else {
            return Ok(None);
        };
        self.value = Some((key.text(), value));
        seed.deserialize(reader.inside(key)).map(Some).map_err(|error| error.placed(key.place).at(value))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, node) = self.value.take().expect("serde asks for a value after its key");
        let mut reader = self.reader.inside(node);
        reader.section = self.reader.section.or(Some(key));
        seed.deserialize(reader).map_err(|error| error.at(node))
    }
}

/// What [`crate::place::Located`] asks for.
struct LocatedParts<'n> {
    reader: Reader<'n>,
    next: usize,
}

impl<'de> MapAccess<'de> for LocatedParts<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = LOCATED_FIELDS.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let node = self.reader.node;
        match self.next {
            1 => seed.deserialize(U32Deserializer::new(node.place.line)),
            2 => seed.deserialize(U32Deserializer::new(node.place.column)),
            3 => {
                let verbatim = matches!(&node.value, Value::Scalar(scalar) if scalar.verbatim);
                seed.deserialize(BoolDeserializer::new(verbatim))
            }
            _ => seed.deserialize(self.reader),
        }
    }
}

struct Variant<'n> {
    name: &'n str,
    content: Option<Reader<'n>>,
    /// It is told by a key `type`.
    is_typed: bool,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: de::value::StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'n> Variant<'n> {
    fn content(&self) -> Result<Reader<'n>, Error> {
        self.content.ok_or_else(|| {
            let hint = if self.is_typed {
                format!("write {{ type: {} }}", self.name)
            } else {
                format!("write {}: …", self.name)
            };
            Error::new(format!("cannot use `{}` alone, it needs more", self.name), Some(hint))
        })
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.content {
            Some(reader) if !reader.tagged => Err(reader.wrong("no value")),
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let reader = self.content()?;
        // The content of a typed mapping is the mapping itself, which is left out by whoever holds it.
        seed.deserialize(reader).map_err(|error| if reader.tagged { error } else { error.at(reader.node) })
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.content()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content()?.deserialize_struct("", fields, visitor)
    }
}
