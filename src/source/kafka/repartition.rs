//! The topic through which daemons of a group share windows: each writes what it has gathered of its partitions, keyed anew by
//! the windows' groups, and each merges some of the topic's partitions.
//!
//! It lies on the cluster of the source, and is made when it isn't there. Writing is idempotent and in order: of two messages for one partition the later one never arrives without the earlier one.

use super::broker::{self, BrokerError, millis, reason};
use super::topics::is_topic;
use crate::limits;
use crate::place::{Located, Place};
use crate::record::partial::Message;
use crate::source::{KafkaConfig, SourceError, Start};
use crate::time::Span;
use crate::time::clock::Clock;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Between two looks at whether to go on.
const LOOK: Duration = Duration::from_millis(100);

/// A topic for windows, as it shall be.
#[derive(Debug, Clone, Copy)]
pub(in crate::source) struct Topic<'t> {
    pub(in crate::source) kafka: &'t KafkaConfig,
    pub(in crate::source) name: &'t str,
    pub(in crate::source) partitions: NonZeroU32,
    pub(in crate::source) retention: Span,
}

/// What is wrong with a topic's name for windows of what `kafka` reads, and what to do about it.
pub(in crate::source) fn check_topic(topic: &str, kafka: &KafkaConfig) -> Option<(String, &'static str)> {
    if !is_topic(topic) {
        let hint = "a name has up to 249 letters, digits, dots, hyphens and underscores";
        return Some((format!("cannot use {topic:?} as a Kafka topic"), hint));
    }
    kafka.topics.iter().any(|read| read.value == topic).then(|| {
        let hint = "name a topic that nothing else uses; it is made when it isn't there";
        (format!("cannot share windows through {topic:?}, the source reads it"), hint)
    })
}

/// The source that brings what daemons have written.
pub(in crate::source) fn source(kafka: &KafkaConfig, topic: &str, place: Place) -> KafkaConfig {
    let at = |value: String| Located { value, place, verbatim: false };
    KafkaConfig {
        topics: vec![at(topic.to_owned())],
        group: at(format!("{}.windows", kafka.group.value)),
        start: Start::Earliest,
        ..kafka.clone()
    }
}

