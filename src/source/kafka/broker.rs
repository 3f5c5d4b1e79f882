//! The way to a Kafka cluster: settings of the client, a first contact that says what is wrong, and whose fault an
//! error is.
//!
//! librdkafka connects in the background and tries for ever; it reports what fails as events among the records. At the
//! start those are collected for a few seconds, so that a wrong password is told as that and not as silence. Later they
//! are logged once per outage, and only what waiting cannot heal ends the source.

use crate::limits;
use crate::place::did_you_mean;
use crate::source::{KafkaConfig, Mechanism};
use crate::time::Span;
use crate::time::clock::Clock;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One try of the first contact. A cluster that is there answers in a few milliseconds.
const TRY: Duration = Duration::from_millis(500);

/// Between two tries, where an answer came at once.
const AGAIN: Duration = Duration::from_millis(50);

/// Why Kafka cannot be read. Each says whose it is: the configuration's, the cluster's, or that of what was done to the
/// topic.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("cannot make a Kafka client: {reason}")]
    Settings { reason: String },
    #[error("cannot reach a Kafka broker at {brokers:?}: {reason}")]
    Unreachable { brokers: String, reason: String },
    #[error("cannot log in to Kafka at {brokers:?}: {reason}")]
    Login { brokers: String, reason: String },
    #[error("cannot make a TLS connection to Kafka at {brokers:?}: {reason}")]
    Tls { brokers: String, reason: String },
    #[error("cannot find the Kafka topic {topic:?} at {brokers:?}")]
    NoTopic { topic: String, brokers: String, similar: Option<String> },
    #[error("cannot read from Kafka, the broker refuses it: {reason}")]
    Refused { reason: String },
    #[error("cannot go on reading {partition} at offset {position}, it ends at offset {end}")]
    Recreated { partition: String, position: u64, end: u64 },
    #[error("cannot go on reading {partition}, it was read from the Kafka cluster {stored} and this is {found}")]
    OtherCluster { partition: String, stored: String, found: String },
    #[error("cannot go on reading from Kafka, the records that come next are gone")]
    Gone,
    #[error("cannot read from Kafka: {reason}")]
    Read { reason: String },
    #[error(
        "cannot use the Kafka topic {topic:?} for windows, it has {found} partitions and `repartition.partitions` says {wanted}"
    )]
    Partitions { topic: String, found: usize, wanted: u32 },
    #[error("cannot make the Kafka topic {topic:?}: {reason}")]
    Create { topic: String, reason: String },
    #[error("cannot write to the Kafka topic {topic:?}: {reason}")]
    Write { topic: String, reason: String },
}

impl BrokerError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        let text = match self {
            Self::Settings { .. } => {
                "see `brokers`, `sasl` and `tls` of the source; paths are relative to the working directory"
            }
            Self::Unreachable { .. } => {
                "see that host and port are right, that a broker runs there, and whether it wants `tls` or `sasl`"
            }
            Self::Login { .. } => "see `sasl`: mechanism, username and password must be those that the broker knows",
            Self::Tls { .. } => {
                "see `tls.ca`: it must be the authority that signed the broker's certificate, which must name the host in `brokers`; and that the port is the one for TLS"
            }
            Self::NoTopic { similar: Some(similar), .. } => return format!("did you mean `{similar}`?"),
            Self::NoTopic { .. } => "headrig makes no topics; see `topics`, and whether the user may see this one",
            Self::Refused { .. } => "let the user read the topics and use the group (Kafka's ACLs)",
            Self::Recreated { .. } => {
                "the topic was deleted and made anew, or cut; to read the new one from its start give the source another name (the rows of the old one stay)"
            }
            Self::OtherCluster { .. } => {
                "to read this cluster's topic from its start give the source another name (the rows of the old one stay)"
            }
            Self::Gone => {
                "retention was faster than headrig, or the topic was made anew; start headrig again: it says how much is missing, or refuses a new topic"
            }
            Self::Read { .. } => "what was stored is safe; the log says more",
            Self::Partitions { .. } => {
                "the number is part of where a window's groups are, and never changes: say the topic's own, or name another topic (windows that are open begin anew)"
            }
            Self::Create { .. } => {
                "let the user make topics (Kafka's ACLs), or make it by hand with as many partitions as `repartition.partitions` says"
            }
            Self::Write { .. } => {
                "let the user write to the topic (Kafka's ACLs); what was sealed is safe and is written at the next start"
            }
        };
        text.to_owned()
    }
}

/// A topic and the number of one of its partitions.
pub(super) type Key = (String, i32);

