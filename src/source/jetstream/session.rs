//! One connection to a server with JetStream: questions to its API, one consumer, and what comes of it.

use super::pulled::{Pulled, Trouble};
use crate::limits;
use crate::source::Outlet;
use crate::source::nats::{Connection, NatsError, Taken, overlap};
use crate::time::Span;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// What a server says of a stream.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) created: String,
    pub(super) config: StreamConfig,
    pub(super) state: StreamState,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamConfig {
    #[serde(default)]
    retention: String,
    #[serde(default)]
    pub(super) subjects: Vec<String>,
    #[serde(default)]
    pub(super) num_replicas: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamState {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
}

impl StreamInfo {
    pub(super) fn retention(&self) -> Retention {
        match self.config.retention.as_str() {
            "workqueue" => Retention::WorkQueue,
            "interest" => Retention::Interest,
            _ => Retention::Limits,
        }
    }
}

/// What a stream does with a message that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retention {
    /// Nothing.
    Limits,
    /// Deletes it. No two consumers may read a subject, each message is acknowledged by itself, and a consumer begins with the oldest.
    WorkQueue,
    /// Deletes it when all consumers have acknowledged it; also what nobody reads. So there has to be a consumer always.
    Interest,
}

/// The names that a partition's consumer goes by.
#[derive(Debug, Clone)]
pub(super) struct Consumer {
    /// The second one is for streams that must not be without one while it is made anew.
    names: [String; 2],
    /// What the names of all consumers of the partition begin with; `None` where one daemon reads all.
    family: Option<String>,
    pub(super) subject: Option<String>,
}

impl Consumer {
    pub(super) fn alone(durable: &str, subject: Option<&str>) -> Self {
        let names = [durable.to_owned(), format!("{durable}-2")];
        Self { names, family: None, subject: subject.map(str::to_owned) }
    }

    /// Of the partition that `subject` is, when the daemon `instance` reads it.
    pub(super) fn shared(durable: &str, subject: &str, instance: &str) -> Self {
        let family = format!("{durable}-{}-", plain(subject));
        let name = format!("{family}{}", plain(instance));
        Self { names: [name.clone(), format!("{name}-2")], family: Some(family), subject: Some(subject.to_owned()) }
    }

    /// Whether several daemons may read it.
    pub(super) fn is_shared(&self) -> bool {
        self.family.is_some()
    }

    fn is_own(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// Whether another daemon reads the partition by it.
    fn is_rival(&self, name: &str) -> bool {
        !self.is_own(name) && self.family.as_ref().is_some_and(|family| name.starts_with(family.as_str()))
    }
}

/// With letters, digits and underscores only; another one for each text.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => plain.push(char::from(byte)),
            other => plain.push_str(&format!("_{other:02x}")),
        }
    }
    plain
}

/// How a consumer shall be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) retention: Retention,
    /// The sequence to begin with.
    pub(super) next: u64,
    pub(super) ack_wait: Span,
    /// Whether it may be taken from other daemons.
    pub(super) claimed: bool,
}

/// What is received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    /// The sequence that comes next.
    pub(super) next: u64,
    /// Nothing is waited for when the stream holds no more.
    pub(super) bounded: bool,
    /// Nothing is waited for when so many have come.
    pub(super) asked: usize,
    /// Messages are bytes and no lines.
    pub(super) verbatim: bool,
}

/// A connection with an inbox for answers and messages.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Connection,
    stream: String,
    inbox: String,
    requests: u64,
    /// The consumer that is read.
    durable: String,
    /// The consumer's number of the message that comes next.
    expected: u64,
    /// How long nothing has come.
    silence: Duration,
}

impl Session {
    pub(super) fn open(mut connection: Connection, stream: &str) -> Self {
        // No two connections have one number on one server.
        let inbox = format!("_INBOX.{}.{}", connection.info().server_id, connection.info().client_id);
        connection.subscribe(&format!("{inbox}.>"), None, 1);
        let (stream, durable) = (stream.to_owned(), String::new());
        Self { connection, stream, inbox, requests: 0, durable, expected: 1, silence: Duration::ZERO }
    }

