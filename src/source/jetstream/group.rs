//! Who of several daemons reads which subjects of a stream.
//!
//! NATS has no groups that give partitions to members. So the daemons tell each other, by plain messages on
//! `headrig.group.STREAM.DURABLE`, that they are there and what they read: once a second, and at each change. Who reads
//! more than its share (subjects by daemons, rounded up) gives some away, who reads less takes what nobody reads, and who was silent
//! for [`limits::JETSTREAM_SESSION`] isn't there. Nothing is kept anywhere, and nothing depends on it that all see the same: of
//! two that take one partition the archive's claim stops one. What is decided here is only who tries.

use super::lane::Stream;
use super::session::Session;
use crate::limits;
use crate::source::Outlet;
use crate::source::nats::{Connection, NatsError, Taken};
use crate::time::Span;
use crate::time::clock::Monotonic;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a daemon tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Word {
    daemon: String,
    reads: BTreeSet<String>,
    /// It ends, and reads nothing any more.
    #[serde(default)]
    leaves: bool,
}

/// What the others read, by daemon; `None` while that isn't known: at first, and without a connection.
pub(super) type Others = Option<BTreeMap<String, BTreeSet<String>>>;

#[derive(Debug)]
pub(super) struct Group {
    stream: Arc<Stream>,
    subject: String,
    /// This daemon.
    daemon: String,
}

