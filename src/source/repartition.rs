//! `repartition:`: what daemons share windows through. Each writes what it has gathered of its partitions, keyed anew by the windows'
//! groups, and each merges some of the partitions of that.
//!
//! It lies where the source's records come from: a topic of the same Kafka cluster (`kafka/repartition`), a stream of the same
//! NATS servers (`jetstream/repartition`). A pipeline makes it when it isn't there. Of two messages for one partition the later one
//! never arrives without the earlier one.

use super::jetstream::{self, JetstreamConfig};
use super::kafka;
use super::{Config, KafkaConfig, Setting, SourceError};
use crate::limits;
use crate::place::{Located, Place, Problem};
use crate::record::partial::Message;
use crate::time::Span;
use crate::time::clock::Clock;
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroU32;

/// `repartition:` as written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepartitionConfig {
    /// A topic on the source's cluster, or what the subjects of a stream on its servers begin with; of this pipeline alone, made
    /// when it isn't there. Default `headrig.PIPELINE.windows`.
    pub topic: Option<Located<String>>,
    /// Its partitions, 1 to 1000 (256 with JetStream): at most so many daemons merge windows. Can't be changed later. Default 12.
    pub partitions: Option<Located<NonZeroU32>>,
    /// How long what was written is kept, where the topic is made. Default 7d.
    pub retention: Option<Located<Span>>,
}

const PARTITIONS: NonZeroU32 = NonZeroU32::new(12).expect("not zero");
const RETENTION: Span = Span::from_secs(7 * 86_400);
const LEAST_RETENTION: Span = Span::from_secs(3_600);

/// How daemons share windows.
#[derive(Debug, Clone)]
pub struct Repartition {
    /// Where it is written in the pipeline file.
    pub place: Place,
    pub topic: String,
    pub partitions: NonZeroU32,
    pub retention: Span,
    /// The source whose daemons share the windows.
    through: Through,
}

#[derive(Debug, Clone)]
enum Through {
    Kafka(Box<KafkaConfig>),
    Jetstream(Box<JetstreamConfig>),
}

impl Through {
    /// What is wrong with a topic's name, and what to do about it.
    fn check(&self, topic: &str) -> Option<(String, &'static str)> {
        match self {
            Self::Kafka(kafka) => kafka::repartition::check_topic(topic, kafka),
            Self::Jetstream(config) => jetstream::repartition::check_topic(topic, config),
        }
    }

    fn most_partitions(&self) -> u32 {
        match self {
            Self::Kafka(_) => limits::PARTIAL_PARTITIONS,
            Self::Jetstream(_) => limits::PARTIAL_PARTITIONS.min(limits::JETSTREAM_PARTITIONS as u32),
        }
    }
}

impl Repartition {
    /// Checks `repartition:` of a pipeline with these sources, without touching anything but the text.
    ///
    /// # Errors
    /// All mistakes in it, and when the pipeline's sources are not one that daemons share.
    pub fn resolve(
        config: &Located<RepartitionConfig>,
        pipeline: &str,
        sources: &[(String, Config)],
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let through = match sources {
            [(_, Config::Kafka(kafka))] => Some(Through::Kafka(kafka.clone())),
            [(_, Config::Jetstream(config))] if !config.subjects.is_empty() => Some(Through::Jetstream(config.clone())),
            _ => {
                let problem = config.problem(
                    "cannot share windows among daemons, the only source must be of `type: kafka`, or of `type: jetstream` with `subjects`",
                );
                problems.push(problem.hint("only these have partitions to share: take `repartition` out, or give other sources pipelines of their own"));
                None
            }
        };
        let RepartitionConfig { topic, partitions, retention } = &config.value;
        if let (Some(topic), Some(through)) = (topic, &through)
            && let Some((text, hint)) = through.check(&topic.value)
        {
            problems.push(topic.problem(text).hint(hint));
        }
        let most = through.as_ref().map_or(limits::PARTIAL_PARTITIONS, Through::most_partitions);
        if let Some(partitions) = partitions.as_ref().filter(|p| p.value.get() > most) {
            problems.push(partitions.problem(format!("cannot use {} partitions, at most {most}", partitions.value)));
        }
        if let Some(retention) = retention.as_ref().filter(|retention| retention.value < LEAST_RETENTION) {
            let problem = retention
                .problem(format!("cannot keep windows' parts for {}, at least {LEAST_RETENTION}", retention.value));
            problems.push(problem.hint("what is gone before a daemon has merged it is missing in the windows: as long as all daemons may stand still"));
        }
        match through {
            Some(through) if problems.is_empty() => Ok(Self {
                place: config.place,
                topic: topic
                    .as_ref()
                    .map_or_else(|| format!("headrig.{pipeline}.windows"), |topic| topic.value.clone()),
                partitions: partitions.as_ref().map_or(PARTITIONS, |partitions| partitions.value),
                retention: retention.as_ref().map_or(RETENTION, |retention| retention.value),
                through,
            }),
            _ => Err(problems),
        }
    }