    pub(super) fn refused(&self, said: String) -> NatsError {
        NatsError::Stream { address: self.connection.address().to_owned(), stream: self.stream.clone(), said }
    }

    /// Sends a message that is to be answered; returns where.
    pub(super) fn send(&mut self, subject: &str, payload: &[u8]) -> String {
        self.requests += 1;
        let reply = format!("{}.a{}", self.inbox, self.requests);
        self.connection.publish(subject, Some(&reply), &[], payload);
        reply
    }

    /// Asks the JetStream API.
    pub(super) async fn ask(&mut self, api: &str, body: &Value) -> Result<Value, NatsError> {
        let reply = self.send(&format!("$JS.API.{api}"), body.to_string().as_bytes());
        let answer = async {
            self.connection.flush().await?;
            loop {
                match self.connection.take()? {
                    Taken::Message(message) if message.subject == reply => {
                        if let Some((503, _)) = message.status() {
                            return Ok(Err("the server has no JetStream, or the user may not use it".to_owned()));
                        }
                        return Ok(serde_json::from_slice::<Value>(message.payload).map_err(|error| error.to_string()));
                    }
                    Taken::Nothing => self.connection.fill().await?,
                    _ => {}
                }
            }
        };
        let answer = tokio::time::timeout(limits::JETSTREAM_ANSWER.to_std(), answer).await;
        let silent = || NatsError::Silent { address: self.connection.address().to_owned() };
        let answer = answer.unwrap_or_else(|_| Err(silent()))?.map_err(|said| self.refused(said))?;
        match answer.get("error") {
            Some(error) => {
                let text = error.get("description").and_then(Value::as_str).unwrap_or("unknown error");
                Err(self.refused(text.to_owned()))
            }
            None => Ok(answer),
        }
    }

    pub(super) async fn stream_info(&mut self) -> Result<StreamInfo, NatsError> {
        let answer = self.ask(&format!("STREAM.INFO.{}", self.stream), &json!({})).await?;
        serde_json::from_value(answer)
            .map_err(|error| self.refused(format!("its description is not understood: {error}")))
    }

    /// All of a list of the API, which comes in pages.
    async fn list(&mut self, api: &str) -> Result<Vec<Value>, NatsError> {
        let mut all = Vec::new();
        loop {
            let mut answer = self.ask(&format!("{api}.{}", self.stream), &json!({ "offset": all.len() })).await?;
            let total = answer.get("total").and_then(Value::as_u64).unwrap_or(0);
            let Some(Value::Array(page)) = answer.get_mut("consumers").map(Value::take) else { return Ok(all) };
            let is_last = page.is_empty();
            all.extend(page);
            if is_last || all.len() as u64 >= total {
                return Ok(all);
            }
        }
    }

