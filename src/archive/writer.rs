//! The archive's writing side: rows in, seals out.

use super::crew::Crew;
use super::partition::{self, file_name};
use super::seal::{self, FORMAT, Folders, Seal};
use super::staging::Staging;
use super::table::{self, Kind, Table};
use super::{ArchiveError, Config, disk};
use crate::record::alert::AlertEvent;
use crate::record::dead::DeadLetter;
use crate::record::raw::PartitionId;
use crate::record::receipt::{Checkpoint, PartitionPosition, Receipt};
use crate::record::sample::{WindowRows, WindowSchema, columns};
use crate::record::schema::Schema;
use crate::time::EventTime;
use arrow::array::RecordBatch;
use hashbrown::HashMap;
use parquet::file::metadata::KeyValue;
use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Dead letters that become one Arrow batch, so that their texts stay below 2 GiB.
const DEAD_ROWS: usize = 512;

/// What an archive has to know of its pipeline.
#[derive(Debug, Clone)]
pub struct ArchivePlan {
    pub config: Config,
    /// The pipeline's name; files carry it, and each pipeline has seals of its own.
    pub pipeline: String,
    pub schema: Arc<Schema>,
    pub windows: Vec<WindowSchema>,
    /// Threads that encode, the one that calls included; files are the same with any number.
    pub threads: NonZeroUsize,
}

impl ArchivePlan {
    /// As many threads as there are cores that this process may use, by affinity and cgroup; 1 where that is not known.
    pub fn all_cores() -> NonZeroUsize {
        std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
    }
}

/// What one seal made visible of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    pub kind: Kind,
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
}

/// An archive open for writing, by one thread and one daemon at a time. Dropping it makes nothing visible.
#[derive(Debug)]
pub struct Archive {
    pipeline: String,
    writer: String,
    pub(crate) folders: Folders,
    /// Held for as long as the archive is open.
    _lock: File,
    data: Table,
    dead: Table,
    alerts: Table,
    windows: HashMap<Arc<str>, Table>,
    staging: Staging,
    /// What the newest seal says.
    checkpoint: Checkpoint,
    /// Number of the next seal.
    number: u64,
    sealed: Vec<Sealed>,
    broken: bool,
}

impl Archive {
    /// Opens an archive, making its folders where there are none, finishes or discards what a crash has left, and
    /// returns how far it has come. `writer_started` and the process id tell this writer from others.
    ///
    /// # Errors
    /// When the folder cannot be made or written to, when another daemon has it open for this pipeline, or when a
    /// sealed file is missing.
    pub fn open(plan: ArchivePlan, writer_started: EventTime) -> Result<(Self, Checkpoint), ArchiveError> {
        let folders = Folders::new(plan.config.folder()?, &plan.pipeline);
        for folder in [&folders.root.join(Kind::Data.as_str()), &folders.staging, &folders.seals] {
            disk::make_folder(folder)?;
        }
        check_device(&folders)?;
        let writer = format!("{}-{writer_started}", std::process::id());
        let lock = lock(&folders.lock)?;
        // First, as it gives space back, without which a full disk would stay full.
        let newest = seal::recover(&folders)?;
        disk::write_synced(&folders.lock, writer.as_bytes())?;
        probe(&folders.staging)?;
        let (number, checkpoint) = newest.map_or((1, Checkpoint::default()), |s| (s.number + 1, s.checkpoint));
        let crew = Arc::new(Crew::new(plan.threads, &folders.root)?);
        let staging = Staging::new(folders.staging.clone(), crew, file_name(&plan.pipeline), number);
        let footer = fixed_footer(&plan, &writer);
        let window = |w: &WindowSchema| (w.window.clone(), window_table(w, &footer));
        let archive = Self {
            data: data_table(&plan, &footer),
            dead: plain_table(Kind::Dead, table::dead_schema(), "ts", &["raw", "raw_bytes"], &footer),
            alerts: plain_table(Kind::Alerts, table::alert_schema(), columns::WINDOW_END, &["id"], &footer),
            windows: plan.windows.iter().map(window).collect(),
            pipeline: plan.pipeline,
            writer,
            folders,
            _lock: lock,
            staging,
            checkpoint: checkpoint.clone(),
            number,
            sealed: Vec::new(),
            broken: false,
        };
        Ok((archive, checkpoint))
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

    /// Makes all that is staged durable and visible, with `checkpoint` as the positions up to which it goes.
    /// Nothing is written when nothing is staged and the positions are those of the last seal.
    ///
    /// # Errors
    /// When a file cannot be written, synced or placed, or another writer has sealed meanwhile. Whether the seal was
    /// committed is found out by opening the archive again.
    pub fn seal(&mut self, checkpoint: &Checkpoint, watermark: Option<EventTime>) -> Result<Receipt, ArchiveError> {
        if !self.broken && self.staging.rows() == 0 && *checkpoint == self.checkpoint {
            return Ok(Receipt {
                checkpoint: checkpoint.clone(),
                rows: 0,
                files: 0,
                bytes: 0,
                tables: Vec::new(),
                type_clashes: 0,
            });
        }
        self.guarded(|archive| {
            let seal = archive.prepare(checkpoint, watermark).inspect_err(|_| archive.staging.discard())?;
            seal::commit(&archive.folders, &seal)?;
            seal::place(&archive.folders, &seal)?;
            Ok(archive.advance(seal))
        })
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
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, ArchiveError>) -> Result<T, ArchiveError> {
        if self.broken {
            return Err(ArchiveError::Broken { path: self.folders.root.clone() });
        }
        let result = work(self);
        self.broken = result.is_err();
        result
    }

    /// Ends the staged files, durably, and says what shall be sealed.
    pub(crate) fn prepare(
        &mut self,
        checkpoint: &Checkpoint,
        watermark: Option<EventTime>,
    ) -> Result<Seal, ArchiveError> {
        let mut footer =
            vec![KeyValue::new("headrig.position_range".to_owned(), position_range(&self.checkpoint, checkpoint))];
        footer.extend(watermark.map(|w| KeyValue::new("headrig.watermark".to_owned(), w.to_string())));
        Ok(Seal {
            format: FORMAT,
            number: self.number,
            pipeline: self.pipeline.clone(),
            writer: self.writer.clone(),
            watermark_us: watermark.map(EventTime::micros),
            checkpoint: checkpoint.clone(),
            files: self.staging.finish_all(&footer)?,
        })
    }

    /// Begins the next seal.
    fn advance(&mut self, seal: Seal) -> Receipt {
        let of = |kind| {
            let mut total = Sealed { kind, rows: 0, files: 0, bytes: 0 };
            for file in seal.files.iter().filter(|f| f.kind == kind) {
                total.rows += file.rows;
                total.files += 1;
                total.bytes += file.bytes;
            }
            (total.files > 0).then_some(total)
        };
        self.sealed = Kind::ALL.into_iter().filter_map(of).collect();
        let type_clashes = self.staging.misfits();
        self.number += 1;
        self.staging.next();
        self.checkpoint = seal.checkpoint.clone();
        Receipt {
            checkpoint: seal.checkpoint,
            rows: self.sealed.iter().map(|s| s.rows).sum(),
            files: self.sealed.iter().map(|s| s.files).sum(),
            bytes: self.sealed.iter().map(|s| s.bytes).sum(),
            tables: self.sealed.iter().map(|s| (s.kind.as_str(), s.rows, s.files)).collect(),
            type_clashes,
        }
    }
}

/// Renaming works within one file system only, and is found out before the first row.
fn check_device(folders: &Folders) -> Result<(), ArchiveError> {
    let device = |path: &Path| path.metadata().map(|m| m.dev()).map_err(ArchiveError::io("look at", path));
    let staging = device(&folders.staging)?;
    for kind in Kind::ALL {
        let data = folders.root.join(kind.as_str());
        if data.exists() && device(&data)? != staging {
            return Err(ArchiveError::Devices { staging: folders.staging.clone(), data });
        }
    }
    Ok(())
}

/// Takes the pipeline's lock; it goes with the returned file, so also when the process dies.
fn lock(path: &Path) -> Result<File, ArchiveError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(ArchiveError::io("open", path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let owner = std::fs::read_to_string(path).unwrap_or_default();
            Err(ArchiveError::Locked { path: path.to_owned(), owner: format!("process {owner}") })
        }
        Err(error) => Err(ArchiveError::io("lock", path)(error.into())),
    }
}

