//! The live metrics of a pipeline: batches in, families out.

use super::counter::Counter;
use super::gauge::Gauge;
use super::histogram::Histogram;
use super::plan::{Plan, is_observed};
use super::series::{LabelColumn, OTHER, Series, append_text};
use super::{Kind, exposition};
use crate::limits;
use arrow::array::{Array, BooleanArray, Float64Array, RecordBatch};
use prometheus::proto::{self, MetricFamily, MetricType};

/// All metrics of one pipeline. Owned by the pipeline's thread; nothing in it locks.
#[derive(Debug)]
pub struct Metrics {
    metrics: Vec<Metric>,
    room: Room,
    /// The key of the row at hand, kept for its memory.
    key: Vec<u8>,
}

/// How many series the metrics of the pipeline may still add, all together.
#[derive(Debug)]
struct Room(usize);

#[derive(Debug)]
struct Metric {
    plan: Plan,
    series: Series,
    values: Values,
    /// Series that count against the caps: all but the one for what is over them.
    counted: usize,
    overflow: u64,
    /// The key of the series for what is over a cap.
    other: Vec<u8>,
}

#[derive(Debug)]
enum Values {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// What a metric reads of a batch.
struct Inputs<'a> {
    observed: Option<BooleanArray>,
    values: Option<Float64Array>,
    labels: Vec<LabelColumn<'a>>,
}

impl Metrics {
    /// Metrics that have seen nothing: counters and histograms without labels stand at 0, all else appears with its
    /// first value. Together they keep `limits::SERIES_PER_PIPELINE` series.
    pub fn new(plans: Vec<Plan>) -> Self {
        Self::with_room(plans, limits::SERIES_PER_PIPELINE)
    }

    pub(super) fn with_room(plans: Vec<Plan>, series: usize) -> Self {
        let mut room = Room(series);
        let metrics = plans.into_iter().map(|plan| Metric::new(plan, &mut room)).collect();
        Self { metrics, room, key: Vec::new() }
    }

    /// Observes rows of the schema that the plans were built against.
    ///
    /// Returns how many values were left out because they could not be computed or are none that the metric can take
    /// (NaN; a negative one for a counter). Null is no value and is not counted.
    pub fn observe(&mut self, rows: &RecordBatch) -> u64 {
        let mut failed = 0;
        let inputs: Vec<Inputs<'_>> =
            self.metrics.iter().map(|metric| Inputs::new(&metric.plan, rows, &mut failed)).collect();
        // Row by row, not metric by metric: which series still find room must not depend on how rows are batched.
        for row in 0..rows.num_rows() {
            for (metric, inputs) in self.metrics.iter_mut().zip(&inputs) {
                failed += u64::from(!metric.observe(inputs, row, &mut self.room, &mut self.key));
            }
        }
        failed
    }

    /// The metrics as they stand, sorted by name, their series by labels. One without a series is not shown.
    pub fn families(&self) -> Vec<MetricFamily> {
        let shown = self.metrics.iter().filter(|metric| metric.series.len() > 0);
        exposition::sorted(shown.map(Metric::family).collect())
    }

    /// For each metric its name and number of series, the one for what is over a cap included.
    pub fn series_counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.metrics.iter().map(|metric| (metric.plan.name(), metric.series.len()))
    }

    /// What the series hold, in bytes, estimated.
    pub fn memory_bytes(&self) -> usize {
        self.metrics
            .iter()
            .map(|metric| metric.series.memory_bytes() + metric.series.len() * metric.plan.state_bytes())
            .sum()
    }

    /// For each metric its name and how many values went to `_other_` so far.
    pub fn overflow_counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.metrics.iter().map(|metric| (metric.plan.name(), metric.overflow))
    }
}

impl<'a> Inputs<'a> {
    fn new(plan: &Plan, rows: &'a RecordBatch, failed: &mut u64) -> Self {
        let (observed, bad_conditions) = plan.observed(rows);
        let (values, bad_values) = plan.values(rows, observed.as_ref());
        *failed += bad_conditions + bad_values;
        let labels = plan.labels.iter().map(|label| LabelColumn::new(rows, label.column)).collect();
        Self { observed, values, labels }
    }
}

