//! The archive's writing side: rows in, seals out.

use super::bucket::Bucket;
use super::chain::{self, Keys, MAIN, StateRef};
use super::check::Location;
use super::claim::{self, Claimant, Name};
use super::crew::Crew;
use super::delta::{Layout, Ledger};
use super::folder::Folder;
use super::partition::file_name;
use super::patience::{Patience, Patient};
use super::plan::{self, ArchivePlan, Claimed, Opened, PartState, Sealed};
use super::staging::{self, Names, Staging};
use super::store::Store;
use super::table::{self, Kind, Table};
use super::{ArchiveError, disk, seal};
use crate::record::alert::AlertEvent;
use crate::record::dead::DeadLetter;
use crate::record::raw::PartitionId;
use crate::record::receipt::{Checkpoint, PartitionPosition};
use crate::record::sample::{WindowRows, WindowSchema, columns};
use crate::time::EventTime;
use arrow::array::RecordBatch;
use hashbrown::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Dead letters that become one Arrow batch, so that their texts stay below 2 GiB.
const DEAD_ROWS: usize = 512;

/// One partition that this chain holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    /// `None` before the first seal with some of it.
    pub(super) at: Option<PartitionPosition>,
    pub(super) epoch: u64,
    /// What was kept of it alone, and where.
    pub(super) state: Option<StateRef>,
}

/// Where an archive is, and who writes.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    /// Local folder of files that are being filled.
    pub(crate) scratch: PathBuf,
    /// Keeps other writers out of the chain, where the place can do so.
    lock: Option<File>,
}

#[cfg(test)]
impl Place {
    /// A place of one pipeline without a lock, whose files are filled in `scratch`.
    pub(crate) fn unlocked(store: Arc<dyn Store>, pipeline: &str, scratch: PathBuf) -> Self {
        Self { store, keys: Keys::new(pipeline), scratch, lock: None }
    }
}

/// An archive open for writing, by one thread. Of several writers of one chain one gets on. Dropping it makes nothing
/// visible.
#[derive(Debug)]
pub struct Archive {
    pub(super) pipeline: String,
    pub(super) chain: String,
    pub(super) writer: String,
    pub(crate) place: Place,
    /// Sources whose partitions have to be claimed.
    pub(super) shared: Vec<String>,
    /// Whether claims give the states of the chains that partitions come from.
    inherits: bool,
    /// Tables that are written.
    pub(super) kept: Vec<Kind>,
    data: Table,
    dead: Table,
    alerts: Table,
    windows: HashMap<Arc<str>, Table>,
    pub(super) staging: Staging,
    pub(super) held: BTreeMap<Name, Holding>,
    pub(super) given: Vec<chain::Given>,
    /// Partitions that others have claimed since the start, who, and how far this writer had read them by then.
    pub(super) lost: BTreeMap<Name, (String, u64)>,
    /// Number of the next entry.
    pub(super) number: u64,
    /// Whether seals carry hashes of their files and of the entry before, …
    pub(super) audit: bool,
    /// … which is the SHA-256 of the chain's newest entry.
    pub(super) newest: Option<String>,
    /// What the newest seal kept, and where.
    pub(super) state: Vec<u8>,
    pub(super) state_at: Option<StateRef>,
    pub(super) sealed: Vec<Sealed>,
    pub(super) broken: bool,
    /// Objects that say what columns files have, of those that this writer has put.
    pub(super) described: BTreeSet<String>,
    /// Whether what earlier writers had left is gone.
    pub(super) swept: bool,
    /// The Delta logs beside the files, where they are kept.
    pub(super) ledger: Option<Ledger>,
    pub(super) started: EventTime,
    /// Held as long as files are filled in a folder beside a bucket.
    scratch_lock: Option<File>,
}

