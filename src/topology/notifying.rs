//! One task per receiver of alert events, each behind a bounded queue.

use crate::limits;
use crate::record::alert::AlertEvent;
use crate::sink::{Route, Sink, route};
use crate::telemetry::metrics::SelfMetrics;
use crate::time::Span;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

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
}

impl Notifying {
    pub(super) fn spawn(
        pipeline: &str,
        receivers: Vec<(String, Box<dyn Sink>)>,
        routes: Vec<Route>,
        telemetry: &SelfMetrics,
    ) -> Self {
        let mut notifying = Self { names: Vec::new(), routes, queues: Vec::new(), tasks: Vec::new() };
        for (name, sink) in receivers {
            let (queue, events) = mpsc::channel(limits::ALERT_QUEUE);
            let receiver =
                Receiver { pipeline: pipeline.to_owned(), name: name.clone(), sink, telemetry: telemetry.clone() };
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
}

impl Receiver {
    async fn serve(mut self, mut events: mpsc::Receiver<AlertEvent>) -> u64 {
        let mut lost = 0;
        let mut waiting = Vec::new();
        while events.recv_many(&mut waiting, limits::ALERT_QUEUE).await > 0 {
            if !self.deliver(&waiting, &events).await {
                lost += waiting.len() as u64;
                self.count("failed", waiting.len());
                tracing::error!(receiver = self.name, events = waiting.len(), "alert events not delivered");
            }
            waiting.clear();
        }
        lost
    }

    /// Tries until it works. Gives up when trying again can't help, or when the pipeline ends meanwhile.
    async fn deliver(&mut self, waiting: &[AlertEvent], events: &mpsc::Receiver<AlertEvent>) -> bool {
        let mut wait = FIRST_WAIT;
        loop {
            match self.sink.deliver(waiting).await {
                Ok(()) => {
                    self.count("delivered", waiting.len());
                    return true;
                }
                Err(error) => {
                    let give_up = !error.is_retryable() || events.is_closed();
                    tracing::warn!(receiver = self.name, %error, give_up, "delivery failed");
                    if give_up {
                        return false;
                    }
                }
            }
            tokio::time::sleep(wait.to_std()).await;
            wait = Span::from_micros((wait.micros() * 2).min(LAST_WAIT.micros()));
        }
    }

    fn count(&self, outcome: &str, events: usize) {
        let labels = [self.pipeline.as_str(), self.name.as_str(), outcome];
        self.telemetry.notify.with_label_values(&labels).inc_by(events as u64);
    }
}
