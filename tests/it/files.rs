//! Files that are rotated while they are written and headrig is killed again and again: each line is stored once.

use crate::harness::{Running, headrig, pipeline, temporary, until};
use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const KILLS: u64 = 12;
const LINES: u64 = 12_000;
/// Lines of one generation; the last one is larger.
const GENERATION: u64 = 1_500;

/// A sequence that a seed decides.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rotation {
    Rename,
    CopyTruncate,
}

/// Writes numbered lines, some of them in two pieces, and rotates now and then.
struct Writer {
    folder: PathBuf,
    rotation: Rotation,
    file: File,
    rotations: u32,
}

impl Writer {
    fn new(folder: &Path, rotation: Rotation) -> Self {
        Self { folder: folder.to_owned(), rotation, file: Self::open(folder), rotations: 0 }
    }

    fn open(folder: &Path) -> File {
        OpenOptions::new().append(true).create(true).open(folder.join("app.log")).unwrap()
    }

    /// Paced, so that the writing lasts as long as the killing.
    fn write_all(&mut self, dice: &mut Dice) {
        for number in 0..LINES {
            let line =
                format!("{{\"message\":\"line {number}\",\"filler\":\"{}\"}}\n", "x".repeat(dice.below(120) as usize));
            let cut = dice.below(line.len() as u64) as usize;
            self.file.write_all(&line.as_bytes()[..cut]).unwrap();
            if dice.below(12) == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.file.write_all(&line.as_bytes()[cut..]).unwrap();
            if number % GENERATION == GENERATION - 1 && number + GENERATION <= LINES {
                self.rotate();
            }
        }
    }

    /// `app.log` becomes `app.log.1`, that `app.log.2`, and so on. None is deleted: headrig may not have read it.
    fn rotate(&mut self) {
        let path = |generation: u32| self.folder.join(format!("app.log.{generation}"));
        for generation in (1..=self.rotations).rev() {
            fs::rename(path(generation), path(generation + 1)).unwrap();
        }
        let current = self.folder.join("app.log");
        match self.rotation {
            Rotation::Rename => {
                fs::rename(current, path(1)).unwrap();
                self.file = Self::open(&self.folder);
            }
            // Nothing is written between the two, so the method itself loses nothing.
            Rotation::CopyTruncate => {
                fs::copy(current, path(1)).unwrap();
                self.file.set_len(0).unwrap();
            }
        }
        self.rotations += 1;
    }
}

/// How often each message is in the archive.
fn messages(archive: &Path) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for path in glob::glob(&format!("{}/data/**/*.parquet", archive.display())).unwrap() {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(File::open(path.unwrap()).unwrap()).unwrap().build().unwrap();
        for batch in reader {
            let batch = batch.unwrap();
            let column = arrow::compute::cast(batch.column_by_name("message").unwrap(), &DataType::Utf8).unwrap();
            let texts = column.as_string::<i32>();
            for row in 0..texts.len() {
                *counts.entry(texts.value(row).to_owned()).or_default() += 1;
            }
        }
    }
    counts
}

fn exactly_once(rotation: Rotation, seed: u64) {
    let folder = temporary();
    let (logs, archive) = (folder.path().join("logs"), folder.path().join("archive"));
    fs::create_dir(&logs).unwrap();
    let yaml = format!(
        "pipeline: p\nsources:\n  s: {{ type: file, paths: [\"{}/app.log*\"], follow: true }}\n\
         decode: {{ envelope: none, format: json, schema: minimal }}\n\
         archive: {{ url: \"{}\", flush: {{ every: 150ms }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
        logs.display(),
        archive.display()
    );
    let file = pipeline(folder.path(), &yaml);
    let start = || Running::start(headrig().arg("run").arg(&file));
    let written = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            Writer::new(&logs, rotation).write_all(&mut Dice(seed));
            written.store(true, Ordering::Release);
        });
        let mut dice = Dice(seed + 1);
        for _ in 0..KILLS {
            let mut running = start();
            // Any moment is one to be killed at.
            std::thread::sleep(Duration::from_millis(100 + dice.below(900)));
            running.signal(Signal::KILL);
            running.wait();
        }
    });
    assert!(written.load(Ordering::Acquire));
    let mut running = start();
    // One more line shows that this run has come to the end of what there was, whether or not it should have read it.
    let mut last = OpenOptions::new().append(true).open(logs.join("app.log")).unwrap();
    last.write_all(b"{\"message\":\"last\"}\n").unwrap();
    until(Duration::from_secs(60), || messages(&archive).len() as u64 > LINES);
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    let counts = messages(&archive);
    let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).take(10).collect();
    assert!(doubled.is_empty(), "seed {seed}: {doubled:?}");
    let missing: Vec<_> =
        (0..LINES).filter(|number| !counts.contains_key(&format!("line {number}"))).take(10).collect();
    assert!(missing.is_empty() && counts.len() as u64 == LINES + 1, "seed {seed}: {missing:?}");
}

#[test]
fn each_line_once_through_renames_and_kills() {
    exactly_once(Rotation::Rename, 1);
}

#[test]
fn each_line_once_through_copies_truncations_and_kills() {
    exactly_once(Rotation::CopyTruncate, 2);
}

#[test]
fn the_lines_of_a_file_renamed_out_of_the_pattern_are_found_in_its_folder() {
    let folder = temporary();
    let (log, archive) = (folder.path().join("app.log"), folder.path().join("archive"));
    let yaml = format!(
        "pipeline: p\nsources:\n  s: {{ type: file, paths: [\"{}\"] }}\n\
         decode: {{ envelope: none, format: json, schema: minimal }}\n\
         archive: {{ url: \"{}\" }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
        log.display(),
        archive.display()
    );
    let file = pipeline(folder.path(), &yaml);
    let run = || headrig().args(["run", "--once"]).arg(&file).output().unwrap();
    fs::write(&log, "{\"message\":\"one\"}\n").unwrap();
    crate::harness::assert_exit(&run(), 0);
    let mut old = OpenOptions::new().append(true).open(&log).unwrap();
    old.write_all(b"{\"message\":\"two\"}\n").unwrap();
    fs::rename(&log, folder.path().join("old.1")).unwrap();
    fs::write(&log, "{\"message\":\"three\"}\n").unwrap();
    crate::harness::assert_exit(&run(), 0);
    fs::rename(folder.path().join("old.1"), folder.path().join("older")).unwrap();
    old.write_all(b"{\"message\":\"four\"}\n").unwrap();
    fs::remove_file(folder.path().join("older")).unwrap();
    let output = run();
    crate::harness::assert_exit(&output, 0);
    let said = crate::harness::text(&output.stderr);
    assert!(said.contains("cannot find a file that was read up to here"), "{said}");
    assert!(!crate::harness::text(&run().stderr).contains("cannot find"), "it is told once");
    let counts = messages(&archive);
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [("one", 1), ("three", 1), ("two", 1)].map(|(m, n)| (m.to_owned(), n))
    );
}