impl Archive {
    /// Opens an archive, making its folders where there are none, finishes or discards what a crash has left, and
    /// returns how far it has come. `writer_started` and the process id tell this writer from others.
    ///
    /// # Errors
    /// When the folder cannot be made or written to, when another daemon has it open for this pipeline, or when a
    /// sealed file is missing.
    pub fn open(plan: ArchivePlan, writer_started: EventTime) -> Result<(Self, Opened), ArchiveError> {
        let root = match plan.config.location()? {
            Location::Folder(root) => root,
            Location::Bucket(url) => return Self::open_bucket(&url, plan, writer_started),
        };
        let keys = Keys::new(&plan.pipeline);
        let chain = plan.sharing.as_ref().map_or(MAIN, |sharing| sharing.chain.as_str());
        let (scratch, lock_path) = (root.join(keys.staging(chain)), root.join(keys.lock(chain)));
        for folder in [&root.join(Kind::Data.as_str()), &scratch, &root.join(keys.chain(chain))] {
            disk::make_folder(folder)?;
        }
        disk::make_folder(lock_path.parent().expect("it is below the root"))?;
        check_device(&root, &scratch)?;
        let lock = lock(&lock_path)?;
        let folder = Folder::new(root);
        folder.sweep()?;
        let place = Place { store: Arc::new(folder), keys, scratch, lock: Some(lock) };
        let mut opened = Self::open_at(place, plan, writer_started)?;
        // Only now, as that gave space back, without which a full disk would stay full.
        disk::write_synced(&lock_path, opened.0.writer.as_bytes())?;
        probe(&opened.0.place.scratch)?;
        opened.0.wait();
        Ok(opened)
    }

    /// From now on waits for a place that takes nothing. A start doesn't: whoever started it shall hear of it.
    fn wait(&mut self) {
        let (store, patience) = (Arc::clone(&self.place.store), Arc::clone(&self.staging.patience));
        self.place.store = Arc::new(Patient { store, patience });
    }

    fn open_bucket(
        url: &url::Url,
        plan: ArchivePlan,
        writer_started: EventTime,
    ) -> Result<(Self, Opened), ArchiveError> {
        let keys = Keys::new(&plan.pipeline);
        let chain = plan.sharing.as_ref().map_or(MAIN, |sharing| sharing.chain.as_str());
        let home = plan.data_dir.join("archive").join(file_name(&plan.pipeline));
        let (scratch, lock_path) = (home.join("staging").join(chain), home.join(format!("{chain}.lock")));
        disk::make_folder(&scratch)?;
        // Of two daemons over one data folder; of others only the chain keeps one out.
        let lock = lock(&lock_path)?;
        let bucket = Bucket::connect_with(url, plan.config.settings())?;
        bucket.try_out(&keys.staging(chain))?;
        let place = Place { store: Arc::new(bucket), keys, scratch, lock: None };
        let mut opened = Self::open_at(place, plan, writer_started)?;
        opened.0.scratch_lock = Some(lock);
        disk::write_synced(&lock_path, opened.0.writer.as_bytes())?;
        probe(&opened.0.place.scratch)?;
        opened.0.wait();
        Ok(opened)
    }

