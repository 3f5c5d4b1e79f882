//! Taking a record that the strict path accepted apart into its layout: the bytes between values, and what the values
//! belong to.
//!
//! Only what is regular is learned. A key with an escape, an escaped space between tokens, a message within a message
//! that isn't there: `None`, and such records stay with the strict path.

use super::cut::{self, Cuts, Kinds, Quote};
use super::{Envelope, Format, Plan};

/// What stands behind a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// A value that is no object or array, in JSON as it stands.
    Bare,
    /// The same within a JSON string.
    Nested,
    /// The envelope's message as text: a string that is not JSON itself.
    Message,
}

/// The bytes up to a value, and the value's way of being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) literal: std::ops::Range<usize>,
    pub(super) ahead: Ahead,
}

/// A JSON value, with the number of the step that cuts it in place of each scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Scalar(u16),
    Object(Vec<(String, Shape)>),
    Array(Vec<Shape>),
}

/// Where a record's content stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A JSON object: the record without envelope, the message's text, or the message itself.
    Object(Shape),
    /// The message as text, cut by this step.
    Text(u16),
}

/// A record's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lesson {
    pub(super) steps: Vec<Step>,
    /// The bytes behind the last value.
    pub(super) tail: std::ops::Range<usize>,
    /// The members of the envelope but its message.
    pub(super) envelope: Option<Vec<(String, Shape)>>,
    pub(super) content: Content,
}

/// More values than this in a record are not worth a layout.
pub(super) const MAX_STEPS: usize = 512;

/// The layout of a record that the strict path took without a flaw.
pub(super) fn learn(record: &[u8], plan: &Plan) -> Option<Lesson> {
    let mut walk = Walk {
        record,
        at: 0,
        literal: 0,
        quote: Quote::BARE,
        format: plan.format,
        content: None,
        steps: Vec::new(),
        cuts: Cuts::default(),
    };
    if !walk.cuts.begin(record, 0, record.len()) {
        return None;
    }
    walk.skip_space();
    let (envelope, content) = match plan.envelope {
        Envelope::None if plan.format == Format::Text || plan.format == Format::Logfmt => return None,
        Envelope::None => (None, Content::Object(walk.object(false)?)),
        Envelope::Fly => {
            let Shape::Object(members) = walk.object(true)? else { return None };
            (Some(members), walk.content.take()?)
        }
    };
    walk.skip_space();
    let tail = walk.literal..record.len();
    (walk.at == record.len()).then_some(Lesson { steps: walk.steps, tail, envelope, content })
}

