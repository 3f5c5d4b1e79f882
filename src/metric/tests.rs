//! What metrics promise: the same families however the input is cut, caps that hold, mistakes found before the start.

use super::{Config, Kind, Metrics, Plan, check_names, clash, exposition};
use crate::expression::Compiler;
use crate::place::{Located, Problem};
use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{Field, Schema as ArrowSchema};
use proptest::prelude::*;
use std::num::NonZeroUsize;
use std::sync::Arc;

const OWN: [(&str, ColumnType); 6] = [
    ("path", ColumnType::Text),
    ("status", ColumnType::Int),
    ("latency_ms", ColumnType::Float),
    ("q", ColumnType::Text),
    ("le", ColumnType::Text),
    ("2xx", ColumnType::Bool),
];

/// Path, status, latency.
type Row = (Option<String>, Option<i64>, Option<f64>);

fn schema() -> Schema {
    let column =
        |(name, kind): &(&str, ColumnType)| Column { high_cardinality: *name == "q", ..Column::new(*name, *kind) };
    Schema::new("test", 1, BUILT_IN.iter().chain(&OWN).map(column).collect())
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns = schema().columns.into_iter().map(|column| -> ArrayRef {
        match column.name.as_str() {
            "path" => Arc::new(rows.iter().map(|r| r.0.as_deref()).collect::<StringArray>()),
            "status" => Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
            "latency_ms" => Arc::new(rows.iter().map(|r| r.2).collect::<Float64Array>()),
            _ => new_null_array(&column.kind.arrow(), rows.len()),
        }
    });
    let columns = columns.collect();
    let fields = schema().arrow.fields().iter().map(|f| Field::clone(f).with_nullable(true)).collect::<Vec<_>>();
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns).unwrap()
}

fn config(name: &str, kind: Kind, value: Option<&str>, labels: &[&str]) -> Config {
    Config {
        name: Located::nowhere(name.to_owned()),
        kind,
        help: "Helps".to_owned(),
        labels: labels.iter().map(|l| Located::nowhere((*l).to_owned())).collect(),
        value: value.map(|v| Located::nowhere(v.to_owned())),
        condition: None,
        buckets: None,
        max_series: None,
    }
}

fn plan(config: &Config) -> Plan {
    config.build(&schema(), &Compiler::default()).unwrap()
}

fn problem(config: &Config) -> Problem {
    config.build(&schema(), &Compiler::default()).unwrap_err().remove(0)
}

fn row(path: &str, status: i64, latency_ms: f64) -> Row {
    (Some(path.to_owned()), Some(status), Some(latency_ms))
}