    /// As [`Self::open`], at a place that is there already.
    pub(crate) fn open_at(
        place: Place,
        plan: ArchivePlan,
        writer_started: EventTime,
    ) -> Result<(Self, Opened), ArchiveError> {
        let chain = plan.sharing.as_ref().map_or_else(|| MAIN.to_owned(), |sharing| sharing.chain.clone());
        let (sealed, newest) = seal::newest(place.store.as_ref(), &place.keys, &chain)?;
        if let Some(entry) = &newest {
            seal::place_again(place.store.as_ref(), &place.keys, entry)?;
        }
        staging::clear(&place.scratch)?;
        let state = sealed.as_ref().map(|sealed| seal::state(place.store.as_ref(), sealed)).transpose()?;
        let watermark = sealed.as_ref().and_then(|sealed| sealed.watermark_us).map(EventTime::from_micros);
        let writer = format!("{}-{writer_started}", std::process::id());
        let number = newest.as_ref().map_or(1, |entry| entry.number + 1);
        let crew = Arc::new(Crew::new(plan.threads, &place.scratch)?);
        let names = names(&place, &plan, &chain, &writer);
        // A folder's staged files go with the start, and its lock keeps others out.
        let swept = place.lock.is_some();
        let staging = Staging::new(place.scratch.clone(), names, crew, Arc::clone(&plan.patience), number);
        let footer = plan::fixed_footer(&plan, &writer);
        let window = |w: &WindowSchema| (w.window.clone(), plan::window_table(w, &footer));
        let mut archive = Self {
            kept: plan.config.tables.value.clone(),
            data: plan::data_table(&plan, &footer),
            dead: plan::plain_table(Kind::Dead, table::dead_schema(), "ts", &["raw", "raw_bytes"], &footer),
            alerts: plan::plain_table(Kind::Alerts, table::alert_schema(), columns::WINDOW_END, &["id"], &footer),
            windows: plan.windows.iter().map(window).collect(),
            inherits: plan.sharing.as_ref().is_some_and(|sharing| sharing.inherits),
            shared: plan.sharing.map(|sharing| sharing.sources).unwrap_or_default(),
            pipeline: plan.pipeline,
            chain,
            writer,
            place,
            staging,
            held: BTreeMap::new(),
            lost: BTreeMap::new(),
            audit: plan.config.audit,
            newest: newest.as_ref().and_then(|entry| entry.sha256.clone()),
            given: newest.map(|entry| entry.given).unwrap_or_default(),
            number,
            state: state.unwrap_or_default(),
            state_at: sealed.and_then(|sealed| sealed.state),
            sealed: Vec::new(),
            broken: false,
            described: BTreeSet::new(),
            swept,
            ledger: None,
            started: writer_started,
            scratch_lock: None,
        };
        let known = archive.resume()?;
        if plan.config.is_delta() {
            archive.keep_logs()?;
        }
        let opened = Opened { own: archive.checkpoint(), known, state: archive.state.clone(), watermark };
        Ok((archive, opened))
    }

    /// Finds what this chain holds; returns how far all partitions of the pipeline are.
    fn resume(&mut self) -> Result<Checkpoint, ArchiveError> {
        let heads = chain::heads(self.place.store.as_ref(), &self.place.keys)?;
        let holders = claim::holders(&heads);
        // Where nobody shares, all is this chain's; what others hold is left from when the pipeline was shared.
        let foreign = |(name, holder): (&Name, &claim::Holder)| {
            let ours = self.chain == MAIN || self.shared.is_empty();
            (ours && holder.chain != self.chain && holder.chain != chain::ORIGIN).then(|| name.clone())
        };
        let foreign: Vec<Name> = holders.iter().filter_map(foreign).collect();
        let known = holders.values().filter_map(|holder| holder.at.clone()).collect();
        let own = holders.into_iter().filter(|(_, holder)| holder.chain == self.chain);
        self.hold(own.collect::<Vec<_>>());
        self.take_over(&foreign)?;
        Ok(Checkpoint { partitions: known })
    }

    /// Begins to keep Delta logs beside the files.
    fn keep_logs(&mut self) -> Result<(), ArchiveError> {
        let Place { store, keys, .. } = &self.place;
        let tables = [&self.data, &self.dead, &self.alerts].into_iter().chain(self.windows.values());
        let mut layouts = BTreeMap::new();
        for table in tables.filter(|table| self.kept.contains(&table.kind)) {
            let root = &table.folder;
            let layout = Layout::of(table);
            let refused = |detail| ArchiveError::Delta { path: PathBuf::from(store.show(root)), detail };
            layouts.insert(root.clone(), layout.map_err(refused)?);
        }
        let mut ledger = Ledger::new(keys, layouts);
        ledger.begin(store.as_ref(), keys, self.started.micros().div_euclid(1_000))?;
        self.ledger = Some(ledger);
        Ok(())
    }

    fn hold(&mut self, holders: impl IntoIterator<Item = (Name, claim::Holder)>) {
        for (name, claim::Holder { at, epoch, state, .. }) in holders {
            self.given.retain(|given| (given.source.as_str(), given.partition.as_str()) != (&name.0, &name.1));
            self.lost.remove(&name);
            self.held.insert(name, Holding { at, epoch, state });
        }
    }

