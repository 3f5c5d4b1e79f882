//! Gauges: the last value, in the order of the input.

use prometheus::proto;

/// The last values of a gauge's series.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    last: Vec<f64>,
}

impl Gauge {
    pub(super) fn add_series(&mut self) {
        self.last.push(0.0);
    }

    pub(super) fn accepts(value: f64) -> bool {
        !value.is_nan()
    }

    pub(super) fn observe(&mut self, series: usize, value: f64) {
        self.last[series] = value;
    }

    pub(super) fn fill(&self, series: usize, metric: &mut proto::Metric) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(self.last[series]);
        metric.set_gauge(gauge);
    }
}
