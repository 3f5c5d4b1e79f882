//! `mask: { column: client_ip, with: ip_prefix }`: makes a column's values unrecognisable.
//!
//! Null stays null. Values of the column that `attributes` keeps go, too. What a method cannot work on is replaced, never let through.

use super::attributes::Strays;
use super::{Built, FIXED, MaskConfig, MaskMethod, Transform, TransformCounts, pattern};
use crate::place::{Located, Problem, did_you_mean};
use crate::record::address;
use crate::record::event::EventBatch;
use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, StringBuilder, new_null_array};
use arrow::datatypes::DataType;
use hmac::{Hmac, Mac};
use regex::Regex;
use serde::de::IgnoredAny;
use sha2::Sha256;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Fewest bytes of a hash's key; shorter ones can be guessed.
const KEY_BYTES: usize = 16;
/// Bytes of the HMAC that are kept, as twice as many hexadecimal digits. Two of 2⁴⁸ values collide by a chance of 2⁻³³.
const HASH_BYTES: usize = 16;
const REDACTED: &str = "[redacted]";

impl fmt::Debug for MaskConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaskConfig")
            .field("column", &self.column)
            .field("with", &self.with)
            .field("key", &self.key.as_ref().map(|_| "…"))
            .field("pattern", &self.pattern)
            .field("replacement", &self.replacement)
            .finish()
    }
}

#[derive(Debug)]
struct Mask {
    column: usize,
    /// Whether values must stay JSON.
    json: bool,
    method: Method,
    strays: Strays,
    /// The column `attributes`, by number.
    attributes: usize,
}

enum Method {
    /// The state behind the key; cloned for each value.
    Hash(Box<Hmac<Sha256>>),
    IpPrefix {
        otherwise: String,
    },
    Regex {
        regex: Regex,
        replacement: String,
    },
    Redact {
        replacement: Option<String>,
    },
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(_) => f.write_str("Hash"),
            Self::IpPrefix { otherwise } => f.debug_struct("IpPrefix").field("otherwise", otherwise).finish(),
            Self::Regex { regex, replacement } => {
                f.debug_struct("Regex").field("regex", regex).field("replacement", replacement).finish()
            }
            Self::Redact { replacement } => f.debug_struct("Redact").field("replacement", replacement).finish(),
        }
    }
}

pub(super) fn build(config: &MaskConfig, schema: &Schema) -> Result<Built, Vec<Problem>> {
    let mut problems = foreign_options(config);
    let method = match find_column(config, schema) {
        Ok((number, column)) => match method(config, column.kind == ColumnType::Json) {
            Ok(method) => {
                let attributes = BUILT_IN.iter().position(|(name, _)| *name == "attributes");
                let attributes = attributes.expect("every schema has attributes");
                let json = column.kind == ColumnType::Json;
                Some(Mask { column: number, json, method, strays: Strays::of(column), attributes })
            }
            Err(problem) => {
                problems.push(problem);
                None
            }
        },
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    match method {
        Some(mask) if problems.is_empty() => Ok((Box::new(mask), schema.clone())),
        _ => Err(problems),
    }
}

/// Options that the method has no use for; silently ignored they would promise what isn't done.
fn foreign_options(config: &MaskConfig) -> Vec<Problem> {
    let of = |option: &str| format!("cannot use `{option}` with `{}`", config.with.as_str());
    let mut problems = Vec::new();
    if let (Some(key), false) = (&config.key, config.with == MaskMethod::Hash) {
        problems.push(key.problem(of("key")).hint("`key` belongs to `with: hash`"));
    }
    if let (Some(pattern), false) = (&config.pattern, config.with == MaskMethod::Regex) {
        problems.push(pattern.problem(of("pattern")).hint("`pattern` belongs to `with: regex`"));
    }
    if config.replacement.is_some() && config.with == MaskMethod::Hash {
        problems.push(config.column.problem(of("replacement")).hint("a hash replaces the value; leave it out"));
    }
    problems
}

fn find_column<'s>(config: &MaskConfig, schema: &'s Schema) -> Result<(usize, &'s Column), Problem> {
    let name = &config.column;
    let Some(number) = schema.columns.iter().position(|c| c.name == name.value) else {
        let problem = name.problem(format!("cannot find column `{}`", name.value));
        let close = did_you_mean(&name.value, schema.columns.iter().map(|c| c.name.as_str()));
        return Err(match close {
            Some(close) => problem.hint(format!("did you mean `{close}`?")),
            None => problem,
        });
    };
    let column = &schema.columns[number];
    if FIXED.contains(&name.value.as_str()) && column.kind != ColumnType::Json {
        return Err(name.problem(format!("cannot mask `{}`, the engine keeps it", name.value)));
    }
    let (what, method) = (column.kind.as_str(), config.with.as_str());
    match (column.kind, config.with) {
        (ColumnType::Text, _) | (ColumnType::Json, MaskMethod::Regex | MaskMethod::Redact) => Ok((number, column)),
        (ColumnType::Json, _) => Err(name
            .problem(format!("cannot mask `{}` with `{method}`, it is {what}", name.value))
            .hint("JSON takes `with: regex` or `with: redact`")),
        _ => Err(name
            .problem(format!("cannot mask `{}`, it is {what} and not text", name.value))
            .hint(format!("empty it with `set: {{ {}: \"null\" }}`", name.value))),
    }
}