impl Metric {
    fn new(plan: Plan, room: &mut Room) -> Self {
        let values = match plan.kind {
            Kind::Counter => Values::Counter(Counter::default()),
            Kind::Gauge => Values::Gauge(Gauge::default()),
            Kind::Histogram => Values::Histogram(Histogram::new(plan.bounds.clone())),
        };
        let mut other = Vec::new();
        plan.labels.iter().for_each(|_| append_text(&mut other, OTHER));
        let from_start = plan.labels.is_empty() && plan.kind != Kind::Gauge;
        let mut metric = Self { plan, series: Series::default(), values, counted: 0, overflow: 0, other };
        if from_start {
            metric.number_of(&[], room);
        }
        metric
    }

    /// Observes one row; false when its value is none that the metric can take.
    fn observe(&mut self, inputs: &Inputs<'_>, row: usize, room: &mut Room, key: &mut Vec<u8>) -> bool {
        if !is_observed(inputs.observed.as_ref(), row) {
            return true;
        }
        let value = match &inputs.values {
            Some(values) if values.is_null(row) => return true,
            Some(values) => values.value(row),
            None => 1.0,
        };
        if !self.values.accepts(value) {
            return false;
        }
        key.clear();
        inputs.labels.iter().for_each(|label| label.append(row, key));
        let number = self.number_of(key, room);
        self.values.observe(number, value);
        true
    }

    /// The series for a key: its own, or where there is no room for a new one that of `_other_`.
    fn number_of(&mut self, key: &[u8], room: &mut Room) -> usize {
        if let Some(known) = self.series.find(key) {
            return known;
        }
        if self.counted < self.plan.max_series && room.0 > 0 {
            self.counted += 1;
            room.0 -= 1;
            self.values.add_series();
            return self.series.add(key);
        }
        self.overflow += 1;
        self.series.find(&self.other).unwrap_or_else(|| {
            self.values.add_series();
            self.series.add(&self.other)
        })
    }

    fn family(&self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.plan.name.clone());
        family.set_help(self.plan.help.clone());
        family.set_field_type(match self.values {
            Values::Counter(_) => MetricType::COUNTER,
            Values::Gauge(_) => MetricType::GAUGE,
            Values::Histogram(_) => MetricType::HISTOGRAM,
        });
        family.set_metric((0..self.series.len()).map(|number| self.snapshot(number)).collect());
        family
    }

    fn snapshot(&self, number: usize) -> proto::Metric {
        let pairs = self.plan.labels.iter().zip(self.series.labels(number)).map(|(label, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(label.name.clone());
            pair.set_value(value.to_owned());
            pair
        });
        let mut metric = proto::Metric::default();
        metric.set_label(pairs.collect());
        match &self.values {
            Values::Counter(counter) => counter.fill(number, &mut metric),
            Values::Gauge(gauge) => gauge.fill(number, &mut metric),
            Values::Histogram(histogram) => histogram.fill(number, &mut metric),
        }
        metric
    }
}

impl Values {
    fn add_series(&mut self) {
        match self {
            Self::Counter(counter) => counter.add_series(),
            Self::Gauge(gauge) => gauge.add_series(),
            Self::Histogram(histogram) => histogram.add_series(),
        }
    }

    fn accepts(&self, value: f64) -> bool {
        match self {
            Self::Counter(_) => Counter::accepts(value),
            Self::Gauge(_) => Gauge::accepts(value),
            Self::Histogram(_) => Histogram::accepts(value),
        }
    }

    fn observe(&mut self, series: usize, value: f64) {
        match self {
            Self::Counter(counter) => counter.observe(series, value),
            Self::Gauge(gauge) => gauge.observe(series, value),
            Self::Histogram(histogram) => histogram.observe(series, value),
        }
    }
}
