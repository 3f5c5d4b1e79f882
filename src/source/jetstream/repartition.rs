//! The stream through which daemons share windows: a subject for each partition, `TOPIC.NUMBER`, and messages that the server
//! has acknowledged.
//!
//! It lies on the servers of the source, and is made when it isn't there. Of what goes to one subject the next message is sent
//! when the one before is acknowledged; after an error all that was sent together is sent again, which who merges drops.

use super::JetstreamConfig;
use super::session::{Session, StreamInfo};
use super::settings::is_name;
use crate::limits;
use crate::place::{Located, Place};
use crate::record::partial::Message;
use crate::source::nats::{NatsError, Server, Taken, is_subject, probe};
use crate::source::{Setting, SourceError};
use crate::time::Span;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::runtime::Handle;

/// Between two looks at whether to go on.
const LOOK: Duration = Duration::from_millis(100);

/// A stream for windows, as it shall be.
#[derive(Debug, Clone, Copy)]
pub(in crate::source) struct Stream<'s> {
    pub(in crate::source) config: &'s JetstreamConfig,
    pub(in crate::source) topic: &'s str,
    pub(in crate::source) partitions: NonZeroU32,
    pub(in crate::source) retention: Span,
}

fn stream_name(topic: &str) -> String {
    topic.replace('.', "-")
}

fn subject(topic: &str, partition: u32) -> String {
    format!("{topic}.{partition}")
}

/// What is wrong with a topic for windows of what `config` reads, and what to do about it.
pub(in crate::source) fn check_topic(topic: &str, config: &JetstreamConfig) -> Option<(String, &'static str)> {
    let name = stream_name(topic);
    if !is_subject(topic, false) || !is_name(&name) {
        let hint = "expected words with dots between them, as in headrig.shop.windows";
        return Some((format!("cannot use {topic:?} as what subjects of a stream begin with"), hint));
    }
    (name == config.stream.value).then(|| {
        let hint = "name a stream that nothing else uses; it is made when it isn't there";
        (format!("cannot share windows through {topic:?}, the source reads it"), hint)
    })
}

/// The source that brings what daemons have written.
pub(in crate::source) fn source(
    config: &JetstreamConfig,
    topic: &str,
    partitions: NonZeroU32,
    place: Place,
) -> JetstreamConfig {
    let at = |value: String| Located { value, place, verbatim: false };
    JetstreamConfig {
        stream: at(stream_name(topic)),
        durable: at(format!("{}-windows", config.durable.value)),
        subject: None,
        subjects: (0..partitions.get()).map(|partition| at(subject(topic, partition))).collect(),
        verbatim: true,
        ..config.clone()
    }
}

impl Stream<'_> {
    /// Reaches the servers, and makes the stream when it isn't there.
    pub(in crate::source) fn connect(self, setting: &Setting<'_>) -> Result<Publisher, SourceError> {
        let server = self.config.server()?;
        let client = format!("headrig-{}-windows", setting.pipeline);
        let stream = stream_name(self.topic);
        let work = async || {
            // As safe as the stream that is read.
            let source = &self.config.stream.value;
            let replicas =
                Session::open(server.connect(&client).await?, source).stream_info().await?.config.num_replicas;
            let mut session = Session::open(server.connect(&client).await?, &stream);
            let info = match session.stream_info().await {
                Err(NatsError::Stream { said, .. }) if said.contains("stream not found") => {
                    self.make(&mut session, replicas.max(1)).await?;
                    session.stream_info().await?
                }
                found => found?,
            };
            self.check(&session, &info)
        };
        probe(work, &server.address())?;
        Ok(Publisher { server, client, stream, topic: self.topic.to_owned(), session: None, troubled: false })
    }

    /// Looks at the stream, if it is there.
    pub(in crate::source) fn probe(self) -> Result<(), SourceError> {
        let server = self.config.server()?;
        let look = async || {
            // What is wrong with the servers is told of the source.
            let Ok(connection) = server.connect("headrig-check").await else { return Ok(()) };
            let mut session = Session::open(connection, &stream_name(self.topic));
            match session.stream_info().await {
                Ok(info) => self.check(&session, &info),
                Err(_) => Ok(()),
            }
        };
        Ok(probe(look, &server.address())?)
    }

    fn subjects(self) -> BTreeSet<String> {
        (0..self.partitions.get()).map(|partition| subject(self.topic, partition)).collect()
    }

    fn check(self, session: &Session, info: &StreamInfo) -> Result<(), NatsError> {
        if info.config.subjects.iter().cloned().collect::<BTreeSet<_>>() == self.subjects() {
            return Ok(());
        }
        let (found, wanted) = (info.config.subjects.len(), self.partitions);
        Err(session.refused(format!(
            "it has {found} subjects, and windows are shared through {wanted}, {}.0 to {0}.{}; `repartition.partitions` can't be changed, name another `topic`",
            self.topic,
            wanted.get() - 1
        )))
    }

    async fn make(self, session: &mut Session, replicas: u64) -> Result<(), NatsError> {
        let name = stream_name(self.topic);
        let config = json!({
            "name": name,
            "description": "headrig: through it daemons share windows",
            "subjects": self.subjects(),
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "max_age": self.retention.micros() * 1_000,
            "num_replicas": replicas,
        });
        match session.ask(&format!("STREAM.CREATE.{name}"), &config).await {
            // Another daemon was faster.
            Err(NatsError::Stream { said, .. }) if said.contains("already in use") => Ok(()),
            made => {
                made?;
                let (partitions, retention) = (self.partitions, self.retention);
                tracing::info!(stream = name, partitions, %retention, "made the JetStream stream through which daemons share windows");
                Ok(())
            }
        }
    }
}