struct Walk<'r> {
    record: &'r [u8],
    at: usize,
    /// Where the literal begins that the next step will have.
    literal: usize,
    quote: Quote,
    format: Format,
    content: Option<Content>,
    steps: Vec<Step>,
    cuts: Cuts,
}

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.record.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        // Within a string only the blank can stand as it is; the others are control characters there.
        while self
            .peek()
            .is_some_and(|b| b == b' ' || (self.quote == Quote::BARE && matches!(b, b'\t' | b'\n' | b'\r')))
        {
            self.at += 1;
        }
    }

    fn take(&mut self, expected: &[u8]) -> Option<()> {
        self.record[self.at..].starts_with(expected).then(|| self.at += expected.len())
    }

    fn value(&mut self) -> Option<Shape> {
        match self.peek()? {
            b'{' => self.object(false),
            b'[' => self.array(),
            _ => self.scalar().map(Shape::Scalar),
        }
    }

    fn scalar(&mut self) -> Option<u16> {
        self.step(if self.quote == Quote::BARE { Ahead::Bare } else { Ahead::Nested })
    }

    fn step(&mut self, ahead: Ahead) -> Option<u16> {
        let behind = cut::scalar(self.record, self.at, self.quote, Kinds::ANY, &mut self.cuts)?;
        self.steps.push(Step { literal: self.literal..self.at, ahead });
        (self.at, self.literal) = (behind, behind);
        (self.steps.len() <= MAX_STEPS).then_some((self.steps.len() - 1) as u16)
    }

    /// An object; its members' values are cut. The envelope's message is taken for itself.
    fn object(&mut self, is_envelope: bool) -> Option<Shape> {
        self.take(b"{")?;
        self.skip_space();
        let mut members = Vec::new();
        while self.peek()? != b'}' {
            if !members.is_empty() || self.content.is_some() && is_envelope {
                self.take(b",")?;
                self.skip_space();
            }
            let key = self.key()?;
            self.skip_space();
            self.take(b":")?;
            self.skip_space();
            if is_envelope && key == "message" {
                self.message()?;
            } else {
                members.push((key, self.value()?));
            }
            self.skip_space();
        }
        self.at += 1;
        Some(Shape::Object(members))
    }

    fn array(&mut self) -> Option<Shape> {
        self.take(b"[")?;
        self.skip_space();
        let mut elements = Vec::new();
        while self.peek()? != b']' {
            if !elements.is_empty() {
                self.take(b",")?;
                self.skip_space();
            }
            elements.push(self.value()?);
            self.skip_space();
        }
        self.at += 1;
        Some(Shape::Array(elements))
    }

    fn key(&mut self) -> Option<String> {
        let quote: &[u8] = if self.quote == Quote::BARE { b"\"" } else { b"\\\"" };
        self.take(quote)?;
        let end = self.at + self.record[self.at..].iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))?;
        let key = std::str::from_utf8(&self.record[self.at..end]).ok()?;
        self.at = end;
        self.take(quote)?;
        Some(key.to_owned())
    }

    /// The envelope's message: an object, JSON as text, or text.
    fn message(&mut self) -> Option<()> {
        if self.content.is_some() {
            return None;
        }
        let content = match self.peek()? {
            b'{' => Content::Object(self.object(false)?),
            b'"' if self.is_json() => {
                self.at += 1;
                self.quote = Quote::NESTED;
                self.skip_space();
                let object = self.object(false)?;
                self.skip_space();
                self.quote = Quote::BARE;
                self.take(b"\"")?;
                Content::Object(object)
            }
            b'"' if self.format == Format::Auto || self.format == Format::Text => {
                Content::Text(self.step(Ahead::Message)?)
            }
            _ => return None,
        };
        self.content = Some(content);
        Some(())
    }

    /// Whether the text whose quote is next is read as JSON.
    fn is_json(&self) -> bool {
        let first = self.record[self.at + 1..].iter().find(|byte| **byte != b' ');
        matches!(self.format, Format::Json | Format::Auto) && first == Some(&b'{')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::TimeFormats;
    use crate::record::schema::{BUILT_IN, Column, Schema};
    use std::sync::Arc;

    fn check(envelope: Envelope, format: Format, record: &str, expected: Option<(&str, &str)>) {
        let columns = BUILT_IN.iter().map(|(name, kind)| Column::new(*name, *kind)).collect();
        let schema = Arc::new(Schema::new("t", 1, columns));
        let plan = Plan::new(envelope, format, schema, TimeFormats::default());
        let shown = learn(record.as_bytes(), &plan).map(|lesson| {
            let steps = lesson.steps.iter().map(|step| &record[step.literal.clone()]);
            let literals: Vec<&str> = steps.chain([&record[lesson.tail.clone()]]).collect();
            (literals.join("•"), format!("{:?}", lesson.content))
        });
        let shown = shown.as_ref().map(|(literals, content)| (literals.as_str(), content.as_str()));
        assert_eq!(shown, expected, "{record}");
    }

    #[test]
    fn literals_are_what_stands_between_values() {
        let none = |record, expected| check(Envelope::None, Format::Auto, record, expected);
        none(
            r#" {"a" : 1.5,"b":[true,{}],"c":{"d":"x\ny"}} "#,
            Some((
                r#" {"a" : •,"b":[•,{}],"c":{"d":•}} "#,
                r#"Object(Object([("a", Scalar(0)), ("b", Array([Scalar(1), Object([])])), ("c", Object([("d", Scalar(2))]))]))"#,
            )),
        );
        none(r#"{"a\n":1}"#, None);
        none("plain text", None);
    }

    #[test]
    fn messages_are_json_or_text() {
        let fly = |record, expected| check(Envelope::Fly, Format::Auto, record, expected);
        fly(
            r#"{"host":"h","message":"{\"a\": \"x\\ty\", \"b\": 1}","timestamp":"t"}"#,
            Some((
                r#"{"host":•,"message":"{\"a\": •, \"b\": •}","timestamp":•}"#,
                r#"Object(Object([("a", Scalar(1)), ("b", Scalar(2))]))"#,
            )),
        );
        fly(r#"{"message":"hello","host":"h"}"#, Some((r#"{"message":•,"host":•}"#, "Text(0)")));
        fly(
            r#"{"message":{"a":1},"host":"h"}"#,
            Some((r#"{"message":{"a":•},"host":•}"#, r#"Object(Object([("a", Scalar(0))]))"#)),
        );
        fly(r#"{"message":"a","message":"b"}"#, None);
        fly(r#"{"host":"h"}"#, None);
    }
}