    async fn consumers(&mut self) -> Result<Vec<String>, NatsError> {
        let all = self.list("CONSUMER.NAMES").await?;
        Ok(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Whether the stream would let us make the consumer; makes none.
    pub(super) async fn check_consumer(&mut self, consumer: &Consumer, retention: Retention) -> Result<(), NatsError> {
        if retention != Retention::WorkQueue {
            return Ok(());
        }
        let subject = consumer.subject.as_deref().unwrap_or(">");
        for other in self.list("CONSUMER.LIST").await? {
            let name = other.get("name").and_then(Value::as_str).unwrap_or("");
            let config = other.get("config");
            let filters = config.and_then(|config| config.get("filter_subjects")).and_then(Value::as_array);
            let one = config.and_then(|config| config.get("filter_subject")).and_then(Value::as_str);
            let one = one.filter(|subject| !subject.is_empty());
            let mut filters: Vec<&str> = filters.into_iter().flatten().filter_map(Value::as_str).chain(one).collect();
            if filters.is_empty() {
                filters.push(">");
            }
            let is_ours = consumer.is_own(name) || consumer.is_rival(name);
            if !is_ours && filters.iter().any(|filter| overlap(filter, subject)) {
                return Err(self.refused(format!("its consumer {name:?} reads the same subjects, they would overlap")));
            }
        }
        Ok(())
    }

    /// Makes the consumer anew. Returns how many messages wait for it.
    pub(super) async fn make_consumer(&mut self, consumer: &Consumer, wanted: Wanted) -> Result<u64, NatsError> {
        let there = self.consumers().await?;
        if !wanted.claimed && there.iter().any(|name| consumer.is_rival(name)) {
            return Err(self.taken(&consumer.names[0]));
        }
        let mut old: Vec<&String> =
            there.iter().filter(|name| consumer.is_own(name) || consumer.is_rival(name)).collect();
        let [first, second] = &consumer.names;
        let name = if wanted.retention == Retention::Interest {
            // What no consumer reads is deleted: the new one is there before the old one goes.
            let name = if there.contains(first) && !there.contains(second) { second } else { first };
            if there.contains(name) {
                self.delete(name).await?;
            }
            old.retain(|other| *other != name);
            name
        } else {
            for other in old.drain(..) {
                self.delete(other).await?;
            }
            first
        };
        let pending = self.create(name, consumer.subject.as_deref(), wanted).await?;
        for other in old {
            self.delete(other).await?;
        }
        (self.durable, self.expected) = (name.clone(), 1);
        Ok(pending)
    }

    async fn delete(&mut self, name: &str) -> Result<(), NatsError> {
        match self.ask(&format!("CONSUMER.DELETE.{}.{name}", self.stream), &json!({})).await {
            // Somebody was faster.
            Err(NatsError::Stream { said, .. }) if said.contains("not found") => Ok(()),
            other => other.map(drop),
        }
    }

    async fn create(&mut self, name: &str, subject: Option<&str>, wanted: Wanted) -> Result<u64, NatsError> {
        let stream = self.stream.clone();
        let mut config = json!({
            "durable_name": name,
            "description": "headrig: made anew at each start, acknowledged when the archive has sealed",
            "ack_wait": wanted.ack_wait.micros() * 1_000,
            "max_ack_pending": -1,
            "replay_policy": "instant",
        });
        if wanted.retention == Retention::WorkQueue {
            config["deliver_policy"] = json!("all");
            config["ack_policy"] = json!("explicit");
        } else {
            config["deliver_policy"] = json!("by_start_sequence");
            // Where acknowledged messages go, the last one that is sealed comes once more, if it is still there: it and those
            // before it were not acknowledged.
            let again = u64::from(wanted.retention == Retention::Interest);
            config["opt_start_seq"] = json!(wanted.next.saturating_sub(again).max(1));
            config["ack_policy"] = json!("all");
        }
        if let Some(subject) = subject {
            config["filter_subject"] = json!(subject);
        }
        let body = json!({ "stream_name": stream, "config": config });
        let answer = self.ask(&format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), &body).await?;
        Ok(answer.get("num_pending").and_then(Value::as_u64).unwrap_or(0))
    }

    /// Asks for messages.
    pub(super) fn pull(&mut self) {
        self.requests += 1;
        let expires = limits::JETSTREAM_EXPIRES.micros() * 1_000;
        // One message must fit in any case, with its subject and head.
        let bytes = limits::JETSTREAM_PULL_BYTES.max(2 * self.connection.info().max_payload);
        let body = json!({ "batch": limits::JETSTREAM_PULL, "max_bytes": bytes, "expires": expires });
        let reply = format!("{}.p{}", self.inbox, self.requests);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.durable);
        self.connection.publish(&subject, Some(&reply), &[], body.to_string().as_bytes());
    }

