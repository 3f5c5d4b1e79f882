//! A line under `load` → the records that it stands for, as the pipeline's source would hand them on.

use super::words::{When, Word, words};
use crate::decode::{self, Envelope, Format};
use crate::time::{EventTime, Span};
use serde_json::{Map, Value, json};

/// Records that one line may stand for.
const MOST: i64 = 1_000_000;

/// The parts of Fly's envelope that a pair may set, and what they are where none does.
const ENVELOPE: [(&str, &str); 5] =
    [("app", "app"), ("instance", "i1"), ("region", "nrt"), ("host", "h1"), ("provider", "app")];

/// One line under `load`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LoadLine {
    at: Option<When>,
    content: Content,
    /// How far apart records are, and how many.
    repeat: Option<(Span, i64)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Fields(Vec<(String, Value)>),
    Text(String),
    /// The very bytes.
    Raw(String),
}

/// What records look like to a pipeline.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    envelope: Envelope,
    format: Format,
    /// Where a record's own time is.
    time: Vec<String>,
    origin: EventTime,
}

/// A record's bytes, and its time where it has one.
type Timed = (Option<EventTime>, Vec<u8>);

impl Shape {
    pub(super) fn of(plan: &decode::Plan, origin: EventTime) -> Self {
        let time = plan.schema.column("ts").and_then(|column| column.from.first().cloned());
        let time = time.unwrap_or_else(|| vec!["timestamp".to_owned()]);
        Self { envelope: plan.envelope, format: plan.format, time, origin }
    }
}

impl LoadLine {
    /// # Errors
    /// What cannot be read.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        if let Some(raw) = line.strip_prefix("raw ") {
            return Ok(Self { at: None, content: Content::Raw(raw.to_owned()), repeat: None });
        }
        let mut words = words(line)?;
        let repeat = take_repeat(&mut words)?;
        let at = match words.first() {
            Some(Word::Bare(text)) => {
                let time = text.strip_prefix('@').and_then(When::parse);
                let at =
                    time.ok_or_else(|| format!("cannot read {text:?}, a record begins with its time, as in @10s"))?;
                words.remove(0);
                Some(at)
            }
            _ => None,
        };
        let content = match &words[..] {
            [Word::Text(text)] => Content::Text(text.clone()),
            pairs => {
                let pair = |word: &Word| match word {
                    Word::Pair(key, value) => Ok((key.clone(), value.clone())),
                    Word::Bare(text) | Word::Text(text) => {
                        Err(format!("cannot read {text:?}, a record is key=value pairs, or one text in quotes"))
                    }
                };
                Content::Fields(pairs.iter().map(pair).collect::<Result<_, String>>()?)
            }
        };
        if at.is_none() && repeat.is_some() {
            return Err("cannot repeat a record without a time".to_owned());
        }
        Ok(Self { at, content, repeat })
    }

    /// All records, each with its time where it has one.
    ///
    /// # Errors
    /// When the pipeline reads no such records.
    pub(super) fn records(&self, shape: &Shape) -> Result<Vec<Timed>, String> {
        let (every, count) = self.repeat.unwrap_or((Span::ZERO, 1));
        let record = |number: i64| {
            let at = self.at.map(|at| at.from(shape.origin) + Span::from_micros(every.micros() * number));
            Ok((at, self.record(shape, at, number)?))
        };
        (0..count).map(record).collect()
    }

    fn record(&self, shape: &Shape, at: Option<EventTime>, number: i64) -> Result<Vec<u8>, String> {
        let stamp = at.map(|at| at.to_string());
        let (fields, text) = match &self.content {
            Content::Raw(raw) => return Ok(raw.clone().into_bytes()),
            Content::Text(text) => (Vec::new(), Some(filled(text, number))),
            Content::Fields(fields) => {
                let fill = |(key, value): &(String, Value)| (key.clone(), value_of(value, number, shape.origin));
                (fields.iter().map(fill).collect(), None)
            }
        };
        let wrapped = shape.envelope == Envelope::Fly;
        let (around, fields): (Vec<_>, Vec<_>) = fields
            .into_iter()
            .partition(|(key, _)| wrapped && (key == "stamp" || ENVELOPE.iter().any(|(name, _)| name == key)));
        let message = match text {
            Some(text) => text,
            None => content(shape, fields, stamp.as_deref())?,
        };
        Ok(if wrapped { envelope(&around, &message, stamp.as_deref()).into_bytes() } else { message.into_bytes() })
    }
}

/// Takes `every D for D` off the end.
fn take_repeat(words: &mut Vec<Word>) -> Result<Option<(Span, i64)>, String> {
    let Some(at) = words.iter().position(|word| *word == Word::Bare("every".to_owned())) else { return Ok(None) };
    let tail = words.split_off(at);
    let wanted = "cannot read the repetition, expected `every 1s for 5m`";
    let [_, Word::Bare(every), Word::Bare(word), Word::Bare(length)] = &tail[..] else { return Err(wanted.to_owned()) };
    let span = |text: &str| text.parse::<Span>().map_err(|error| error.to_string());
    let (every, length) = (span(every)?, span(length)?);
    if word != "for" || every <= Span::ZERO {
        return Err(wanted.to_owned());
    }
    let count = length.micros().div_euclid(every.micros()) + i64::from(length.micros().rem_euclid(every.micros()) > 0);
    if count > MOST {
        return Err(format!("cannot make {count} records of one line, at most {MOST}"));
    }
    Ok(Some((every, count)))
}

