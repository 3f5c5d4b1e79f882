//! Text columns that are stored as the bytes which their hex digits mean.
//!
//! Everywhere before the archive such a column is text. What is no hex of the right length has no place in it, and
//! stays in the row's `attributes` under the column's name, as every value does that isn't of its column's type.

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, StringArray, StringBuilder};
use arrow::buffer::NullBuffer;
use arrow::error::ArrowError;
use serde::de::IgnoredAny;
use std::sync::Arc;

/// A column that is stored so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HexColumn {
    /// Among the rows that are handed in.
    pub(super) index: usize,
    /// Bytes of a value; twice as many digits.
    pub(super) bytes: u8,
}

/// The columns of `rows` with those of `hex` as bytes, and how many values went to the column at `attributes` instead.
///
/// # Errors
/// When the attributes of a batch are beyond 2 GiB.
pub(super) fn store(
    rows: &RecordBatch,
    hex: &[HexColumn],
    attributes: usize,
) -> Result<(Vec<ArrayRef>, u64), ArrowError> {
    let mut columns = rows.columns().to_vec();
    // (row, column), by columns.
    let mut misfits = Vec::new();
    for column in hex {
        let texts = rows.column(column.index).as_string::<i32>();
        let before = misfits.len();
        columns[column.index] = Arc::new(bytes(texts, column.bytes, |row| misfits.push((row, column.index)))?);
        debug_assert!(misfits[before..].is_sorted());
    }
    if !misfits.is_empty() {
        misfits.sort_unstable();
        columns[attributes] = Arc::new(keep(rows, attributes, &misfits));
    }
    Ok((columns, misfits.len() as u64))
}

/// Texts as bytes, null for those that `misfit` is told of.
fn bytes(texts: &StringArray, size: u8, mut misfit: impl FnMut(usize)) -> Result<FixedSizeBinaryArray, ArrowError> {
    let size = usize::from(size);
    let mut values = vec![0; texts.len() * size];
    let mut valid = vec![false; texts.len()];
    for (row, text) in texts.iter().enumerate() {
        let Some(text) = text else { continue };
        valid[row] = from_digits(text.as_bytes(), &mut values[row * size..][..size]);
        if !valid[row] {
            misfit(row);
        }
    }
    FixedSizeBinaryArray::try_new(size as i32, values.into(), Some(NullBuffer::from(valid)))
}

