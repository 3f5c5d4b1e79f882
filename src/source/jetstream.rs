//! `type: jetstream`: messages of a JetStream stream, each in the archive exactly once.
//!
//! A message's position is its sequence in the stream, and the archive's checkpoint is the authority on how far it was
//! read: at the start, and after each interruption, the durable consumer is made anew behind the last message that was
//! handed on. So messages come in order, and what an earlier run had read but not sealed comes again. The consumer is
//! one daemon's alone; who finds that another has taken it stops.
//!
//! Messages are pulled only as fast as the pipeline takes them. They are acknowledged when the archive has sealed them, all
//! up to one at once (`ack_policy: all`), so that the consumer shows everybody how far the archive is. The server's patience
//! until it sends again is far longer than a seal takes, instead of asking for more time message by message; one that comes
//! again nevertheless is passed over by its sequence.
//!
//! Streams that delete what is acknowledged (retention `workqueue`, `interest`) are refused, as their consumers cannot be
//! made anew. A stream that was made anew under its old name has another time of creation, and is refused as well.

use super::nats::{Connection, Login, NatsError, NatsTlsConfig, Server, Taken, check_url, is_subject, probe};
use super::pulled::Pulled;
use super::{Closed, Feed, Outlet, PartitionName, Setting, Source, SourceError};
use crate::limits;
use crate::place::{Located, Problem};
use crate::record::raw::{Offset, PartitionId};
use crate::record::receipt::Checkpoint;
use crate::time::Span;
use futures::future::BoxFuture;
use prometheus::IntCounterVec;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::PathBuf;

/// `type: jetstream`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JetstreamConfig {
    /// nats://HOST:PORT, or tls://HOST:PORT.
    pub url: Located<String>,
    /// The stream's name.
    pub stream: Located<String>,
    /// The consumer's name; of this pipeline alone.
    pub durable: Located<String>,
    /// Only messages of these subjects. Default: all of the stream.
    pub subject: Option<Located<String>>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    /// A creds file, with a JWT and the seed of a key.
    pub creds: Option<PathBuf>,
    /// Encrypts the connection. With tls:// or a server that asks for it, this is on anyway.
    pub tls: Option<NatsTlsConfig>,
}

/// Finds what is wrong without touching anything but the text.
pub(super) fn check(config: &JetstreamConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_url(&config.url, &mut problems);
    for (name, what) in [(&config.stream, "a stream"), (&config.durable, "a consumer")] {
        if name.value.is_empty() || name.value.contains(|c: char| c.is_whitespace() || ".*>/\\".contains(c)) {
            let problem = name.problem(format!("cannot use {:?} as the name of {what}", name.value));
            problems.push(problem.hint("expected no dots, slashes, wildcards or white space"));
        }
    }
    if let Some(subject) = config.subject.as_ref().filter(|subject| !is_subject(&subject.value, true)) {
        problems.push(subject.problem(format!("cannot listen to {:?}, it is no NATS subject", subject.value)));
    }
    problems
}

/// What a server says of a stream.
#[derive(Debug, Clone, Deserialize)]
struct StreamInfo {
    created: String,
    config: StreamConfig,
    state: StreamState,
}

#[derive(Debug, Clone, Deserialize)]
struct StreamConfig {
    #[serde(default)]
    retention: String,
}

#[derive(Debug, Clone, Deserialize)]
struct StreamState {
    first_seq: u64,
    last_seq: u64,
}

#[derive(Debug)]
pub(super) struct Jetstream {
    server: Server,
    client: String,
    consumer: Consumer,
    name: PartitionName,
    /// The sequence to go on with.
    next: u64,
    /// The last sequence at the start.
    last: u64,
    bounded: bool,
    labels: [String; 2],
    interruptions: IntCounterVec,
}

/// The names that a consumer goes by.
#[derive(Debug, Clone)]
struct Consumer {
    stream: String,
    durable: String,
    subject: Option<String>,
}