fn method(config: &MaskConfig, json: bool) -> Result<Method, Problem> {
    let replacement = || config.replacement.clone().unwrap_or_else(|| REDACTED.to_owned());
    match config.with {
        MaskMethod::Hash => keyed(config).map(Method::Hash),
        MaskMethod::IpPrefix => Ok(Method::IpPrefix { otherwise: replacement() }),
        MaskMethod::Regex => {
            let pattern = config.pattern.as_ref().ok_or_else(|| {
                config.column.problem("cannot mask with `regex` without a pattern").hint("add `pattern: '…'`")
            })?;
            let replacement = replacement();
            Ok(Method::Regex { regex: pattern::compile(pattern, &replacement)?, replacement })
        }
        MaskMethod::Redact if json => match &config.replacement {
            Some(text) if serde_json::from_str::<IgnoredAny>(text).is_err() => Err(config
                .column
                .problem(format!("cannot put `{text}` into `{}`, it is not JSON", config.column.value))
                .hint("leave `replacement` out for null, or write JSON, as in '\"…\"'")),
            replacement => Ok(Method::Redact { replacement: replacement.clone() }),
        },
        MaskMethod::Redact => Ok(Method::Redact { replacement: Some(replacement()) }),
    }
}

fn keyed(config: &MaskConfig) -> Result<Box<Hmac<Sha256>>, Problem> {
    let key: &Located<String> = config
        .key
        .as_ref()
        .ok_or_else(|| config.column.problem("cannot mask with `hash` without a key").hint("add `key: ${MASK_KEY}`"))?;
    let length = key.value.len();
    if length < KEY_BYTES {
        return Err(key
            .problem(format!("cannot use a key of {length} bytes, expected at least {KEY_BYTES}"))
            .hint("make one with `openssl rand -hex 32` and pass it in the environment"));
    }
    Ok(Box::new(Hmac::new_from_slice(key.value.as_bytes()).expect("HMAC takes keys of any length")))
}

impl MaskMethod {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::IpPrefix => "ip_prefix",
            Self::Regex => "regex",
            Self::Redact => "redact",
        }
    }
}

impl Transform for Mask {
    fn apply(&self, batch: EventBatch, counts: &mut TransformCounts) -> EventBatch {
        let mut columns = batch.rows.columns().to_vec();
        let values = columns[self.column].as_any().downcast_ref::<StringArray>().expect("text was checked when built");
        let (masked, broken) = self.masked(values);
        counts.failed += broken;
        columns[self.column] = masked;
        if self.column != self.attributes {
            let attributes = columns[self.attributes].as_any().downcast_ref().expect("attributes are text");
            if let Some(removed) = self.strays.removed(attributes) {
                columns[self.attributes] = Arc::new(removed);
            }
        }
        let rows = RecordBatch::try_new(batch.rows.schema(), columns).expect("a mask keeps type and length");
        EventBatch { rows, ..batch }
    }
}

