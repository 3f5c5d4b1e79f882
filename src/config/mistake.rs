//! Why a value of the tree could not be read, in the words of a pipeline file instead of serde's.

use super::yaml::Node;
use crate::place::{Place, Problem};
use serde::de::{self, Expected, Unexpected};

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read this: {what:?}")]
pub(super) struct Error {
    pub what: What,
    place: Option<Place>,
    /// The entry or element that the next pass shall leave out.
    pub failed: Option<*const Node>,
}

#[derive(Debug)]
pub(super) enum What {
    Problem {
        message: String,
        hint: Option<String>,
    },
    /// A key that is required isn't there.
    Missing(&'static str),
    /// The reason was reported already.
    Reported,
}

impl Error {
    pub(super) fn new(message: String, hint: Option<String>) -> Self {
        Self { what: What::Problem { message, hint }, place: None, failed: None }
    }

    pub(super) fn reported() -> Self {
        Self { what: What::Reported, place: None, failed: None }
    }

    /// Fills in what an error from the inside of `node` didn't know.
    pub(super) fn at(mut self, node: &Node) -> Self {
        self.place.get_or_insert(node.place);
        self.failed.get_or_insert(std::ptr::from_ref(node));
        self
    }

    pub(super) fn placed(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    pub(super) fn into_problem(self, default: Place) -> Option<Problem> {
        let place = self.place.unwrap_or(default);
        match self.what {
            What::Reported => None,
            What::Missing(name) => Some(Problem::new(place, format!("cannot find the key `{name}`, it is required"))),
            What::Problem { message, hint } => Some(Problem { place, message, hint }),
        }
    }
}

impl de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let known = message.starts_with("cannot ");
        Self::new(if known { message } else { format!("cannot use this value: {message}") }, None)
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let given = match unexpected {
            Unexpected::Str(text) => format!("`{}`", shortened(text)),
            Unexpected::Unsigned(number) => format!("`{number}`"),
            Unexpected::Signed(number) => format!("`{number}`"),
            Unexpected::Float(number) => format!("`{number}`"),
            Unexpected::Bool(value) => format!("`{value}`"),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a mapping".to_owned(),
            Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
            other => other.to_string(),
        };
        Self::new(format!("cannot use {given} here, expected {}", plainly(&expected.to_string())), None)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self { what: What::Missing(field), place: None, failed: None }
    }
}

/// serde's names for what it expects, in the words of a pipeline file.
fn plainly(expected: &str) -> &str {
    match expected {
        "a string" => "a text",
        "a boolean" => "true or false",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a mapping",
        e if e.starts_with("a nonzero") => "a whole number above 0",
        e if e.starts_with("struct ") => "a mapping",
        other => other,
    }
}

pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
