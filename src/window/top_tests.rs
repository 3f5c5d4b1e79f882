//! The values of the first and the last record, rates, and the largest groups.

use super::Config;
use super::tests::{check, config, entries, top};

#[test]
fn the_first_and_the_last_value_and_rates() {
    let with = config(
        "2s",
        None,
        "1s",
        &[
            ("first", "first(status)"),
            ("last", "last(latency_ms)"),
            ("last_error", "last(path) filter (where status >= 500)"),
            ("since", "first(ts)"),
            ("rate", "rate(*)"),
            ("slowness", "rate(latency_ms)"),
            ("statuses", "rate(status) filter (where status > 900)"),
        ],
    );
    let records = [
        (1_500, Some("/a"), Some(503), Some(2.0)),
        (900, Some("/a"), Some(200), None),
        (1_900, Some("/a"), Some(404), None),
        (1_500, Some("/a"), Some(500), Some(3.0)),
        (1_700, None, None, Some(4.0)),
    ];
    check(
        &with,
        &records,
        &[],
        &[
            "0..2000   4.0  1970-01-01T00:00:01.700Z 0.5 2.0  0",
            "0..2000 /a 200 3.0 /a 1970-01-01T00:00:00.900Z 2.0 2.5  0",
        ],
    );
}

#[test]
fn the_largest_groups_are_kept_and_the_rest_is_one() {
    let all = [("n", "count(*)"), ("worst", "max(latency_ms)"), ("kinds", "count_distinct(status)")];
    let with = |keep, by| Config {
        top: top(keep, by),
        derive: entries(&[("double", "n * 2")]),
        ..config("1s", None, "0s", &all)
    };
    let record = |path, status, latency| (0, path, Some(status), latency);
    let records = [
        record(Some("/c"), 1, Some(9.0)),
        record(Some("/b"), 1, Some(1.0)),
        record(Some("/b"), 2, None),
        record(Some("/a"), 1, Some(5.0)),
        record(None, 2, None),
        record(None, 3, Some(2.0)),
        record(None, 3, Some(2.0)),
        record(Some("_other_"), 4, Some(0.5)),
        record(Some("/z"), 1, Some(0.5)),
    ];
    check(
        &with(2, "n"),
        &records,
        &[],
        &["0..1000  3 2.0 2 6 0", "0..1000 /b 2 1.0 2 4 0", "0..1000 _other_ 4 9.0 2 8 0"],
    );
    check(&with(1, "worst"), &records, &[], &["0..1000 /c 1 9.0 1 2 0", "0..1000 _other_ 8 5.0 4 16 0"]);
    let few = [record(Some("/b"), 1, None), record(Some("/a"), 1, None)];
    check(&with(2, "n"), &few, &[], &["0..1000 /a 1  1 2 0", "0..1000 /b 1  1 2 0"]);
    check(&with(1, "n"), &few, &[], &["0..1000 /a 1  1 2 0", "0..1000 _other_ 1  1 2 0"]);
}
