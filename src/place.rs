//! Where in a YAML file something stands, and what is wrong there.
//!
//! Configuration types keep the place of every text that is compiled later (SQL, patterns, templates), so
//! that a mistake inside it can be pointed at with line and column.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;

/// A place in a text file. Both numbers start at 1 and count characters, as editors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One mistake in a configuration, with its place and, where there is one, its remedy.
///
/// `message` starts with "cannot", is lower case and has no full stop; `hint` is a sentence fragment that says
/// what to do ("did you mean `status`?").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A configuration value that knows where it was written.
///
/// `place` is that of the first character of the value itself (behind an opening quote). `verbatim` tells
/// whether characters of the value stand one to one in the file (plain and simply quoted single-line scalars, and
/// `|` blocks, whose lines begin in one column), so that an offset into the value is an offset in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Located<T> {
    pub value: T,
    pub place: Place,
    pub verbatim: bool,
}

/// The struct name by which the YAML deserializer of `config/` recognises a [`Located`].
pub const LOCATED: &str = "$Located";
/// The fields of the struct that [`LOCATED`] names, in this order.
pub const LOCATED_FIELDS: &[&str] = &["line", "column", "verbatim", "value"];

impl<T> Located<T> {
    /// A value that comes from no file (tests, defaults).
    pub fn nowhere(value: T) -> Self {
        Self { value, place: Place { line: 1, column: 1 }, verbatim: true }
    }

    /// The place `line` lines (from 0) and `column` characters (from 0) into the value.
    pub fn inside(&self, line: u32, column: u32) -> Place {
        if self.verbatim {
            Place { line: self.place.line + line, column: self.place.column + column }
        } else {
            self.place
        }
    }

    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.place, message)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Parts<T> {
            line: u32,
            column: u32,
            verbatim: bool,
            value: T,
        }
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = Located<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its place")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let parts = Parts::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Located {
                    value: parts.value,
                    place: Place { line: parts.line, column: parts.column },
                    verbatim: parts.verbatim,
                })
            }
        }
        deserializer.deserialize_struct(LOCATED, LOCATED_FIELDS, Visitor(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A text that is shown nowhere.
#[derive(Clone, serde::Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transparent)]
pub struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A mapping in the order in which it was written, with the place of each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries<T>(pub Vec<(Located<String>, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = Entries<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("MapOf{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        std::collections::BTreeMap::<String, T>::json_schema(generator)
    }
}

/// The candidate closest to `given`, when it is close enough to be a slip of the finger.
///
/// Closeness is Jaro–Winkler similarity (`strsim`) of at least 0.75, case folded.
pub fn did_you_mean<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(&given, &c.to_lowercase()), c))
        .filter(|(score, _)| *score >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
        assert_eq!(did_you_mean("statsu", ["path", "status"]), Some("status"));
        assert_eq!(did_you_mean("latencyms", ["latency_ms", "level"]), Some("latency_ms"));
        assert_eq!(did_you_mean("zzz", ["path", "status"]), None);
    }

    #[test]
    fn an_offset_counts_only_where_the_text_is_verbatim() {
        let mut sql = Located { value: "a = 1", place: Place { line: 3, column: 7 }, verbatim: true };
        assert_eq!(sql.inside(0, 4).to_string(), "3:11");
        sql.verbatim = false;
        assert_eq!(sql.inside(0, 4).to_string(), "3:7");
    }
}
