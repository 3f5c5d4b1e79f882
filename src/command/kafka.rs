//! Generated lines into a Kafka topic, one message a line.

use anyhow::{Context, bail};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a message may wait for its broker before it counts as failed.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the first answer of a broker may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait when the client's queue is full.
const QUEUE_WAIT: Duration = Duration::from_millis(10);

/// `kafka://broker:9092,other:9092/topic`, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'u> {
    brokers: &'u str,
    topic: &'u str,
}

impl<'u> Target<'u> {
    /// # Errors
    /// When brokers or topic are missing.
    pub(super) fn parse(url: &'u str) -> anyhow::Result<Self> {
        match url.strip_prefix("kafka://").and_then(|rest| rest.split_once('/')) {
            Some((brokers, topic)) if !brokers.is_empty() && !topic.is_empty() && !topic.contains('/') => {
                Ok(Self { brokers, topic })
            }
            _ => bail!("cannot read {url:?} as a Kafka topic, expected kafka://HOST:PORT/TOPIC"),
        }
    }

    /// # Errors
    /// When no broker answers within the timeout, or the client refuses the addresses.
    pub(super) fn connect(&self) -> anyhow::Result<Topic> {
        let failed = FirstFailure::default();
        let producer: ThreadedProducer<FirstFailure> = ClientConfig::new()
            .set("bootstrap.servers", self.brokers)
            .set("client.id", "headrig-generate")
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string())
            .create_with_context(failed.clone())
            .with_context(|| format!("cannot make a Kafka client for {:?}", self.brokers))?;
        producer
            .client()
            .fetch_metadata(Some(self.topic), CONNECT_TIMEOUT)
            .with_context(|| format!("cannot reach a Kafka broker at {:?}", self.brokers))?;
        Ok(Topic { name: self.topic.to_owned(), producer, failed, partial: Vec::new() })
    }
}

/// A topic that takes lines.
pub(super) struct Topic {
    name: String,
    producer: ThreadedProducer<FirstFailure>,
    failed: FirstFailure,
    /// A line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Topic {
    fn send(&self, line: &[u8]) -> io::Result<()> {
        loop {
            match self.producer.send(BaseRecord::<(), [u8]>::to(&self.name).payload(line)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => std::thread::sleep(QUEUE_WAIT),
                Err((error, _)) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl Write for Topic {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.failed.check()?;
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if self.partial.is_empty() {
                self.send(&rest[..end])?;
            } else {
                self.partial.extend_from_slice(&rest[..end]);
                self.send(&self.partial)?;
                self.partial.clear();
            }
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        Ok(bytes.len())
    }

    /// Waits until the brokers have all lines.
    fn flush(&mut self) -> io::Result<()> {
        self.producer.flush(DELIVERY_TIMEOUT).map_err(io::Error::other)?;
        self.failed.check()
    }
}

/// Remembers the first message that could not be delivered.
#[derive(Debug, Clone, Default)]
struct FirstFailure(Arc<Mutex<Option<String>>>);

impl FirstFailure {
    fn check(&self) -> io::Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(io::Error::other(failure.clone())),
            None => Ok(()),
        }
    }
}

impl ClientContext for FirstFailure {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "Kafka client");
    }
}

impl ProducerContext for FirstFailure {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let text = format!("a message to {} was not delivered: {error}", message.topic());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;
    use rdkafka::{Offset, TopicPartitionList};

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("kafka://a:9092,b:9092/logs").unwrap();
        assert_eq!(target, Target { brokers: "a:9092,b:9092", topic: "logs" });
        for url in ["kafka://", "kafka://a:9092", "kafka:///logs", "kafka://a/logs/x", "nats://a/b"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    /// librdkafka's own mock brokers, in this process on loopback; real brokers are the Kafka source's tests' business.
    #[test]
    fn every_line_arrives_once_and_in_order() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("logs", 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let mut topic = Target::parse(&format!("kafka://{brokers}/logs")).unwrap().connect().unwrap();
        let lines: Vec<String> = (0..5_000).map(|number| format!("line {number}")).collect();
        for piece in (lines.join("\n") + "\n").as_bytes().chunks(777) {
            topic.write_all(piece).unwrap();
        }
        topic.flush().unwrap();

        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &brokers).set("group.id", "test").create().unwrap();
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset("logs", 0, Offset::Beginning).unwrap();
        consumer.assign(&partitions).unwrap();
        for line in &lines {
            let message = consumer.poll(Duration::from_secs(30)).expect("it comes").unwrap();
            assert_eq!(message.payload(), Some(line.as_bytes()));
        }
    }

    #[test]
    fn nobody_there_is_an_error() {
        // A port that was free a moment ago: nobody listens.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("kafka://127.0.0.1:{port}/logs");
        let producer = Target::parse(&url).unwrap();
        let client: ThreadedProducer<FirstFailure> = ClientConfig::new()
            .set("bootstrap.servers", producer.brokers)
            .create_with_context(FirstFailure::default())
            .unwrap();
        assert!(client.client().fetch_metadata(Some("logs"), Duration::from_millis(500)).is_err());
    }
}