/// A consumer, and what its callbacks leave for whoever polls it.
pub(super) type Client = BaseConsumer<Desk>;

/// What the group has decided. It decides nothing more until this is done, by [`take_up`] or [`give_up`].
#[derive(Debug)]
pub(super) enum Change {
    Assigned(Vec<Key>),
    /// When they are `lost`, others may read them already.
    Revoked {
        keys: Vec<Key>,
        lost: bool,
    },
}

/// Where callbacks put what they are told, all within `poll` and on its thread.
#[derive(Debug, Default)]
pub(super) struct Desk {
    changes: Mutex<Vec<Change>>,
    /// Nobody takes changes any more, so they are done at once: a client waits for that before it ends.
    closing: AtomicBool,
    /// The most telling of the troubles since it was last taken.
    trouble: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl Desk {
    pub(super) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut *lock(&self.changes))
    }

    /// From now on changes are done where they are told.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn trouble(&self) -> Option<(RDKafkaErrorCode, String)> {
        lock(&self.trouble).clone()
    }

    fn take_trouble(&self) -> Option<(RDKafkaErrorCode, String)> {
        lock(&self.trouble).take()
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientContext for Desk {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as an error too, and is told from there in our words.
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        tracing::debug!(%error, reason, "Kafka client");
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        let mut trouble = lock(&self.trouble);
        if trouble.as_ref().is_none_or(|(known, _)| weight(*known) <= weight(code)) {
            *trouble = Some((code, reason.to_owned()));
        }
    }
}

/// How much an error tells about what is wrong.
fn weight(code: RDKafkaErrorCode) -> u8 {
    match code {
        RDKafkaErrorCode::AllBrokersDown => 0,
        RDKafkaErrorCode::BrokerTransportFailure => 1,
        RDKafkaErrorCode::Resolve => 2,
        RDKafkaErrorCode::SSL | RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => 3,
        _ => 1,
    }
}

impl ConsumerContext for Desk {
    /// Only notes what has to be done: claiming and sealing take their time, in which other partitions go on. librdkafka
    /// waits for it as long as the client is polled.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let assigned = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Relaxed) {
            let done = match assigned {
                true => consumer.incremental_assign(partitions),
                false => consumer.incremental_unassign(partitions),
            };
            if let Err(error) = done {
                tracing::debug!(%error, "Kafka client refuses a change while it ends");
            }
            return;
        }
        let elements = partitions.elements();
        let keys = elements.iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        let lost = !assigned && consumer.assignment_lost();
        lock(&self.changes).push(if assigned { Change::Assigned(keys) } else { Change::Revoked { keys, lost } });
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            // Only tools that show lag read the group's offsets; the next seal tries again.
            tracing::debug!(%error, "cannot commit offsets to the Kafka group");
        }
    }
}

/// Begins to read partitions that the group has given, each from its offset. Without a group these are all.
pub(super) fn take_up(client: &Client, partitions: &[(Key, Option<u64>)], in_group: bool) -> KafkaResult<()> {
    let mut all = TopicPartitionList::new();
    for ((topic, number), position) in partitions {
        let offset = position.map_or(Offset::Beginning, |position| Offset::Offset(position as i64));
        all.add_partition_offset(topic, *number, offset)?;
    }
    if in_group { client.incremental_assign(&all) } else { client.assign(&all) }
}

/// Lets go of partitions that the group has taken away; only now it gives them to others.
pub(super) fn give_up(client: &Client, keys: &[Key]) -> KafkaResult<()> {
    let mut all = TopicPartitionList::new();
    for (topic, number) in keys {
        all.add_partition(topic, *number);
    }
    client.incremental_unassign(&all)
}

/// From where to where a partition has records now: the oldest, and the end (exclusive). `Err` inside when nobody answers,
/// which will pass.
///
/// # Errors
/// As [`passing`].
pub(super) fn extent(client: &Client, (topic, number): &Key) -> Result<Result<(u64, u64), String>, BrokerError> {
    match client.fetch_watermarks(topic, *number, TRY) {
        Ok((least, end)) => Ok(Ok((least.max(0) as u64, end.max(0) as u64))),
        Err(error) => {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            let reason = match is_unlisted(code) {
                true => code.to_string(),
                false => passing(&KafkaError::MessageConsumption(code), client.context())?,
            };
            tracing::debug!(topic, number, reason, "cannot find the ends of a Kafka partition for now");
            Ok(Err(reason))
        }
    }
}

