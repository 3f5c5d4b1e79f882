//! A file of the archive, as a log names it.

use super::action::{Add, Remove};
use super::place::{below, encode, wrong};
use crate::archive::ArchiveError;
use crate::archive::inspect::Parquet;
use crate::archive::partition;
use crate::archive::staging::StagedFile;
use crate::archive::store::Store;
use crate::archive::table::Kind;
use crate::record::sample::columns;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use std::collections::BTreeMap;

/// The tag by which a pipeline knows its own files in a log that it may share.
const TAG: &str = "headrig.pipeline";

type Values = BTreeMap<String, Option<String>>;

/// A file that is to be in the table of `root`, of a log that is partitioned by `levels`.
pub(super) fn add(
    store: &dyn Store,
    root: &str,
    file: &StagedFile,
    (pipeline, levels): (&str, &[String]),
    data_change: bool,
) -> Result<Add, ArchiveError> {
    let mut values = values(file, levels).map_err(|detail| wrong(store, root, detail))?;
    if values.values().flatten().any(|value| partition::is_cut(value)) {
        let whole = whole(store, file)?;
        values.iter_mut().for_each(|(name, value)| {
            if let Some(whole) = whole.get(name) {
                value.clone_from(whole);
            }
        });
    }
    Ok(Add {
        path: encode(below(root, file)),
        partition_values: values,
        size: file.bytes,
        modification_time: file.sealed_us.unwrap_or(file.max_us).div_euclid(1_000),
        data_change,
        stats: Some(stats(file)),
        tags: Some(BTreeMap::from([(TAG.to_owned(), Some(pipeline.to_owned()))])),
    })
}

/// A file that is not to be in the table any more.
pub(super) fn remove(root: &str, file: &StagedFile, levels: &[String], data_change: bool, at_ms: i64) -> Remove {
    // Of a value that is cut the whole is in the file, which may be gone by now.
    let values = values(file, levels).ok();
    let values = values.filter(|values| !values.values().flatten().any(|value| partition::is_cut(value)));
    Remove {
        path: encode(below(root, file)),
        deletion_timestamp: Some(at_ms),
        data_change,
        extended_file_metadata: Some(values.is_some()),
        size: values.is_some().then_some(file.bytes),
        partition_values: values,
    }
}

/// As [`remove`], of a file that only the log knows.
pub(super) fn remove_known(add: &Add, at_ms: i64) -> Remove {
    Remove {
        path: add.path.clone(),
        deletion_timestamp: Some(at_ms),
        data_change: true,
        extended_file_metadata: Some(true),
        partition_values: Some(add.partition_values.clone()),
        size: Some(add.size),
    }
}

/// Whether it is a file of this pipeline.
pub(super) fn is_of(add: &Add, pipeline: &str) -> bool {
    let tag = add.tags.as_ref().and_then(|tags| tags.get(TAG));
    tag.is_some_and(|tag| tag.as_deref() == Some(pipeline))
}

/// Values of a file's folders, as they stand there.
fn values(file: &StagedFile, levels: &[String]) -> Result<Values, String> {
    let folders = partition::values(&file.path);
    let names: Vec<&str> = folders.iter().map(|(name, _)| name.as_str()).collect();
    if names != levels {
        let (expected, names) = (levels.join(", "), names.join(", "));
        return Err(format!(
            "{} lies in folders of [{names}], and the table is partitioned by [{expected}]",
            file.path
        ));
    }
    let value = |(name, value): (String, Option<String>)| {
        let value = match name.as_str() {
            // A number there, as it is to whoever reads folders.
            "hour" => value.map(|hour| hour.parse::<i64>().map_or(hour, |hour| hour.to_string())),
            _ => value,
        };
        (name, value)
    };
    Ok(folders.into_iter().map(value).collect())
}