impl Mask {
    /// The masked values, and how many of them were JSON no more.
    fn masked(&self, values: &StringArray) -> (ArrayRef, u64) {
        if let Method::Redact { replacement: None } = self.method {
            return (new_null_array(&DataType::Utf8, values.len()), 0);
        }
        let mut out = StringBuilder::with_capacity(values.len(), values.value_data().len());
        let mut broken = 0;
        for value in values {
            match value {
                Some(value) => broken += u64::from(self.method.append(value, self.json, &mut out)),
                None => out.append_null(),
            }
        }
        (Arc::new(out.finish()), broken)
    }
}

impl Method {
    /// Appends one masked value; true when it was JSON before and isn't any more.
    fn append(&self, value: &str, json: bool, out: &mut StringBuilder) -> bool {
        match self {
            Self::Hash(keyed) => out.append_value(hex(&hash(keyed, value), &mut [0; 2 * HASH_BYTES])),
            Self::IpPrefix { otherwise } => match address::parse(value) {
                Some(address) => {
                    address::write_network(out, address).expect("writing to memory does not fail");
                    out.append_value("");
                }
                None => out.append_value(otherwise),
            },
            Self::Regex { regex, replacement } => match regex.replace_all(value, replacement) {
                Cow::Owned(text) if json && serde_json::from_str::<IgnoredAny>(&text).is_err() => {
                    // Kept as one JSON text: readers of the column rely on JSON, and nothing masked comes back.
                    out.append_value(serde_json::Value::String(text).to_string());
                    return true;
                }
                text => out.append_value(text),
            },
            Self::Redact { replacement } => out.append_option(replacement.as_deref()),
        }
        false
    }
}

fn hash(keyed: &Hmac<Sha256>, value: &str) -> [u8; HASH_BYTES] {
    let mut mac = keyed.clone();
    mac.update(value.as_bytes());
    let whole = mac.finalize().into_bytes();
    std::array::from_fn(|i| whole[i])
}