/// Whether the client finds no such partition in what the brokers last told it. For a question this passes: a broker that has
/// just started lists a topic without its partitions. For a partition that is being read it doesn't: that was there.
fn is_unlisted(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicOrPartition)
}

/// As [`extent`], tried again for up to [`limits::KAFKA_CONNECT`]: brokers that have just started don't know at once which of them
/// leads a partition.
///
/// # Errors
/// As [`extent`], or when nobody answers.
pub(super) fn first_extent(
    client: &Client,
    brokers: &str,
    key: &Key,
    clock: &dyn Clock,
) -> Result<(u64, u64), BrokerError> {
    let started = clock.monotonic();
    loop {
        match extent(client, key)? {
            Ok(found) => return Ok(found),
            Err(reason) if clock.monotonic().since(started) >= limits::KAFKA_CONNECT => {
                return Err(BrokerError::Unreachable { brokers: brokers.to_owned(), reason });
            }
            // What is said at once would be said again at once.
            Err(_) => drop(client.poll(AGAIN)),
        }
    }
}

/// Makes the client. `instance` tells it from the group's other members for as long as a session lasts, also when it is
/// started again. librdkafka starts threads, and connects when it is first asked for something.
///
/// # Errors
/// When librdkafka doesn't take the settings, or cannot read a file that they name.
pub(super) fn client(config: &KafkaConfig, instance: Option<&str>) -> Result<Client, BrokerError> {
    let mut settings = connection(config);
    settings.set("group.id", &config.group.value);
    if let Some(instance) = instance {
        settings.set("group.instance.id", instance);
    }
    // Positions are the archive's; a position that is not there any more is an error and never a guess.
    settings.set("enable.auto.commit", "false");
    settings.set("enable.auto.offset.store", "false");
    settings.set("auto.offset.reset", "error");
    settings.set("isolation.level", "read_committed");
    settings.set("allow.auto.create.topics", "false");
    settings.set("enable.partition.eof", "true");
    settings.set("partition.assignment.strategy", "cooperative-sticky");
    settings.set("session.timeout.ms", millis(limits::KAFKA_SESSION));
    settings.set("heartbeat.interval.ms", millis(Span::from_micros(limits::KAFKA_SESSION.micros() / 4)));
    settings.set("queued.max.messages.kbytes", (limits::KAFKA_PREFETCH_BYTES >> 10).to_string());
    settings.set("fetch.max.bytes", limits::KAFKA_FETCH_BYTES.to_string());
    // With the default of a second a full queue would be empty for most of the time.
    settings.set("fetch.queue.backoff.ms", "10");
    settings.create_with_context(Desk::default()).map_err(|error| BrokerError::Settings { reason: reason(&error) })
}

/// How brokers are reached, for clients of all kinds.
pub(super) fn connection(config: &KafkaConfig) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", &config.brokers.value);
    settings.set("client.id", "headrig");
    settings.set("reconnect.backoff.max.ms", "2000");
    settings.set("socket.keepalive.enable", "true");
    let (tls, sasl) = (config.tls.is_some(), config.sasl.is_some());
    let protocol = match (sasl, tls) {
        (false, false) => "PLAINTEXT",
        (false, true) => "SSL",
        (true, false) => "SASL_PLAINTEXT",
        (true, true) => "SASL_SSL",
    };
    settings.set("security.protocol", protocol);
    if let Some(tls) = &config.tls {
        settings.set("ssl.ca.location", tls.ca.as_ref().map_or("probe", |path| &path.value));
        let own = [("ssl.certificate.location", &tls.certificate), ("ssl.key.location", &tls.key)];
        for (name, path) in own.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?))) {
            settings.set(name, &path.value);
        }
        if let Some(password) = &tls.key_password {
            settings.set("ssl.key.password", &password.0);
        }
    }
    if let Some(sasl) = &config.sasl {
        let mechanism = match sasl.mechanism {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        settings.set("sasl.mechanism", mechanism);
        settings.set("sasl.username", &sasl.username.value);
        settings.set("sasl.password", &sasl.password.0);
    }
    settings
}

pub(super) fn millis(span: Span) -> String {
    (span.micros() / 1_000).to_string()
}

/// What librdkafka says, without the type's own words where it has any.
pub(super) fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientCreation(reason) => reason.clone(),
        KafkaError::ClientConfig(_, reason, key, _) => format!("{reason} ({key})"),
        error => error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

