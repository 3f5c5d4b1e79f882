//! `type: jetstream`: messages of a JetStream stream, each in the archive exactly once.
//!
//! A message's position is its sequence in the stream, and the archive's checkpoint is the authority on how far it was
//! read: at the start, and after each interruption, the consumer is made anew behind the last message that was
//! handed on. So messages come in order, and what an earlier run had read but not sealed comes again. The consumer is
//! one daemon's alone; who finds that another has taken it stops.
//!
//! Messages are pulled only as fast as the pipeline takes them. They are acknowledged when the archive has sealed them, so that
//! the consumer shows everybody how far the archive is. The server is told of those that wait for half of `ack_wait` that they
//! are still worked on; one that comes again nevertheless is passed over by its sequence.
//!
//! Streams may delete what is acknowledged (retention `workqueue`, `interest`): it is sealed then. A stream that was made
//! anew under its old name has another time of creation, and is refused.
//!
//! With `subjects`, each of them is a partition with a consumer of its own, and daemons that read the same stream by the same
//! `durable` share them: each partition is claimed in the archive before it is read, and sealed before it is given away.
//!
//! - `settings`: what can be said of the settings from the text alone
//! - `session`: one connection: the JetStream API, one consumer
//! - `pulled`: what came for a request; `deliveries`: how messages are acknowledged
//! - `lane`: one partition, over one connection after the other
//! - `group`: who of several daemons reads what
//! - `sharing`: takes partitions and gives them away
//! - `repartition`: the stream through which daemons share windows

mod deliveries;
mod group;
mod lane;
mod pulled;
pub(super) mod repartition;
mod session;
mod settings;
mod sharing;

pub use settings::JetstreamConfig;
pub(super) use settings::check;

use super::nats::{NatsError, probe};
use super::{Feed, Outlet, PartitionName, Setting, Source, SourceError};
use crate::record::raw::PartitionId;
use crate::record::receipt::Checkpoint;
use futures::future::BoxFuture;
use group::Group;
use lane::{End, Lane, Stream};
use session::{Consumer, Session, StreamInfo};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Jetstream {
    stream: Arc<Stream>,
    info: StreamInfo,
    /// What is read: a partition each.
    lanes: Vec<Lane>,
    /// Others that may read some of them; none where one daemon reads all.
    group: Option<Group>,
    bounded: bool,
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
        let server = config.server()?;
        let stream = Arc::new(Stream {
            client: format!("headrig-{}-{name}", setting.pipeline),
            name: config.stream.value.clone(),
            source: name.into(),
            ack_wait: config.ack_wait,
            verbatim: config.verbatim,
            archived: setting.archived,
            labels: [setting.pipeline, name].map(str::to_owned),
            interruptions: setting.telemetry.source_interruptions.clone(),
            server,
        });
        let instance = setting.instance.unwrap_or("headrig");
        let group = (!config.subjects.is_empty()).then(|| Group::new(&stream, &config.durable.value, instance));
        let consumers = if config.subjects.is_empty() {
            vec![Consumer::alone(&config.durable.value, config.subject.as_ref().map(|subject| subject.value.as_str()))]
        } else {
            let of = |subject: &str| Consumer::shared(&config.durable.value, subject, instance);
            config.subjects.iter().map(|subject| of(&subject.value)).collect()
        };
        let look = async || {
            let mut session = Session::open(stream.server.connect(&stream.client).await?, &stream.name);
            let info = session.stream_info().await?;
            for consumer in &consumers {
                session.check_consumer(consumer, info.retention()).await?;
            }
            if let Some(group) = &group {
                group.probe(session).await?;
            }
            Ok::<_, NatsError>(info)
        };
        let info = probe(look, &stream.server.address())?;
        let mut lanes = Vec::new();
        for consumer in consumers {
            let mut lane = Lane::new(&stream, &info, consumer);
            lane.locate(stored, &info)?;
            lane.check(&info)?;
            lanes.push(lane);
        }
        Ok(Self { stream, info, lanes, group, bounded: false })
    }

    /// Reads a stream that no other daemon reads.
    async fn read(self, ids: &[PartitionId], outlet: &Outlet) -> Result<(), SourceError> {
        for (mut lane, id) in self.lanes.into_iter().zip(ids) {
            let end = tokio::select! {
                () = outlet.until_stopped() => return Ok(()),
                end = lane.read(*id, self.bounded, outlet) => end?,
            };
            match end {
                // Closed or not, there is nothing more to do.
                End::Complete => drop(outlet.send(Feed::Ended(*id)).await),
                End::Closed => return Ok(()),
            }
        }
        Ok(())
    }
}

impl Source for Jetstream {
    fn partitions(&self) -> Vec<PartitionName> {
        self.lanes.iter().map(|lane| lane.name().clone()).collect()
    }

    fn finite(&self) -> bool {
        self.bounded
    }

    fn bound(&mut self) {
        self.bounded = true;
    }

    fn run(mut self: Box<Self>, ids: Vec<PartitionId>, outlet: Outlet) -> BoxFuture<'static, Result<(), SourceError>> {
        assert_eq!(ids.len(), self.lanes.len(), "each partition has its number");
        Box::pin(async move {
            match self.group.take() {
                None => self.read(&ids, &outlet).await,
                Some(group) => {
                    let Self { stream, info, lanes, bounded, .. } = *self;
                    sharing::Sharing::new(stream, info, lanes, &ids, outlet).run(group, bounded).await
                }
            }
        })
    }
}