impl Jetstream {
    /// Asks the server for the stream.
    ///
    /// # Errors
    /// When the server cannot be reached, doesn't have the stream, or has another one than the archive knows.
    pub(super) fn connect(
        config: &JetstreamConfig,
        name: &str,
        stored: &Checkpoint,
        setting: &Setting<'_>,
    ) -> Result<Self, SourceError> {
        let login = Login {
            user: config.user.as_ref(),
            password: config.password.as_ref(),
            token: config.token.as_ref(),
            creds: config.creds.as_ref(),
            tls: config.tls.as_ref(),
        };
        let server = Server::new(&config.url.value, login)?;
        let client = format!("headrig-{}-{name}", setting.pipeline);
        let consumer = Consumer {
            stream: config.stream.value.clone(),
            durable: config.durable.value.clone(),
            subject: config.subject.as_ref().map(|subject| subject.value.clone()),
        };
        let ask = async || Session::open(server.connect(&client).await?, &consumer).stream_info().await;
        let info = probe(ask, &server.address())?;
        let refuse = |said: &str| {
            let (address, stream) = (server.address(), consumer.stream.clone());
            SourceError::Nats(NatsError::Unfit { address, stream, said: said.to_owned() })
        };
        if !matches!(info.config.retention.as_str(), "" | "limits") {
            return Err(refuse("it deletes what is acknowledged, only retention `limits` can be read"));
        }
        let known = stored.find(name, &consumer.stream);
        if known.is_some_and(|known| known.identity != info.created || known.position > info.state.last_seq + 1) {
            return Err(refuse("it is not the one that the archive has read from, it was made anew since"));
        }
        let next = known.map_or(1, |known| known.position);
        if known.is_some() && info.state.first_seq > next {
            let (from, to) = (next, info.state.first_seq);
            tracing::warn!(source = name, from, to, "messages were deleted from the stream before they were read");
        }
        Ok(Self {
            name: PartitionName { source: name.into(), partition: consumer.stream.clone(), identity: info.created },
            server,
            client,
            consumer,
            next,
            last: info.state.last_seq,
            bounded: false,
            labels: [setting.pipeline, name].map(str::to_owned),
            interruptions: setting.telemetry.source_interruptions.clone(),
        })
    }

    /// Reads over one connection after another.
    async fn read(mut self, id: PartitionId, outlet: &Outlet) -> Result<(), SourceError> {
        let [least, most] = limits::NATS_BACKOFF;
        let mut pause = least;
        loop {
            let before = self.next;
            let error = tokio::select! {
                () = outlet.until_stopped() => return Ok(()),
                ended = self.session(id, outlet) => match ended {
                    Ok(End::Complete) => {
                        // Closed or not, there is nothing more to do.
                        let _ = outlet.send(Feed::Ended(id)).await;
                        return Ok(());
                    }
                    Ok(End::Closed) => return Ok(()),
                    Err(error @ (NatsError::Unfit { .. } | NatsError::Taken { .. })) => return Err(error.into()),
                    Err(error) => error,
                },
            };
            let [pipeline, source] = &self.labels;
            self.interruptions.with_label_values(&[pipeline.as_str(), source, "broken"]).inc();
            tracing::warn!(source, %error, hint = error.hint(), "interrupted, connecting again");
            pause = if self.next > before { least } else { pause };
            tokio::select! {
                () = outlet.until_stopped() => return Ok(()),
                () = tokio::time::sleep(pause.to_std()) => {}
            }
            pause = Span::from_micros(pause.micros() * 2).min(most);
        }
    }

