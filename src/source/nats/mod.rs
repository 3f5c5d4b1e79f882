//! `type: nats`: messages of a core NATS server, such as Fly.io's log stream.
//!
//! Core NATS keeps nothing: what is sent while nobody listens is lost. So a message goes into the spool at once, and is
//! accepted when it is on disk there (`spooled`); from then on it is in the archive exactly once. One task reads from the
//! connection and hands to the spool; when the spool is behind, it doesn't read, and the server waits.
//!
//! While it runs, a lost connection is made again for ever, with a growing pause. The connection is also given up when the
//! server is silent although asked, and when no message has come for `stall` although it answers: subscriptions of Fly.io's
//! stream have been seen to be stuck. On a stream that is silent by nature that costs a new connection now and then, ever
//! more rarely. Each interruption is counted by kind, and with the first message after it the gap is measured and logged.
//!
//! - `wire`: the protocol, pure
//! - `address`: where servers are
//! - `auth`: who we are
//! - `connection`: one connection
//!
//! `jetstream` and `headrig generate` use the connection, too. (docs/decisions.md says why it isn't async-nats.)

mod address;
mod auth;
mod connection;
mod wire;

pub(super) use connection::check_url;
pub use connection::{Connection, Login, NatsError, NatsTlsConfig, Server, Taken};
pub(super) use wire::overlap;
pub use wire::{Message, is_subject};

use super::spool::SpoolConfig;
use super::spooled::{Delivery, Intake, Spooled};
use super::{Outlet, PartitionName, Setting, Source, SourceError};
use crate::limits;
use crate::place::{Located, Place, Problem};
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::time::clock::{Clock, Monotonic};
use crate::time::{EventTime, Span};
use futures::future::BoxFuture;
use prometheus::{Counter, IntCounterVec};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// `type: nats`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// nats://HOST:PORT, or tls://HOST:PORT; several of one cluster with commas between them.
    pub url: Located<String>,
    /// What to listen to; `*` stands for one part between dots, `>` at the end for all that follow.
    pub subject: Located<String>,
    /// The queue group: each message goes to one of its members. Default: none, and every listener gets every message.
    pub queue: Option<Located<String>>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    /// A creds file, with a JWT and the seed of a key.
    pub creds: Option<PathBuf>,
    /// Encrypts the connection. With tls:// or a server that asks for it, this is on anyway.
    pub tls: Option<NatsTlsConfig>,
    /// After so long without a message, a subscription that had messages counts as stuck and is made anew. Default 2m.
    #[serde(default = "default_stall")]
    pub stall: Span,
    /// Where messages are kept until the archive has them.
    #[serde(default)]
    pub spool: SpoolConfig,
}

fn default_stall() -> Span {
    limits::NATS_STALL
}

/// Finds what is wrong without touching anything but the text.
pub(super) fn check(config: &NatsConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_url(&config.url, &mut problems);
    if !is_subject(&config.subject.value, true) {
        let problem =
            config.subject.problem(format!("cannot listen to {:?}, it is no NATS subject", config.subject.value));
        problems.push(
            problem
                .hint("expected words with dots between them, `*` for one and `>` for all further ones, as in logs.>"),
        );
    }
    if let Some(queue) = config.queue.as_ref().filter(|queue| !is_subject(&queue.value, false)) {
        problems.push(
            queue.problem(format!("cannot use {:?} as a queue group, it has white space or nothing", queue.value)),
        );
    }
    if config.spool.size.0 < limits::LEAST_SPOOL_BYTES {
        let problem =
            Problem::new(Place { line: 0, column: 0 }, format!("cannot use a spool of {}", config.spool.size));
        problems.push(problem.hint("give it `size: 16MB` or more"));
    }
    if config.stall <= Span::ZERO || config.spool.sync <= Span::ZERO {
        let problem =
            Problem::new(Place { line: 0, column: 0 }, "cannot use a time of zero for `stall` or `spool.sync`");
        problems.push(problem.hint("leave it out for the default"));
    }
    problems
}

