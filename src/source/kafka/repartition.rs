//! The topic through which daemons of a group share windows: each writes what it has gathered of its partitions, keyed anew by
//! the windows' groups, and each merges some of the topic's partitions.
//!
//! It lies on the cluster of the source. A pipeline makes it when it isn't there, with the partitions and the retention that
//! it says. Writing is idempotent and in order: of two messages for one partition the later one never arrives without the earlier one.

use super::broker::{self, BrokerError, millis, reason};
use super::topics::is_topic;
use crate::limits;
use crate::place::{Located, Place, Problem};
use crate::record::partial::Message;
use crate::source::{Config, KafkaConfig, SourceError, Start};
use crate::time::Span;
use crate::time::clock::Clock;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Between two looks at whether to go on.
const LOOK: Duration = Duration::from_millis(100);

/// `repartition:` as written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepartitionConfig {
    /// A topic on the source's cluster, of this pipeline alone; made when it isn't there. Default `headrig.PIPELINE.windows`.
    pub topic: Option<Located<String>>,
    /// Its partitions, 1 to 1000: at most so many daemons merge windows. Can't be changed later. Default 12.
    pub partitions: Option<Located<NonZeroU32>>,
    /// How long the broker keeps what was written, where the topic is made. Default 7d.
    pub retention: Option<Located<Span>>,
}

/// How daemons share windows.
#[derive(Debug, Clone)]
pub struct Repartition {
    /// Where it is written in the pipeline file.
    pub place: Place,
    pub topic: String,
    pub partitions: NonZeroU32,
    pub retention: Span,
    /// The source whose group shares the windows.
    pub kafka: Box<KafkaConfig>,
}

impl Repartition {
    /// Checks `repartition:` of a pipeline with these sources, without touching anything but the text.
    ///
    /// # Errors
    /// All mistakes in it, and when the pipeline's sources are not one of Kafka's.
    pub fn resolve(
        config: &Located<RepartitionConfig>,
        pipeline: &str,
        sources: &[(String, Config)],
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let kafka = match sources {
            [(_, Config::Kafka(kafka))] => Some(kafka),
            _ => {
                let problem =
                    config.problem("cannot share windows among daemons, the only source must be one of `type: kafka`");
                problems.push(problem.hint("only a Kafka group has partitions to share: take `repartition` out, or give other sources pipelines of their own"));
                None
            }
        };
        let RepartitionConfig { topic, partitions, retention } = &config.value;
        if let Some(topic) = topic {
            let read = kafka.is_some_and(|kafka| kafka.topics.iter().any(|read| read.value == topic.value));
            if !is_topic(&topic.value) {
                let problem = topic.problem(format!("cannot use {:?} as a Kafka topic", topic.value));
                problems.push(problem.hint("a name has up to 249 letters, digits, dots, hyphens and underscores"));
            } else if read {
                let problem =
                    topic.problem(format!("cannot share windows through {:?}, the source reads it", topic.value));
                problems.push(problem.hint("name a topic that nothing else uses; it is made when it isn't there"));
            }
        }
        if let Some(partitions) = partitions.as_ref().filter(|p| p.value.get() > limits::PARTIAL_PARTITIONS) {
            let most = limits::PARTIAL_PARTITIONS;
            problems.push(partitions.problem(format!("cannot use {} partitions, at most {most}", partitions.value)));
        }
        if let Some(retention) = retention.as_ref().filter(|retention| retention.value < LEAST_RETENTION) {
            let problem = retention
                .problem(format!("cannot keep windows' parts for {}, at least {LEAST_RETENTION}", retention.value));
            problems.push(problem.hint("what is gone before a daemon has merged it is missing in the windows: as long as all daemons may stand still"));
        }
        match kafka {
            Some(kafka) if problems.is_empty() => Ok(Self {
                place: config.place,
                topic: topic
                    .as_ref()
                    .map_or_else(|| format!("headrig.{pipeline}.windows"), |topic| topic.value.clone()),
                partitions: partitions.as_ref().map_or(PARTITIONS, |partitions| partitions.value),
                retention: retention.as_ref().map_or(RETENTION, |retention| retention.value),
                kafka: kafka.clone(),
            }),
            _ => Err(problems),
        }
    }