/// The samples of an exposition, without its comments.
fn samples(metrics: &Metrics) -> Vec<String> {
    let text = exposition::prometheus_text(&metrics.families());
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn check(configs: &[Config], rows: &[Row]) -> (Vec<String>, u64) {
    let mut metrics = Metrics::new(configs.iter().map(plan).collect());
    let failed = metrics.observe(&batch(rows));
    (samples(&metrics), failed)
}

#[test]
fn counters_count_by_labels() {
    let rows = [row("/b", 200, 1.0), row("/a", 500, 1.0), (None, Some(200), None), row("/a", 500, 2.0)];
    let counter = config("requests_total", Kind::Counter, None, &["status", "path"]);
    let (lines, failed) = check(std::slice::from_ref(&counter), &rows);
    assert_eq!(
        lines,
        [
            r#"requests_total{path="",status="200"} 1"#,
            r#"requests_total{path="/a",status="500"} 2"#,
            r#"requests_total{path="/b",status="200"} 1"#,
        ]
    );
    assert_eq!(failed, 0);
    let errors = Config { condition: Some(Located::nowhere("status >= 500".into())), ..counter };
    assert_eq!(check(&[errors], &rows).0, [r#"requests_total{path="/a",status="500"} 2"#]);
}

#[test]
fn values_that_a_metric_cannot_take_are_counted() {
    let rows = [row("/", 0, -1.0), row("/", 3, f64::NAN), row("/", 0, 4.0), row("/", 7, f64::INFINITY)];
    let sum = config("ms_total", Kind::Counter, Some("latency_ms"), &[]);
    assert_eq!(check(&[sum], &rows), (vec!["ms_total 4".into()], 3), "negative, NaN, infinite");
    let last = config("ms", Kind::Gauge, Some("latency_ms"), &[]);
    assert_eq!(check(&[last], &rows[..3]), (vec!["ms 4".into()], 1));
    let modulo = config("rest", Kind::Gauge, Some("10 % status"), &[]);
    assert_eq!(check(std::slice::from_ref(&modulo), &rows), (vec!["rest 3".into()], 2), "10 % 0 twice");
    let guarded = Config { condition: Some(Located::nowhere("status > 0".into())), ..modulo };
    assert_eq!(check(&[guarded], &rows), (vec!["rest 3".into()], 0), "what is not observed cannot fail");
}

#[test]
fn without_labels_counters_and_histograms_start_at_zero() {
    let histogram = Config {
        buckets: Some(Located::nowhere(vec![0.5])),
        ..config("seconds", Kind::Histogram, Some("latency_ms / 1000"), &[])
    };
    let configs = [
        histogram,
        config("n_total", Kind::Counter, None, &[]),
        config("g", Kind::Gauge, Some("status"), &[]),
        config("l_total", Kind::Counter, None, &["path"]),
    ];
    let expected = [
        "n_total 0",
        r#"seconds_bucket{le="0.5"} 0"#,
        r#"seconds_bucket{le="+Inf"} 0"#,
        "seconds_sum 0",
        "seconds_count 0",
    ];
    assert_eq!(check(&configs, &[]).0, expected);
}

#[test]
fn over_a_cap_values_go_to_other() {
    let counter =
        Config { max_series: NonZeroUsize::new(2), ..config("n_total", Kind::Counter, None, &["path", "status"]) };
    let mut metrics = Metrics::new(vec![plan(&counter)]);
    let rows: Vec<Row> = ["/a", "/b", "/c", "/d", "/a", "/c"].iter().map(|p| row(p, 200, 1.0)).collect();
    metrics.observe(&batch(&rows));
    assert_eq!(
        samples(&metrics),
        [
            r#"n_total{path="/a",status="200"} 2"#,
            r#"n_total{path="/b",status="200"} 1"#,
            r#"n_total{path="_other_",status="_other_"} 3"#,
        ]
    );
    assert_eq!(metrics.overflow_counts().collect::<Vec<_>>(), [("n_total", 3)]);
    assert_eq!(metrics.series_counts().collect::<Vec<_>>(), [("n_total", 3)]);
}

#[test]
fn the_pipelines_cap_holds_for_all_metrics_together() {
    let plans = vec![
        plan(&config("a_total", Kind::Counter, None, &["path"])),
        plan(&config("b_total", Kind::Counter, None, &["path"])),
    ];
    let mut metrics = Metrics::with_room(plans, 3);
    metrics.observe(&batch(&["/a", "/b", "/c"].map(|p| row(p, 200, 1.0))));
    assert_eq!(
        samples(&metrics),
        [
            r#"a_total{path="/a"} 1"#,
            r#"a_total{path="/b"} 1"#,
            r#"a_total{path="_other_"} 1"#,
            r#"b_total{path="/a"} 1"#,
            r#"b_total{path="_other_"} 2"#,
        ]
    );
}

#[test]
fn mistakes_are_refused() {
    let counter = |name| config(name, Kind::Counter, None, &[]);
    let labelled = |label| config("n_total", Kind::Counter, None, &[label]);
    let buckets = |bounds: &[f64]| Config {
        buckets: Some(Located::nowhere(bounds.to_vec())),
        ..config("h", Kind::Histogram, Some("latency_ms"), &[])
    };
    for (config, message) in [
        (counter("a-b_total"), "cannot use `a-b_total` as the name of a metric"),
        (counter("headrig_x_total"), "cannot use `headrig_x_total` as the name of a metric, `headrig_…` is reserved"),
        (counter("requests"), "cannot use `requests` as the name of a counter, expected it to end in `_total`"),
        (Config { help: " ".into(), ..counter("a_total") }, "cannot use an empty help text for `a_total`"),
        (
            Config { max_series: NonZeroUsize::new(10_001), ..counter("a_total") },
            "cannot keep 10001 series of `a_total`, expected at most 10000",
        ),
        (labelled("pth"), "cannot find column `pth`"),
        (labelled("q"), "cannot use `q` as a label of `n_total`: high-cardinality"),
        (labelled("latency_ms"), "cannot use `latency_ms` as a label of `n_total`, it is float"),
        (labelled("ts"), "cannot use `ts` as a label of `n_total`, it is timestamp"),
        (labelled("attributes"), "cannot use `attributes` as a label of `n_total`, it is json"),
        (labelled("le"), "cannot use `le` as the name of a label"),
        (labelled("2xx"), "cannot use `2xx` as the name of a label"),
        (config("n_total", Kind::Counter, None, &["path", "path"]), "cannot use the label `path` twice"),
        (config("g", Kind::Gauge, None, &[]), "cannot make the gauge `g` without a value"),
        (config("g", Kind::Gauge, Some("path"), &[]), "cannot use `path` as a value, its type is text"),
        (config("g", Kind::Gauge, Some("status > 1"), &[]), "cannot use `status > 1` as a value, its type is bool"),
        (config("g", Kind::Gauge, Some("statsu"), &[]), "cannot find column `statsu`"),
        (
            Config { buckets: Some(Located::nowhere(vec![1.0])), ..counter("a_total") },
            "cannot use `buckets` with `a_total`, only a histogram has them",
        ),
        (buckets(&[]), "cannot make a histogram without buckets"),
        (buckets(&[1.0, 1.0]), "cannot use buckets that do not ascend: 1 stands before 1"),
        (buckets(&[1.0, f64::NAN]), "cannot use NaN as the bound of a bucket, expected a finite number"),
        (buckets(&[0.0; 65]), "cannot use 65 buckets, expected at most 64"),
        (
            Config { condition: Some(Located::nowhere("status".into())), ..counter("a_total") },
            "cannot use `status` as a condition, its type is int",
        ),
    ] {
        assert_eq!(problem(&config).message, message);
    }
}

#[test]
fn names_that_clash_are_refused() {
    let histogram = config("h", Kind::Histogram, None, &[]);
    let sum = config("h_sum", Kind::Gauge, None, &[]);
    let counter = config("h_total", Kind::Counter, None, &[]);
    let found = check_names(&[histogram.clone(), sum, histogram, counter, config("x", Kind::Gauge, None, &[])]);
    assert_eq!(
        found.iter().map(|p| p.message.as_str()).collect::<Vec<_>>(),
        [
            "cannot use the name `h_sum` beside `h`, both expose `h_sum`",
            "cannot use the name `h` twice",
            "cannot use the name `h_total` beside `h`, both expose `h`",
        ]
    );
}

#[test]
fn pipelines_may_share_a_name_but_not_with_two_types() {
    let counter = [plan(&config("a_total", Kind::Counter, None, &[]))];
    let gauge = [plan(&config("a_total", Kind::Gauge, Some("latency_ms"), &[]))];
    assert_eq!(clash([&counter[..], &counter[..]]), None);
    assert_eq!(clash([&counter[..], &gauge[..]]), Some("a_total"));
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let latency = prop_oneof![-1.0..12_000.0, Just(f64::NAN), Just(0.0), Just(100.0)];
    let row = (prop::option::of("/[a-e]"), prop::option::of(0i64..4), prop::option::of(latency));
    prop::collection::vec(row, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_split_of_the_input_gives_the_same_families(rows in rows(), cuts in prop::collection::vec(0usize..80, 0..6)) {
        let mut configs = [
            config("n_total", Kind::Counter, None, &["path", "status"]),
            config("ms_total", Kind::Counter, Some("latency_ms"), &["path"]),
            config("rest", Kind::Gauge, Some("10 % status"), &["path"]),
            config("seconds", Kind::Histogram, Some("latency_ms / 1000"), &["status"]),
        ];
        configs[1].max_series = NonZeroUsize::new(3);
        configs[3].condition = Some(Located::nowhere("10 % status < 2".to_owned()));
        let plans: Vec<Plan> = configs.iter().map(plan).collect();
        let mut whole = Metrics::with_room(plans.clone(), 9);
        let mut parts = Metrics::with_room(plans, 9);
        let failed = whole.observe(&batch(&rows));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rows.len())).chain([0, rows.len()]).collect();
        cuts.sort_unstable();
        let failed_in_parts: u64 = cuts.windows(2).map(|cut| parts.observe(&batch(&rows[cut[0]..cut[1]]))).sum();
        prop_assert_eq!(failed, failed_in_parts);
        prop_assert_eq!(whole.families(), parts.families());
        prop_assert!(whole.overflow_counts().eq(parts.overflow_counts()));
    }

    #[test]
    fn a_histogram_counts_as_one_would_by_hand(rows in rows()) {
        let bounds = [0.0, 100.0, 2_500.0];
        let histogram = Config {
            buckets: Some(Located::nowhere(bounds.to_vec())),
            ..config("ms", Kind::Histogram, Some("latency_ms"), &[])
        };
        let mut metrics = Metrics::new(vec![plan(&histogram)]);
        metrics.observe(&batch(&rows));
        let values: Vec<f64> = rows.iter().filter_map(|r| r.2).filter(|v| v.is_finite()).collect();
        let families = metrics.families();
        let found = families[0].get_metric()[0].get_histogram();
        for (bucket, bound) in found.get_bucket().iter().zip(bounds) {
            let expected = values.iter().filter(|v| **v <= bound).count() as u64;
            prop_assert_eq!((bucket.upper_bound(), bucket.cumulative_count()), (bound, expected));
        }
        prop_assert_eq!(found.get_sample_count(), values.len() as u64);
        prop_assert_eq!(found.get_sample_sum(), values.iter().sum::<f64>());
    }
}
