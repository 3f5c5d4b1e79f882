//! What the tests of the sources share: driving one and looking at what it hands on.

use super::{Config, Feed, FileConfig, Outlet, Setting, Source, SourceError};
use crate::place::Located;
use crate::record::raw::PartitionId;
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::telemetry::metrics::SelfMetrics;
use crate::time::clock::{Clock, SystemClock};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::start())
}

/// A pipeline `p` with an archive, and its own folder for what outlives it.
pub(super) fn setting<'s>(folder: &'s Path, telemetry: &'s SelfMetrics) -> Setting<'s> {
    Setting { pipeline: "p", data_dir: folder, archived: true, instance: None, telemetry }
}

pub(super) fn config(folder: &Path, paths: &[&str], follow: bool) -> Config {
    let paths = paths.iter().map(|path| Located::nowhere(folder.join(path).to_str().unwrap().to_owned())).collect();
    Config::File(FileConfig { paths, follow })
}

/// A source at work.
pub(super) struct Running {
    pub runtime: Runtime,
    pub feeds: Receiver<Feed>,
    pub stop: CancellationToken,
    pub task: JoinHandle<Result<(), SourceError>>,
}

/// Starts `source`; its known partitions are announced as if they had been opened.
pub(super) fn start(source: Box<dyn Source>) -> (Vec<Feed>, Running) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let names = source.partitions();
    let ids: Vec<PartitionId> = (0..names.len()).map(PartitionId).collect();
    let opened = ids.iter().zip(names).map(|(id, name)| Feed::Opened { id: *id, name }).collect();
    let stop = CancellationToken::new();
    let (outlet, feeds) = Outlet::channel(2, ids.len(), stop.clone(), clock());
    let task = runtime.spawn(source.run(ids, outlet));
    (opened, Running { runtime, feeds, stop, task })
}

/// Runs a source that ends by itself and returns all that it handed on.
pub(super) fn drive(source: Box<dyn Source>) -> (Vec<Feed>, Result<(), SourceError>) {
    let (mut feeds, mut running) = start(source);
    while let Some(feed) = running.feeds.blocking_recv() {
        feeds.push(feed);
    }
    let result = running.runtime.block_on(running.task).unwrap();
    (feeds, result)
}

/// The records with their partitions' names (without the folder), and `stored` brought up to date. Positions must only
/// grow, and nothing may come from a partition before it was opened or after it has ended.
pub(super) fn lines_of(folder: &Path, feeds: &[Feed], stored: &Checkpoint) -> (Vec<(String, String)>, Checkpoint) {
    let mut names = Vec::new();
    let mut ends: Vec<Option<u64>> = Vec::new();
    let mut stored = stored.clone();
    let mut lines = Vec::new();
    for feed in feeds {
        match feed {
            Feed::Opened { id, name } => {
                assert_eq!(id.0, names.len(), "partitions are opened in the order of their numbers");
                names.push(name.clone());
                ends.push(Some(0));
            }
            Feed::Batch(batch) => {
                let end = ends[batch.partition.0].as_mut().expect("not ended");
                assert!(batch.position(0) >= *end && batch.end > *end && !batch.records.is_empty());
                *end = batch.end;
                let name = &names[batch.partition.0];
                let short = Path::new(&name.partition).strip_prefix(folder).unwrap().to_str().unwrap();
                for index in 0..batch.records.len() {
                    lines.push((short.to_owned(), String::from_utf8(batch.record(index).to_vec()).unwrap()));
                }
                stored.set(PartitionPosition {
                    source: name.source.to_string(),
                    partition: name.partition.clone(),
                    identity: name.identity.clone(),
                    position: batch.end,
                });
            }
            Feed::Identified { id, identity } => {
                let name = &mut names[id.0];
                stored.identify(&name.source, &name.partition, &name.identity, identity);
                name.identity.clone_from(identity);
            }
            Feed::Forgotten(name) => stored.forget(&name.source, &name.partition, &name.identity),
            Feed::Claim { .. } | Feed::Seal(_) => panic!("files are shared with nobody: {feed:?}"),
            Feed::Ended(id) => assert!(ends[id.0].take().is_some(), "a partition ends once"),
        }
    }
    (lines, stored)
}
