//! Queries over small archives, from files to answers.

use super::{Engine, Limits, QueryError, Reading};
use crate::archive::{Archive, ArchivePlan, Config, FileFormat, FlushConfig, Kind, Sealing};
use crate::place::Located;
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
use crate::time::EventTime;
use crate::units::ByteSize;
use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use std::num::{NonZeroU8, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// 2026-05-06T00:00:00Z.
const START: i64 = 1_778_025_600_000_000;
const HOUR: i64 = 3_600_000_000;
/// Rows of a seal, an hour each, one a second.
const ROWS: i64 = 3_600;

/// The columns as they were first, and as they are since `customer` and `n` got columns of their own and `size` a fraction.
fn schema(newer: bool) -> Schema {
    let own = [
        ("path", ColumnType::Text),
        ("status", ColumnType::Int),
        ("request_id", ColumnType::Text),
        ("trace", ColumnType::Text),
    ];
    let size = [("size", if newer { ColumnType::Float } else { ColumnType::Int })];
    let newest = if newer { &[("customer", ColumnType::Text), ("n", ColumnType::Int)][..] } else { &[] };
    let columns = BUILT_IN.iter().chain(&own).chain(&size).chain(newest).map(|(name, kind)| Column {
        bloom: ["trace", "request_id"].contains(name),
        high_cardinality: ["trace", "request_id"].contains(name),
        hex_bytes: if *name == "trace" { NonZeroU8::new(8) } else { None },
        ..Column::new(*name, *kind)
    });
    Schema::new("test", 1 + u32::from(newer), columns.collect())
}

pub(super) fn plan(root: &Path, partition_by: &[&str], newer: bool) -> ArchivePlan {
    ArchivePlan {
        config: Config {
            url: Located::nowhere(root.to_str().unwrap().to_owned()),
            partition_by: partition_by.iter().map(|name| Located::nowhere((*name).to_owned())).collect(),
            flush: FlushConfig::default(),
            tables: Located::nowhere(Kind::ALL.to_vec()),
            patience: None,
            store: None,
            format: FileFormat::default(),
            compression: None,
            compact: None,
            retain: None,
            audit: false,
            table: None,
        },
        pipeline: "shop".into(),
        schema: Arc::new(schema(newer)),
        windows: Vec::new(),
        threads: NonZeroUsize::MIN,
        data_dir: PathBuf::new(),
        sharing: None,
        patience: Arc::default(),
    }
}

/// The rows of one hour, numbered on from the hours before.
fn rows(hour: i64, newer: bool) -> RecordBatch {
    let schema = schema(newer);
    let numbers: Vec<i64> = (hour * ROWS..(hour + 1) * ROWS).collect();
    let texts = |of: &dyn Fn(i64) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(numbers.iter().map(|number| of(*number))))
    };
    let stamps = numbers.iter().map(|number| Some(START + number * (HOUR / ROWS)));
    let stamps: ArrayRef = Arc::new(stamps.collect::<TimestampMicrosecondArray>().with_timezone("UTC"));
    let column = |column: &Column| match column.name.as_str() {
        "ts" | "ingest_ts" => Arc::clone(&stamps),
        "ts_source" => texts(&|_| "event".to_owned()),
        "path" => texts(&|number| format!("/v1/{}", number % 3)),
        "request_id" => texts(&|number| format!("r{number}")),
        "trace" => texts(&|number| format!("{number:016x}")),
        "status" => Arc::new(numbers.iter().map(|number| Some(200 + number % 2 * 300)).collect::<Int64Array>()),
        "size" if newer => Arc::new(numbers.iter().map(|number| Some(*number as f64 + 0.5)).collect::<Float64Array>()),
        "size" => Arc::new(numbers.iter().copied().map(Some).collect::<Int64Array>()),
        "customer" => texts(&|number| format!("c{}", number % 5)),
        "n" => Arc::new(numbers.iter().copied().map(Some).collect::<Int64Array>()),
        "attributes" if !newer => texts(&|number| match number % 10 {
            9 => "{\"n\":\"none\"}".to_owned(),
            _ => format!("{{\"customer\":\"c{}\",\"n\":{number}}}", number % 5),
        }),
        _ => new_null_array(&column.kind.arrow(), numbers.len()),
    };
    RecordBatch::try_new(schema.arrow.clone(), schema.columns.iter().map(column).collect()).unwrap()
}

