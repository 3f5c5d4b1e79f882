//! Counters: sums that never go down.

use prometheus::proto;

/// The sums of a counter's series. 64-bit floats, as Prometheus has them: whole numbers are exact up to 2⁵³.
#[derive(Debug, Default)]
pub(super) struct Counter {
    sums: Vec<f64>,
}

impl Counter {
    pub(super) fn add_series(&mut self) {
        self.sums.push(0.0);
    }

    /// Whether `value` can be added: a counter neither goes down nor ends at infinity.
    pub(super) fn accepts(value: f64) -> bool {
        value.is_finite() && value >= 0.0
    }

    pub(super) fn observe(&mut self, series: usize, value: f64) {
        self.sums[series] += value;
    }

    pub(super) fn fill(&self, series: usize, metric: &mut proto::Metric) {
        let mut counter = proto::Counter::default();
        counter.set_value(self.sums[series]);
        metric.set_counter(counter);
    }
}