impl Topic<'_> {
    /// Reaches the cluster, and makes the topic when it isn't there.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses us, or the topic has another number of partitions.
    pub(in crate::source) fn connect(self, clock: &dyn Clock) -> Result<Publisher, SourceError> {
        let brokers = &self.kafka.brokers.value;
        let client = broker::client(self.kafka, None)?;
        let found = match broker::partitions(&client, brokers, self.name, clock) {
            Err(BrokerError::NoTopic { .. }) => {
                if self.create(false)? {
                    let Self { name: topic, partitions, retention, .. } = self;
                    tracing::info!(topic, partitions, %retention, "made the Kafka topic through which daemons share windows");
                }
                self.await_topic(&client, clock)?
            }
            found => found?,
        };
        self.check_partitions(found.len())?;
        let settings = self.producer_settings();
        let producer = settings
            .create_with_context(Deliveries::default())
            .map_err(|error| BrokerError::Settings { reason: reason(&error) })?;
        Ok(Publisher { producer, topic: self.name.to_owned() })
    }

    /// Tries what [`Self::connect`] does, and makes nothing.
    pub(in crate::source) fn probe(self, clock: &dyn Clock) -> Result<(), SourceError> {
        let client = broker::client(self.kafka, None)?;
        match broker::partitions(&client, &self.kafka.brokers.value, self.name, clock) {
            Ok(found) => self.check_partitions(found.len()),
            Err(BrokerError::NoTopic { .. }) => self.create(true).map(drop),
            // What is wrong with the cluster is told of the source.
            Err(_) => Ok(()),
        }?;
        Ok(())
    }

    fn check_partitions(self, found: usize) -> Result<(), BrokerError> {
        let (topic, wanted) = (self.name.to_owned(), self.partitions.get());
        if found == wanted as usize { Ok(()) } else { Err(BrokerError::Partitions { topic, found, wanted }) }
    }

    /// A topic that was just made is known after a moment.
    fn await_topic(self, client: &broker::Client, clock: &dyn Clock) -> Result<Vec<i32>, BrokerError> {
        let started = clock.monotonic();
        loop {
            match broker::partitions(client, &self.kafka.brokers.value, self.name, clock) {
                Err(BrokerError::NoTopic { .. }) if clock.monotonic().since(started) < limits::KAFKA_CONNECT => {
                    drop(client.poll(LOOK));
                }
                found => return found,
            }
        }
    }

    /// Makes the topic, or only asks whether it could be made. False when another daemon has made it meanwhile.
    fn create(self, only_ask: bool) -> Result<bool, BrokerError> {
        let failed = |reason: String| BrokerError::Create { topic: self.name.to_owned(), reason };
        let admin: AdminClient<DefaultClientContext> =
            broker::connection(self.kafka).create().map_err(|error| failed(reason(&error)))?;
        let (retention, partitions) = (millis(self.retention), self.partitions.get() as i32);
        // As many replicas as the brokers make by themselves.
        let topic = NewTopic::new(self.name, partitions, TopicReplication::Fixed(-1)).set("retention.ms", &retention);
        let topic = topic.set("cleanup.policy", "delete");
        let patience = Some(limits::KAFKA_CONNECT.to_std());
        let options = AdminOptions::new().request_timeout(patience).operation_timeout(patience).validate_only(only_ask);
        let asked = std::thread::scope(|scope| {
            // A thread of its own: who connects may be within a runtime, where nothing may be waited for.
            let asking = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| error.to_string())?;
                runtime.block_on(admin.create_topics([&topic], &options)).map_err(|error| reason(&error))
            });
            asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let mut made = true;
        for result in asked.map_err(failed)? {
            match result {
                Ok(_) => {}
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => made = false,
                Err((_, code)) => return Err(failed(code.to_string())),
            }
        }
        Ok(made)
    }

    fn producer_settings(self) -> rdkafka::ClientConfig {
        let mut settings = broker::connection(self.kafka);
        settings.set("enable.idempotence", "true");
        // Never given up: a later message must not arrive without an earlier one.
        settings.set("message.timeout.ms", "0");
        settings.set("message.max.bytes", (2 * limits::RECORD_BYTES).to_string());
        settings.set("linger.ms", "20");
        settings
    }
}

/// What writes to the topic.
pub(in crate::source) struct Publisher {
    producer: BaseProducer<Deliveries>,
    topic: String,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Writes `messages` in their order and waits until brokers have all of them. False when `go_on` said no meanwhile: then
    /// some may have arrived.
    ///
    /// # Errors
    /// What waiting cannot heal.
    pub(in crate::source) fn publish(
        &self,
        messages: &[Message],
        go_on: impl Fn() -> bool,
    ) -> Result<bool, BrokerError> {
        let failed = |reason: String| BrokerError::Write { topic: self.topic.clone(), reason };
        let deliveries = self.producer.context();
        let before = deliveries.taken.load(Ordering::Relaxed);
        for message in messages {
            let mut record =
                BaseRecord::<(), [u8]>::to(&self.topic).partition(message.partition as i32).payload(&message.bytes);
            while let Err((error, refused)) = self.producer.send(record) {
                if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
                    return Err(failed(reason(&error)));
                }
                if !go_on() {
                    return Ok(false);
                }
                self.producer.poll(LOOK);
                record = refused;
            }
        }
        loop {
            if let Some(reason) = deliveries.failed.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return Err(failed(reason));
            }
            if deliveries.taken.load(Ordering::Relaxed) - before >= messages.len() {
                return Ok(true);
            }
            if !go_on() {
                return Ok(false);
            }
            self.producer.poll(LOOK);
        }
    }
}

impl Drop for Publisher {
    /// What was not taken is published by the next start; the client must not wait for it.
    fn drop(&mut self) {
        use rdkafka::producer::PurgeConfig;
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }
}

/// What brokers have taken.
#[derive(Debug, Default)]
struct Deliveries {
    taken: AtomicUsize,
    /// The first failure.
    failed: Mutex<Option<String>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka producer");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.taken.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, message)) => {
                let text = format!("partition {}: {error}", message.partition());
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
            }
        }
    }
}