/// Seals these hours, each by itself.
pub(super) fn seal(root: &Path, partition_by: &[&str], hours: std::ops::Range<i64>, newer: bool) {
    seal_by(plan(root, partition_by, newer), hours, newer);
}

pub(super) fn seal_by(plan: ArchivePlan, hours: std::ops::Range<i64>, newer: bool) {
    let (mut archive, _) = Archive::open(plan, EventTime::from_micros(START)).unwrap();
    for hour in hours {
        archive.write_events(&rows(hour, newer)).unwrap();
        let position = PartitionPosition {
            source: "s".into(),
            partition: "p".into(),
            identity: String::new(),
            position: ((hour + 1) * ROWS) as u64,
        };
        let checkpoint = Checkpoint { partitions: vec![position] };
        archive.seal(&Sealing { checkpoint, records: ROWS as u64, ..Sealing::default() }).unwrap();
    }
}

/// Six hours by date, four of them before `customer` had a column.
fn archive() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    seal(folder.path(), &["date"], 0..4, false);
    seal(folder.path(), &["date"], 4..6, true);
    folder
}

pub(super) fn ask(root: &Path, sql: &str) -> Result<(Vec<String>, Reading), QueryError> {
    let limits = Limits { memory: ByteSize(64_000_000), threads: NonZeroUsize::new(2).unwrap(), spill: None };
    let engine = Engine::open(root.to_str().unwrap(), limits)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut answer = engine.ask(sql).await?;
        let mut lines = Vec::new();
        while let Some(batch) = answer.rows.try_next().await? {
            let options = FormatOptions::new().with_null("null");
            let columns: Vec<_> =
                batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
            let line = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ");
            lines.extend((0..batch.num_rows()).map(line));
        }
        let reading = engine.reading(&answer);
        Ok((lines, reading))
    })
}

#[track_caller]
pub(super) fn check(root: &Path, sql: &str, expected: &[&str]) -> Reading {
    match ask(root, sql) {
        Ok((lines, reading)) => {
            assert_eq!(lines, expected, "{sql}");
            reading
        }
        Err(error) => panic!("{sql}: {error} ({:?})", error.hint()),
    }
}

#[test]
fn columns_are_those_of_all_files() {
    let folder = archive();
    let root = folder.path();
    check(root, "select count(*), count(customer), count(n) from logs", &["21600 20160 20160"]);
    check(
        root,
        "select customer, count(*) from logs group by 1 order by 1",
        &["c0 4320", "c1 4320", "c2 4320", "c3 4320", "c4 2880", "null 1440"],
    );
    check(root, "select sum(n) from logs where customer = 'c4'", &["36288720"]);
    check(
        root,
        "select size, n + 1 from logs where request_id in ('r7', 'r14400') order by n",
        &["7.0 8", "14400.5 14401"],
    );
    check(root, "select date, hour from (select date, 1 as hour from logs) limit 1", &["2026-05-06 1"]);
    let described = ask(root, "describe logs").unwrap().0;
    assert!(described.contains(&"customer text yes file null".to_owned()), "{described:?}");
    assert!(described.contains(&"date date yes folder null".to_owned()), "{described:?}");
    assert!(described.contains(&"size float yes file null".to_owned()), "{described:?}");
    check(root, "select count(*) from windows", &["0"]);
    check(root, "select status from alerts", &[]);
}

