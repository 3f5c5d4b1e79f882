//! `type: generate`: the built-in log generator as a source, for demonstrations and trials.
//!
//! Lines are those of [`Traffic`], stamped from the moment at which the source starts, and come in small batches at the
//! asked rate. After a stall the backlog comes at up to ten times the rate, no faster. A later run's lines are others,
//! so it never resumes.

use super::traffic::Traffic;
use super::{Closed, Feed, GenerateConfig, Outlet, PartitionName, Source, SourceError};
use crate::limits::{BATCH_BYTES, BATCH_RECORDS};
use crate::record::raw::{PartitionId, Positions, RawBatch};
use crate::time::Span;
use crate::time::clock::Clock;
use futures::future::BoxFuture;
use std::sync::Arc;

/// How often lines are handed on.
const TICK: Span = Span::from_micros(50_000);

/// How many times the asked rate a backlog may come at.
const CATCH_UP: u128 = 10;

#[derive(Debug)]
pub(super) struct Generate {
    source: Arc<str>,
    rate: u64,
    seed: u64,
    incident: bool,
    events: Option<u64>,
    clock: Arc<dyn Clock>,
}

impl Generate {
    pub(super) fn new(config: &GenerateConfig, source: &str, clock: Arc<dyn Clock>) -> Self {
        Self {
            source: source.into(),
            rate: config.rate.get(),
            seed: config.seed,
            incident: config.incident,
            events: config.events.map(std::num::NonZeroU64::get),
            clock,
        }
    }

    async fn generate(&self, id: PartitionId, outlet: &Outlet) -> Result<(), Closed> {
        let mut traffic = Traffic::new(self.seed, self.clock.now(), self.rate, self.incident);
        let started = self.clock.monotonic();
        let mut last = Span::ZERO;
        let mut sent = 0;
        while self.events.is_none_or(|events| sent < events) {
            tokio::select! {
                () = outlet.until_stopped() => return Ok(()),
                () = tokio::time::sleep(TICK.to_std()) => {}
            }
            let elapsed = self.clock.monotonic().since(started);
            let target = due(self.rate, elapsed, last, sent).min(self.events.unwrap_or(u64::MAX));
            last = elapsed;
            while sent < target {
                let batch = batch(&mut traffic, id, sent, target, self.clock.as_ref());
                sent = batch.end;
                outlet.send(Feed::Batch(batch)).await?;
                if outlet.stopped() {
                    return Ok(());
                }
            }
        }
        outlet.send(Feed::Ended(id)).await
    }
}

/// How many lines there should be `elapsed` after the start, `sent` of them having been sent up to `last`.
fn due(rate: u64, elapsed: Span, last: Span, sent: u64) -> u64 {
    let lines = |span: Span, factor: u128| {
        let lines = span.micros().max(0) as u128 * u128::from(rate) * factor / 1_000_000;
        u64::try_from(lines).unwrap_or(u64::MAX)
    };
    // After a stall the time since `last` is long, too; the backlog is spread over ticks all the same.
    let since = Span::from_micros((elapsed.micros() - last.micros()).min(TICK.micros()));
    lines(elapsed, 1).min(sent.saturating_add(lines(since, CATCH_UP).max(1)))
}

/// Lines number `sent` up to `target`, or as many as fit.
fn batch(traffic: &mut Traffic, partition: PartitionId, sent: u64, target: u64, clock: &dyn Clock) -> RawBatch {
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    let mut end = sent;
    while end < target && records.len() < BATCH_RECORDS && bytes.len() < BATCH_BYTES {
        let start = bytes.len() as u32;
        traffic.next_line(&mut bytes);
        records.push(start..bytes.len() as u32 - 1);
        end += 1;
    }
    let arrival = clock.now();
    RawBatch {
        partition,
        bytes,
        records,
        positions: Positions::Sequence { first: sent },
        end,
        broker_time: None,
        arrival,
    }
}

impl Source for Generate {
    fn partitions(&self) -> Vec<PartitionName> {
        vec![PartitionName {
            source: Arc::clone(&self.source),
            partition: "generate".to_owned(),
            identity: String::new(),
        }]
    }

    fn finite(&self) -> bool {
        self.events.is_some()
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        assert_eq!(ids.len(), 1, "the generator is one partition");
        Box::pin(async move {
            // A closed pipeline stops the generator as a stop does.
            let _ = self.generate(ids[0], &outlet).await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_the_rate_and_a_backlog_at_ten_times_the_rate() {
        let ms = |ms: i64| Span::from_micros(ms * 1_000);
        assert_eq!(due(1_000, ms(50), Span::ZERO, 0), 50);
        assert_eq!(due(1_000, ms(100), ms(50), 50), 100);
        assert_eq!(due(1_000, ms(60_000), ms(100), 100), 600, "a minute's stall");
        assert_eq!(due(1, ms(1_050), ms(1_000), 1), 1);
        assert_eq!(due(1, ms(2_000), ms(1_950), 1), 2, "slow rates are reached, too");
        assert_eq!(due(u64::MAX, ms(i64::MAX / 1_000), Span::ZERO, 0), u64::MAX / 2);
    }

    #[test]
    fn it_ends_after_the_asked_lines() {
        let config = GenerateConfig {
            rate: 1_000_000.try_into().unwrap(),
            seed: 1,
            incident: true,
            events: 30_000.try_into().ok(),
        };
        let source = Generate::new(&config, "demo", crate::source::testing::clock());
        assert!(source.finite());
        let (feeds, result) = crate::source::testing::drive(Box::new(source));
        result.unwrap();
        let mut next = 0;
        for feed in &feeds[1..feeds.len() - 1] {
            let Feed::Batch(batch) = feed else { panic!("only batches") };
            assert_eq!(batch.position(0), next);
            next += batch.records.len() as u64;
            assert_eq!(batch.end, next);
            assert!((0..batch.records.len()).all(|i| batch.record(i).ends_with(b"}")));
        }
        assert_eq!(next, 30_000);
        assert!(matches!(feeds.last(), Some(Feed::Ended(_))));
    }
}