/// `{n}` is the record's number from 0, and `@5m` a time.
fn value_of(value: &Value, number: i64, origin: EventTime) -> Value {
    let Value::String(text) = value else { return value.clone() };
    match text.strip_prefix('@').and_then(When::parse) {
        Some(time) => Value::String(time.from(origin).to_string()),
        None if text == "{n}" => number.into(),
        None => Value::String(filled(text, number)),
    }
}

fn filled(text: &str, number: i64) -> String {
    text.replace("{n}", &number.to_string())
}

/// What the application has written.
fn content(shape: &Shape, fields: Vec<(String, Value)>, stamp: Option<&str>) -> Result<String, String> {
    let own = shape.time.join(".");
    let given = fields.iter().any(|(key, _)| *key == own);
    // `timestamp=null` is a record without a time of its own.
    let fields = fields.into_iter().filter(|(key, value)| *key != own || !value.is_null());
    match shape.format {
        Format::Text => Err("cannot load fields, `format: text` reads texts: write one in quotes".to_owned()),
        Format::Logfmt => {
            let stamp = stamp.filter(|_| !given).map(|stamp| (own.clone(), Value::String(stamp.to_owned())));
            let pairs = stamp.into_iter().chain(fields).map(|(key, value)| match value {
                Value::String(text) if text.contains([' ', '"', '=']) => format!("{key}={}", Value::String(text)),
                Value::String(text) => format!("{key}={text}"),
                other => format!("{key}={other}"),
            });
            Ok(pairs.collect::<Vec<_>>().join(" "))
        }
        Format::Json | Format::Auto => {
            let mut object = Map::new();
            if let Some(stamp) = stamp.filter(|_| !given) {
                put(&mut object, &shape.time, Value::String(stamp.to_owned()));
            }
            for (key, value) in fields {
                let path: Vec<String> = if key == own { shape.time.clone() } else { vec![key] };
                put(&mut object, &path, value);
            }
            Ok(Value::Object(object).to_string())
        }
    }
}

fn put(object: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            object.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = object.entry(first.clone()).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

fn envelope(given: &[(String, Value)], message: &str, stamp: Option<&str>) -> String {
    let get = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let part = |name: &str| {
        let usual = ENVELOPE.iter().find(|(known, _)| *known == name).map_or("", |(_, usual)| usual);
        get(name).unwrap_or_else(|| usual.into())
    };
    let mut around = json!({
        "event": { "provider": part("provider") },
        "fly": { "app": { "instance": part("instance"), "name": part("app") }, "region": part("region") },
        "host": part("host"),
        "log": { "level": "info" },
        "message": message,
    });
    if let Some(stamp) = get("stamp").or_else(|| stamp.map(Value::from)).filter(|stamp| !stamp.is_null()) {
        around["timestamp"] = stamp;
    }
    around.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(envelope: Envelope, format: Format) -> Shape {
        let time = vec!["timestamp".to_owned()];
        Shape { envelope, format, time, origin: EventTime::from_micros(0) }
    }

    fn check(line: &str, shape: &Shape) -> Vec<String> {
        let records = LoadLine::parse(line).and_then(|line| line.records(shape));
        match records {
            Ok(records) => records.into_iter().map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect(),
            Err(error) => vec![error],
        }
    }

    #[test]
    fn fields_become_what_the_pipeline_reads() {
        let json = shape(Envelope::None, Format::Json);
        let values = |line: &str| -> Vec<Value> {
            check(line, &json).iter().map(|record| serde_json::from_str(record).unwrap()).collect()
        };
        assert_eq!(
            values("@1s path=/a id=r{n} n={n} every 1s for 1500ms"),
            [
                json!({"timestamp":"1970-01-01T00:00:01Z","path":"/a","id":"r0","n":0}),
                json!({"timestamp":"1970-01-01T00:00:02Z","path":"/a","id":"r1","n":1}),
            ]
        );
        assert_eq!(values("@1s timestamp=@5m a=1"), [json!({"timestamp":"1970-01-01T00:05:00Z","a":1})]);
        assert_eq!(values("@1s timestamp=null a=1"), [json!({"a":1})]);
        assert_eq!(
            check("@1s a=\"b c\" d=e", &shape(Envelope::None, Format::Logfmt)),
            ["timestamp=1970-01-01T00:00:01Z a=\"b c\" d=e"]
        );
        assert_eq!(check("raw {not JSON", &json), ["{not JSON"]);
        assert!(check("@1s a=1", &shape(Envelope::None, Format::Text))[0].starts_with("cannot load fields"));
        for broken in ["soon a=1", "a=1 every 1s for 5m", "@1s a=1 every 1s", "@0s a=1 every 1us for 1h", "@0s a b"] {
            assert!(check(broken, &json)[0].starts_with("cannot"), "{broken}");
        }
    }

    #[test]
    fn the_envelope_takes_its_own() {
        let fly = shape(Envelope::Fly, Format::Auto);
        let [record] = &check("@1s instance=i7 status=200 stamp=@2s", &fly)[..] else { panic!("one record") };
        let record: Value = serde_json::from_str(record).unwrap();
        assert_eq!(record["fly"]["app"], json!({"instance": "i7", "name": "app"}));
        assert_eq!(record["timestamp"], "1970-01-01T00:00:02Z");
        let message: Value = serde_json::from_str(record["message"].as_str().unwrap()).unwrap();
        assert_eq!(message, json!({"timestamp":"1970-01-01T00:00:01Z","status":200}));
        let [record] = &check("@1s \"Health check failed\"", &fly)[..] else { panic!("one record") };
        assert_eq!(serde_json::from_str::<Value>(record).unwrap()["message"], "Health check failed");
    }
}