    /// Answers messages: `+ACK`, or `+WPI` for those that are still worked on.
    pub(super) async fn answer(&mut self, replies: impl Iterator<Item = String>, what: &[u8]) -> Result<(), NatsError> {
        for reply in replies {
            self.connection.publish(&reply, None, &[], what);
            if self.connection.queued() >= limits::JETSTREAM_ACK_BYTES {
                self.connection.flush().await?;
            }
        }
        Ok(())
    }

    fn taken(&self, durable: &str) -> NatsError {
        let (address, stream) = (self.connection.address().to_owned(), self.stream.clone());
        NatsError::Taken { address, stream, durable: durable.to_owned() }
    }

    fn troubled(&self, trouble: Trouble) -> NatsError {
        match trouble {
            Trouble::Said(said) if said.contains("Consumer Deleted") => self.taken(&self.durable),
            Trouble::Said(said) => self.refused(said),
            Trouble::Skipped => {
                let (address, stream) = (self.connection.address().to_owned(), self.stream.clone());
                NatsError::Skipped { address, stream, durable: self.durable.clone() }
            }
        }
    }

    /// What has come, or comes next: a full batch, or what there is [`limits::BATCH_WAIT`] after its first message.
    /// Messages below the next one came before. When nothing has come for `step`, there may be nothing.
    pub(super) async fn receive(
        &mut self,
        asking: Asking,
        step: Duration,
        outlet: &Outlet,
    ) -> Result<Pulled, NatsError> {
        self.connection.flush().await?;
        // The server ends a request by itself; if it doesn't, it is not there any more.
        let patience = limits::JETSTREAM_EXPIRES.to_std() + limits::NATS_SILENCE.to_std();
        let Asking { next, bounded, asked, verbatim } = asking;
        let mut pulled = Pulled::new(next, self.expected, verbatim, outlet.buffers().take());
        let mut patient = None;
        loop {
            match self.connection.take()? {
                Taken::Message(message) => {
                    if let Err(trouble) = pulled.message(&message) {
                        return Err(self.troubled(trouble));
                    }
                    self.expected = pulled.expected;
                }
                Taken::Nothing if !pulled.is_empty() => {
                    let patient =
                        patient.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::BATCH_WAIT.to_std())));
                    if pulled.ended || pulled.received >= asked || (bounded && pulled.pending == Some(0)) {
                        return Ok(pulled);
                    }
                    tokio::select! {
                        () = patient => return Ok(pulled),
                        filled = self.connection.fill() => filled?,
                    }
                }
                Taken::Nothing => {
                    self.connection.flush().await?;
                    let step = step.min(patience);
                    match tokio::time::timeout(step, self.connection.fill()).await {
                        Ok(filled) => {
                            filled?;
                            self.silence = Duration::ZERO;
                        }
                        Err(_) => {
                            self.silence += step;
                            if self.silence >= patience {
                                return Err(NatsError::Silent { address: self.connection.address().to_owned() });
                            }
                            return Ok(pulled);
                        }
                    }
                }
                _ => {}
            }
            if pulled.is_full() {
                return Ok(pulled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_daemon_has_consumers_of_its_own_and_knows_those_of_others() {
        let own = Consumer::shared("headrig", "logs.0.>", "d-1");
        assert_eq!(own.names[0], "headrig-logs_2e0_2e_3e-d_2d1");
        let other = Consumer::shared("headrig", "logs.0.>", "d-2");
        assert!(other.names.iter().all(|name| own.is_rival(name)));
        assert!(own.names.iter().all(|name| own.is_own(name) && !own.is_rival(name)));
        let next = Consumer::shared("headrig", "logs.1.>", "d-2");
        assert!(!next.names.iter().any(|name| own.is_rival(name)));
        assert!(!Consumer::alone("headrig", None).is_rival(&own.names[0]));
    }
}
