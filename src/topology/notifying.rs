//! One task per receiver of alert events, each behind a bounded queue.

use crate::limits;
use crate::record::alert::AlertEvent;
use crate::sink::{Route, Sink, route};
use crate::telemetry::metrics::SelfMetrics;
use crate::time::Span;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Waits between two tries of a delivery: doubled from the first to the last.
const FIRST_WAIT: Span = Span::from_secs(1);
const LAST_WAIT: Span = Span::from_secs(30);

/// The flow's end of all receivers' queues.
#[derive(Debug)]
pub(super) struct Notifying {
    names: Vec<String>,
    routes: Vec<Route>,
    queues: Vec<mpsc::Sender<AlertEvent>>,
    tasks: Vec<JoinHandle<u64>>,
    /// Nobody waits any longer: what fails now is given up.
    closing: CancellationToken,
}

impl Notifying {
    pub(super) fn spawn(
        pipeline: &str,
        receivers: Vec<(String, Box<dyn Sink>)>,
        routes: Vec<Route>,
        telemetry: &SelfMetrics,
        stop: &CancellationToken,
    ) -> Self {
        let closing = stop.child_token();
        let (names, queues, tasks) = (Vec::new(), Vec::new(), Vec::new());
        let mut notifying = Self { names, routes, queues, tasks, closing };
        for (name, sink) in receivers {
            let (queue, events) = mpsc::channel(limits::ALERT_QUEUE);
            let receiver = Receiver {
                pipeline: pipeline.to_owned(),
                name: name.clone(),
                sink,
                telemetry: telemetry.clone(),
                closing: notifying.closing.clone(),
            };
            notifying.tasks.push(tokio::spawn(receiver.serve(events)));
            notifying.names.push(name);
            notifying.queues.push(queue);
        }
        notifying
    }

    /// Queues events for the receivers that the routes name, waiting where a queue is full.
    pub(super) async fn send(&self, events: &[AlertEvent]) {
        for event in events {
            for index in route(&self.routes, &self.names, event) {
                // A receiver's task ends only after its queue.
                let _ = self.queues[index].send(event.clone()).await;
            }
        }
    }

    /// Waits until every receiver has what was queued for it, or has given up. Returns how many events were given up.
    pub(super) async fn end(self) -> u64 {
        drop(self.queues);
        self.closing.cancel();
        let mut lost = 0;
        for task in self.tasks {
            lost += task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        }
        lost
    }
}

struct Receiver {
    pipeline: String,
    name: String,
    sink: Box<dyn Sink>,
    telemetry: SelfMetrics,
    closing: CancellationToken,
}

impl Receiver {
    async fn serve(mut self, mut events: mpsc::Receiver<AlertEvent>) -> u64 {
        let mut lost = 0;
        let mut waiting = Vec::new();
        while events.recv_many(&mut waiting, limits::ALERT_QUEUE).await > 0 {
            if !self.deliver(&waiting).await {
                lost += waiting.len() as u64;
                self.count("failed", waiting.len());
                tracing::error!(receiver = self.name, events = waiting.len(), "alert events not delivered");
            }
            waiting.clear();
        }
        lost
    }

    /// Tries until it works. Gives up when trying again can't help, or when the pipeline is told to stop or ends: it
    /// would wait at a full queue for a receiver that doesn't come back, and store nothing meanwhile.
    async fn deliver(&mut self, waiting: &[AlertEvent]) -> bool {
        let mut wait = FIRST_WAIT;
        loop {
            match self.sink.deliver(waiting).await {
                Ok(()) => {
                    self.count("delivered", waiting.len());
                    return true;
                }
                Err(error) => {
                    let give_up = !error.is_retryable() || self.closing.is_cancelled();
                    tracing::warn!(receiver = self.name, %error, give_up, "delivery failed");
                    if give_up {
                        return false;
                    }
                }
            }
            // Running out of time is what the wait is for; woken by the end, it tries once more.
            let _ = tokio::time::timeout(wait.to_std(), self.closing.cancelled()).await;
            wait = Span::from_micros((wait.micros() * 2).min(LAST_WAIT.micros()));
        }
    }

    fn count(&self, outcome: &str, events: usize) {
        let labels = [self.pipeline.as_str(), self.name.as_str(), outcome];
        self.telemetry.notify.with_label_values(&labels).inc_by(events as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::alert::AlertStatus;
    use crate::sink::SinkError;
    use crate::time::EventTime;
    use futures::future::BoxFuture;
    use std::collections::BTreeMap;
    use std::io;

    /// A receiver whose disk is full and stays so.
    #[derive(Debug)]
    struct Full;

    impl Sink for Full {
        fn deliver<'a>(&'a mut self, _: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
            Box::pin(async { Err(SinkError::Stdout { cause: io::ErrorKind::StorageFull.into() }) })
        }
    }

    fn event() -> AlertEvent {
        let time = EventTime::from_micros(0);
        AlertEvent {
            id: "a".to_owned(),
            pipeline: "p".to_owned(),
            status: AlertStatus::Firing,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            values: BTreeMap::new(),
            window_start: time,
            window_end: time,
            starts_at: time,
            ends_at: None,
        }
    }

    #[tokio::test]
    async fn a_receiver_that_never_works_holds_up_neither_a_stop_nor_the_end() {
        let stop = CancellationToken::new();
        let receivers: Vec<(String, Box<dyn Sink>)> = vec![("ops".to_owned(), Box::new(Full))];
        let notifying = Notifying::spawn("p", receivers, Vec::new(), &SelfMetrics::new(), &stop);
        let events = vec![event(); 3 * limits::ALERT_QUEUE];
        let sending = notifying.send(&events);
        let stopping = async { stop.cancel() };
        tokio::join!(sending, stopping);
        assert_eq!(notifying.end().await, events.len() as u64, "all are counted as not delivered");
    }
}