/// Finds out before the first row whether files can be written.
fn probe(staging: &Path) -> Result<(), ArchiveError> {
    let path = staging.join("probe");
    disk::write_synced(&path, b"headrig")?;
    std::fs::remove_file(&path).map_err(ArchiveError::io("remove", &path))
}

fn fixed_footer(plan: &ArchivePlan, writer: &str) -> Vec<KeyValue> {
    [("headrig.pipeline", plan.pipeline.as_str()), ("headrig.writer", writer)]
        .map(|(key, value)| KeyValue::new(key.to_owned(), value.to_owned()))
        .to_vec()
}

fn data_table(plan: &ArchivePlan, footer: &[KeyValue]) -> Table {
    let mut footer = footer.to_vec();
    footer.push(KeyValue::new("headrig.schema".to_owned(), plan.schema.name.clone()));
    footer.push(KeyValue::new("headrig.schema_version".to_owned(), plan.schema.version.to_string()));
    let levels: Vec<String> = plan.config.partition_by.iter().map(|l| l.value.clone()).collect();
    Table::data(&plan.schema, &levels, &footer)
}

fn plain_table(
    kind: Kind,
    arrow: arrow::datatypes::SchemaRef,
    time: &str,
    plain: &[&str],
    footer: &[KeyValue],
) -> Table {
    Table::plain(kind, kind.as_str().to_owned(), arrow, time, plain, footer)
}

fn window_table(window: &WindowSchema, footer: &[KeyValue]) -> Table {
    let folder = format!("{}/{}", Kind::Windows.as_str(), partition::level("name", Some(&window.window)));
    Table::plain(Kind::Windows, folder, window.arrow.clone(), columns::WINDOW_START, &[], footer)
}

/// Per partition that went on the positions `[start, end)` that lie between two seals, as JSON; `start` is null where the
/// earlier one doesn't know the partition. Of thousands of followed files, most are silent between two seals.
fn position_range(before: &Checkpoint, after: &Checkpoint) -> String {
    let key = |p: &PartitionPosition| (p.source.clone(), p.partition.clone());
    let known: HashMap<_, _> = before.partitions.iter().map(|p| (key(p), p)).collect();
    let range = |now: &PartitionPosition| {
        let known = known.get(&key(now)).filter(|p| p.identity == now.identity).map(|p| p.position);
        (known != Some(now.position)).then(|| {
            serde_json::json!({ "source": now.source, "partition": now.partition, "identity": now.identity,
                "start": known, "end": now.position })
        })
    };
    serde_json::Value::Array(after.partitions.iter().filter_map(range).collect()).to_string()
}