/// Connects once on a thread of its own and drops the connection: `connect` is not asynchronous, and what is wrong
/// with address, login or permissions is to be told before anything runs.
pub(super) fn probe<T: Send>(
    attempt: impl AsyncFnOnce() -> Result<T, NatsError> + Send,
    address: &str,
) -> Result<T, NatsError> {
    let failed = |source| NatsError::Connect { address: address.to_owned(), source };
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(attempt())
    };
    match std::thread::scope(|scope| scope.spawn(work).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[derive(Debug)]
pub(super) struct Nats {
    server: Server,
    subject: String,
    queue: Option<String>,
    stall: Span,
    client: String,
    spooled: Spooled,
    watch: Watch,
}

impl Nats {
    /// Tries the server and opens the spool.
    ///
    /// # Errors
    /// When either fails.
    pub(super) fn connect(
        config: &NatsConfig,
        name: &str,
        stored: &Checkpoint,
        clock: Arc<dyn Clock>,
        setting: &Setting<'_>,
    ) -> Result<Self, SourceError> {
        let server = config.server()?;
        let subject = config.subject.value.clone();
        let client = format!("headrig-{}-{name}", setting.pipeline);
        let spooled = Spooled::open(name, &subject, &config.spool, stored, setting, clock.as_ref())?;
        probe(async || may_listen(&server, &client, &subject).await, &server.address())?;
        let labels = [setting.pipeline, name];
        let watch = Watch {
            labels: labels.map(str::to_owned),
            interruptions: setting.telemetry.source_interruptions.clone(),
            gaps: setting.telemetry.source_gap_seconds.with_label_values(&labels),
            last: None,
            interrupted: false,
            clock,
        };
        let queue = config.queue.as_ref().map(|queue| queue.value.clone());
        Ok(Self { server, subject, queue, stall: config.stall, client, spooled, watch })
    }
}

impl NatsConfig {
    fn server(&self) -> Result<Server, NatsError> {
        let login = Login {
            user: self.user.as_ref(),
            password: self.password.as_ref(),
            token: self.token.as_ref(),
            creds: self.creds.as_ref(),
            tls: self.tls.as_ref(),
        };
        Server::new(&self.url.value, login)
    }
}

/// Connects and asks whether we may listen; leaves nothing behind.
pub(super) fn try_listening(config: &NatsConfig, name: &str, setting: &Setting<'_>) -> Result<(), SourceError> {
    let server = config.server()?;
    let client = format!("headrig-{}-{name}", setting.pipeline);
    Ok(probe(async || may_listen(&server, &client, &config.subject.value).await, &server.address())?)
}

/// Whether the server lets us listen. Not as a member of the queue group: its messages would be lost.
async fn may_listen(server: &Server, client: &str, subject: &str) -> Result<(), NatsError> {
    let mut connection = server.connect(client).await?;
    connection.subscribe(subject, None, 1);
    connection.unsubscribe(1);
    connection.ping();
    let silent = |_| Err(NatsError::Silent { address: server.address() });
    tokio::time::timeout(limits::NATS_SILENCE.to_std(), connection.until_pong()).await.unwrap_or_else(silent)
}

/// When the last message came, and what was missed since.
#[derive(Debug)]
struct Watch {
    labels: [String; 2],
    interruptions: IntCounterVec,
    gaps: Counter,
    last: Option<(EventTime, Monotonic)>,
    interrupted: bool,
    clock: Arc<dyn Clock>,
}

impl Watch {
    /// Messages came. The first after an interruption ends a gap.
    fn heard(&mut self) {
        let now = (self.clock.now(), self.clock.monotonic());
        if let Some((time, mark)) = self.last.replace(now).filter(|_| self.interrupted) {
            let gap = now.1.since(mark);
            self.gaps.inc_by(gap.as_secs_f64());
            tracing::warn!(source = self.labels[1], from = %time, to = %now.0, %gap, "a gap: what was sent in it may be lost");
        }
        self.interrupted = false;
    }

    fn lost(&mut self, error: &NatsError) {
        self.interrupted = true;
        let kind = match error {
            NatsError::Said { said, .. } if said.contains("Slow Consumer") => "slow_consumer",
            NatsError::Said { .. } | NatsError::Refused { .. } => "refused",
            NatsError::Silent { .. } => "silent",
            NatsError::Stalled { .. } => "stalled",
            NatsError::Connect { .. } | NatsError::Slow { .. } | NatsError::NoneOf(_) => "unreachable",
            _ => "broken",
        };
        let [pipeline, source] = &self.labels;
        self.interruptions.with_label_values(&[pipeline, source, kind]).inc();
        tracing::warn!(source, kind, %error, hint = error.hint(), "interrupted, connecting again");
    }
}

/// Why a connection is not read any more.
enum Leave {
    Stopped,
    /// The spool has failed; its own task says why.
    NoIntake,
    Lost(NatsError),
}

/// What a task that listens needs.
struct Listener<'o> {
    server: Server,
    client: String,
    subject: String,
    queue: Option<String>,
    stall: Span,
    watch: Watch,
    intake: Intake,
    outlet: &'o Outlet,
    /// Grows while nothing comes.
    patience: Span,
}

