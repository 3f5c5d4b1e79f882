//! `type: kafka`: topics of a Kafka cluster, as a member of a consumer group.
//!
//! Each partition of a topic is a partition here, named `TOPIC/NUMBER`. Positions are Kafka's offsets, and they come from
//! the archive: the group decides who reads which partition, never from where. The group's own offsets are committed
//! after seals, for tools that show lag. The identity of a partition is its cluster's id; that a topic was made anew shows
//! when its end lies before the stored position.
//!
//! - `reading`: the loop: records into batches, batches into the pipeline
//! - `handover`: partitions come from other daemons, by a claim, and go to them, behind a seal
//! - `lane`, `offsets`: one partition, and its next batch
//! - `broker`: the client, and whose fault an error is
//! - `repartition`: the topic through which daemons of a group share windows
//! - `topics`: what can be said of the settings from the text alone

mod broker;
mod handover;
mod lane;
mod offsets;
mod reading;
pub(super) mod repartition;
mod topics;

pub use broker::BrokerError;
pub(super) use topics::check;

use super::outlet::blocking;
use super::{KafkaConfig, Outlet, PartitionName, Setting, Source, SourceError, Start};
use crate::limits;
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use crate::time::clock::Clock;
use broker::{Client, Key};
use futures::future::BoxFuture;
use rdkafka::consumer::Consumer;
use reading::Reading;
use std::fmt;
use std::sync::Arc;

/// A partition as it was found when the source was connected.
#[derive(Debug)]
struct Known {
    key: Key,
    /// Where it ended then, exclusive.
    end: u64,
}

/// A cluster that was reached, and where to go on.
pub(super) struct Kafka {
    source: Arc<str>,
    identity: String,
    topics: Vec<String>,
    known: Vec<Known>,
    client: Client,
    start: Start,
    /// Whether an archive says where partitions go on.
    archived: bool,
    /// Whether the group knows this daemon again when it is started again.
    named: bool,
    bounded: bool,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("source", &self.source).field("known", &self.known).finish_non_exhaustive()
    }
}

impl Kafka {
    /// Reaches the cluster and finds where each partition goes on.
    ///
    /// # Errors
    /// When the cluster cannot be reached, refuses us, has no such topic, or has another one under its name.
    pub(super) fn connect(
        config: &KafkaConfig,
        name: &str,
        stored: &Checkpoint,
        clock: &dyn Clock,
        setting: &Setting<'_>,
    ) -> Result<Self, SourceError> {
        let instance = setting.instance.map(|instance| member(instance, name));
        let client = broker::client(config, instance.as_deref())?;
        let mut known = Vec::new();
        for topic in &config.topics {
            for number in broker::partitions(&client, &config.brokers.value, &topic.value, clock)? {
                known.push((topic.value.clone(), number));
            }
        }
        let patience = limits::KAFKA_CONNECT.to_std();
        let identity = client.client().fetch_cluster_id(patience).unwrap_or_default();
        let mut kafka = Self {
            source: name.into(),
            identity,
            topics: config.topics.iter().map(|topic| topic.value.clone()).collect(),
            known: Vec::new(),
            client,
            start: config.start,
            archived: setting.archived,
            named: instance.is_some(),
            bounded: false,
        };
        for key in known {
            let (_, end) = broker::first_extent(&kafka.client, &config.brokers.value, &key, clock)?;
            // What is wrong with the position is told now. What it will be, and what is gone below it, is known when it is claimed.
            kafka.first_position(stored, &key, 0, end)?;
            kafka.known.push(Known { key, end });
        }
        Ok(kafka)
    }

    /// Where to begin with a partition that now goes from `least` to `end`; `None` for its start.
    fn first_position(&self, stored: &Checkpoint, key: &Key, least: u64, end: u64) -> Result<Option<u64>, BrokerError> {
        let partition = partition_name(key);
        let Some(known) = stored.find(&self.source, &partition) else {
            let found = self.known.iter().find(|known| known.key == *key);
            return Ok(found.filter(|_| self.start == Start::Latest).map(|known| known.end));
        };
        if known.identity != self.identity && !known.identity.is_empty() && !self.identity.is_empty() {
            let (stored, found) = (known.identity.clone(), self.identity.clone());
            return Err(BrokerError::OtherCluster { partition, stored, found });
        }
        if known.position > end {
            return Err(BrokerError::Recreated { partition, position: known.position, end });
        }
        if known.position < least {
            let (stored, missing) = (known.position, least - known.position);
            tracing::warn!(partition, stored, oldest = least, missing, "records were deleted before they were read");
            return Ok(Some(least));
        }
        Ok(Some(known.position))
    }

    /// Asks the group for a share of the topics.
    fn subscribe(&self) -> Result<(), BrokerError> {
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        self.client.subscribe(&topics).map_err(|error| BrokerError::Read { reason: error.to_string() })
    }

    fn name(&self, key: &Key) -> PartitionName {
        let (source, identity) = (Arc::clone(&self.source), self.identity.clone());
        PartitionName { source, partition: partition_name(key), identity }
    }
}

/// Names a source of a daemon in its group, with the characters that Kafka allows there.
fn member(instance: &str, source: &str) -> String {
    let mut name = format!("{instance}-");
    for byte in source.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => name.push(char::from(byte)),
            other => name.push_str(&format!("_{other:02x}")),
        }
    }
    name
}

fn partition_name((topic, number): &Key) -> String {
    format!("{topic}/{number}")
}

impl Source for Kafka {
    fn partitions(&self) -> Vec<PartitionName> {
        self.known.iter().map(|known| self.name(&known.key)).collect()
    }

    fn finite(&self) -> bool {
        self.bounded
    }

    fn bound(&mut self) {
        self.bounded = true;
    }

    fn run(self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        Box::pin(blocking(move || Reading::start(*self, &ids, &outlet)?.run()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_group_have_names_that_kafka_takes() {
        assert_eq!(member("d-1", "kafka"), "d-1-kafka");
        assert_eq!(member("d-1", "my kafka_2"), "d-1-my_20kafka_5f2");
    }
}
