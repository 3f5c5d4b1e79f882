//! One task per receiver of alert events, each behind a bounded queue.
//!
//! What comes is held for its group, or as there is a reason not to tell it ([`Holding`]). Until it is told it counts as not
//! delivered, so that the outbox keeps it and the next run goes on with it.

use super::Surroundings;
use super::books::Outgoing;
use crate::limits;
use crate::record::alert::AlertEvent;
use crate::sink::{Due, Holding, LOOK, Quiet, Route, Sink, SinkError, route};
use crate::telemetry::metrics::SelfMetrics;
use crate::time::Span;
use crate::time::clock::Clock;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Waits between two tries of a delivery: doubled from the first to the last, less up to a half by chance, so that receivers
/// that failed together don't come back together.
const FIRST_WAIT: Span = Span::from_secs(1);
const LAST_WAIT: Span = Span::from_secs(30);
/// Ids that an error names.
const SHOWN: usize = 10;

/// Who is told of what, and what of it not now.
#[derive(Debug, Clone, Default)]
pub(super) struct Notices {
    pub(super) routes: Vec<Route>,
    pub(super) quiet: Quiet,
}

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
        notices: &Notices,
        surroundings: &Surroundings,
        standing: &[Outgoing],
        stop: CancellationToken,
    ) -> Self {
        let closing = stop.child_token();
        let (names, queues, tasks, postponed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (delivered, routes) = (Delivered::default(), notices.routes.clone());
        let mut notifying = Self { names, routes, queues, tasks, closing, stop, postponed, delivered };
        for (index, (name, sink)) in receivers.into_iter().enumerate() {
            let (queue, events) = mpsc::channel(limits::ALERT_QUEUE);
            let clock = Arc::clone(&surroundings.clock);
            let mut holding = Holding::new(notices.routes.clone(), notices.quiet.clone(), sink.at_once());
            for Outgoing { event, .. } in standing.iter().filter(|outgoing| outgoing.to.contains(&index)) {
                holding.stand(event, clock.monotonic());
            }
            let receiver = Receiver {
                pipeline: pipeline.to_owned(),
                name: name.clone(),
                sink,
                holding,
                clock,
                telemetry: surroundings.telemetry.clone(),
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
    holding: Holding,
    clock: Arc<dyn Clock>,
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
        let mut came = Vec::new();
        let mut again = self.sink.repeats().map(|every| {
            let mut again = tokio::time::interval(every.to_std());
            again.set_missed_tick_behavior(MissedTickBehavior::Delay);
            again
        });
        loop {
            let due = async {
                match &mut again {
                    Some(again) => drop(again.tick().await),
                    None => std::future::pending().await,
                }
            };
            let busy = self.holding.is_busy();
            let look =
                async { if busy { tokio::time::sleep(LOOK.to_std()).await } else { std::future::pending().await } };
            tokio::select! {
                biased;
                () = due => self.repeat().await,
                number = events.recv_many(&mut came, limits::ALERT_QUEUE) => {
                    came.drain(..).for_each(|event| self.take(event));
                    lost += self.tell(number == 0).await;
                    if number == 0 {
                        self.leave();
                        return lost;
                    }
                }
                () = look => lost += self.tell(false).await,
            }
        }
    }

    /// Takes what came; of what will never be told, nobody waits for a delivery.
    fn take(&mut self, event: AlertEvent) {
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        let untold = self.holding.take(event, now, wall);
        self.count("muted", untold.len());
        lock(&self.delivered).extend(untold.into_iter().map(|event| (self.index, event.id)));
    }

    /// Tells what is due, all that waits for others when this is the `end`. Returns how many events were not delivered.
    async fn tell(&mut self, end: bool) -> u64 {
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        let (mut lost, mut outcome) = (0, Outcome::Delivered);
        for due in self.holding.due(now, wall, end) {
            let (events, together) = match due {
                Due::Changes(events) => (events, false),
                Due::Group(events) => (events, true),
                Due::Again(events) => {
                    self.say_again(&events).await;
                    continue;
                }
            };
            // Who gives up doesn't try each of those behind.
            lost += match outcome {
                Outcome::GivenUp => self.lose(&events),
                _ => {
                    let (missing, last) = self.work_off(&events, together).await;
                    outcome = last;
                    missing
                }
            };
        }
        lost
    }

    /// Nothing more comes. What is held then is the next run's.
    fn leave(&self) {
        let held = self.holding.held();
        if held > 0 {
            let receiver = &self.name;
            tracing::info!(receiver, held, "alert events are held back, and told by a later run if they fire then");
        }
    }

    /// Tells once more what goes on firing. What fails here is told with the next repetition.
    async fn say_again(&mut self, events: &[AlertEvent]) {
        let mut rest = events;
        while !rest.is_empty() {
            let (portion, behind) = rest.split_at(self.sink.portion(rest, true).clamp(1, rest.len()));
            match self.sink.deliver(portion).await {
                Ok(()) => self.count("repeated", portion.len()),
                Err(error) => {
                    tracing::warn!(receiver = self.name, %error, "cannot repeat alerts that are firing");
                    self.count("repeat_failed", portion.len());
                }
            }
            rest = behind;
        }
    }

    /// Says again what still holds. What fails here is said with the next repetition.
    async fn repeat(&mut self) {
        if let Err(error) = self.sink.repeat().await {
            tracing::warn!(receiver = self.name, %error, "cannot repeat alerts that are firing");
            self.count("repeat_failed", 1);
        }
    }

    /// Delivers all, portion by portion; returns how many were not delivered, and how the last delivery ended.
    async fn work_off(&mut self, waiting: &[AlertEvent], together: bool) -> (u64, Outcome) {
        let (mut lost, mut rest, mut outcome) = (0, waiting, Outcome::Delivered);
        while !rest.is_empty() {
            let (portion, behind) = rest.split_at(self.sink.portion(rest, together).clamp(1, rest.len()));
            outcome = self.deliver(portion).await;
            if outcome != Outcome::GivenUp {
                lock(&self.delivered).extend(portion.iter().map(|event| (self.index, event.id.clone())));
            }
            lost += match outcome {
                Outcome::Delivered => {
                    self.holding.told(portion);
                    0
                }
                Outcome::Refused => self.lose(portion),
                // Who gives up doesn't try each of those behind.
                Outcome::GivenUp => self.lose(rest),
            };
            rest = if outcome == Outcome::GivenUp { &[] } else { behind };
        }
        (lost, outcome)
    }

    /// Counts and names events that were not delivered.
    fn lose(&self, events: &[AlertEvent]) -> u64 {
        self.count("failed", events.len());
        let ids: Vec<&str> = events.iter().take(SHOWN).map(|event| event.id.as_str()).collect();
        let (receiver, ids) = (&self.name, ids.join(" "));
        tracing::error!(receiver, events = events.len(), ids, "alert events not delivered");
        events.len() as u64
    }

    /// Tries until it works. Gives up when trying again can't help, when it has tried for as long as is of use, or when the pipeline
    /// is told to stop or ends: it would wait at a full queue for a receiver that doesn't come back, and store nothing meanwhile.
    async fn deliver(&mut self, portion: &[AlertEvent]) -> Outcome {
        let (mut wait, mut waited) = (FIRST_WAIT, 0);
        loop {
            let error = match self.sink.deliver(portion).await {
                Ok(()) => {
                    self.count("delivered", portion.len());
                    return Outcome::Delivered;
                }
                Err(error) => error,
            };
            let too_late = waited >= limits::DELIVERY_DEADLINE.micros();
            let give_up = !error.is_retryable() || too_late || self.closing.is_cancelled();
            tracing::warn!(receiver = self.name, %error, hint = error.hint(), give_up, "delivery failed");
            if give_up {
                return if error.is_retryable() && !too_late { Outcome::GivenUp } else { Outcome::Refused };
            }
            self.count("retried", portion.len());
            let pause = pause(wait, &error);
            // Running out of time is what the pause is for; woken by the end, it tries once more.
            let _ = tokio::time::timeout(pause.to_std(), self.closing.cancelled()).await;
            waited += pause.micros();
            wait = Span::from_micros((wait.micros() * 2).min(LAST_WAIT.micros()));
        }
    }

    fn count(&self, outcome: &str, events: usize) {
        let labels = [self.pipeline.as_str(), self.name.as_str(), outcome];
        self.telemetry.notify.with_label_values(&labels).inc_by(events as u64);
    }
}

/// As long as the receiver has asked for, or `wait` less up to a half.
fn pause(wait: Span, error: &SinkError) -> Span {
    // The standard library's hasher begins with keys that nobody knows: chance enough.
    let chance = (RandomState::new().hash_one(()) % 1_000) as i64;
    let shorter = Span::from_micros(wait.micros() - wait.micros() / 2 * chance / 1_000);
    error.retry_after().map_or(shorter, |asked| asked.max(shorter))
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

    fn spawn(receivers: Vec<(String, Box<dyn Sink>)>, telemetry: &SelfMetrics, stop: CancellationToken) -> Notifying {
        let surroundings = Surroundings {
            clock: Arc::new(crate::time::clock::SystemClock::start()),
            telemetry: telemetry.clone(),
            data_dir: std::path::PathBuf::new(),
            silences: Arc::default(),
        };
        Notifying::spawn("p", receivers, &Notices::default(), &surroundings, &[], stop)
    }

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
        let mut notifying = spawn(receivers, &SelfMetrics::new(), stop.clone());
        let events = vec![Outgoing { event: event(0), to: vec![0] }; 3 * limits::ALERT_QUEUE];
        let sending = notifying.send(&events);
        let stopping = async { stop.cancel() };
        tokio::join!(sending, stopping);
        assert_eq!(notifying.end().await.0, events.len() as u64, "all are counted as not delivered");
    }

    /// Takes one event at a time; the second is refused, and the third is taken when it comes again.
    #[derive(Debug, Default)]
    struct Choosy {
        seen: Arc<Mutex<Vec<String>>>,
    }

    impl Sink for Choosy {
        fn portion(&self, _: &[AlertEvent], _: bool) -> usize {
            1
        }

        fn deliver<'a>(&'a mut self, events: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
            Box::pin(async move {
                let id = events[0].id.clone();
                let mut seen = self.seen.lock().unwrap();
                let first = !seen.contains(&id);
                seen.push(id.clone());
                let answer = |status| SinkError::Answer { to: "x".into(), status, said: "".into(), retry_after: None };
                match id.as_str() {
                    "1" => Err(answer(400)),
                    "2" if first => Err(answer(503)),
                    _ => Ok(()),
                }
            })
        }
    }

    #[tokio::test]
    async fn one_that_is_refused_costs_no_other_and_none_is_sent_twice() {
        let sink = Choosy::default();
        let seen = Arc::clone(&sink.seen);
        let (telemetry, stop) = (SelfMetrics::new(), CancellationToken::new());
        let receivers: Vec<(String, Box<dyn Sink>)> = vec![("r".to_owned(), Box::new(sink))];
        let mut notifying = spawn(receivers, &telemetry, stop);
        let outgoing = |number| Outgoing { event: event(number), to: vec![0] };
        notifying.send(&(0..4).map(outgoing).collect::<Vec<_>>()).await;
        while seen.lock().unwrap().len() < 5 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(*seen.lock().unwrap(), ["0", "1", "2", "2", "3"]);
        let (lost, delivered) = notifying.end().await;
        let ids: Vec<&str> = delivered.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!((lost, ids), (1, vec!["0", "1", "2", "3"]), "what is refused is not tried by the next run either");
        let count = |outcome| telemetry.notify.with_label_values(&["p", "r", outcome]).get();
        assert_eq!((count("delivered"), count("failed"), count("retried")), (3, 1, 1));
    }

    #[tokio::test]
    async fn what_stands_is_repeated_while_nothing_comes() {
        #[derive(Debug)]
        struct Forgetful(Arc<Mutex<u32>>);
        impl Sink for Forgetful {
            fn deliver<'a>(&'a mut self, _: &'a [AlertEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
                Box::pin(async { Ok(()) })
            }
            fn repeats(&self) -> Option<Span> {
                Some(Span::from_micros(10_000))
            }
            fn repeat(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
                *self.0.lock().unwrap() += 1;
                Box::pin(async { Ok(()) })
            }
        }
        let repeated = Arc::new(Mutex::new(0));
        let receivers: Vec<(String, Box<dyn Sink>)> =
            vec![("r".to_owned(), Box::new(Forgetful(Arc::clone(&repeated))))];
        let mut notifying = spawn(receivers, &SelfMetrics::new(), CancellationToken::new());
        while *repeated.lock().unwrap() < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(notifying.end().await.0, 0);
    }

    #[tokio::test]
    async fn told_to_stop_nothing_waits_for_a_stuck_receiver_and_nothing_is_lost() {
        let (gate, taken) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let sink: Box<dyn Sink> = Box::new(Stuck { gate: Arc::clone(&gate), taken: Arc::clone(&taken) });
        let stop = CancellationToken::new();
        let receivers = vec![("r".to_owned(), sink)];
        let mut notifying = spawn(receivers, &SelfMetrics::new(), stop.clone());
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
