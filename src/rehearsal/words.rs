//! The words of a script's line: names, `key=value` pairs, quoted texts, and times.

use crate::time::{EventTime, Span};
use serde_json::Value;

/// One word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// As it stands there.
    Bare(String),
    /// `key=value`; the value as JSON has it, a text where it is no JSON.
    Pair(String, Value),
    /// `"a text"`
    Text(String),
}

/// A point in time, as scripts write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// From the script's origin, in µs.
    Offset(i64),
    At(EventTime),
}

impl When {
    /// `5m`, `-30s`, or RFC 3339.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        if let Ok(span) = rest.parse::<Span>() {
            return Some(Self::Offset(sign * span.micros()));
        }
        let stamp: jiff::Timestamp = text.parse().ok()?;
        Some(Self::At(EventTime::from_micros(stamp.as_microsecond())))
    }

    pub(super) fn from(self, origin: EventTime) -> EventTime {
        match self {
            Self::Offset(micros) => origin + Span::from_micros(micros),
            Self::At(time) => time,
        }
    }
}

/// Times further than this from the origin are written in full.
const NEAR: Span = Span::from_secs(31 * 86_400);

/// A time as scripts write it.
pub(super) fn shown(time: EventTime, origin: EventTime) -> String {
    let offset = time - origin;
    if offset.micros().unsigned_abs() <= NEAR.micros().unsigned_abs() { offset.to_string() } else { time.to_string() }
}

/// Takes a line apart.
///
/// # Errors
/// What cannot be read.
pub(super) fn words(line: &str) -> Result<Vec<Word>, String> {
    let (mut words, mut rest) = (Vec::new(), line.trim_start());
    while !rest.is_empty() {
        let (word, behind) = word(rest)?;
        words.push(word);
        rest = behind.trim_start();
    }
    Ok(words)
}

fn word(text: &str) -> Result<(Word, &str), String> {
    if text.starts_with('"') {
        let (value, rest) = json(text)?;
        return Ok((Word::Text(value.as_str().unwrap_or_default().to_owned()), rest));
    }
    let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let Some(rest) = rest.strip_prefix('=') else { return Ok((Word::Bare(name.to_owned()), rest)) };
    if name.is_empty() {
        return Err(format!("cannot read {text:?}, a name stands before `=`"));
    }
    if rest.starts_with(['"', '{', '[']) && !rest.starts_with("{n}") {
        let (value, rest) = json(rest)?;
        return Ok((Word::Pair(name.to_owned(), value), rest));
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (value, rest) = rest.split_at(end);
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((Word::Pair(name.to_owned(), value), rest))
}

/// The JSON value that a text begins with, and what is behind it.
fn json(text: &str) -> Result<(Value, &str), String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Ok((value, &text[values.byte_offset()..])),
        Some(Err(error)) => Err(format!("cannot read {text:?} as JSON: {error}")),
        None => Err("cannot read an empty text as JSON".to_owned()),
    }
}

/// A value as a script writes it: as short as it can be read back.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let odd = |c: char| c.is_whitespace() || c.is_control() || c == '"';
            let other = serde_json::from_str::<Value>(text).is_ok() || text.starts_with(['"', '{', '[']);
            if text.is_empty() || other || text.contains(odd) { value.to_string() } else { text.clone() }
        }
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(|| number.to_string(), float),
        other => other.to_string(),
    }
}

/// Six digits behind the point, where that says all that matters.
fn float(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e15).contains(&value.abs()) {
        return format!("{value:e}");
    }
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_taken_apart() {
        let pair = |name: &str, value: Value| Word::Pair(name.to_owned(), value);
        let found =
            words(r#"@10s "it fails" path=/a status=500 ok=true q="a b" m={"a":[1, 2]} id=r{n} n={n}"#).unwrap();
        assert_eq!(
            found,
            [
                Word::Bare("@10s".to_owned()),
                Word::Text("it fails".to_owned()),
                pair("path", json!("/a")),
                pair("status", json!(500)),
                pair("ok", json!(true)),
                pair("q", json!("a b")),
                pair("m", json!({"a": [1, 2]})),
                pair("id", json!("r{n}")),
                pair("n", json!("{n}")),
            ]
        );
        for broken in ["\"open", "=3", "m={a"] {
            assert!(words(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn values_are_written_so_that_they_are_read_again() {
        for (value, text) in [
            (json!("/a"), "/a"),
            (json!("a b"), "\"a b\""),
            (json!("7"), "\"7\""),
            (json!(""), "\"\""),
            (json!(0.25), "0.25"),
            (json!(3.0), "3"),
            (json!(1e-7), "1e-7"),
            (json!(null), "null"),
        ] {
            assert_eq!(plain(&value), text);
            let [Word::Pair(_, read)] = &words(&format!("x={text}")).unwrap()[..] else { panic!("{text}") };
            assert_eq!(plain(read), text);
        }
    }

    #[test]
    fn times_are_offsets_or_stamps() {
        let origin = EventTime::from_micros(1_767_225_600_000_000);
        for text in ["5m", "-30s", "0s", "1h0m1s", "2099-01-01T00:00:00Z"] {
            let time = When::parse(text).unwrap().from(origin);
            assert_eq!(shown(time, origin), text.replace("0m", ""), "{text}");
        }
        assert_eq!(When::parse("soon"), None);
    }
}
