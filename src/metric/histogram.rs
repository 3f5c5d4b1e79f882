//! Histograms with fixed buckets, as Prometheus has them: a value belongs to the first bucket whose bound is not less.

use prometheus::proto;

/// The buckets and sums of a histogram's series.
#[derive(Debug)]
pub(super) struct Histogram {
    /// Upper bounds, inclusive, ascending, finite.
    bounds: Vec<f64>,
    /// Per series one count a bound and one for what is above them all; not cumulative.
    counts: Vec<u64>,
    sums: Vec<f64>,
}

impl Histogram {
    pub(super) fn new(bounds: Vec<f64>) -> Self {
        Self { bounds, counts: Vec::new(), sums: Vec::new() }
    }

    pub(super) fn add_series(&mut self) {
        self.counts.resize(self.counts.len() + self.bounds.len() + 1, 0);
        self.sums.push(0.0);
    }

    /// Whether `value` can be observed: an infinity would spoil the sum for ever.
    pub(super) fn accepts(value: f64) -> bool {
        value.is_finite()
    }

    pub(super) fn observe(&mut self, series: usize, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[series * (self.bounds.len() + 1) + bucket] += 1;
        self.sums[series] += value;
    }

    pub(super) fn fill(&self, series: usize, metric: &mut proto::Metric) {
        let width = self.bounds.len() + 1;
        let counts = &self.counts[series * width..(series + 1) * width];
        let mut cumulative = 0;
        let buckets = self.bounds.iter().zip(counts).map(|(bound, count)| {
            cumulative += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(self.sums[series]);
        metric.set_histogram(histogram);
    }
}
