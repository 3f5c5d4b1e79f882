//! The columns of a file of JSON Lines that names none: what its lines have.
//!
//! All of the file is read. A column that is null everywhere is none; texts that all look like times are times.

use super::columns::{FileColumn, FileColumns, FileType};
use super::lines_read::LINE_BYTES;
use super::table::Kind;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, Read};

/// The columns of `lines`, which are rows of a table.
///
/// # Errors
/// When they cannot be read, or one is no JSON object.
pub fn learn(kind: Kind, mut lines: impl BufRead) -> io::Result<FileColumns> {
    let mut learned = Learned::default();
    let mut line = Vec::new();
    while lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        let row = serde_json::from_slice::<Row>(&line).map_err(io::Error::other)?;
        row.0.into_iter().for_each(|(name, seen)| learned.note(name, seen));
        line.clear();
    }
    Ok(learned.columns(kind))
}

#[derive(Debug, Default)]
struct Learned {
    /// In the order in which they were first seen.
    names: Vec<String>,
    seen: HashMap<String, FileType>,
}

impl Learned {
    fn note(&mut self, name: String, seen: Option<FileType>) {
        let Some(seen) = seen else { return };
        match self.seen.get_mut(&name) {
            Some(known) => *known = both(*known, seen),
            None => {
                self.names.push(name.clone());
                self.seen.insert(name, seen);
            }
        }
    }

    fn columns(self, kind: Kind) -> FileColumns {
        let least = FileColumns::least(kind);
        let own = self.names.into_iter().map(|name| {
            let known = least.columns().iter().find(|column| column.name == name);
            let kind = known.map_or(self.seen[&name], |column| column.kind);
            FileColumn { name, kind, bytes: None, required: known.is_some_and(|column| column.required) }
        });
        FileColumns::new(own.collect())
    }
}

/// A type that takes the values of both.
fn both(one: FileType, other: FileType) -> FileType {
    use FileType::{Float, Int, Json, Text};
    match (one, other) {
        (one, other) if one == other => one,
        (Int | Float, Int | Float) => Float,
        (Json, _) | (_, Json) => Json,
        _ => Text,
    }
}

/// The names of a line's values, and what they are; `None` of null.
struct Row(Vec<(String, Option<FileType>)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rows;
        impl<'de> Visitor<'de> for Rows {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row as a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut row = Vec::new();
                while let Some((name, Seen(seen))) = map.next_entry()? {
                    row.push((name, seen));
                }
                Ok(Row(row))
            }
        }
        deserializer.deserialize_map(Rows)
    }
}

struct Seen(Option<FileType>);

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Looking).map(Self)
    }
}

struct Looking;

impl<'de> Visitor<'de> for Looking {
    type Value = Option<FileType>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Some(FileType::Bool))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Some(FileType::Int))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(if i64::try_from(value).is_ok() { FileType::Int } else { FileType::Float }))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Some(FileType::Float))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(if is_stamp(text) { FileType::Timestamp } else { FileType::Text }))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(FileType::Json))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Some(FileType::Json))
    }
}

/// Whether a text has the form in which times are written: `2026-05-06T05:35:31.000000Z`.
fn is_stamp(text: &str) -> bool {
    const FORM: &[u8; 27] = b"0000-00-00T00:00:00.000000Z";
    text.len() == FORM.len()
        && text.bytes().zip(FORM).all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        let learned = learn(Kind::Data, text.as_bytes()).unwrap();
        learned.columns().iter().map(|column| format!("{} {:?}", column.name, column.kind)).collect()
    }

    #[test]
    fn types_are_those_that_take_all_values() {
        let lines = r#"{"ts":"2026-05-06T05:35:31.000000Z","n":1,"f":1.0,"t":"a","at":"2026-05-06T05:35:31.000001Z","j":{"a":[1]},"b":true,"none":null}
{"n":2.5,"f":2,"t":"2026-05-06T05:35:31.000000Z","at":"2026-05-06T05:35:31.000000Z","j":7,"mixed":1,"message":"2026-05-06T05:35:31.000000Z"}
{"mixed":"x","attributes":"{broken","big":9223372036854775808}
"#;
        let expected = [
            "ts Timestamp",
            "n Float",
            "f Float",
            "t Text",
            "at Timestamp",
            "j Json",
            "b Bool",
            "mixed Text",
            "message Text",
            "attributes Json",
            "big Float",
        ];
        assert_eq!(check(lines), expected);
        assert_eq!(check(""), Vec::<String>::new());
        assert!(learn(Kind::Data, &b"[1]\n"[..]).is_err());
    }
}