    /// The source that brings what daemons have written.
    pub fn source(&self) -> Config {
        let at = |value: String| Located { value, place: self.place, verbatim: false };
        Config::Kafka(Box::new(KafkaConfig {
            topics: vec![at(self.topic.clone())],
            group: at(format!("{}.windows", self.kafka.group.value)),
            start: Start::Earliest,
            ..KafkaConfig::clone(&self.kafka)
        }))
    }

    /// Reaches the cluster, and makes the topic when it isn't there.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses us, or the topic has another number of partitions.
    pub fn connect(&self, clock: &dyn Clock) -> Result<Publisher, SourceError> {
        let brokers = &self.kafka.brokers.value;
        let client = broker::client(&self.kafka, None)?;
        let found = match broker::partitions(&client, brokers, &self.topic, clock) {
            Err(BrokerError::NoTopic { .. }) => {
                if self.create(false)? {
                    let Self { topic, partitions, retention, .. } = self;
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
        Ok(Publisher { producer, topic: self.topic.clone() })
    }

    /// Tries what [`Self::connect`] does, and makes nothing.
    pub fn probe(&self, clock: &dyn Clock) -> Option<Problem> {
        let tried = || {
            let client = broker::client(&self.kafka, None)?;
            match broker::partitions(&client, &self.kafka.brokers.value, &self.topic, clock) {
                Ok(found) => self.check_partitions(found.len()),
                Err(BrokerError::NoTopic { .. }) => self.create(true).map(drop),
                // What is wrong with the cluster is told of the source.
                Err(_) => Ok(()),
            }
        };
        let error = tried().err()?;
        Some(Problem::new(self.place, error.to_string()).hint(error.hint()))
    }

    fn check_partitions(&self, found: usize) -> Result<(), BrokerError> {
        let (topic, wanted) = (self.topic.clone(), self.partitions.get());
        if found == wanted as usize { Ok(()) } else { Err(BrokerError::Partitions { topic, found, wanted }) }
    }

    /// A topic that was just made is known after a moment.
    fn await_topic(&self, client: &broker::Client, clock: &dyn Clock) -> Result<Vec<i32>, BrokerError> {
        let started = clock.monotonic();
        loop {
            match broker::partitions(client, &self.kafka.brokers.value, &self.topic, clock) {
                Err(BrokerError::NoTopic { .. }) if clock.monotonic().since(started) < limits::KAFKA_CONNECT => {
                    drop(client.poll(LOOK));
                }
                found => return found,
            }
        }
    }

    /// Makes the topic, or only asks whether it could be made. False when another daemon has made it meanwhile.
    fn create(&self, only_ask: bool) -> Result<bool, BrokerError> {
        let failed = |reason: String| BrokerError::Create { topic: self.topic.clone(), reason };
        let admin: AdminClient<DefaultClientContext> =
            broker::connection(&self.kafka).create().map_err(|error| failed(reason(&error)))?;
        let (retention, partitions) = (millis(self.retention), self.partitions.get() as i32);
        // As many replicas as the brokers make by themselves.
        let topic = NewTopic::new(&self.topic, partitions, TopicReplication::Fixed(-1)).set("retention.ms", &retention);
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

    fn producer_settings(&self) -> rdkafka::ClientConfig {
        let mut settings = broker::connection(&self.kafka);
        settings.set("enable.idempotence", "true");
        // Never given up: a later message must not arrive without an earlier one.
        settings.set("message.timeout.ms", "0");
        settings.set("message.max.bytes", (2 * limits::RECORD_BYTES).to_string());
        settings.set("linger.ms", "20");
        settings
    }
}

const PARTITIONS: NonZeroU32 = NonZeroU32::new(12).expect("not zero");
const RETENTION: Span = Span::from_secs(7 * 86_400);
const LEAST_RETENTION: Span = Span::from_secs(3_600);

/// What writes to the topic.
pub struct Publisher {
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
    pub fn publish(&self, messages: &[Message], go_on: impl Fn() -> bool) -> Result<bool, BrokerError> {
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
