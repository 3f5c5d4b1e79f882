//! Hive partitions: which folder a row belongs to, and how a batch is split by folder.

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use hashbrown::HashMap;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Bytes of one folder's name: what Linux file systems take (255), less room for a suffix that tools add.
const FOLDER_BYTES: usize = 240;
/// The folder of rows whose value is null, as Hive and all of its readers call it.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;

/// One level of folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Level {
    /// The UTC day of the time column.
    Date,
    /// The UTC hour of the time column.
    Hour,
    /// The value of a text column, which stands at `index`.
    Column { name: String, index: usize },
}

/// One partition of a batch: the values of its levels, by name, and its rows in their order.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) values: Vec<(String, Option<String>)>,
    pub(crate) rows: RecordBatch,
}

impl Part {
    /// The folder below the table's, as in `date=2026-05-06/path=%2Fv1`; empty without levels.
    pub(crate) fn folder(&self) -> String {
        let levels: Vec<String> = self.values.iter().map(|(name, value)| level(name, value.as_deref())).collect();
        levels.join("/")
    }
}

/// Splits `rows` by `levels`; `time` is the index of the timestamp column that dates and hours are of.
pub(crate) fn split(rows: &RecordBatch, time: usize, levels: &[Level]) -> Result<Vec<Part>, ArrowError> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let groups = group(rows, time, levels);
    let values_of = |row: usize| levels.iter().map(|l| value(rows, time, l, row)).collect();
    let Some(groups) = groups else {
        return Ok(vec![Part { values: values_of(0), rows: rows.clone() }]);
    };
    let count = groups.iter().max().map_or(0, |last| *last as usize + 1);
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (row, group) in (0u32..).zip(groups) {
        members[group as usize].push(row);
    }
    let part = |members: Vec<u32>| {
        let values = values_of(members[0] as usize);
        Ok(Part { values, rows: take_record_batch(rows, &UInt32Array::from(members))? })
    };
    members.into_iter().map(part).collect()
}

/// The number of each row's partition, counted from 0 in order of appearance; `None` when all are in one.
fn group(rows: &RecordBatch, time: usize, levels: &[Level]) -> Option<Vec<u32>> {
    let mut groups: Option<Vec<u32>> = None;
    let width = if levels.contains(&Level::Hour) { HOUR } else { DAY };
    if levels.iter().any(|l| matches!(l, Level::Date | Level::Hour)) {
        let stamps = rows.column(time).as_primitive::<TimestampMicrosecondType>().values();
        let buckets = stamps.iter().map(|stamp| stamp.div_euclid(width));
        groups = refine(groups, buckets);
    }
    for level in levels {
        if let Level::Column { index, .. } = level {
            groups = refine(groups, rows.column(*index).as_string::<i32>().iter());
        }
    }
    groups
}

/// Splits the groups so far further by `keys`, one a row.
fn refine<K: Copy + Eq + std::hash::Hash>(
    groups: Option<Vec<u32>>,
    keys: impl Iterator<Item = K> + Clone,
) -> Option<Vec<u32>> {
    let mut others = keys.clone();
    let first = others.next()?;
    if others.all(|key| key == first) {
        return groups;
    }
    let mut numbers: HashMap<(u32, K), u32> = HashMap::new();
    let mut number = |before: u32, key: K| {
        let next = numbers.len() as u32;
        *numbers.entry((before, key)).or_insert(next)
    };
    Some(match groups {
        None => keys.map(|key| number(0, key)).collect(),
        Some(before) => before.into_iter().zip(keys).map(|(before, key)| number(before, key)).collect(),
    })
}

fn value(rows: &RecordBatch, time: usize, level: &Level, row: usize) -> (String, Option<String>) {
    let stamp = || rows.column(time).as_primitive::<TimestampMicrosecondType>().value(row);
    match level {
        Level::Date => ("date".into(), format_time(stamp(), "%Y-%m-%d")),
        Level::Hour => ("hour".into(), format_time(stamp(), "%H")),
        Level::Column { name, index } => {
            let texts = rows.column(*index).as_string::<i32>();
            (name.clone(), texts.is_valid(row).then(|| texts.value(row).to_owned()))
        }
    }
}