#[test]
fn files_and_row_groups_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    seal(root, &["date", "hour"], 0..6, true);
    let reading = check(root, "select count(*) from logs where hour = 3 and status = 500", &["1800"]);
    assert_eq!((reading.scans[0].by_folder.files, reading.scans[0].left.files), (5, 1), "{reading:?}");
    let reading = check(root, "select count(*) from logs where date < '2026-05-06'", &["0"]);
    assert_eq!((reading.scans[0].by_folder.files, reading.scans[0].left.files), (6, 0), "{reading:?}");
    let of_time =
        "select count(*) from logs where ts >= '2026-05-06 02:30' and ts < '2026-05-06T03:10:00Z' and status > 1";
    let reading = check(root, of_time, &["2400"]);
    assert_eq!((reading.scans[0].by_time.files, reading.scans[0].left.files), (4, 2), "{reading:?}");
    let reading = check(root, "select ts from logs where request_id = 'r4000'", &["2026-05-06T01:06:40Z"]);
    assert_eq!((reading.scans[0].skipped_groups, reading.scans[0].by_bloom.files), (5, 5), "{reading:?}");
    let reading = check(
        root,
        "select count(*), min(ts), max(ts) from logs",
        &["21600 2026-05-06T00:00:00Z 2026-05-06T05:59:59Z"],
    );
    let (all, _) = reading.files();
    assert!(reading.bytes * 4 < all.bytes, "only footers are read: {reading:?}");
    let reading = check(root, "select request_id from logs order by ts desc limit 2", &["r21599", "r21598"]);
    assert!(reading.bytes * 2 < all.bytes, "the newest file is enough: {reading:?}");
    check(root, "select count(*) from logs where ts > now() - interval '1 hour'", &["0"]);
}

#[test]
fn hex_columns_are_text_and_found_by_bloom_filters() {
    let folder = archive();
    let root = folder.path();
    let reading =
        check(root, "select request_id, trace from logs where trace = '0000000000001001'", &["r4097 0000000000001001"]);
    assert_eq!((reading.scans[0].skipped_groups, reading.scans[0].by_bloom.files), (5, 5), "{reading:?}");
    let listed = "select request_id from logs where trace in ('0000000000000001', '0000000000000002') order by 1";
    let reading = check(root, listed, &["r1", "r2"]);
    assert_eq!(reading.scans[0].skipped_groups, 5, "{reading:?}");
    let both = "select status from logs where trace = '0000000000000001' and request_id = 'r9999'";
    let reading = check(root, both, &[]);
    assert_eq!(reading.scans[0].by_bloom.files, 6, "{reading:?}");
    check(root, "select count(*) from logs where trace = 'nonsense'", &["0"]);
    check(root, "select count(*) from logs where trace <> '0000000000000001'", &["21599"]);
    check(root, "select count(*) from logs where trace like '%00a'", &["6"]);
}

#[test]
fn what_is_sealed_and_not_placed_is_read_where_it_is_staged() {
    let folder = archive();
    let root = folder.path();
    let entry = root.join("_headrig/shop/chains/main/000000000006.json");
    let entry: serde_json::Value = serde_json::from_slice(&std::fs::read(entry).unwrap()).unwrap();
    let file = &entry["act"]["seal"]["files"][0];
    let (staged, placed) = (root.join(file["staged"].as_str().unwrap()), root.join(file["path"].as_str().unwrap()));
    std::fs::rename(&placed, &staged).unwrap();
    check(root, "select count(*), max(n) from logs where status > 0", &["21600 21599"]);
    std::fs::write(root.join("data/date=2026-05-06/stray.parquet"), "no file of a seal").unwrap();
    check(root, "select count(*) from logs", &["21600"]);
    std::fs::remove_file(&staged).unwrap();
    check(root, "select count(*) from logs where status > 0", &["18000"]);
    std::fs::remove_file(root.join("data/date=2026-05-06/stray.parquet")).unwrap();
    std::fs::remove_dir_all(root.join("_headrig")).unwrap();
    check(root, "select count(*) from logs where status > 0", &["18000"]);
}

#[test]
fn files_may_differ_in_their_folders() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    seal(root, &["date"], 0..1, true);
    seal(root, &["date", "path"], 1..2, true);
    check(
        root,
        "select path, count(*) from logs group by path order by 1",
        &["/v1/0 2400", "/v1/1 2400", "/v1/2 2400"],
    );
    let reading = check(root, "select count(*) from logs where path = '/v1/1'", &["2400"]);
    assert_eq!(reading.scans[0].by_folder.files, 2, "{reading:?}");
}

