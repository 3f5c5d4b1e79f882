//! Rows that go: out of the archive, or to a colder one.

use super::tests::{START, events, files, open, sealing, visible};
use super::upkeep_tests::{flaws, upkeep};
use super::{Archive, ArchiveError, Care, ColdConfig, KeepConfig, RetainConfig, Round, Sealing};
use crate::place::Located;
use crate::time::{EventTime, Span};
use std::path::Path;

const DAY: i64 = 86_400;

fn days(days: i64) -> Located<Span> {
    Located::nowhere(Span::from_secs(days * DAY))
}

/// `days` behind the first row.
fn at(days: i64) -> EventTime {
    EventTime::from_micros(START) + Span::from_secs(days * DAY)
}

fn retain(keep: i64, cold: Option<(&Path, i64)>) -> RetainConfig {
    let cold = cold.map(|(url, keep)| ColdConfig {
        url: Located::nowhere(url.to_str().unwrap().to_owned()),
        keep: days(keep),
        level: ColdConfig::default_level(),
    });
    RetainConfig { data: Some(KeepConfig { keep: days(keep), cold }), ..RetainConfig::default() }
}

/// Ten days of three rows each.
fn ten_days(root: &Path) -> Archive {
    let (mut archive, _) = open(root);
    for number in 0..10 {
        archive.write_events(&events(number * 3, 3)).unwrap();
        let sealed = Sealing { records: 3, at: Some(at(number)), ..sealing(3 * (number as u64 + 1)) };
        archive.seal(&sealed).unwrap();
    }
    archive
}

fn round(now: EventTime) -> Round {
    Round { dry_run: false, now, trust_clock: false, scratch: "/nowhere".into(), memory_bytes: 4_000_000 }
}

/// What a round says and does: act, folder, rows.
fn run(root: &Path, retain: &RetainConfig, round: &Round) -> Result<Vec<(&'static str, String, u64)>, ArchiveError> {
    let care = Care::of_archive(root.to_str().unwrap(), "auto", retain.clone(), 4_000_000);
    let mut steps = Vec::new();
    super::retain(&care, round, &mut |step| steps.push((step.act, step.folder, step.rows)))?;
    Ok(steps)
}

#[test]
fn old_days_go_and_verify_knows() {
    let root = tempfile::tempdir().unwrap();
    let archive = ten_days(root.path());
    let dry = Round { dry_run: true, ..round(at(9)) };
    let expected: Vec<_> = (6..10).map(|day| ("expire", format!("data/date=2026-05-{day:02}"), 3)).collect();
    assert_eq!(run(root.path(), &retain(5, None), &dry).unwrap(), expected);
    assert_eq!(visible(root.path()).len(), 30, "nothing has happened");
    assert_eq!(run(root.path(), &retain(5, None), &round(at(9))).unwrap(), expected);
    assert_eq!(visible(root.path()), (12..30).collect::<Vec<_>>());
    assert!(!root.path().join("data/date=2026-05-06").exists(), "an empty folder is no partition");
    assert_eq!(flaws(root.path()), []);
    assert_eq!(run(root.path(), &retain(5, None), &round(at(9))).unwrap(), []);
    drop(archive);
    drop(open(root.path()));
    let report = super::verify(root.path().to_str().unwrap(), super::Look::default(), |_, _| {}).unwrap();
    assert_eq!((report.pipelines[0].rows["data"], report.pipelines[0].expired["data"]), (18, 12));
}

#[test]
fn a_clock_that_is_far_ahead_deletes_nothing_unless_it_is_trusted() {
    let root = tempfile::tempdir().unwrap();
    drop(ten_days(root.path()));
    let error = run(root.path(), &retain(5, None), &round(at(3_650))).unwrap_err();
    assert!(matches!(error, ArchiveError::Clock { .. }) && error.hint().is_some(), "{error}");
    assert_eq!(visible(root.path()).len(), 30);
    let trusted = Round { trust_clock: true, ..round(at(3_650)) };
    assert_eq!(run(root.path(), &retain(5, None), &trusted).unwrap().len(), 10);
    assert_eq!(visible(root.path()), Vec::<i64>::new());
    assert_eq!(flaws(root.path()), []);
}

#[test]
fn old_days_go_to_a_colder_place_and_from_there_for_good() {
    let (root, cold) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = ten_days(root.path());
    let config = retain(5, Some((cold.path(), 8)));
    let steps = run(root.path(), &config, &round(at(9))).unwrap();
    let acts: Vec<&str> = steps.iter().map(|step| step.0).collect();
    assert_eq!(acts, ["expire", "cool", "cool", "cool"]);
    assert_eq!((visible(root.path()).len(), visible(cold.path())), (18, (3..12).collect()));
    assert_eq!(flaws(root.path()), []);
    assert_eq!(run(root.path(), &config, &round(at(9))).unwrap(), []);
    let steps = run(root.path(), &config, &round(at(10))).unwrap();
    assert_eq!(steps.iter().map(|step| step.0).collect::<Vec<_>>(), ["expire", "cool"]);
    assert_eq!((visible(root.path()).len(), visible(cold.path())), (15, (6..15).collect()));
    assert_eq!(flaws(root.path()), []);
    drop(archive);
    // One that is gone there is missing.
    std::fs::remove_file(&files(&cold.path().join("data"))[0]).unwrap();
    assert_eq!(flaws(root.path()).iter().map(|finding| finding.flaw).collect::<Vec<_>>(), [super::Flaw::MissingFile]);
}

#[test]
fn a_move_that_a_crash_cut_off_is_finished() {
    let (root, cold) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(ten_days(root.path()));
    let config = retain(8, Some((cold.path(), 20)));
    run(root.path(), &config, &round(at(9))).unwrap();
    // As if it had died behind the change: the new file is still staged there, the old one still here.
    let store = super::folder::Folder::new(root.path().to_owned());
    let keys = super::chain::Keys::new("auto");
    let change = super::change::newest(&store, &keys).unwrap().unwrap();
    let exchange = change.exchange().unwrap();
    let (new, old) = (&exchange.added[0], &exchange.removed[0]);
    std::fs::create_dir_all(root.path().join(old.folder())).unwrap();
    std::fs::rename(root.path().join(change.kept(&keys, old)), root.path().join(&old.path)).unwrap();
    std::fs::rename(cold.path().join(&new.path), cold.path().join(&new.staged)).unwrap();
    let flaws_of = || flaws(root.path()).into_iter().map(|finding| finding.flaw).collect::<Vec<_>>();
    assert_eq!(flaws_of(), [super::Flaw::Unplaced, super::Flaw::Replaced]);
    let mut upkeep = upkeep(root.path());
    assert!(upkeep.take(at(9)).unwrap());
    assert_eq!(flaws_of(), []);
    assert_eq!(visible(cold.path()).len(), 3);
}