/// What writes to the stream.
#[derive(Debug)]
pub(in crate::source) struct Publisher {
    server: Server,
    client: String,
    stream: String,
    topic: String,
    session: Option<Session>,
    /// Whether the servers' trouble was told.
    troubled: bool,
}

/// What became of messages that were sent together.
enum Sent {
    All,
    /// Nobody waits for them any more.
    CutShort,
}

impl Publisher {
    /// As [`crate::source::Publisher::publish`].
    pub(in crate::source) fn publish(
        &mut self,
        messages: &[Message],
        go_on: impl Fn() -> bool,
    ) -> Result<bool, NatsError> {
        Handle::current().block_on(async {
            for wave in waves(messages) {
                let [least, most] = limits::NATS_BACKOFF;
                let mut pause = least;
                loop {
                    match self.send(&wave, &go_on).await {
                        Ok(Sent::All) => break,
                        Ok(Sent::CutShort) => return Ok(false),
                        Err(error) if is_final(&error) => return Err(error),
                        Err(error) => {
                            if !std::mem::replace(&mut self.troubled, true) {
                                tracing::warn!(%error, "cannot write windows' parts for now, trying again");
                            }
                            self.session = None;
                        }
                    }
                    if !go_on() {
                        return Ok(false);
                    }
                    tokio::time::sleep(pause.to_std()).await;
                    pause = Span::from_micros(pause.micros() * 2).min(most);
                }
            }
            self.troubled = false;
            Ok(true)
        })
    }

    /// Sends messages for different subjects, and waits until the server has stored all of them.
    async fn send(&mut self, messages: &[&Message], go_on: &impl Fn() -> bool) -> Result<Sent, NatsError> {
        if self.session.is_none() {
            self.session = Some(Session::open(self.server.connect(&self.client).await?, &self.stream));
        }
        let Some(session) = &mut self.session else { return Ok(Sent::CutShort) };
        let mut waiting = BTreeSet::new();
        for message in messages {
            waiting.insert(session.send(&subject(&self.topic, message.partition), &message.bytes));
            if session.connection.queued() >= limits::JETSTREAM_ACK_BYTES {
                session.connection.flush().await?;
            }
        }
        let mut looks = limits::JETSTREAM_ANSWER.to_std().as_millis() / LOOK.as_millis();
        while !waiting.is_empty() {
            session.connection.flush().await?;
            let refused = match session.connection.take()? {
                Taken::Message(message) if waiting.remove(message.subject) => stored(&message).err(),
                Taken::Nothing => {
                    match tokio::time::timeout(LOOK, session.connection.fill()).await {
                        Ok(filled) => filled?,
                        Err(_) if !go_on() => return Ok(Sent::CutShort),
                        Err(_) if looks == 0 => {
                            return Err(NatsError::Silent { address: session.connection.address().to_owned() });
                        }
                        Err(_) => looks -= 1,
                    }
                    None
                }
                _ => None,
            };
            if let Some(said) = refused {
                return Err(session.refused(said));
            }
        }
        Ok(Sent::All)
    }
}

/// What the server says of a message that it was sent.
fn stored(answer: &crate::source::nats::Message<'_>) -> Result<(), String> {
    if let Some((503, _)) = answer.status() {
        return Err("no stream takes it for now".to_owned());
    }
    let answer: Value = serde_json::from_slice(answer.payload).map_err(|error| error.to_string())?;
    match answer.get("error") {
        None => Ok(()),
        Some(error) => Err(error.get("description").and_then(Value::as_str).unwrap_or("unknown error").to_owned()),
    }
}

/// Whether trying again is in vain.
fn is_final(error: &NatsError) -> bool {
    matches!(error, NatsError::Stream { said, .. } if said.contains("message size") || said.contains("maximum payload"))
        || matches!(error, NatsError::Said { said, .. } if said.contains("Permissions Violation") || said.contains("Maximum Payload"))
}

/// The messages in their order, at most one of each partition at a time.
fn waves(messages: &[Message]) -> Vec<Vec<&Message>> {
    let mut waves: Vec<Vec<&Message>> = Vec::new();
    for message in messages {
        // Behind the last one of its partition.
        let has_it = |wave: &Vec<&Message>| wave.iter().any(|other| other.partition == message.partition);
        let at = waves.iter().rposition(has_it).map_or(0, |last| last + 1);
        match waves.get_mut(at) {
            Some(wave) => wave.push(message),
            None => waves.push(vec![message]),
        }
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_partition_the_next_message_waits_for_the_one_before() {
        let message = |(partition, byte)| Message { partition, bytes: vec![byte] };
        let messages = [(0, 1), (0, 2), (1, 3), (2, 4), (1, 5), (0, 6)].map(message);
        let waves: Vec<Vec<u8>> =
            waves(&messages).iter().map(|wave| wave.iter().map(|message| message.bytes[0]).collect()).collect();
        assert_eq!(waves, [vec![1, 3, 4], vec![2, 5], vec![6]]);
    }
}