#[test]
fn functions_mean_what_they_say() {
    let folder = archive();
    let root = folder.path();
    for (sql, expected) in [
        (
            "select per('1h', ts) as at, count(*) from logs where n < 3601 group by 1 order by 1",
            "2026-05-06T00:00:00Z 3240",
        ),
        (
            "select p50(status), p95(size), p99(size), quantile(size, 0.25) from logs where ts < '2026-05-06 00:01:41'",
            "200.0 95.0 99.0 25.0",
        ),
        ("select ip_mask('203.0.113.77'), humanize(1234567), humanize(null)", "203.0.113.0/24 1.235M null"),
        ("select 1 / 2, 1 / 0, 7 % 4, count(*) / 2 from logs", "0.5 null 3 10800.0"),
        ("select '{\"a\":{\"b\":[1,2]}}' ->> '$.a.b[1]', '{\"a\":\"x\"}' -> 'a', '[5]' ->> 0", "2 \"x\" 5"),
        ("select count(*) from logs where attributes ->> 'customer' = 'c1' and attributes ->> 'n' is not null", "2880"),
        (
            "select time_bucket(interval '5 minutes', ts), regexp_matches(path, '^/v1/[12]$') from logs where request_id = 'r301'",
            "2026-05-06T00:05:00Z true",
        ),
        ("select count(*) filter (where status >= 500) / count(*) as rate from logs", "0.5"),
        (
            "select case when ts < '2026-05-06 03:00' then 'before' else 'after' end as side, count(*) from logs where ts between '2026-05-06 02:00' and '2026-05-06T04:00' group by 1 order by 1",
            "after 3601",
        ),
        ("select sum(status) from logs where date = '2026-05-06' group by date", "7560000"),
        (
            "with x as (select path, row_number() over (partition by path order by ts) as k from logs) select count(*) from x where k = 1",
            "3",
        ),
    ] {
        let lines = ask(root, sql).unwrap_or_else(|error| panic!("{sql}: {error}")).0;
        assert_eq!(lines[0], expected, "{sql}");
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    let folder = archive();
    for (sql, message, hint) in [
        ("select statos from logs", "1:8: cannot find column `statos`", "did you mean `status`?"),
        ("select *\nfrom log", "2:6: cannot find table `log`", "did you mean `logs`?"),
        ("select p96(status) from logs", "1:8: cannot find function `p96`", "did you mean `p9"),
        ("select status from logs where", "cannot read the SQL", ""),
        ("select p95(path) from logs", "p95() expects numbers", ""),
        ("select per('5 parsecs', ts) from logs", "5 parsecs", ""),
        ("select * from logs; drop table logs", "cannot answer more than one statement", ""),
        ("copy logs to 'x.csv'", "cannot run COPY: a query only reads", "select"),
        ("describe log", "cannot find table `log`", "did you mean `logs`?"),
        ("select * from '/etc/passwd'", "cannot find table", ""),
        ("select path || 1 + 'x' from logs where status = 'high'", "cannot", ""),
    ] {
        let error = ask(folder.path(), sql).map(|(lines, _)| lines).unwrap_err();
        let said = error.hint().unwrap_or_default();
        assert!(error.to_string().contains(message) && said.contains(hint), "{sql}: {error} (hint: {said})");
    }
    let sorted =
        "select a.request_id, b.request_id from logs a join logs b on a.path = b.path order by a.n * b.n limit 3000000";
    let error = ask(folder.path(), sorted).map(|(lines, _)| lines.len()).unwrap_err();
    assert!(matches!(error, QueryError::Memory(..)), "{error}");
    let nowhere = ask(&folder.path().join("nowhere"), "select 1").map(|(lines, _)| lines).unwrap_err();
    assert!(nowhere.to_string().contains("cannot find an archive"), "{nowhere}");
}

#[test]
fn explanations_say_what_is_skipped() {
    let folder = archive();
    let plain = ask(folder.path(), "explain select * from logs where ts < '2026-05-06 00:30'").unwrap().0;
    assert!(plain.iter().any(|line| line.starts_with("  skipped by time: 5 files, ")), "{plain:#?}");
    assert!(plain.iter().any(|line| line.starts_with("  left to read: 1 file, ")), "{plain:#?}");
    let run = ask(folder.path(), "explain analyze select * from logs where request_id = 'r5'").unwrap().0;
    assert_eq!(run[0], "answer: 1 rows");
    assert!(run.iter().any(|line| line.contains("skipped by bloom filter")), "{run:#?}");
    assert!(run.iter().any(|line| line.starts_with("read: ")), "{run:#?}");
    let tables = ask(folder.path(), "show tables").unwrap().0;
    assert!(tables[0].starts_with("logs 21600 6 ") && tables[0].ends_with("2026-05-06T05:59:59Z"), "{tables:?}");
}