/// `None` for a time outside of the years -9999 to 9999.
fn format_time(micros: i64, format: &str) -> Option<String> {
    let stamp = Timestamp::from_microsecond(micros).ok()?;
    Some(stamp.to_zoned(TimeZone::UTC).strftime(format).to_string())
}

/// One folder's name, `name=value`, safe for any value.
///
/// All but letters, digits, `-`, `_` and `.` is percent-encoded, as Hive's readers undo it. A value too long for a
/// file system is cut and ends in `~` and a hash of the whole; the whole stands in the files' footer.
pub(crate) fn level(name: &str, value: Option<&str>) -> String {
    let mut folder = escape(name);
    folder.push('=');
    let Some(value) = value else {
        return folder + NULL;
    };
    let escaped = if value == NULL { format!("%5F{}", &NULL[1..]) } else { escape(value) };
    if folder.len() + escaped.len() <= FOLDER_BYTES {
        return folder + &escaped;
    }
    let hash: String = Sha256::digest(value).iter().take(8).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a text takes all");
        hex
    });
    let room = FOLDER_BYTES.saturating_sub(folder.len() + hash.len() + 1);
    for character in value.chars() {
        let next = escape_one(character);
        if folder.len() + hash.len() + 1 + next.len() > FOLDER_BYTES || room == 0 {
            break;
        }
        folder.push_str(&next);
    }
    format!("{folder}~{hash}")
}

/// A text as (part of) a file's name; never a way out of the folder.
pub(crate) fn escape(text: &str) -> String {
    text.chars().map(escape_one).collect()
}

/// A text as the whole name of a file: as [`escape`], and neither empty nor only dots.
pub(crate) fn file_name(text: &str) -> String {
    if text.chars().all(|c| c == '.') { format!("_{}", text.replace('.', "%2E")) } else { escape(text) }
}

fn escape_one(character: char) -> String {
    if character.is_alphanumeric() || matches!(character, '-' | '_' | '.') {
        return character.to_string();
    }
    let mut buffer = [0; 4];
    character.encode_utf8(&mut buffer).bytes().fold(String::new(), |mut encoded, byte| {
        write!(encoded, "%{byte:02X}").expect("a text takes all");
        encoded
    })
}

/// The values of the folders of a file's key, `data/date=2026-05-06/path=%2Fv1/x.parquet`, outermost first; `None` for
/// null. One that was too long for a folder is cut: see [`is_cut`].
pub(crate) fn values(key: &str) -> Vec<(String, Option<String>)> {
    let folders = key.rsplit_once('/').map_or("", |(folders, _)| folders);
    let value = |folder: &str| {
        let (name, value) = folder.split_once('=')?;
        Some((unescape(name), (value != NULL).then(|| unescape(value))))
    };
    folders.split('/').filter_map(value).collect()
}