impl Listener<'_> {
    async fn listen(mut self) {
        let [least, most] = limits::NATS_BACKOFF;
        let mut pause = least;
        loop {
            let connected = tokio::select! {
                () = self.outlet.until_stopped() => return,
                connected = self.server.connect(&self.client) => connected,
            };
            let leave = match connected {
                Ok(connection) => {
                    pause = least;
                    tracing::info!(source = self.watch.labels[1], server = connection.address(), "connected to NATS");
                    self.follow(connection).await
                }
                Err(error) => Leave::Lost(error),
            };
            match leave {
                Leave::Stopped | Leave::NoIntake => return,
                Leave::Lost(error) => self.watch.lost(&error),
            }
            tokio::select! {
                () = self.outlet.until_stopped() => return,
                () = tokio::time::sleep(pause.to_std()) => {}
            }
            pause = Span::from_micros(pause.micros() * 2).min(most);
        }
    }

    /// Hands on what comes over one connection, until it ends.
    async fn follow(&mut self, mut connection: Connection) -> Leave {
        connection.subscribe(&self.subject, self.queue.as_deref(), 1);
        let clock = Arc::clone(&self.watch.clock);
        let (mut answered, mut heard) = (clock.monotonic(), clock.monotonic());
        let mut ticks = tokio::time::interval(limits::NATS_PING.to_std());
        loop {
            if let Err(error) = connection.flush().await {
                return Leave::Lost(error);
            }
            tokio::select! {
                biased;
                () = self.outlet.until_stopped() => return self.unsubscribe(connection).await,
                _ = ticks.tick() => {
                    let now = clock.monotonic();
                    let address = connection.address().to_owned();
                    if now.since(answered) >= limits::NATS_SILENCE {
                        return Leave::Lost(NatsError::Silent { address });
                    }
                    if now.since(heard) >= self.patience && self.watch.last.is_some() {
                        self.patience = Span::from_micros(self.patience.micros().saturating_mul(2));
                        return Leave::Lost(NatsError::Stalled { address, silence: now.since(heard) });
                    }
                    connection.ping();
                }
                filled = connection.fill() => {
                    answered = clock.monotonic();
                    let took = match filled {
                        Ok(()) => self.take(&mut connection).await,
                        Err(error) => Err(Leave::Lost(error)),
                    };
                    match took {
                        Ok(true) => (heard, self.patience) = (answered, self.stall),
                        Ok(false) => {}
                        Err(leave) => return leave,
                    }
                }
            }
        }
    }

    /// Delivers all messages that have come; tells whether there were any.
    async fn take(&mut self, connection: &mut Connection) -> Result<bool, Leave> {
        let mut delivery = Delivery::default();
        let mut any = false;
        let failed = loop {
            match connection.take() {
                Ok(Taken::Message(message)) => delivery.push(message.payload),
                Ok(Taken::Nothing) => break None,
                Ok(_) => {}
                Err(error) => break Some(error),
            }
            if delivery.is_full() {
                any = true;
                self.put(std::mem::take(&mut delivery)).await?;
            }
        };
        if !delivery.is_empty() {
            any = true;
            self.put(delivery).await?;
        }
        if any {
            self.watch.heard();
        }
        failed.map_or(Ok(any), |error| Err(Leave::Lost(error)))
    }

    async fn put(&self, delivery: Delivery) -> Result<(), Leave> {
        if self.intake.put(delivery).await { Ok(()) } else { Err(Leave::NoIntake) }
    }

    /// Ends the subscription and takes what the server had sent until then.
    async fn unsubscribe(&mut self, mut connection: Connection) -> Leave {
        connection.unsubscribe(1);
        connection.ping();
        let drain = async {
            connection.flush().await?;
            let mut delivery = Delivery::default();
            loop {
                match connection.take()? {
                    Taken::Message(message) => delivery.push(message.payload),
                    Taken::Pong => return Ok::<_, NatsError>(delivery),
                    Taken::Other => {}
                    Taken::Nothing => connection.fill().await?,
                }
                if delivery.is_full() && !self.intake.put(std::mem::take(&mut delivery)).await {
                    return Ok(delivery);
                }
            }
        };
        if let Ok(Ok(delivery)) = tokio::time::timeout(limits::NATS_UNSUBSCRIBE.to_std(), drain).await
            && !delivery.is_empty()
        {
            self.intake.put(delivery).await;
        }
        Leave::Stopped
    }
}

impl Source for Nats {
    fn partitions(&self) -> Vec<PartitionName> {
        vec![self.spooled.name().clone()]
    }

    fn finite(&self) -> bool {
        false
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        assert_eq!(ids.len(), 1, "a subscription is one partition");
        Box::pin(async move {
            let Self { server, subject, queue, stall, client, spooled, watch } = *self;
            let (intake, kept) = spooled.start(ids[0], &outlet);
            let listener =
                Listener { server, client, subject, queue, stall, watch, intake, outlet: &outlet, patience: stall };
            let ((), kept) = futures::future::join(listener.listen(), kept).await;
            kept
        })
    }
}