    /// The source that brings what daemons have written.
    pub fn source(&self) -> Config {
        match &self.through {
            Through::Kafka(kafka) => {
                Config::Kafka(Box::new(kafka::repartition::source(kafka, &self.topic, self.place)))
            }
            Through::Jetstream(config) => {
                let stream = jetstream::repartition::source(config, &self.topic, self.partitions, self.place);
                Config::Jetstream(Box::new(stream))
            }
        }
    }

    /// Reaches the source's cluster, and makes the topic when it isn't there.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses us, or the topic has another number of partitions.
    pub fn connect(&self, clock: &dyn Clock, setting: &Setting<'_>) -> Result<Publisher, SourceError> {
        Ok(Publisher(match &self.through {
            Through::Kafka(kafka) => Way::Kafka(self.topic(kafka).connect(clock)?),
            Through::Jetstream(config) => Way::Jetstream(Box::new(self.stream(config).connect(setting)?)),
        }))
    }

    /// Tries what [`Self::connect`] does, and makes nothing.
    pub fn probe(&self, clock: &dyn Clock) -> Option<Problem> {
        let tried = match &self.through {
            Through::Kafka(kafka) => self.topic(kafka).probe(clock),
            Through::Jetstream(config) => self.stream(config).probe(),
        };
        let error = tried.err()?;
        let mut problem = Problem::new(self.place, error.to_string());
        problem.hint = error.hint();
        Some(problem)
    }

    fn topic<'t>(&'t self, kafka: &'t KafkaConfig) -> kafka::repartition::Topic<'t> {
        let Self { topic: name, partitions, retention, .. } = self;
        kafka::repartition::Topic { kafka, name, partitions: *partitions, retention: *retention }
    }

    fn stream<'t>(&'t self, config: &'t JetstreamConfig) -> jetstream::repartition::Stream<'t> {
        let Self { topic, partitions, retention, .. } = self;
        jetstream::repartition::Stream { config, topic, partitions: *partitions, retention: *retention }
    }
}

/// What writes to the topic.
#[derive(Debug)]
pub struct Publisher(Way);

#[derive(Debug)]
enum Way {
    Kafka(kafka::repartition::Publisher),
    Jetstream(Box<jetstream::repartition::Publisher>),
}

impl Publisher {
    /// Writes `messages` in their order and waits until brokers have all of them. False when `go_on` said no meanwhile: then
    /// some may have arrived. For a thread of [`tokio::task::spawn_blocking`].
    ///
    /// # Errors
    /// What waiting cannot heal.
    pub fn publish(&mut self, messages: &[Message], go_on: impl Fn() -> bool) -> Result<bool, SourceError> {
        Ok(match &mut self.0 {
            Way::Kafka(publisher) => publisher.publish(messages, go_on)?,
            Way::Jetstream(publisher) => publisher.publish(messages, go_on)?,
        })
    }
}
