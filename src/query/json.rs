//! `->>` and `->` on JSON texts: one value taken out without building the rest.
//!
//! As in DuckDB: `attributes ->> 'customer'` names a key, `'$.customer.id'` and `'$.items[0].sku'` a path, a number an
//! element. What isn't there, JSON's null and a text that is no JSON give null. `->>` gives texts without their quotes,
//! `->` gives JSON.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::borrow::Cow;
use std::sync::Arc;

/// One step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    /// From 0; below, from the end.
    Index(i64),
}

/// A path as it is written: `$.a."b c"[0]`, or else a single key.
fn steps(path: &str) -> Vec<Step> {
    let Some(mut rest) = path.strip_prefix('$') else { return vec![Step::Key(path.to_owned())] };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix(".\"") {
            let (key, behind) = quoted.split_once('"').unwrap_or((quoted, ""));
            steps.push(Step::Key(key.to_owned()));
            rest = behind;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (number, behind) = inner.split_once(']').unwrap_or((inner, ""));
            steps.push(match number.trim().parse() {
                Ok(index) => Step::Index(index),
                Err(_) => Step::Key(number.trim_matches(|c| c == '"' || c == '\'').to_owned()),
            });
            rest = behind;
        } else {
            let key = rest.strip_prefix('.').unwrap_or(rest);
            let end = key.find(['.', '[']).unwrap_or(key.len());
            steps.push(Step::Key(key[..end].to_owned()));
            rest = &key[end..];
        }
    }
    steps
}

/// A place in a JSON text. It trusts the text to be JSON, and only ever finds nothing where it isn't.
pub(super) struct Cursor<'j> {
    text: &'j str,
    at: usize,
}

impl<'j> Cursor<'j> {
    /// At the beginning of `text`.
    pub(super) const fn new(text: &'j str) -> Self {
        Self { text, at: 0 }
    }

    /// Bytes of the text before it.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is no white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// Passes over `byte` if it comes next.
    pub(super) fn takes(&mut self, byte: u8) -> bool {
        let is_it = self.peek() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    /// Passes over a string; returns what is between its quotes.
    pub(super) fn string(&mut self) -> Option<&'j str> {
        if !self.takes(b'"') {
            return None;
        }
        let start = self.at;
        loop {
            let found = memchr::memchr2(b'"', b'\\', self.text.as_bytes().get(self.at..)?)?;
            self.at += found + 1;
            if self.text.as_bytes()[self.at - 1] == b'"' {
                return self.text.get(start..self.at - 1);
            }
            self.at += 1;
        }
    }

    /// Passes over a value; returns its text.
    pub(super) fn value(&mut self) -> Option<&'j str> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => drop(self.string()?),
            b'{' | b'[' => self.nested()?,
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                let rest = &self.text.as_bytes()[start..];
                self.at = start + rest.iter().position(ends).unwrap_or(rest.len());
            }
        }
        self.text.get(start..self.at)
    }

    fn nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.text.as_bytes().get(self.at)? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Goes to the value of a key of the object that comes next.
    fn enter_key(&mut self, key: &str) -> Option<()> {
        if !self.takes(b'{') {
            return None;
        }
        loop {
            let found = self.string()?;
            if !self.takes(b':') {
                return None;
            }
            if found == key || (found.contains('\\') && unescape(found) == key) {
                return Some(());
            }
            self.value()?;
            if !self.takes(b',') {
                return None;
            }
        }
    }

    /// Goes to an element of the array that comes next.
    fn enter_index(&mut self, index: i64) -> Option<()> {
        let start = self.at;
        if !self.takes(b'[') || self.peek() == Some(b']') {
            return None;
        }
        let mut number = 0;
        loop {
            if number == index {
                return self.peek().map(drop);
            }
            self.value()?;
            number += 1;
            if !self.takes(b',') {
                break;
            }
        }
        if index >= 0 || number + index < 0 {
            return None;
        }
        self.at = start;
        self.enter_index(number + index)
    }
}

/// What a string is without its escapes; as it is written where it isn't JSON.
pub(super) fn unescape(written: &str) -> Cow<'_, str> {
    if !written.contains('\\') {
        return Cow::Borrowed(written);
    }
    serde_json::from_str(&format!("\"{written}\"")).map_or(Cow::Borrowed(written), Cow::Owned)
}

/// The text of the value at a path.
pub(super) fn find<'j>(json: &'j str, steps: &[Step]) -> Option<&'j str> {
    let mut cursor = Cursor::new(json);
    for step in steps {
        match step {
            Step::Key(key) => cursor.enter_key(key)?,
            Step::Index(index) => cursor.enter_index(*index)?,
        }
    }
    cursor.value()
}

/// A found value as a text; `None` for JSON's null.
pub(super) fn as_text(value: &str) -> Option<Cow<'_, str>> {
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(written) => Some(unescape(written)),
        None => (value != "null" && !value.is_empty()).then_some(Cow::Borrowed(value)),
    }
}

