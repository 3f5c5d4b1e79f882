//! The series of one metric, by their labels.
//!
//! A series' key is the bytes of its label values, each behind its length, so that no two rows of labels have one
//! key. A row's key is built in a buffer that the caller reuses; looking it up allocates nothing.

use crate::limits;
use ahash::RandomState;
use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, StringArray};
use hashbrown::HashTable;

/// The value of every label of the series that takes what is over a cap.
pub(super) const OTHER: &str = "_other_";

/// A column of label values.
#[derive(Debug)]
pub(super) enum LabelColumn<'a> {
    Text(&'a StringArray),
    Int(&'a Int64Array),
    Bool(&'a BooleanArray),
}

impl<'a> LabelColumn<'a> {
    /// # Panics
    /// When the column is neither text nor int nor bool; a plan is checked to have no other.
    pub(super) fn new(rows: &'a RecordBatch, column: usize) -> Self {
        let values = rows.column(column).as_any();
        if let Some(texts) = values.downcast_ref() {
            Self::Text(texts)
        } else if let Some(integers) = values.downcast_ref() {
            Self::Int(integers)
        } else {
            Self::Bool(values.downcast_ref().expect("labels were checked to be text, int or bool"))
        }
    }

    /// Appends a row's value to a key. Null is the empty text, as an absent label is to Prometheus.
    pub(super) fn append(&self, row: usize, key: &mut Vec<u8>) {
        match self {
            Self::Text(texts) if texts.is_valid(row) => append_text(key, texts.value(row)),
            Self::Bool(flags) if flags.is_valid(row) => {
                append_text(key, if flags.value(row) { "true" } else { "false" })
            }
            Self::Int(integers) if integers.is_valid(row) => append_int(key, integers.value(row)),
            _ => append_text(key, ""),
        }
    }
}

/// Appends one label value, cut to [`limits::LABEL_VALUE_BYTES`] at a character.
pub(super) fn append_text(key: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(limits::LABEL_VALUE_BYTES)];
    key.extend_from_slice(&length(text.len()));
    key.extend_from_slice(text.as_bytes());
}

/// Digits by hand: `write!` takes several times as long, and this runs for every record.
fn append_int(key: &mut Vec<u8>, integer: i64) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    let mut rest = integer.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if integer < 0 {
        start -= 1;
        digits[start] = b'-';
    }
    key.extend_from_slice(&length(digits.len() - start));
    key.extend_from_slice(&digits[start..]);
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a label value is cut to less than 64 KiB").to_le_bytes()
}

/// The series of one metric, numbered in the order in which they appeared.
#[derive(Debug, Default)]
pub(super) struct Series {
    numbers: HashTable<u32>,
    hasher: RandomState,
    /// The keys, back to back.
    keys: Vec<u8>,
    /// Where each key ends.
    ends: Vec<usize>,
}

impl Series {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What the keys and their numbers hold, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.keys.capacity() + self.ends.capacity() * size_of::<usize>() + self.numbers.capacity() * size_of::<u32>()
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        self.numbers.find(self.hasher.hash_one(key), |number| self.key(*number as usize) == key).map(|n| *n as usize)
    }

    /// Adds a key that isn't there.
    pub(super) fn add(&mut self, key: &[u8]) -> usize {
        let number = self.ends.len();
        self.keys.extend_from_slice(key);
        self.ends.push(self.keys.len());
        let Self { numbers, hasher, keys, ends } = self;
        let short = u32::try_from(number).expect("series are capped far below 2³²");
        numbers.insert_unique(hasher.hash_one(key), short, |n| hasher.hash_one(key_of(keys, ends, *n as usize)));
        number
    }

    fn key(&self, number: usize) -> &[u8] {
        key_of(&self.keys, &self.ends, number)
    }

    /// The label values of a series.
    pub(super) fn labels(&self, number: usize) -> Vec<&str> {
        let mut rest = self.key(number);
        let mut labels = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (text, next) = behind.split_at(usize::from(u16::from_le_bytes(*length)));
            labels.push(std::str::from_utf8(text).expect("keys are made of texts"));
            rest = next;
        }
        labels
    }
}

fn key_of<'k>(keys: &'k [u8], ends: &[usize], number: usize) -> &'k [u8] {
    let start = number.checked_sub(1).map_or(0, |before| ends[before]);
    &keys[start..ends[number]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(labels: &[Vec<String>]) -> (Series, Vec<usize>) {
        let mut series = Series::default();
        let mut key = Vec::new();
        let numbers = labels.iter().map(|labels| {
            key.clear();
            labels.iter().for_each(|label| append_text(&mut key, label));
            series.find(&key).unwrap_or_else(|| series.add(&key))
        });
        let numbers = numbers.collect();
        (series, numbers)
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let (series, _) = check(&[vec!["é".repeat(600), "ab".into()]]);
        assert_eq!(series.labels(0), [&*"é".repeat(512), "ab"]);
        let (series, _) = check(&[vec![format!("a{}", "é".repeat(600))]]);
        assert_eq!(series.labels(0)[0].len(), 1023);
    }

    proptest! {
        #[test]
        fn a_series_is_its_labels(
            labels in prop::collection::vec(prop::collection::vec("[ab\u{0}\u{1}]{0,2}", 2), 0..100),
        ) {
            let (series, numbers) = check(&labels);
            for (labels, number) in labels.iter().zip(numbers) {
                prop_assert_eq!(series.labels(number), labels.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }

        #[test]
        fn integers_are_their_digits(integer in any::<i64>()) {
            let (mut key, mut expected) = (Vec::new(), Vec::new());
            append_int(&mut key, integer);
            append_text(&mut expected, &integer.to_string());
            prop_assert_eq!(key, expected);
        }
    }
}
