//! Families as text: Prometheus' format 0.0.4 and OpenMetrics 1.0, whichever a scraper asks for.

use prometheus::TextEncoder;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

/// The format of an exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// For the header `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes families in this format.
    pub fn encode(self, families: &[MetricFamily]) -> String {
        match self {
            Self::Prometheus => prometheus_text(families),
            Self::OpenMetrics => open_metrics(families),
        }
    }
}

/// The format for a request with this `Accept` header: OpenMetrics where it is named, in a version that we write, and
/// wanted no less than plain text.
pub fn negotiate(accept: Option<&str>) -> Format {
    let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
    for range in accept.unwrap_or_default().split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let (mut quality, mut version) = (1.0_f32, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        if media_type.eq_ignore_ascii_case("application/openmetrics-text") {
            if matches!(version, None | Some("0.0.1" | "1.0.0")) {
                open_metrics = open_metrics.max(quality);
            }
        } else if media_type.eq_ignore_ascii_case("text/plain") {
            text = text.max(quality);
        }
    }
    if open_metrics > 0.0 && open_metrics >= text { Format::OpenMetrics } else { Format::Prometheus }
}

/// Families sorted by name, their series by labels.
pub fn sorted(mut families: Vec<MetricFamily>) -> Vec<MetricFamily> {
    let labels = |metric: &Metric| -> Vec<(String, String)> {
        metric.get_label().iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect()
    };
    families.sort_by(|a, b| a.name().cmp(b.name()));
    for family in &mut families {
        family.mut_metric().sort_by_cached_key(labels);
    }
    families
}