/// The group while it is listened to.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) daemon: String,
    pub(super) others: watch::Receiver<Others>,
    /// What this daemon reads, or is about to read.
    pub(super) reads: watch::Sender<BTreeSet<String>>,
    leave: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Membership {
    /// Tells the others that this daemon reads nothing any more.
    pub(super) async fn leave(self) {
        self.leave.cancel();
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

impl Group {
    pub(super) fn new(stream: &Arc<Stream>, durable: &str, daemon: &str) -> Self {
        let subject = format!("headrig.group.{}.{durable}", stream.name);
        Self { stream: Arc::clone(stream), subject, daemon: daemon.to_owned() }
    }

    /// Whether the server lets us talk to the others.
    pub(super) async fn probe(&self, session: Session) -> Result<(), NatsError> {
        let mut connection = session.connection;
        connection.subscribe(&self.subject, None, 2);
        connection.unsubscribe(2);
        // Nobody takes it for a word.
        connection.publish(&self.subject, None, &[], b"{}");
        connection.ping();
        let silent = |_| Err(NatsError::Silent { address: self.stream.server.address() });
        tokio::time::timeout(limits::NATS_SILENCE.to_std(), connection.until_pong()).await.unwrap_or_else(silent)
    }

    /// Listens and tells, until it leaves.
    pub(super) fn join(self, outlet: &Outlet) -> Membership {
        let (told, others) = watch::channel(None);
        let (reads, ours) = watch::channel(BTreeSet::new());
        let leave = CancellationToken::new();
        let daemon = self.daemon.clone();
        let (stop, outlet) = (leave.clone(), outlet.clone());
        let task = tokio::spawn(async move { self.talk(&told, ours, &stop, &outlet).await });
        Membership { daemon, others, reads, leave, task }
    }

    async fn talk(
        self,
        told: &watch::Sender<Others>,
        mut ours: watch::Receiver<BTreeSet<String>>,
        leave: &CancellationToken,
        outlet: &Outlet,
    ) {
        let [least, most] = limits::NATS_BACKOFF;
        let mut pause = least;
        loop {
            let error = match self.stream.server.connect(&self.stream.client).await {
                Ok(connection) => {
                    pause = least;
                    match self.converse(connection, told, &mut ours, leave, outlet).await {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            // What the others do now isn't known.
            told.send_replace(None);
            tracing::debug!(source = self.stream.labels[1], %error, "cannot talk to the other daemons, connecting again");
            tokio::select! {
                () = leave.cancelled() => return,
                () = tokio::time::sleep(pause.to_std()) => {}
            }
            pause = Span::from_micros(pause.micros() * 2).min(most);
        }
    }

    /// Over one connection; ends well when this daemon leaves.
    async fn converse(
        &self,
        mut connection: Connection,
        told: &watch::Sender<Others>,
        ours: &mut watch::Receiver<BTreeSet<String>>,
        leave: &CancellationToken,
        outlet: &Outlet,
    ) -> Result<(), NatsError> {
        let clock = outlet.clock();
        let started = clock.monotonic();
        connection.subscribe(&self.subject, None, 1);
        let mut heard = Heard::default();
        let mut ticks = tokio::time::interval(limits::JETSTREAM_TELL.to_std());
        let mut answered = started;
        loop {
            tokio::select! {
                () = leave.cancelled() => {
                    self.say(&mut connection, BTreeSet::new(), true);
                    return connection.flush().await;
                }
                _ = ticks.tick() => {
                    let now = clock.monotonic();
                    if now.since(answered) >= limits::NATS_SILENCE {
                        return Err(NatsError::Silent { address: connection.address().to_owned() });
                    }
                    connection.ping();
                }
                changed = ours.changed() => if changed.is_err() {
                    return Ok(());
                },
                filled = connection.fill() => {
                    filled?;
                    answered = clock.monotonic();
                    while let Some(word) = next_word(&mut connection)? {
                        if let Some(word) = word.filter(|word| word.daemon != self.daemon) {
                            heard.take(word, answered);
                        }
                    }
                    connection.flush().await?;
                    self.tell(told, &mut heard, started, clock.monotonic());
                    continue;
                }
            }
            let reads = ours.borrow_and_update().clone();
            self.say(&mut connection, reads, false);
            connection.flush().await?;
            self.tell(told, &mut heard, started, clock.monotonic());
        }
    }

    fn say(&self, connection: &mut Connection, reads: BTreeSet<String>, leaves: bool) {
        let word = Word { daemon: self.daemon.clone(), reads, leaves };
        if let Ok(text) = serde_json::to_vec(&word) {
            connection.publish(&self.subject, None, &[], &text);
        }
    }

    fn tell(&self, told: &watch::Sender<Others>, heard: &mut Heard, started: Monotonic, now: Monotonic) {
        if now.since(started) < limits::JETSTREAM_LISTEN {
            return;
        }
        let others = Some(heard.others(now));
        told.send_if_modified(|known| {
            let changed = *known != others;
            if changed {
                tracing::debug!(source = self.stream.labels[1], ?others, "what other daemons read");
                *known = others;
            }
            changed
        });
    }
}

/// The next message; `Some(None)` for anything else, `None` when all was taken.
fn next_word(connection: &mut Connection) -> Result<Option<Option<Word>>, NatsError> {
    Ok(match connection.take()? {
        Taken::Nothing => None,
        Taken::Message(message) => Some(serde_json::from_slice(message.payload).ok()),
        _ => Some(None),
    })
}

/// The newest words of the others.
#[derive(Debug, Default)]
struct Heard(BTreeMap<String, (Monotonic, BTreeSet<String>)>);

impl Heard {
    fn take(&mut self, word: Word, now: Monotonic) {
        if word.leaves {
            self.0.remove(&word.daemon);
        } else {
            self.0.insert(word.daemon, (now, word.reads));
        }
    }

    fn others(&mut self, now: Monotonic) -> BTreeMap<String, BTreeSet<String>> {
        self.0.retain(|_, (at, _)| now.since(*at) < limits::JETSTREAM_SESSION);
        self.0.iter().map(|(daemon, (_, reads))| (daemon.clone(), reads.clone())).collect()
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Take(Vec<String>),
    GiveAway(Vec<String>),
}

/// Decides for `daemon`, which reads `own`, what to do about `all` subjects.
pub(super) fn next_step(
    daemon: &str,
    own: &BTreeSet<String>,
    all: &BTreeSet<String>,
    others: &BTreeMap<String, BTreeSet<String>>,
) -> Step {
    // Of two that read the same, who comes first keeps it.
    let doubled: Vec<String> = own
        .iter()
        .filter(|subject| others.range(..daemon.to_owned()).any(|(_, reads)| reads.contains(*subject)))
        .cloned()
        .collect();
    if !doubled.is_empty() {
        return Step::GiveAway(doubled);
    }
    let share = all.len().div_ceil(others.len() + 1);
    if own.len() > share {
        return Step::GiveAway(own.iter().skip(share).cloned().collect());
    }
    let is_read = |subject: &&String| own.contains(*subject) || others.values().any(|reads| reads.contains(*subject));
    let mut loads: BTreeMap<&str, usize> =
        others.iter().map(|(daemon, reads)| (daemon.as_str(), reads.len())).collect();
    loads.insert(daemon, own.len());
    let mut taken = Vec::new();
    // All that see the same decide the same: who reads least takes the next one.
    for subject in all.iter().filter(|subject| !is_read(subject)) {
        let Some((least, load)) = loads.iter_mut().min_by_key(|(daemon, load)| (**load, **daemon)) else { break };
        *load += 1;
        if *least == daemon {
            taken.push(subject.clone());
        }
    }
    if taken.is_empty() { Step::Nothing } else { Step::Take(taken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Lets all daemons decide again and again; returns who reads what once nobody wants to change anything.
    fn settle(all: &str, mut daemons: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
        let all = set(all);
        for _ in 0..20 {
            let before = daemons.clone();
            for daemon in before.keys() {
                // Each sees what was before, as all decide at once.
                let mut others = before.clone();
                let own = others.remove(daemon).unwrap();
                let reads = daemons.get_mut(daemon).unwrap();
                match next_step(daemon, &own, &all, &others) {
                    Step::Nothing => {}
                    Step::Take(subjects) => reads.extend(subjects),
                    Step::GiveAway(subjects) => subjects.iter().for_each(|subject| assert!(reads.remove(subject))),
                }
            }
            if daemons == before {
                break;
            }
        }
        daemons
    }

    #[track_caller]
    fn check(all: &str, daemons: &[(&str, &str)], loads: &[usize]) {
        let daemons = daemons.iter().map(|(name, reads)| ((*name).to_owned(), set(reads))).collect();
        let settled = settle(all, daemons);
        let mut read: Vec<&String> = settled.values().flatten().collect();
        read.sort();
        assert_eq!(read, set(all).iter().collect::<Vec<_>>(), "each is read once: {settled:?}");
        let mut found: Vec<usize> = settled.values().map(BTreeSet::len).collect();
        found.sort_unstable();
        assert_eq!(found, loads);
    }

    #[test]
    fn each_subject_is_read_once_and_nobody_reads_more_than_its_share() {
        check("a b c d e f", &[("x", "")], &[6]);
        check("a b c d e f", &[("x", ""), ("y", "")], &[3, 3]);
        check("a b c d e f", &[("x", "a b c d e f"), ("y", "")], &[3, 3]);
        check("a b c d e f", &[("x", "a b c"), ("y", "d e f"), ("z", "")], &[2, 2, 2]);
        check("a b c d e f", &[("x", "a b"), ("z", "e f")], &[3, 3]);
        check("a b", &[("x", "a"), ("y", "b"), ("z", "")], &[0, 1, 1]);
        // Two took the same.
        check("a b c", &[("x", "a b"), ("y", "b c")], &[1, 2]);
        check("a", &[("x", "a"), ("y", "a"), ("z", "a")], &[0, 0, 1]);
    }

    #[test]
    fn who_is_settled_moves_nothing() {
        let others = BTreeMap::from([("y".to_owned(), set("d e"))]);
        assert_eq!(next_step("x", &set("a b c"), &set("a b c d e"), &others), Step::Nothing);
    }

    #[test]
    fn who_is_silent_or_leaves_is_not_there() {
        let word = |daemon: &str, leaves| Word { daemon: daemon.to_owned(), reads: set("a"), leaves };
        let at = |seconds| Monotonic(Span::from_secs(seconds));
        let mut heard = Heard::default();
        heard.take(word("x", false), at(1));
        heard.take(word("y", false), at(5));
        assert_eq!(heard.others(at(6)).len(), 2);
        assert_eq!(heard.others(at(12)).into_keys().collect::<Vec<_>>(), ["y"]);
        heard.take(word("y", true), at(13));
        assert!(heard.others(at(13)).is_empty());
    }
}
