//! Queries over files of JSON Lines, alone and beside Parquet.

use super::tests::{ask, check, plan, seal, seal_by};
use crate::archive::{Compression, FileFormat};
use crate::place::Located;
use crate::record::schema::{Deprecated, Schema};
use std::path::Path;
use std::sync::Arc;

/// Seals these hours as JSON Lines, each by itself.
fn seal_lines(root: &Path, partition_by: &[&str], hours: std::ops::Range<i64>, newer: bool, packed: Compression) {
    let mut plan = plan(root, partition_by, newer);
    plan.config.format = FileFormat::Jsonl;
    plan.config.compression = Some(Located::nowhere(packed));
    seal_by(plan, hours, newer);
}

/// What both archives have to answer alike.
const QUERIES: [&str; 8] = [
    "select count(*), count(customer), sum(n), sum(size), min(ts), max(ts) from logs",
    "select customer, count(*), sum(size) from logs group by 1 order by 1",
    "select ts, path, status, size, n, customer from logs where request_id in ('r7', 'r4000', 'r14400') order by ts",
    "select ts from logs where trace = '0000000000000fa0'",
    "select count(*) from logs where ts >= '2026-05-06 00:30' and ts < '2026-05-06 04:30' and status = 500",
    "select request_id, attributes from logs order by ts desc limit 3",
    "select request_id, attributes ->> 'customer', level from logs order by ts limit 3",
    "select path, date, count(*) from logs where date = '2026-05-06' group by 1, 2 order by 1",
];

fn same(lines: &Path, parquet: &Path) {
    for query in QUERIES {
        let expected = ask(parquet, query).unwrap_or_else(|error| panic!("{query}: {error}")).0;
        assert!(!expected.is_empty(), "{query}");
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(lines, query, &expected);
    }
}

#[test]
fn lines_answer_as_parquet_does_also_beside_it_and_across_versions() {
    let parquet = tempfile::tempdir().unwrap();
    seal(parquet.path(), &["date"], 0..2, false);
    seal(parquet.path(), &["date"], 2..6, true);
    for packed in [Compression::Zstd, Compression::Gzip, Compression::None] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        seal_lines(root, &["date"], 0..2, false, packed);
        seal_lines(root, &["date"], 2..4, true, packed);
        // From here on Parquet: each row is there once.
        seal(root, &["date"], 4..6, true);
        same(root, parquet.path());
        // Columns are known without looking at lines.
        let described = ask(root, "describe logs").unwrap().0;
        for column in ["customer text yes file null", "trace text yes file null", "size float yes file null"] {
            assert!(described.contains(&column.to_owned()), "{described:?}");
        }
        // Of the first two hours `region` has no value, and is a column all the same.
        check(root, "select count(region), count(*) from logs where ts < '2026-05-06 02:00'", &["0 7200"]);
        // Copied without its seals, columns are what the lines have.
        std::fs::remove_dir_all(root.join("_headrig")).unwrap();
        same(root, parquet.path());
    }
}

#[test]
fn whole_files_of_lines_are_skipped_and_counts_read_none() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    seal_lines(root, &["date", "hour"], 0..4, true, Compression::Zstd);
    let reading = check(root, "select count(*) from logs where hour = 3 and status = 500", &["1800"]);
    assert_eq!((reading.scans[0].by_folder.files, reading.scans[0].left.files), (3, 1), "{reading:?}");
    let of_time =
        "select count(*) from logs where ts >= '2026-05-06 02:30' and ts < '2026-05-06T03:10:00Z' and status > 1";
    let reading = check(root, of_time, &["2400"]);
    assert_eq!((reading.scans[0].by_time.files, reading.scans[0].left.files), (2, 2), "{reading:?}");
    let reading = check(
        root,
        "select count(*), min(ts), max(ts) from logs",
        &["14400 2026-05-06T00:00:00Z 2026-05-06T03:59:59Z"],
    );
    let columns = 4_096;
    assert!(reading.bytes < columns, "only the object with the columns was read: {reading:?}");
    check(root, "select ts from logs order by ts desc limit 1", &["2026-05-06T03:59:59Z"]);
    check(root, "select count(*) from (select ts from logs limit 10)", &["10"]);
    check(root, "select l.n from logs l join logs r on l.n = r.n where r.request_id = 'r77'", &["77"]);
    let plan = ask(root, "explain select path from logs").unwrap().0.join("\n");
    assert!(plan.contains("files of JSON Lines=4, projection=[path]"), "{plan}");
}

#[test]
fn a_damaged_file_of_lines_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    seal_lines(root, &["date"], 0..1, true, Compression::None);
    let file = glob::glob(&format!("{}/data/**/*.jsonl", root.display())).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    // As long as before, as readers go by what was sealed.
    std::fs::write(&file, text.replacen("\"n\":7}", "\"n\":x}", 1)).unwrap();
    let error = ask(root, "select sum(n) from logs").unwrap_err().to_string();
    assert!(
        error.contains("line 8 of data/date=2026-05-06/shop-000000000001-0.jsonl is no row: its n is no integer"),
        "{error}"
    );
    check(root, "select count(status) from logs", &["3600"]);
}

#[test]
fn deprecated_columns_are_described_as_the_newest_version_says() {
    for format in [FileFormat::Parquet, FileFormat::Jsonl] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (hour, deprecated) in [(0, None), (1, Some(Some("size"))), (2, Some(None))] {
            let mut plan = plan(root, &["date"], true);
            plan.config.format = format;
            let mut columns = plan.schema.columns.clone();
            columns.iter_mut().filter(|column| column.name == "n").for_each(|column| {
                column.deprecated = deprecated.map(|instead| Deprecated { instead: instead.map(str::to_owned) });
            });
            plan.schema = Arc::new(Schema::new("test", 2 + u32::try_from(hour).unwrap(), columns));
            seal_by(plan, hour..hour + 1, true);
            let expected = match deprecated {
                None => "n int yes file null",
                Some(Some(_)) => "n int yes file deprecated, use size",
                Some(None) => "n int yes file deprecated",
            };
            let described = ask(root, "describe logs").unwrap().0;
            assert!(described.contains(&expected.to_owned()), "{described:?}");
        }
    }
}
