//! Values of a masked column that have no place in it: `attributes` keeps what is of another type, or what a second key
//! of the column held. Masked there, too, or a mask would protect only what was well-formed.

use crate::record::schema::Column;
use arrow::array::{Array, StringArray, StringBuilder};
use memchr::memmem::Finder;
use std::ops::Range;

/// The keys under which a column's values may stand in `attributes`.
#[derive(Debug)]
pub(super) struct Strays {
    /// As JSON strings, with their quotes.
    keys: Vec<String>,
}

impl Strays {
    pub(super) fn of(column: &Column) -> Self {
        let paths = column.from.iter().flat_map(|path| [path.last().cloned().unwrap_or_default(), path.join(".")]);
        let mut keys: Vec<String> =
            paths.chain([column.name.clone()]).map(|key| serde_json::Value::String(key).to_string()).collect();
        keys.sort_unstable();
        keys.dedup();
        Self { keys }
    }

    /// `attributes` with null in place of each value under one of the keys at its top level; `None` where nothing changes.
    pub(super) fn removed(&self, attributes: &StringArray) -> Option<StringArray> {
        let texts = attributes.value_data();
        if !self.keys.iter().any(|key| Finder::new(key).find(texts).is_some()) {
            return None;
        }
        let mut out = StringBuilder::with_capacity(attributes.len(), texts.len());
        for text in attributes {
            match text {
                Some(text) => out.append_value(self.without(text)),
                None => out.append_null(),
            }
        }
        Some(out.finish())
    }

    fn without(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut copied = 0;
        for (key, value) in members(text) {
            if self.keys.iter().any(|known| *known == text[key.clone()]) {
                out.push_str(&text[copied..value.start]);
                out.push_str("null");
                copied = value.end;
            }
        }
        out.push_str(&text[copied..]);
        out
    }
}

/// Where keys and values of an object's members stand. `text` is what the decoder writes: valid JSON without blanks
/// between its parts; of anything else nothing is found.
fn members(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let mut members = Vec::new();
    let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
    let (mut start, mut colon) = (1, None);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        let ends_member = depth == 1 && matches!(byte, b',' | b'}');
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' if depth == 1 && colon.is_none() => colon = Some(at),
            _ => {}
        }
        if ends_member {
            if let Some(colon) = colon.take() {
                members.push((start..colon, colon + 1..at));
            }
            start = at + 1;
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::schema::ColumnType;
    use proptest::prelude::*;

    fn strays() -> Strays {
        Strays::of(&Column {
            from: vec![vec!["ip".to_owned()], vec!["context".to_owned(), "peer".to_owned()]],
            ..Column::new("client_ip", ColumnType::Text)
        })
    }

    fn check(text: &str, expected: &str) {
        let given = StringArray::from(vec![None, Some(text)]);
        let removed = strays().removed(&given).unwrap_or(given);
        assert_eq!(removed.value(1), expected);
        assert!(removed.is_null(0));
    }

    #[test]
    fn values_under_the_columns_keys_go() {
        check(r#"{"a":1}"#, r#"{"a":1}"#);
        check(r#"{"ip":["203.0.113.7"],"a":"\"ip\":1"}"#, r#"{"ip":null,"a":"\"ip\":1"}"#);
        check(
            r#"{"peer":7,"context.peer":{"v4":"x}"},"client_ip":"y"}"#,
            r#"{"peer":null,"context.peer":null,"client_ip":null}"#,
        );
        check(r#"{"a":{"ip":1},"ip":2,"ip":3}"#, r#"{"a":{"ip":1},"ip":null,"ip":null}"#);
        check("{}", "{}");
    }

    proptest! {
        #[test]
        fn members_are_those_of_a_parser(
            map in prop::collection::btree_map("[a-c\"\\\\{},:é]{0,3}", prop_oneof![
                "[\"\\\\{}\\[\\],:x]{0,5}".prop_map(serde_json::Value::from),
                any::<i32>().prop_map(serde_json::Value::from),
                prop::collection::vec("[\"}\\],]{0,2}", 0..3).prop_map(serde_json::Value::from),
            ], 0..5),
        ) {
            let text = serde_json::to_string(&map).unwrap();
            let found: Vec<(String, serde_json::Value)> = members(&text)
                .into_iter()
                .map(|(key, value)| (serde_json::from_str(&text[key]).unwrap(), serde_json::from_str(&text[value]).unwrap()))
                .collect();
            prop_assert_eq!(found, map.into_iter().collect::<Vec<_>>());
        }
    }
}