/// Whether a folder's value looks as if it stood there only in part, with a hash of the whole behind it.
pub fn is_cut(value: &str) -> bool {
    value.rsplit_once('~').is_some_and(|(_, hash)| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What Hive's readers do to a value.
pub(crate) fn unescape(text: &str) -> String {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let code = if *byte == b'%' { digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2))) } else { None };
        out.push(code.map_or(*byte, |(high, low)| (high * 16 + low) as u8));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
    use proptest::prelude::*;
    use std::path::{Component, Path};
    use std::sync::Arc;

    fn batch(rows: &[(i64, Option<&str>)]) -> RecordBatch {
        let stamps: TimestampMicrosecondArray = rows.iter().map(|r| Some(r.0)).collect();
        let paths: StringArray = rows.iter().map(|r| r.1).collect();
        let numbers: Int64Array = (0..rows.len() as i64).map(Some).collect();
        RecordBatch::try_from_iter([
            ("ts", Arc::new(stamps) as ArrayRef),
            ("path", Arc::new(paths) as ArrayRef),
            ("n", Arc::new(numbers) as ArrayRef),
        ])
        .unwrap()
    }

    fn check(rows: &[(i64, Option<&str>)], levels: &[Level]) -> Vec<(String, Vec<i64>)> {
        let parts = split(&batch(rows), 0, levels).unwrap();
        let numbers = |part: &Part| part.rows.column(2).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        parts.iter().map(|part| (part.folder(), numbers(part))).collect()
    }

    fn path_level() -> Level {
        Level::Column { name: "path".into(), index: 1 }
    }

    #[test]
    fn rows_go_to_the_folder_of_their_day_hour_and_value() {
        let (a, b) = (1_778_045_731_000_000, 1_778_045_731_000_000 + DAY);
        assert_eq!(check(&[(a, None), (a + 1, None)], &[Level::Date]), [("date=2026-05-06".into(), vec![0, 1])]);
        assert_eq!(
            check(&[(a, None), (b, None), (a, None)], &[Level::Date]),
            [("date=2026-05-06".into(), vec![0, 2]), ("date=2026-05-07".into(), vec![1])]
        );
        assert_eq!(
            check(&[(a, Some("/x")), (b, Some("")), (a, None)], &[Level::Date, Level::Hour, path_level()]),
            [
                ("date=2026-05-06/hour=05/path=%2Fx".into(), vec![0]),
                ("date=2026-05-07/hour=05/path=".into(), vec![1]),
                (format!("date=2026-05-06/hour=05/path={NULL}"), vec![2]),
            ]
        );
        assert_eq!(check(&[(i64::MIN, None)], &[Level::Date]), [(format!("date={NULL}"), vec![0])]);
        assert_eq!(check(&[(-1, None)], &[Level::Date]), [("date=1969-12-31".into(), vec![0])]);
        assert_eq!(check(&[(a, None), (b, None)], &[]), [(String::new(), vec![0, 1])]);
    }

    #[test]
    fn long_and_lookalike_values_have_folders_of_their_own() {
        let (long, longer) = ("é/".repeat(400), "é/".repeat(401));
        assert_ne!(level("path", Some(&long)), level("path", Some(&longer)));
        assert!(level("path", Some(&long)).len() <= FOLDER_BYTES);
        assert_ne!(level("path", Some(NULL)), level("path", None));
        assert_eq!(file_name(".."), "_%2E%2E");
        assert_eq!(file_name(""), "_");
    }

    proptest! {
        #[test]
        fn a_value_never_leaves_its_folder_and_reads_back(value in "\\PC*|[./\\\\%=\u{0}-\u{1f}]{0,12}|(\\.\\./)+etc") {
            let folder = level("path", Some(&value));
            prop_assert!(folder.len() <= FOLDER_BYTES);
            prop_assert!(!folder.contains('\0'));
            let components: Vec<Component> = Path::new(&folder).components().collect();
            prop_assert!(matches!(components[..], [Component::Normal(_)]), "{folder:?}");
            if !folder.contains('~') {
                let key = format!("data/{folder}/x.parquet");
                prop_assert_eq!(values(&key), [("path".to_owned(), Some(value))]);
            } else {
                prop_assert!(is_cut(&unescape(&folder)));
            }
        }

        #[test]
        fn every_row_is_in_exactly_one_part(
            rows in proptest::collection::vec((0i64..4, proptest::option::of(0usize..3)), 0..40)
        ) {
            let names = ["a", "b", "../c"];
            let rows: Vec<(i64, Option<&str>)> =
                rows.iter().map(|(hour, name)| (hour * HOUR * 9, name.map(|n| names[n]))).collect();
            let parts = check(&rows, &[Level::Date, Level::Hour, path_level()]);
            let mut all: Vec<i64> = parts.iter().flat_map(|p| p.1.clone()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..rows.len() as i64).collect::<Vec<_>>());
            let mut folders: Vec<&String> = parts.iter().map(|p| &p.0).collect();
            folders.sort_unstable();
            folders.dedup();
            prop_assert_eq!(folders.len(), parts.len());
        }
    }
}