/// Values that didn't fit into a folder's name, from the file's footer.
fn whole(store: &dyn Store, file: &StagedFile) -> Result<Values, ArchiveError> {
    let parquet = Parquet::open(store, &file.path, file.bytes)?;
    let noted = parquet.metadata.file_metadata().key_value_metadata().into_iter().flatten();
    let noted = noted.filter(|entry| entry.key == "headrig.partition").find_map(|entry| entry.value.clone());
    Ok(noted.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// What a query needs to pass a file over: its rows, and the least and largest value of the column that it is in order by.
fn stats(file: &StagedFile) -> String {
    let time = match file.kind {
        Kind::Data | Kind::Dead => "ts",
        Kind::Windows => columns::WINDOW_START,
        Kind::Alerts => columns::WINDOW_END,
    };
    // To the millisecond, as the protocol has it; outwards, so that no reader who takes it at its word misses a row.
    let up = i64::from(file.max_us.rem_euclid(1_000) != 0);
    let (least, largest) = (file.min_us.div_euclid(1_000), file.max_us.div_euclid(1_000) + up);
    match (stamp(least), stamp(largest)) {
        (Some(least), Some(largest)) => json!({
            "numRecords": file.rows, "minValues": { time: least }, "maxValues": { time: largest }, "nullCount": { time: 0 }
        }),
        _ => json!({ "numRecords": file.rows, "nullCount": { time: 0 } }),
    }
    .to_string()
}

/// `None` for a year that Delta's readers have no digits for.
fn stamp(ms: i64) -> Option<String> {
    let stamp = Timestamp::from_millisecond(ms).ok()?.to_zoned(TimeZone::UTC);
    (1..=9_999).contains(&stamp.year()).then(|| stamp.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::compact::tests::file as staged;
    use crate::archive::folder::Folder;

    const LEVELS: [&str; 3] = ["date", "hour", "path"];

    fn levels(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn check(path: &str, names: &[&str]) -> Result<Add, String> {
        let store = Folder::new("/nowhere".into());
        let file = StagedFile {
            rows: 3,
            bytes: 9,
            min_us: 1_778_045_731_000_001,
            max_us: 1_778_045_731_000_001,
            ..staged(path, 9, 0)
        };
        add(&store, "data", &file, ("shop", &levels(names)), true).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_named_by_a_uri_and_by_the_values_of_its_folders() {
        let file = check("data/date=2026-05-06/hour=05/path=%2Fv1%2Fé/a b.parquet", &LEVELS).unwrap();
        assert_eq!(file.path, "date=2026-05-06/hour=05/path=%252Fv1%252F%C3%A9/a%20b.parquet");
        let value = |name: &str| file.partition_values[name].clone();
        assert_eq!(value("date").as_deref(), Some("2026-05-06"));
        assert_eq!((value("hour").as_deref(), value("path").as_deref()), (Some("5"), Some("/v1/é")));
        assert!(is_of(&file, "shop") && !is_of(&file, "sho"));
        let stats: serde_json::Value = serde_json::from_str(file.stats.as_deref().unwrap()).unwrap();
        let expected = json!({
            "numRecords": 3, "minValues": { "ts": "2026-05-06T05:35:31.000Z" }, "maxValues": { "ts": "2026-05-06T05:35:31.001Z" },
            "nullCount": { "ts": 0 }
        });
        assert_eq!(stats, expected);
        assert_eq!(check("data/date=__HIVE_DEFAULT_PARTITION__/a", &["date"]).unwrap().partition_values["date"], None);
        assert_eq!(check("data/a", &[]).unwrap().partition_values.len(), 0);
        let of_window = check("windows/name=route%2F5m/date=2026-05-06/a", &["name", "date"]).unwrap();
        assert_eq!(of_window.partition_values["name"].as_deref(), Some("route/5m"), "it is above the table's root");
    }

    #[test]
    fn a_file_without_the_folders_of_the_table_is_refused() {
        let error = check("data/date=2026-05-06/a", &["date", "hour"]).unwrap_err();
        assert!(error.ends_with("lies in folders of [date], and the table is partitioned by [date, hour]"), "{error}");
        assert!(check("data/date=2026-05-06/path=x/a", &["date"]).is_err());
    }

    #[test]
    fn times_that_readers_have_no_digits_for_are_left_out() {
        assert_eq!(stamp(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(stamp(-1).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!((stamp(i64::MIN), stamp(-80_000_000_000_000)), (None, None));
    }
}
