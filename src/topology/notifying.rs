//! One task per receiver of alert events, each behind a bounded queue.

use super::books::Outgoing;
use crate::limits;
use crate::record::alert::AlertEvent;
use crate::sink::{Route, Sink, route};
use crate::telemetry::metrics::SelfMetrics;
use crate::time::Span;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// What comes after this finds no room in a full queue and is put aside.
    stop: CancellationToken,
    /// Receiver and event of those that found a full queue after the stop. As many as come of what the sources had handed
    /// on by then.
    postponed: Vec<(usize, AlertEvent)>,
    delivered: Delivered,
}

/// Receiver and id of events that need not be sent again. All clones are one.
type Delivered = Arc<Mutex<Vec<(usize, String)>>>;

fn lock(delivered: &Delivered) -> MutexGuard<'_, Vec<(usize, String)>> {
    delivered.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Notifying {
    pub(super) fn spawn(
        pipeline: &str,
        receivers: Vec<(String, Box<dyn Sink>)>,
        routes: Vec<Route>,
        telemetry: &SelfMetrics,
        stop: CancellationToken,
    ) -> Self {
        let closing = stop.child_token();
        let (names, queues, tasks, postponed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let delivered = Delivered::default();
        let mut notifying = Self { names, routes, queues, tasks, closing, stop, postponed, delivered };
        for (index, (name, sink)) in receivers.into_iter().enumerate() {
            let (queue, events) = mpsc::channel(limits::ALERT_QUEUE);
            let receiver = Receiver {
                pipeline: pipeline.to_owned(),
                name: name.clone(),
                sink,
                telemetry: telemetry.clone(),
                closing: notifying.closing.clone(),
                index,
                delivered: Arc::clone(&notifying.delivered),
            };
            notifying.tasks.push(tokio::spawn(receiver.serve(events)));
            notifying.names.push(name);
            notifying.queues.push(queue);
        }
        notifying
    }

    /// Finds who is to have which event.
    pub(super) fn route(&self, events: &[AlertEvent]) -> Vec<Outgoing> {
        let to = |event: &AlertEvent| route(&self.routes, &self.names, event);
        events.iter().map(|event| Outgoing { to: to(event), event: event.clone() }).collect()
    }

    /// What receivers have taken since the last call, or will never take: receiver and id of the event.
    pub(super) fn take_delivered(&self) -> Vec<(usize, String)> {
        std::mem::take(&mut *lock(&self.delivered))
    }

    /// Queues events for their receivers, waiting where a queue is full. Told to stop, it doesn't wait:
    /// a receiver that is stuck must not keep what was read from being stored. Its events wait for [`Self::end`].
    pub(super) async fn send(&mut self, events: &[Outgoing]) {
        for Outgoing { event, to } in events {
            for index in to.iter().copied() {
                // In order: behind a postponed event, all are.
                let behind = self.postponed.iter().any(|(receiver, _)| *receiver == index);
                let queued = !behind
                    && tokio::select! {
                        biased;
                        // A receiver's task ends only after its queue.
                        _ = self.queues[index].send(event.clone()) => true,
                        () = self.stop.cancelled() => false,
                    };
                if !queued {
                    self.postponed.push((index, event.clone()));
                }
            }
        }
    }

    /// Waits until every receiver has what was queued for it, or has given up. Returns how many events were not delivered, and
    /// what [`Self::take_delivered`] gives.
    pub(super) async fn end(&mut self) -> (u64, Vec<(usize, String)>) {
        for (index, event) in std::mem::take(&mut self.postponed) {
            // As above.
            let _ = self.queues[index].send(event).await;
        }
        self.queues.clear();
        self.closing.cancel();
        let mut lost = 0;
        for task in self.tasks.drain(..) {
            lost += task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        }
        let delivered = std::mem::take(&mut *lock(&self.delivered));
        (lost, delivered)
    }
}

struct Receiver {
    pipeline: String,
    name: String,
    sink: Box<dyn Sink>,
    telemetry: SelfMetrics,
    closing: CancellationToken,
    /// Its place among the receivers.
    index: usize,
    delivered: Delivered,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Delivered,
    /// Trying again cannot help.
    Refused,
    /// Nobody waits any longer; the next run tries again.
    GivenUp,
}

impl Receiver {
    async fn serve(mut self, mut events: mpsc::Receiver<AlertEvent>) -> u64 {
        let mut lost = 0;
        let mut waiting = Vec::new();
        while events.recv_many(&mut waiting, limits::ALERT_QUEUE).await > 0 {
            let outcome = self.deliver(&waiting).await;
            if outcome != Outcome::GivenUp {
                lock(&self.delivered).extend(waiting.iter().map(|event| (self.index, event.id.clone())));
            }
            if outcome != Outcome::Delivered {
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
    async fn deliver(&mut self, waiting: &[AlertEvent]) -> Outcome {
        let mut wait = FIRST_WAIT;
        loop {
            match self.sink.deliver(waiting).await {
                Ok(()) => {
                    self.count("delivered", waiting.len());
                    return Outcome::Delivered;
                }
                Err(error) => {
                    let give_up = !error.is_retryable() || self.closing.is_cancelled();
                    tracing::warn!(receiver = self.name, %error, give_up, "delivery failed");
                    if give_up {
                        return if error.is_retryable() { Outcome::GivenUp } else { Outcome::Refused };
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
    use tokio::sync::Semaphore;

    /// Takes what comes once it is let through.
    #[derive(Debug)]
    struct Stuck {
        gate: Arc<Semaphore>,
        taken: Arc<Mutex<Vec<String>>>,
    }

    impl Sink for Stuck {
        fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
            Box::pin(async move {
                let _open = self.gate.acquire().await.unwrap();
                self.taken.lock().unwrap().extend(events.iter().map(|event| event.id.clone()));
                Ok(())
            })
        }
    }

    /// A receiver whose disk is full and stays so.
    #[derive(Debug)]
    struct Full;

    impl Sink for Full {
        fn deliver<'a>(&'a mut self, _: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
            Box::pin(async { Err(SinkError::Stdout { cause: io::ErrorKind::StorageFull.into() }) })
        }
    }

    fn event(number: usize) -> AlertEvent {
        AlertEvent {
            id: number.to_string(),
            pipeline: "p".to_owned(),
            status: AlertStatus::Firing,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            values: BTreeMap::new(),
            window_start: EventTime::from_micros(0),
            window_end: EventTime::from_micros(1),
            starts_at: EventTime::from_micros(1),
            ends_at: None,
        }
    }

    #[tokio::test]
    async fn a_receiver_that_never_works_holds_up_neither_a_stop_nor_the_end() {
        let stop = CancellationToken::new();
        let receivers: Vec<(String, Box<dyn Sink>)> = vec![("ops".to_owned(), Box::new(Full))];
        let mut notifying = Notifying::spawn("p", receivers, Vec::new(), &SelfMetrics::new(), stop.clone());
        let events = vec![Outgoing { event: event(0), to: vec![0] }; 3 * limits::ALERT_QUEUE];
        let sending = notifying.send(&events);
        let stopping = async { stop.cancel() };
        tokio::join!(sending, stopping);
        assert_eq!(notifying.end().await.0, events.len() as u64, "all are counted as not delivered");
    }

    #[tokio::test]
    async fn told_to_stop_nothing_waits_for_a_stuck_receiver_and_nothing_is_lost() {
        let (gate, taken) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let sink: Box<dyn Sink> = Box::new(Stuck { gate: Arc::clone(&gate), taken: Arc::clone(&taken) });
        let stop = CancellationToken::new();
        let receivers = vec![("r".to_owned(), sink)];
        let mut notifying = Notifying::spawn("p", receivers, Vec::new(), &SelfMetrics::new(), stop.clone());
        stop.cancel();
        let outgoing = |number| Outgoing { event: event(number), to: vec![0] };
        let events: Vec<Outgoing> = (0..3 * limits::ALERT_QUEUE).map(outgoing).collect();
        // Without a stop, this would wait for ever.
        notifying.send(&events).await;
        assert!(taken.lock().unwrap().is_empty());
        gate.add_permits(1);
        let (lost, delivered) = notifying.end().await;
        let expected: Vec<String> = events.into_iter().map(|outgoing| outgoing.event.id).collect();
        assert_eq!((lost, delivered), (0, expected.iter().map(|id| (0, id.clone())).collect()));
        assert_eq!(*taken.lock().unwrap(), expected, "all, in order");
    }
}