    /// Reads over one connection. `self.next` says how far it came; dropped early, what it was about to hand on is read again.
    async fn session(&mut self, id: PartitionId, outlet: &Outlet) -> Result<End, NatsError> {
        let mut session = Session::open(self.server.connect(&self.client).await?, &self.consumer);
        let info = session.stream_info().await?;
        if info.created != self.name.identity {
            let said = "it was deleted and made anew while it was read".to_owned();
            let (address, stream) = (self.server.address(), self.consumer.stream.clone());
            return Err(NatsError::Unfit { address, stream, said });
        }
        let pending = session.make_consumer(self.next).await?;
        if self.bounded && (pending == 0 || self.next > self.last) {
            return Ok(End::Complete);
        }
        let mut sealed = outlet.sealed();
        let mut unsealed = VecDeque::new();
        let mut asked = 0;
        loop {
            // The next request is there before the one before is served, so that the server never waits for it.
            if asked <= limits::JETSTREAM_PULL / 2 {
                session.pull();
                asked += limits::JETSTREAM_PULL;
            }
            if sealed.has_changed().unwrap_or(false) {
                let stored =
                    sealed.borrow_and_update().find(&self.name.source, &self.name.partition).map(|p| p.position);
                session.acknowledge(&mut unsealed, stored.unwrap_or(0));
            }
            let mut pulled = session.receive(self.next, (self.bounded, asked), outlet).await?;
            // Which request has ended isn't told. If it was not the last one, the server has one more than it needs.
            asked = if pulled.ended { 0 } else { asked.saturating_sub(pulled.received) };
            let is_last = |offset: &Offset| self.bounded && offset.position > self.last;
            let complete = pulled.cut(is_last) || (self.bounded && pulled.pending == Some(0));
            if let Some((batch, reply)) = pulled.batch(id, outlet) {
                let end = batch.end;
                if outlet.send(Feed::Batch(batch)).await == Err(Closed) {
                    return Ok(End::Closed);
                }
                self.next = end;
                unsealed.push_back((end, reply));
            }
            if complete || (self.bounded && self.next > self.last) {
                return Ok(End::Complete);
            }
        }
    }
}

enum End {
    /// All that was there at the start was read.
    Complete,
    /// The pipeline takes no more.
    Closed,
}

/// A connection with an inbox for answers and messages.
struct Session<'c> {
    connection: Connection,
    consumer: &'c Consumer,
    inbox: String,
    requests: u64,
}

impl<'c> Session<'c> {
    fn open(mut connection: Connection, consumer: &'c Consumer) -> Self {
        // No two connections have one number on one server.
        let inbox = format!("_INBOX.{}.{}", connection.info().server_id, connection.info().client_id);
        connection.subscribe(&format!("{inbox}.>"), None, 1);
        Self { connection, consumer, inbox, requests: 0 }
    }

    /// Asks the JetStream API.
    async fn ask(&mut self, api: &str, body: &Value) -> Result<Value, NatsError> {
        self.requests += 1;
        let reply = format!("{}.a{}", self.inbox, self.requests);
        self.connection.publish(&format!("$JS.API.{api}"), Some(&reply), &[], body.to_string().as_bytes());
        let address = self.connection.address().to_owned();
        let refused =
            |said: String| NatsError::Stream { address: address.clone(), stream: self.consumer.stream.clone(), said };
        let answer = async {
            self.connection.flush().await?;
            loop {
                match self.connection.take()? {
                    Taken::Message(message) if message.subject == reply => {
                        if let Some((503, _)) = message.status() {
                            return Err(refused("the server has no JetStream, or the user may not use it".to_owned()));
                        }
                        return serde_json::from_slice::<Value>(message.payload)
                            .map_err(|error| refused(error.to_string()));
                    }
                    Taken::Nothing => self.connection.fill().await?,
                    _ => {}
                }
            }
        };
        let silent = Err(NatsError::Silent { address: address.clone() });
        let answer = tokio::time::timeout(limits::JETSTREAM_ANSWER.to_std(), answer).await.unwrap_or(silent)?;
        match answer.get("error") {
            Some(error) => {
                let text = error.get("description").and_then(Value::as_str).unwrap_or("unknown error");
                Err(refused(text.to_owned()))
            }
            None => Ok(answer),
        }
    }

    async fn stream_info(&mut self) -> Result<StreamInfo, NatsError> {
        let answer = self.ask(&format!("STREAM.INFO.{}", self.consumer.stream), &json!({})).await?;
        serde_json::from_value(answer).map_err(|error| NatsError::Stream {
            address: self.connection.address().to_owned(),
            stream: self.consumer.stream.clone(),
            said: format!("its description is not understood: {error}"),
        })
    }