/// Asks for the partitions of `topic`, again and again for up to [`limits::KAFKA_CONNECT`] while waiting can help.
///
/// # Errors
/// When the cluster cannot be reached, refuses us or has no such topic.
pub(super) fn partitions(
    client: &Client,
    brokers: &str,
    topic: &str,
    clock: &dyn Clock,
) -> Result<Vec<i32>, BrokerError> {
    let started = clock.monotonic();
    loop {
        let mut last = "it doesn't answer".to_owned();
        let answer = client.fetch_metadata(Some(topic), TRY);
        match &answer {
            Ok(metadata) => match metadata.topics().first().and_then(|topic| topic.error()).map(RDKafkaErrorCode::from)
            {
                None => {
                    let known = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id());
                    let mut known: Vec<i32> = known.collect();
                    known.sort_unstable();
                    if !known.is_empty() {
                        // What failed on the way, with another broker say, is over.
                        client.context().take_trouble();
                        return Ok(known);
                    }
                }
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                    return Err(no_topic(client, brokers, topic));
                }
                Some(code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::InvalidTopic)) => {
                    return Err(BrokerError::Refused { reason: format!("{code}, topic {topic:?}") });
                }
                Some(code) => last = code.to_string(),
            },
            Err(error) => last = reason(error),
        }
        // Errors wait in the queue of the records.
        for _ in 0..64 {
            let _ = client.poll(Duration::ZERO);
        }
        let late = clock.monotonic().since(started) >= limits::KAFKA_CONNECT;
        // It is left there: librdkafka tells each trouble once.
        if let Some((code, reason)) = client.context().trouble() {
            let brokers = brokers.to_owned();
            match code {
                RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                    return Err(BrokerError::Login { brokers, reason });
                }
                RDKafkaErrorCode::SSL => return Err(BrokerError::Tls { brokers, reason }),
                _ if late => return Err(BrokerError::Unreachable { brokers, reason }),
                _ => {}
            }
        } else if late {
            return Err(BrokerError::Unreachable { brokers: brokers.to_owned(), reason: last });
        }
    }
}

fn no_topic(client: &Client, brokers: &str, topic: &str) -> BrokerError {
    let similar = client.fetch_metadata(None, TRY).ok().and_then(|metadata| {
        did_you_mean(topic, metadata.topics().iter().map(|topic| topic.name())).map(str::to_owned)
    });
    BrokerError::NoTopic { topic: topic.to_owned(), brokers: brokers.to_owned(), similar }
}

/// What an error while reading asks for: patience (then this returns what is wrong), or the end.
///
/// librdkafka passes over what it cannot read and goes on behind it, and positions may have gaps. So whatever isn't
/// known to be passing ends the source: a record must not be lost for want of a case here.
///
/// # Errors
/// What waiting cannot heal.
pub(super) fn passing(error: &KafkaError, desk: &Desk) -> Result<String, BrokerError> {
    use RDKafkaErrorCode as Code;
    let code = match error {
        KafkaError::MessageConsumption(code) => *code,
        other => return Err(BrokerError::Read { reason: reason(other) }),
    };
    // The reason that came with it, or an earlier and more telling one.
    let reason = desk.take_trouble().map_or_else(|| code.to_string(), |(_, reason)| reason);
    match code {
        Code::AutoOffsetReset | Code::OffsetOutOfRange => Err(BrokerError::Gone),
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            Err(BrokerError::Refused { reason })
        }
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::SSL
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::TimedOutQueue
        | Code::MessageTimedOut
        | Code::NodeUpdate
        | Code::NetworkException
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::OffsetNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::WaitingForCoordinator
        | Code::RebalanceInProgress
        | Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::PollExceeded
        | Code::NoOffset => Ok(reason),
        _ => Err(BrokerError::Read { reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_a_fresh_broker_does_not_list_is_asked_for_again_but_not_read_on() {
        for code in [RDKafkaErrorCode::UnknownPartition, RDKafkaErrorCode::UnknownTopicOrPartition] {
            assert!(is_unlisted(code));
            let read = passing(&KafkaError::MessageConsumption(code), &Desk::default());
            assert!(matches!(read, Err(BrokerError::Read { .. })), "{read:?}");
        }
        assert!(!is_unlisted(RDKafkaErrorCode::TopicAuthorizationFailed));
    }

    #[test]
    fn the_end_of_a_partition_is_no_trouble() {
        let desk = Desk::default();
        desk.error(KafkaError::MessageConsumption(RDKafkaErrorCode::PartitionEOF), "reached end of partition");
        assert!(desk.trouble().is_none());
        let passing = passing(&KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown), &desk);
        assert_eq!(passing.ok().as_deref(), Some(RDKafkaErrorCode::AllBrokersDown.to_string().as_str()));
    }
}