    /// Makes partitions of shared sources this writer's own, whoever holds them now, and returns where each goes on; one that
    /// nobody has read is not among them. What was staged before has to be sealed first: rows of a partition that another
    /// has claimed meanwhile show only then.
    ///
    /// # Errors
    /// When the claims cannot be put. Which of them were is found out by claiming again.
    pub fn claim(&mut self, partitions: &[(String, String)]) -> Result<Claimed, ArchiveError> {
        self.guarded(|archive| {
            archive.catch_up()?;
            archive.take_over(partitions)?;
            let held = || partitions.iter().filter_map(|name| archive.held.get(name).map(|holding| (name, holding)));
            let at = held().filter_map(|(_, holding)| holding.at.clone()).collect();
            let store = archive.place.store.as_ref();
            let part = |(name, holding): (&Name, &Holding)| {
                let (source, partition) = name.clone();
                let bytes = seal::stored(store, holding.state.as_ref()?);
                Some(bytes.map(|bytes| PartState { source, partition, bytes }))
            };
            let parts = held().filter_map(part).collect::<Result<_, _>>()?;
            let inherited = if archive.inherits { archive.inherit(partitions)? } else { Vec::new() };
            Ok(Claimed { checkpoint: Checkpoint { partitions: at }, parts, inherited })
        })
    }

    /// The states of the chains that partitions come from, as of their newest seals.
    fn inherit(&self, partitions: &[Name]) -> Result<Vec<Vec<u8>>, ArchiveError> {
        let (store, keys) = (self.place.store.as_ref(), &self.place.keys);
        let chains = claim::predecessors(&chain::heads(store, keys)?, &self.chain, partitions);
        let states = chains.iter().map(|chain| seal::newest_state(store, keys, chain));
        states.filter(|state| !matches!(state, Ok(state) if state.is_empty())).collect()
    }

    fn take_over(&mut self, partitions: &[Name]) -> Result<(), ArchiveError> {
        let missing: Vec<Name> = partitions.iter().filter(|name| !self.held.contains_key(*name)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let Self { place, pipeline, chain, writer, audit, .. } = self;
        let claimant = Claimant { pipeline, chain, writer, audit: *audit };
        let holders = claim::claim(place.store.as_ref(), &place.keys, claimant, &missing)?;
        self.hold(holders);
        Ok(())
    }

    /// How far this chain's partitions are sealed.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { partitions: self.held.values().filter_map(|holding| holding.at.clone()).collect() }
    }

    /// Stages events, with the columns of the plan's schema.
    ///
    /// # Errors
    /// When they cannot be encoded or written; the archive has to be opened again then, as after any error.
    pub fn write_events(&mut self, rows: &RecordBatch) -> Result<(), ArchiveError> {
        self.stage(|archive| archive.staging.write(&archive.data, rows))
    }