/// What a digit that is none stands for in [`VALUES`].
const NONE: u8 = 0xff;
/// The value of each byte as a hex digit. Large letters are none: what is read back is written in small ones, and would
/// not be what was stored.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let digits = b"0123456789abcdef";
    let mut value = 0;
    while value < digits.len() {
        values[digits[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// False, with anything in `bytes`, when `digits` is not exactly what they are made of.
fn from_digits(digits: &[u8], bytes: &mut [u8]) -> bool {
    if digits.len() != 2 * bytes.len() {
        return false;
    }
    let mut all = 0;
    for (pair, byte) in digits.chunks_exact(2).zip(bytes) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | low & 0xf;
    }
    all != NONE
}

/// The attributes of `rows` with the values at `misfits`, which are sorted, added to them.
fn keep(rows: &RecordBatch, attributes: usize, misfits: &[(usize, usize)]) -> StringArray {
    let schema = rows.schema();
    let texts = rows.column(attributes).as_string::<i32>();
    let mut kept = StringBuilder::with_capacity(texts.len(), texts.values().len());
    let mut misfits = misfits.iter().peekable();
    for (row, text) in texts.iter().enumerate() {
        let mut members = String::new();
        while let Some((_, column)) = misfits.next_if(|misfit| misfit.0 == row) {
            let value = rows.column(*column).as_string::<i32>().value(row);
            members += &format!("{}:{},", json(schema.field(*column).name()), json(value));
        }
        match text {
            _ if members.is_empty() => kept.append_option(text),
            None => kept.append_value(format!("{{{}}}", members.trim_end_matches(','))),
            Some(text) => kept.append_value(with_members(text, &members)),
        }
    }
    kept.finish()
}

/// `members` before those of `object`. A pipeline may have put another text where an object should be: then that is
/// a member, too, named `attributes`.
fn with_members(object: &str, members: &str) -> String {
    let inner = object.trim().strip_prefix('{').filter(|_| serde_json::from_str::<IgnoredAny>(object).is_ok());
    match inner.map(str::trim_start) {
        Some("}") => format!("{{{}}}", &members[..members.len() - 1]),
        Some(rest) => format!("{{{members}{rest}"),
        None => format!("{{{members}\"attributes\":{}}}", json(object)),
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};

    fn rows(ids: Vec<Option<&str>>, others: Vec<Option<&str>>, attributes: Vec<Option<&str>>) -> RecordBatch {
        let field = |name: &str| Field::new(name, DataType::Utf8, true);
        let schema = Schema::new(vec![field("attributes"), field("id"), field("other")]);
        let columns = [attributes, ids, others].map(|texts| Arc::new(StringArray::from(texts)) as ArrayRef);
        RecordBatch::try_new(Arc::new(schema), columns.to_vec()).unwrap()
    }

    const HEX: [HexColumn; 2] = [HexColumn { index: 1, bytes: 2 }, HexColumn { index: 2, bytes: 1 }];

    fn check(id: &str, other: Option<&str>, attributes: Option<&str>) -> (Option<Vec<u8>>, Option<String>, u64) {
        let (columns, misfits) = store(&rows(vec![Some(id)], vec![other], vec![attributes]), &HEX, 0).unwrap();
        let (ids, kept) = (columns[1].as_fixed_size_binary(), columns[0].as_string::<i32>());
        let id = ids.is_valid(0).then(|| ids.value(0).to_vec());
        if let Some(kept) = kept.iter().flatten().next().filter(|_| misfits > 0) {
            assert!(serde_json::from_str::<serde_json::Value>(kept).unwrap().is_object(), "{kept}");
        }
        (id, kept.iter().flatten().next().map(str::to_owned), misfits)
    }

    #[test]
    fn digits_become_bytes() {
        for (digits, bytes) in [("00ff", [0, 0xff]), ("1a2b", [0x1a, 0x2b]), ("9f0e", [0x9f, 0x0e])] {
            assert_eq!(check(digits, None, Some("{}")), (Some(bytes.to_vec()), Some("{}".into()), 0), "{digits}");
        }
    }

    #[test]
    fn what_is_no_hex_of_that_length_stays_in_attributes() {
        for odd in ["", "00f", "00fff", "00FF", "00fg", "f0 0", "é0", "\u{0}000", "/000", ":000", "`000", "\"\\\n"] {
            let (id, kept, misfits) = check(odd, Some("7f"), None);
            assert_eq!((id, misfits), (None, 1), "{odd:?}");
            let kept: serde_json::Value = serde_json::from_str(&kept.unwrap()).unwrap();
            assert_eq!(kept, serde_json::json!({ "id": odd }));
        }
    }

    #[test]
    fn attributes_keep_what_they_had() {
        let kept = |attributes| check("x", Some("y"), Some(attributes)).1.unwrap();
        assert_eq!(kept("{}"), r#"{"id":"x","other":"y"}"#);
        assert_eq!(kept(r#"{"a":{"b":[1]}}"#), r#"{"id":"x","other":"y","a":{"b":[1]}}"#);
        assert_eq!(kept(" { } "), r#"{"id":"x","other":"y"}"#);
        assert_eq!(kept("made up"), r#"{"id":"x","other":"y","attributes":"made up"}"#);
        assert_eq!(kept("{cut"), r#"{"id":"x","other":"y","attributes":"{cut"}"#);
        assert_eq!(kept("[1]"), r#"{"id":"x","other":"y","attributes":"[1]"}"#);
    }

    #[test]
    fn rows_do_not_mix() {
        let ids = vec![None, Some("zz"), Some("0102"), None, Some("q")];
        let attributes = vec![Some("{\"a\":1}"), None, Some("{}"), None, Some("{\"b\":2}")];
        let (columns, misfits) = store(&rows(ids, vec![None; 5], attributes), &HEX, 0).unwrap();
        assert_eq!(misfits, 2);
        let kept: Vec<_> = columns[0].as_string::<i32>().iter().collect();
        let expected = [Some("{\"a\":1}"), Some("{\"id\":\"zz\"}"), Some("{}"), None, Some("{\"id\":\"q\",\"b\":2}")];
        assert_eq!(kept, expected);
        let ids = columns[1].as_fixed_size_binary();
        assert_eq!((ids.null_count(), ids.value(2)), (4, &[1u8, 2][..]));
    }
}