/// The families of a daemon's pipelines as one list, in which each name stands once.
///
/// Where there are several pipelines, every series gets the label `pipeline`, as two of them may well derive
/// `http_requests_total`; a label of that name becomes `exported_pipeline`, as in Prometheus. A family that has another
/// type in an earlier pipeline is left out: no format can show it. [`super::clash`] finds those at the start.
pub fn joined(pipelines: Vec<(&str, Vec<MetricFamily>)>) -> Vec<MetricFamily> {
    let several = pipelines.len() > 1;
    let mut all: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for (pipeline, families) in pipelines {
        for mut family in families {
            if several {
                family.mut_metric().iter_mut().for_each(|metric| tell_apart(metric, pipeline));
            }
            match all.entry(family.name().to_owned()) {
                Entry::Vacant(free) => {
                    free.insert(family);
                }
                Entry::Occupied(mut known) if known.get().get_field_type() == family.get_field_type() => {
                    known.get_mut().mut_metric().append(family.mut_metric());
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    sorted(all.into_values().collect())
}

fn tell_apart(metric: &mut Metric, pipeline: &str) {
    let mut labels = metric.take_label();
    if let Some(own) = labels.iter_mut().find(|pair| pair.name() == "pipeline") {
        own.set_name("exported_pipeline".to_owned());
    }
    let mut pair = LabelPair::default();
    pair.set_name("pipeline".to_owned());
    pair.set_value(pipeline.to_owned());
    labels.push(pair);
    labels.sort_by(|a, b| a.name().cmp(b.name()));
    metric.set_label(labels);
}

/// Prometheus' text format, version 0.0.4. Families without a series are left out.
pub fn prometheus_text(families: &[MetricFamily]) -> String {
    let shown: Vec<MetricFamily> = families.iter().filter(|f| is_shown(f)).cloned().collect();
    TextEncoder::new().encode_to_string(&shown).expect("named families with series are written to memory")
}

/// OpenMetrics 1.0. Families without a series are left out.
pub fn open_metrics(families: &[MetricFamily]) -> String {
    let mut out = String::new();
    for family in families.iter().filter(|f| is_shown(f)) {
        write_family(&mut out, family).expect("writing to memory does not fail");
    }
    out.push_str("# EOF\n");
    out
}

fn is_shown(family: &MetricFamily) -> bool {
    !family.name().is_empty() && !family.get_metric().is_empty()
}

fn write_family(out: &mut String, family: &MetricFamily) -> std::fmt::Result {
    let kind = family.get_field_type();
    // A counter's family is named without the suffix that its sample has.
    let name = match kind {
        MetricType::COUNTER => family.name().strip_suffix("_total").unwrap_or(family.name()),
        _ => family.name(),
    };
    writeln!(out, "# TYPE {name} {}", type_name(kind))?;
    if !family.help().is_empty() {
        writeln!(out, "# HELP {name} {}", escaped(family.help()))?;
    }
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match kind {
            MetricType::COUNTER => sample(out, name, "_total", labels, None, metric.get_counter().get_value())?,
            MetricType::HISTOGRAM => write_histogram(out, name, metric)?,
            MetricType::SUMMARY => write_summary(out, name, metric)?,
            _ => sample(out, name, "", labels, None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

fn type_name(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::GAUGE => "gauge",
        MetricType::UNTYPED => "unknown",
    }
}

fn write_histogram(out: &mut String, name: &str, metric: &Metric) -> std::fmt::Result {
    let (labels, histogram) = (metric.get_label(), metric.get_histogram());
    for bucket in histogram.get_bucket().iter().filter(|b| b.upper_bound().is_finite()) {
        let bound = Some(("le", bucket.upper_bound()));
        count(out, name, "_bucket", labels, bound, bucket.cumulative_count())?;
    }
    count(out, name, "_bucket", labels, Some(("le", f64::INFINITY)), histogram.get_sample_count())?;
    sample(out, name, "_sum", labels, None, histogram.get_sample_sum())?;
    count(out, name, "_count", labels, None, histogram.get_sample_count())
}

fn write_summary(out: &mut String, name: &str, metric: &Metric) -> std::fmt::Result {
    let (labels, summary) = (metric.get_label(), metric.get_summary());
    for quantile in summary.get_quantile() {
        sample(out, name, "", labels, Some(("quantile", quantile.quantile())), quantile.value())?;
    }
    sample(out, name, "_sum", labels, None, summary.sample_sum())?;
    count(out, name, "_count", labels, None, summary.sample_count())
}

type Bound = Option<(&'static str, f64)>;

fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Bound,
    value: f64,
) -> std::fmt::Result {
    write_series(out, name, suffix, labels, bound)?;
    writeln!(out, " {}", canonical(value))
}

fn count(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Bound,
    value: u64,
) -> std::fmt::Result {
    write_series(out, name, suffix, labels, bound)?;
    writeln!(out, " {value}")
}

fn write_series(out: &mut String, name: &str, suffix: &str, labels: &[LabelPair], bound: Bound) -> std::fmt::Result {
    write!(out, "{name}{suffix}")?;
    let mut separator = '{';
    for pair in labels {
        write!(out, "{separator}{}=\"{}\"", pair.name(), escaped(pair.value()))?;
        separator = ',';
    }
    if let Some((label, bound)) = bound {
        write!(out, "{separator}{label}=\"{}\"", canonical(bound))?;
        separator = ',';
    }
    if separator == ',' { out.write_char('}') } else { Ok(()) }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

/// A number as OpenMetrics wants it in `le`: `1.0`, `0.005`, `1e+06`, `+Inf`; what Go's `%g` makes of it, with `.0`
/// behind a whole number.
fn canonical(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    // The shortest `%g` changes to an exponent below 10⁻⁴ and from 10⁶ on.
    if !(-4..6).contains(&exponent) && value != 0.0 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = value.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::proto::{Bucket, Counter, Gauge, Histogram};

    fn family(name: &str, kind: MetricType, labels: &[(&str, &str)], fill: impl FnOnce(&mut Metric)) -> MetricFamily {
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::default();
        metric.set_label(labels.iter().map(pair).collect());
        fill(&mut metric);
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help("What \"it\" is\nabout \\ so".to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        family
    }

    fn families() -> Vec<MetricFamily> {
        let counter = family("requests_total", MetricType::COUNTER, &[("path", "/a\"b\\c\nd"), ("x", "é")], |metric| {
            let mut counter = Counter::default();
            counter.set_value(3.0);
            metric.set_counter(counter);
        });
        let gauge = family("depth", MetricType::GAUGE, &[], |metric| {
            let mut gauge = Gauge::default();
            gauge.set_value(f64::NEG_INFINITY);
            metric.set_gauge(gauge);
        });
        let histogram = family("seconds", MetricType::HISTOGRAM, &[("path", "/")], |metric| {
            let bucket = |(bound, count)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            };
            let mut histogram = Histogram::default();
            histogram.set_bucket([(0.005, 1), (1.0, 2)].map(bucket).to_vec());
            histogram.set_sample_count(3);
            histogram.set_sample_sum(12.5);
            metric.set_histogram(histogram);
        });
        let mut empty = MetricFamily::default();
        empty.set_name("empty".to_owned());
        vec![gauge, empty, counter, histogram]
    }

    #[test]
    fn open_metrics_is_as_its_standard_says() {
        let expected = r##"# TYPE depth gauge
# HELP depth What \"it\" is\nabout \\ so
depth -Inf
# TYPE requests counter
# HELP requests What \"it\" is\nabout \\ so
requests_total{path="/a\"b\\c\nd",x="é"} 3.0
# TYPE seconds histogram
# HELP seconds What \"it\" is\nabout \\ so
seconds_bucket{path="/",le="0.005"} 1
seconds_bucket{path="/",le="1.0"} 2
seconds_bucket{path="/",le="+Inf"} 3
seconds_sum{path="/"} 12.5
seconds_count{path="/"} 3
# EOF
"##;
        assert_eq!(open_metrics(&families()), expected);
        assert_eq!(open_metrics(&[]), "# EOF\n");
    }

    #[test]
    fn prometheus_text_is_as_promtool_reads_it() {
        let expected = r##"# HELP depth What "it" is\nabout \\ so
# TYPE depth gauge
depth -inf
# HELP requests_total What "it" is\nabout \\ so
# TYPE requests_total counter
requests_total{path="/a\"b\\c\nd",x="é"} 3
# HELP seconds What "it" is\nabout \\ so
# TYPE seconds histogram
seconds_bucket{path="/",le="0.005"} 1
seconds_bucket{path="/",le="1"} 2
seconds_bucket{path="/",le="+Inf"} 3
seconds_sum{path="/"} 12.5
seconds_count{path="/"} 3
"##;
        assert_eq!(prometheus_text(&families()), expected);
        assert_eq!(prometheus_text(&[]), "");
    }

    #[test]
    fn pipelines_are_told_apart() {
        let gauge = |name, labels: &[(&str, &str)]| family(name, MetricType::GAUGE, labels, |_| {});
        let counter = family("g", MetricType::COUNTER, &[], |_| {});
        let first = vec![gauge("g", &[("x", "1"), ("pipeline", "oil")]), gauge("a", &[])];
        assert_eq!(joined(vec![("p", first.clone())]), sorted(first.clone()), "one pipeline stands as it is");
        let text =
            prometheus_text(&joined(vec![("p", first), ("o", vec![gauge("g", &[("x", "1")])]), ("q", vec![counter])]));
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            r#"a{pipeline="p"} 0"#,
            r#"g{exported_pipeline="oil",pipeline="p",x="1"} 0"#,
            r#"g{pipeline="o",x="1"} 0"#,
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn numbers_are_canonical() {
        for (value, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (100_000.0, "100000.0"),
            (1e6, "1e+06"),
            (123_456_789.0, "1.23456789e+08"),
            (1e100, "1e+100"),
        ] {
            assert_eq!(canonical(value), text);
        }
        assert_eq!(canonical(f64::NAN), "NaN");
    }

    #[test]
    fn the_scraper_chooses() {
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.2";
        for (accept, format) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=\"1.0.0\"; charset=utf-8"), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=2.0.0"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus),
            (Some("text/plain;q=0.9, application/openmetrics-text;q=0.1"), Format::Prometheus),
            (Some(prometheus_3), Format::OpenMetrics),
        ] {
            assert_eq!(negotiate(accept), format, "{accept:?}");
        }
    }
}