fn hex<'b>(bytes: &[u8; HASH_BYTES], buffer: &'b mut [u8; 2 * HASH_BYTES]) -> &'b str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in buffer.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    std::str::from_utf8(buffer).expect("hexadecimal digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Config;
    use crate::transform::tests::{batch, build as build_step, schema};
    use proptest::prelude::*;

    const KEY: &str = "0123456789abcdef-secret";

    fn config(column: &str, with: MaskMethod) -> MaskConfig {
        let column = Located::nowhere(column.to_owned());
        MaskConfig { column, with, key: None, pattern: None, replacement: None }
    }

    fn key(text: &str) -> Option<Located<String>> {
        Some(Located::nowhere(text.to_owned()))
    }

    fn check(config: &MaskConfig, values: &[Option<&str>]) -> (Vec<Option<String>>, u64) {
        let (step, after) = build_step(&Config::Mask(config.clone()), &schema()).unwrap();
        assert_eq!(after, schema());
        let number = schema().columns.iter().position(|c| c.name == config.column.value).unwrap();
        let mut events = batch(&vec![Some(1); values.len()]);
        let mut columns = events.rows.columns().to_vec();
        columns[number] = Arc::new(StringArray::from(values.to_vec()));
        events.rows = RecordBatch::try_new(events.rows.schema(), columns).unwrap();
        let mut counts = TransformCounts::default();
        let rows = step.apply(events, &mut counts).rows;
        let masked = rows.column(number).as_any().downcast_ref::<StringArray>().unwrap();
        (masked.iter().map(|v| v.map(str::to_owned)).collect(), counts.failed)
    }

    fn fails(config: MaskConfig) -> Problem {
        build_step(&Config::Mask(config), &schema()).unwrap_err().remove(0)
    }

    #[test]
    fn a_hash_is_hmac_sha_256() {
        // RFC 4231, test case 1.
        let config = MaskConfig { key: key(&"\u{b}".repeat(20)), ..config("client_ip", MaskMethod::Hash) };
        let (values, _) = check(&config, &[Some("Hi There"), None]);
        assert_eq!(values, [Some("b0344c61d8db38535ca8afceaf0bf12b".to_owned()), None]);
    }

    #[test]
    fn addresses_become_networks_and_the_rest_is_redacted() {
        let (values, _) = check(&config("client_ip", MaskMethod::IpPrefix), &[Some("10.1.2.3:80"), Some("bob"), None]);
        assert_eq!(values, [Some("10.1.2.0/24".to_owned()), Some("[redacted]".to_owned()), None]);
    }

    #[test]
    fn what_had_no_place_in_the_column_is_masked_too() {
        let (step, _) = build_step(&Config::Mask(config("client_ip", MaskMethod::IpPrefix)), &schema()).unwrap();
        let mut events = batch(&[Some(1)]);
        let mut columns = events.rows.columns().to_vec();
        columns[11] = Arc::new(StringArray::from(vec![r#"{"client_ip":["10.1.2.3"],"q":"x"}"#]));
        events.rows = RecordBatch::try_new(events.rows.schema(), columns).unwrap();
        let rows = step.apply(events, &mut TransformCounts::default()).rows;
        let attributes: &StringArray = rows.column(11).as_any().downcast_ref().unwrap();
        assert_eq!(attributes.value(0), r#"{"client_ip":null,"q":"x"}"#);
    }

    #[test]
    fn redaction_leaves_nothing() {
        assert_eq!(
            check(&config("message", MaskMethod::Redact), &[Some("a"), None]).0,
            [Some("[redacted]".into()), None]
        );
        assert_eq!(check(&config("attributes", MaskMethod::Redact), &[Some("{}"), None]).0, [None, None]);
        let empty = MaskConfig { replacement: Some("{}".into()), ..config("attributes", MaskMethod::Redact) };
        assert_eq!(check(&empty, &[Some("{\"a\":1}"), None]).0, [Some("{}".into()), None]);
    }

    #[test]
    fn json_stays_json_under_a_pattern() {
        let mut config = MaskConfig { pattern: key("[0-9]+"), ..config("attributes", MaskMethod::Regex) };
        config.replacement = Some("#".into());
        let (values, broken) = check(&config, &[Some(r#"{"a":"id 42"}"#), Some(r#"{"a":42}"#), Some("{}"), None]);
        let expected = [Some(r#"{"a":"id #"}"#), Some(r##""{\"a\":#}""##), Some("{}"), None];
        assert_eq!((values, broken), (expected.map(|v| v.map(str::to_owned)).to_vec(), 1));
    }

    #[test]
    fn mistakes_are_refused() {
        use MaskMethod::{Hash, IpPrefix, Redact, Regex};
        let with_key = |column: &str, method| MaskConfig { key: key(KEY), ..config(column, method) };
        for (config, message) in [
            (config("client_ip", Hash), "cannot mask with `hash` without a key"),
            (
                MaskConfig { key: key("tooshort"), ..config("client_ip", Hash) },
                "cannot use a key of 8 bytes, expected at least 16",
            ),
            (with_key("client_ip", Redact), "cannot use `key` with `redact`"),
            (with_key("attributes", Hash), "cannot mask `attributes` with `hash`, it is json"),
            (config("client_pi", IpPrefix), "cannot find column `client_pi`"),
            (config("status", Redact), "cannot mask `status`, it is int and not text"),
            (config("ts_source", Redact), "cannot mask `ts_source`, the engine keeps it"),
            (config("message", Regex), "cannot mask with `regex` without a pattern"),
            (MaskConfig { pattern: key("a"), ..config("message", Redact) }, "cannot use `pattern` with `redact`"),
            (
                MaskConfig { replacement: Some("x".into()), ..config("attributes", Redact) },
                "cannot put `x` into `attributes`, it is not JSON",
            ),
        ] {
            let problem = fails(config);
            assert_eq!(problem.message, message);
            assert!(!format!("{problem:?}").contains(KEY));
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        let config = MaskConfig { key: key(KEY), ..config("client_ip", MaskMethod::Hash) };
        let (step, _) = build_step(&Config::Mask(config.clone()), &schema()).unwrap();
        let shown = format!("{config:?} {step:?} {:?}", Config::Mask(config.clone()));
        assert!(!shown.contains("secret") && shown.contains("client_ip"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn hashes_are_equal_where_the_values_are(values in prop::collection::vec("[a-c]{0,2}", 0..20)) {
            let config = MaskConfig { key: key(KEY), ..config("client_ip", MaskMethod::Hash) };
            let given: Vec<Option<&str>> = values.iter().map(|v| Some(v.as_str())).collect();
            let (masked, _) = check(&config, &given);
            for (a, ma) in values.iter().zip(&masked) {
                for (b, mb) in values.iter().zip(&masked) {
                    prop_assert_eq!(a == b, ma == mb);
                }
            }
        }
    }
}