    /// Stages dead letters; `names` gives a partition's source and its own name.
    ///
    /// # Errors
    /// As [`write_events`](Self::write_events).
    pub fn write_dead<'n>(
        &mut self,
        letters: &[DeadLetter],
        names: impl Fn(PartitionId) -> (&'n str, &'n str),
    ) -> Result<(), ArchiveError> {
        self.stage(|archive| {
            for letters in letters.chunks(DEAD_ROWS) {
                let rows = table::dead_rows(&archive.pipeline, letters, &names)?;
                archive.staging.write(&archive.dead, &rows)?;
            }
            Ok(())
        })
    }

    /// Stages the rows of closed windows.
    ///
    /// # Panics
    /// When the plan doesn't know the window.
    ///
    /// # Errors
    /// As [`write_events`](Self::write_events).
    pub fn write_windows(&mut self, closed: &[WindowRows]) -> Result<(), ArchiveError> {
        self.stage(|archive| {
            for window in closed {
                let table = archive.windows.get(&window.window).expect("the plan has every window");
                archive.staging.write(table, &window.rows)?;
            }
            Ok(())
        })
    }

    /// Stages alert events.
    ///
    /// # Errors
    /// As [`write_events`](Self::write_events).
    pub fn write_alerts(&mut self, events: &[AlertEvent]) -> Result<(), ArchiveError> {
        self.stage(|archive| archive.staging.write(&archive.alerts, &table::alert_rows(events)?))
    }

    /// How long it waits for its place, and for what it does.
    pub fn patience(&self) -> Arc<Patience> {
        Arc::clone(&self.staging.patience)
    }

    /// Rows staged since the last seal, of all tables.
    pub fn staged_rows(&self) -> u64 {
        self.staging.rows()
    }

    /// Their bytes, encoded; estimated for what is still in memory.
    pub fn staged_bytes(&self) -> u64 {
        self.staging.bytes()
    }

    /// What the last seal that wrote something made visible, one entry a table with rows.
    pub fn last_sealed(&self) -> &[Sealed] {
        &self.sealed
    }

    /// Bytes of memory that the row groups under way take.
    pub fn memory_bytes(&self) -> u64 {
        self.staging.memory_bytes()
    }

    /// Writes out the largest row groups until those that are left take at most `target` bytes of memory. Returns how
    /// many.
    ///
    /// # Errors
    /// As [`write_events`](Self::write_events).
    pub fn relieve(&mut self, target: u64) -> Result<u64, ArchiveError> {
        let mut flushed = 0;
        self.stage(|archive| archive.staging.relieve(target).map(|count| flushed = count))?;
        Ok(flushed)
    }

    /// Closes the archive and throws away what is staged.
    pub fn abandon(mut self) {
        // Behind an error the files may be those of a committed seal; the next start knows.
        if !self.broken {
            self.staging.discard();
        }
    }

    /// Runs `work`, which stages rows; when it fails, all that is staged is of no use any more.
    fn stage(&mut self, work: impl FnOnce(&mut Self) -> Result<(), ArchiveError>) -> Result<(), ArchiveError> {
        self.guarded(|archive| work(archive).inspect_err(|_| archive.staging.discard()))
    }

    /// Runs `work` unless an earlier piece of work failed.
    pub(super) fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        if self.broken {
            return Err(ArchiveError::Broken { path: PathBuf::from(self.place.store.show("")) });
        }
        let result = work(self);
        self.broken = result.is_err();
        result
    }
}

fn names(place: &Place, plan: &ArchivePlan, chain: &str, writer: &str) -> Names {
    let pipeline = file_name(&plan.pipeline);
    Names {
        home: place.keys.staging(chain),
        tag: if place.lock.is_some() { String::new() } else { format!("{}-", file_name(writer)) },
        prefix: if chain == MAIN { pipeline } else { format!("{pipeline}-{chain}") },
        written: plan.config.written(),
        columns: place.keys.columns(),
    }
}

/// Renaming works within one file system only, and is found out before the first row.
fn check_device(root: &Path, scratch: &Path) -> Result<(), ArchiveError> {
    let device = |path: &Path| path.metadata().map(|m| m.dev()).map_err(ArchiveError::io("look at", path));
    let staging = device(scratch)?;
    for kind in Kind::ALL {
        let data = root.join(kind.as_str());
        if data.exists() && device(&data)? != staging {
            return Err(ArchiveError::Devices { staging: scratch.to_owned(), data });
        }
    }
    Ok(())
}

/// Takes the pipeline's lock; it goes with the returned file, so also when the process dies.
fn lock(path: &Path) -> Result<File, ArchiveError> {
    let owner = || std::fs::read_to_string(path).unwrap_or_default();
    try_lock(path)?.ok_or_else(|| ArchiveError::Locked { path: path.to_owned(), owner: format!("process {}", owner()) })
}

/// As [`lock`]; `None` where another process has it.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>, ArchiveError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(ArchiveError::io("open", path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(ArchiveError::io("lock", path)(error.into())),
    }
}

/// Finds out before the first row whether files can be written.
fn probe(staging: &Path) -> Result<(), ArchiveError> {
    let path = staging.join("probe");
    disk::write_synced(&path, b"headrig")?;
    std::fs::remove_file(&path).map_err(ArchiveError::io("remove", &path))
}