/// `json_extract_string(json, path)`, which `->>` is; and `json_extract(json, path)`, which `->` is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extract {
    name: &'static str,
    aliases: Vec<String>,
    /// Whether texts come without their quotes.
    text: bool,
    signature: Signature,
}

/// `->>`
pub(super) fn text() -> ScalarUDF {
    extract("json_extract_string", "json_get_str", true)
}

/// `->`
pub(super) fn json() -> ScalarUDF {
    extract("json_extract", "json_get", false)
}

fn extract(name: &'static str, alias: &str, text: bool) -> ScalarUDF {
    let signature = Signature::any(2, Volatility::Immutable);
    ScalarUDF::from(Extract { name, aliases: vec![alias.to_owned()], text, signature })
}

impl ScalarUDFImpl for Extract {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [json, path] = <[ColumnarValue; 2]>::try_from(args.args)
            .map_err(|_| DataFusionError::Internal("two arguments were asked for".to_owned()))?;
        let scalar = matches!(&json, ColumnarValue::Scalar(_));
        let json = cast(&json.into_array(if scalar { 1 } else { args.number_rows })?, &DataType::Utf8View)?;
        let steps = match &path {
            ColumnarValue::Scalar(path) => match scalar_steps(path)? {
                Some(steps) => steps,
                None => return Ok(ColumnarValue::Scalar(ScalarValue::Utf8View(None))),
            },
            ColumnarValue::Array(_) => {
                return exec_err!("a JSON path has to be written out, as in attributes ->> 'key'");
            }
        };
        let found = self.all(&json, &steps);
        if scalar {
            ScalarValue::try_from_array(&found, 0).map(ColumnarValue::Scalar)
        } else {
            Ok(ColumnarValue::Array(found))
        }
    }
}

fn scalar_steps(path: &ScalarValue) -> Result<Option<Vec<Step>>> {
    if path.is_null() {
        return Ok(None);
    }
    if path.data_type().is_integer() {
        let index = cast(&path.to_array()?, &DataType::Int64)?;
        return Ok(Some(vec![Step::Index(index.as_primitive::<Int64Type>().value(0))]));
    }
    match path.try_as_str() {
        Some(Some(path)) => Ok(Some(steps(path))),
        _ => exec_err!("a JSON path is a text or a number, as in attributes ->> 'key'"),
    }
}

impl Extract {
    fn all(&self, json: &ArrayRef, steps: &[Step]) -> ArrayRef {
        let mut out = StringViewBuilder::with_capacity(json.len());
        for json in json.as_string_view() {
            let found = json.and_then(|json| find(json, steps));
            match (found, self.text) {
                (Some(value), true) => out.append_option(as_text(value)),
                (Some(value), false) => out.append_value(value),
                (None, _) => out.append_null(),
            }
        }
        Arc::new(out.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(json: &str, path: &str) -> Option<String> {
        find(json, &steps(path)).and_then(|found| as_text(found).map(Cow::into_owned))
    }

    #[test]
    fn values_are_found_by_key_and_path() {
        let json =
            r#" {"a": {"b": [1, {"c d": "x\"\u00e9"}, []], "a": 2}, "n": null, "t": true, "a.b": "dots", "e\n": 5} "#;
        for (path, expected) in [
            ("$.a.b[0]", Some("1")),
            ("$.a.b[1].\"c d\"", Some("x\"é")),
            ("$.a.b[-1]", Some("[]")),
            ("$.a.b[-4]", None),
            ("$.a.b[3]", None),
            ("$.a.a", Some("2")),
            ("a.b", Some("dots")),
            ("t", Some("true")),
            ("n", None),
            ("e\n", Some("5")),
            ("missing", None),
            ("$.t.x", None),
            ("$.a['a']", Some("2")),
        ] {
            assert_eq!(check(json, path).as_deref(), expected, "{path}");
        }
        assert_eq!(check(json, "$").as_deref(), Some(json.trim()));
    }

    #[test]
    fn what_is_no_json_gives_nothing() {
        for json in ["", "{", "{\"a\"", "{\"a\":", "[1,", "x", "{\"a\\", "{\"b\":{\"", "]", "{\"b\": ]}"] {
            assert_eq!(check(json, "a"), None, "{json}");
            assert_eq!(check(json, "$[1]"), None, "{json}");
        }
    }

    proptest! {
        #[test]
        fn it_never_panics(json in "[\\[\\]{}\",:\\\\a1 é]{0,40}", path in "[$.\\[\\]\"a0-]{0,8}") {
            check(&json, &path);
        }

        #[test]
        fn each_key_of_an_object_is_found(map in proptest::collection::btree_map("\\PC{0,5}", "\\PC{0,8}", 0..6)) {
            let json = serde_json::to_string(&map).unwrap();
            for (key, value) in &map {
                let found = find(&json, &[Step::Key(key.clone())]).and_then(as_text);
                prop_assert_eq!(found.as_deref(), Some(value.as_str()));
            }
        }
    }
}