    /// Makes the durable consumer anew, to begin with sequence `next`. Returns how many messages wait.
    async fn make_consumer(&mut self, next: u64) -> Result<u64, NatsError> {
        let Consumer { stream, durable, subject } = self.consumer;
        // There may be none yet.
        let _ = self.ask(&format!("CONSUMER.DELETE.{stream}.{durable}"), &json!({})).await;
        let mut config = json!({
            "durable_name": durable,
            "description": "headrig: made anew at each start, acknowledged when the archive has sealed",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": next.max(1),
            "ack_policy": "all",
            "ack_wait": limits::JETSTREAM_ACK_WAIT.micros() * 1_000,
            "max_ack_pending": -1,
            "replay_policy": "instant",
        });
        if let Some(subject) = subject {
            config["filter_subject"] = json!(subject);
        }
        let body = json!({ "stream_name": stream, "config": config });
        let answer = self.ask(&format!("CONSUMER.DURABLE.CREATE.{stream}.{durable}"), &body).await?;
        Ok(answer.get("num_pending").and_then(Value::as_u64).unwrap_or(0))
    }

    /// Asks for messages.
    fn pull(&mut self) {
        self.requests += 1;
        let Consumer { stream, durable, .. } = self.consumer;
        let expires = limits::JETSTREAM_EXPIRES.micros() * 1_000;
        // One message must fit in any case, with its subject and head.
        let bytes = limits::JETSTREAM_PULL_BYTES.max(2 * self.connection.info().max_payload);
        let body = json!({ "batch": limits::JETSTREAM_PULL, "max_bytes": bytes, "expires": expires });
        let reply = format!("{}.p{}", self.inbox, self.requests);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}");
        self.connection.publish(&subject, Some(&reply), &[], body.to_string().as_bytes());
    }

    /// Tells the server that everything below `sealed` is stored: the last of the batches that end there.
    fn acknowledge(&mut self, unsealed: &mut VecDeque<(u64, String)>, sealed: u64) {
        let mut last = None;
        while unsealed.front().is_some_and(|(end, _)| *end <= sealed) {
            last = unsealed.pop_front();
        }
        if let Some((_, reply)) = last {
            self.connection.publish(&reply, None, &[], b"+ACK");
        }
    }

    /// What has come, or comes next: a full batch, or what there is [`limits::BATCH_WAIT`] after its first message.
    /// Messages below `next` came before. With `bounded`, nothing is waited for when the stream holds no more; and never when
    /// all has come that was `asked` for.
    async fn receive(
        &mut self,
        next: u64,
        (bounded, asked): (bool, usize),
        outlet: &Outlet,
    ) -> Result<Pulled, NatsError> {
        self.connection.flush().await?;
        let address = self.connection.address().to_owned();
        // The server ends a request by itself; if it doesn't, it is not there any more.
        let patience = limits::JETSTREAM_EXPIRES.to_std() + limits::NATS_SILENCE.to_std();
        let mut pulled = Pulled::new(next, outlet.buffers().take());
        let mut patient = None;
        loop {
            let error = match self.connection.take() {
                Ok(Taken::Message(message)) => {
                    if let Err(said) = pulled.message(&message) {
                        let stream = self.consumer.stream.clone();
                        return Err(if said.contains("Consumer Deleted") {
                            NatsError::Taken { address, stream, durable: self.consumer.durable.clone() }
                        } else {
                            NatsError::Stream { address, stream, said }
                        });
                    }
                    None
                }
                Ok(Taken::Nothing) if !pulled.is_empty() => {
                    let patient =
                        patient.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::BATCH_WAIT.to_std())));
                    if pulled.ended || pulled.received >= asked || (bounded && pulled.pending == Some(0)) {
                        return Ok(pulled);
                    }
                    tokio::select! {
                        () = patient => return Ok(pulled),
                        filled = self.connection.fill() => filled.err(),
                    }
                }
                Ok(Taken::Nothing) => {
                    self.connection.flush().await?;
                    let fill = tokio::time::timeout(patience, self.connection.fill());
                    fill.await.unwrap_or(Err(NatsError::Silent { address: address.clone() })).err()
                }
                Ok(_) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                return Err(error);
            }
            if pulled.is_full() {
                return Ok(pulled);
            }
        }
    }
}

impl Source for Jetstream {
    fn partitions(&self) -> Vec<PartitionName> {
        vec![self.name.clone()]
    }

    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn finite(&self) -> bool {
        self.bounded
    }

    fn bound(&mut self) {
        self.bounded = true;
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        assert_eq!(ids.len(), 1, "a stream is one partition");
        Box::pin(async move { self.read(ids[0], &outlet).await })
    }
}
