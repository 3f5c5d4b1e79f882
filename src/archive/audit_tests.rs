//! Whatever somebody changes in an archive with `audit: true` is found and named.

use super::tests::{START, events, files, plan, sealing};
use super::upkeep_tests::{LATER, config, upkeep};
use super::{Archive, Flaw, Look, Sealing};
use crate::time::EventTime;
use std::fs;
use std::path::Path;

fn open(root: &Path) -> Archive {
    let mut plan = plan(root, &["date"]);
    plan.config.audit = true;
    Archive::open(plan, EventTime::from_micros(START)).unwrap().0
}

fn seals(archive: &mut Archive, first: i64, count: i64) {
    for number in first..first + count {
        archive.write_events(&events(number % 3, 1)).unwrap();
        archive.seal(&Sealing { records: 1, ..sealing(number as u64 + 1) }).unwrap();
    }
}

/// What `verify --audit` finds, without the place.
fn found(root: &Path) -> Vec<(Flaw, String)> {
    let report = super::verify(root.to_str().unwrap(), Look { deep: false, audit: true }, |_, _| {}).unwrap();
    let place = format!("{}/", root.display());
    report.findings.into_iter().map(|finding| (finding.flaw, finding.detail.replace(&place, ""))).collect()
}

fn tampered(root: &Path) -> Vec<String> {
    found(root).into_iter().filter(|(flaw, _)| *flaw == Flaw::Tampered).map(|(_, detail)| detail).collect()
}

fn entry(root: &Path, number: u64) -> std::path::PathBuf {
    root.join(format!("_headrig/auto/chains/main/{number:012}.json"))
}

#[test]
fn one_flipped_byte_of_a_file_is_found_and_named() {
    let root = tempfile::tempdir().unwrap();
    seals(&mut open(root.path()), 0, 3);
    assert_eq!(found(root.path()), []);
    let file = files(&root.path().join("data")).remove(1);
    let sound = fs::read(&file).unwrap();
    // Whichever byte it is: in a page, in the footer, in the magic at the end.
    for at in [4, sound.len() / 2, sound.len() - 5, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(
            tampered(root.path()),
            ["data/date=2026-05-06/auto-000000000002-0.parquet: its bytes are not those that were sealed"]
        );
    }
    fs::write(&file, sound).unwrap();
    assert_eq!(found(root.path()), []);
}

#[test]
fn a_removed_a_changed_and_a_swapped_seal_are_found_and_named() {
    let root = tempfile::tempdir().unwrap();
    seals(&mut open(root.path()), 0, 6);
    let texts: Vec<Vec<u8>> = (1..=6).map(|number| fs::read(entry(root.path(), number)).unwrap()).collect();
    let restore = || (1..).zip(&texts).for_each(|(number, text)| fs::write(entry(root.path(), number), text).unwrap());
    let main = "_headrig/auto/chains/main";

    fs::remove_file(entry(root.path(), 3)).unwrap();
    assert_eq!(tampered(root.path()), [format!("entries 3 to 3 before {main}/000000000004.json are gone")]);
    restore();
    fs::remove_file(entry(root.path(), 1)).unwrap();
    assert_eq!(tampered(root.path()), [format!("the entries before {main}/000000000002.json are gone")]);
    restore();
    // The newest one with its file leaves the file, or a hole; with nothing of it left only who knows the newest hash sees it.
    fs::remove_file(entry(root.path(), 6)).unwrap();
    assert_eq!(found(root.path()).iter().map(|(flaw, _)| *flaw).collect::<Vec<_>>(), [Flaw::Orphan]);
    restore();

    fs::write(entry(root.path(), 2), &texts[2]).unwrap();
    fs::write(entry(root.path(), 3), &texts[1]).unwrap();
    assert_eq!(
        tampered(root.path()),
        [format!("{main}/000000000002.json holds entry 3: it was put there in another's place")]
    );
    restore();

    // One digit of a count, where all else fits.
    let text = String::from_utf8(texts[1].clone()).unwrap();
    fs::write(entry(root.path(), 2), text.replace("\"filtered\": 0", "\"filtered\": 1")).unwrap();
    assert_eq!(
        tampered(root.path()),
        [format!(
            "{main}/000000000002.json was changed, or what stood between it and {main}/000000000003.json was taken out"
        )]
    );
    restore();
    assert_eq!(found(root.path()), []);
}

#[test]
fn the_chain_goes_on_through_restarts_summaries_and_changes() {
    let root = tempfile::tempdir().unwrap();
    let count = crate::limits::FOLD_ENTRIES as i64 + 5;
    let mut archive = open(root.path());
    seals(&mut archive, 0, 100);
    drop(archive);
    let mut archive = open(root.path());
    seals(&mut archive, 100, count - 100);
    assert_eq!(found(root.path()), []);
    let mut upkeep = upkeep(root.path());
    assert!(upkeep.take(LATER).unwrap());
    assert!(upkeep.audit, "it sees by the seals that hashes are wanted");
    for job in upkeep.jobs(&config(), LATER) {
        upkeep.compact(&job, LATER, &|| true).unwrap().unwrap();
    }
    assert_eq!(files(&root.path().join("data")).len(), 1);
    seals(&mut archive, count, 2);
    assert_eq!(found(root.path()), []);
    let report = super::verify(root.path().to_str().unwrap(), Look { deep: false, audit: true }, |_, _| {}).unwrap();
    assert!(report.notes.iter().any(|note| note.contains("chain main ends with entry")), "{:?}", report.notes);
    assert!(
        report.notes.iter().any(|note| note.contains("the log of changes ends with entry 2")),
        "{:?}",
        report.notes
    );

    // A digit in an entry that was folded away long ago.
    let summary = files(&root.path().join("_headrig/auto/summaries")).remove(0);
    let sound = fs::read_to_string(&summary).unwrap();
    let changed = sound.replacen("\\\"filtered\\\": 0", "\\\"filtered\\\": 1", 1);
    assert_ne!(changed, sound);
    fs::write(&summary, changed).unwrap();
    assert!(tampered(root.path())[0].starts_with("entry 1 in "), "{:?}", tampered(root.path()));
    // The list beside the entries says another hash.
    let at = sound.find("\"sha256\":\"").unwrap() + 10;
    let mut changed = sound.clone();
    changed.replace_range(at..at + 1, if &sound[at..=at] == "0" { "1" } else { "0" });
    fs::write(&summary, changed).unwrap();
    assert!(
        tampered(root.path())[0].ends_with("names other files than the seals in it"),
        "{:?}",
        tampered(root.path())
    );
    fs::write(&summary, sound).unwrap();

    // A file that was made of others, and the change that says so.
    let file =
        files(&root.path().join("data")).into_iter().find(|file| file.to_string_lossy().contains("auto-c")).unwrap();
    let sound = fs::read(&file).unwrap();
    let mut bytes = sound.clone();
    bytes[100] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(tampered(root.path()).len(), 1);
    fs::write(&file, sound).unwrap();
    let claim = root.path().join("_headrig/auto/changes/000000000001.json");
    fs::remove_file(claim).unwrap();
    assert_eq!(tampered(root.path()), ["the entries before _headrig/auto/changes/000000000002.json are gone"]);
}

#[test]
fn a_changed_file_is_not_made_part_of_another() {
    let root = tempfile::tempdir().unwrap();
    seals(&mut open(root.path()), 0, 4);
    let file = files(&root.path().join("data")).remove(1);
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let mut upkeep = upkeep(root.path());
    assert!(upkeep.take(LATER).unwrap());
    let job = upkeep.jobs(&config(), LATER).remove(0);
    let error = upkeep.compact(&job, LATER, &|| true).unwrap_err();
    assert!(error.to_string().ends_with("its bytes are not those that were sealed"), "{error}");
    assert_eq!(files(&root.path().join("data")).len(), 4);
}

#[test]
fn folded_changes_are_proven_and_a_crash_while_they_are_folded_is_no_break() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = open(root.path());
    let mut upkeep = upkeep(root.path());
    let changes = root.path().join("_headrig/auto/changes");
    let mut left = Vec::new();
    for round in 0..2 * crate::limits::CATALOGUE_CHANGES as i64 + 2 {
        seals(&mut archive, 2 * round, 2);
        assert!(upkeep.take(LATER).unwrap());
        let job = upkeep.jobs(&config(), LATER).remove(0);
        // What is there before the fold; its last ones a crash leaves.
        let before: Vec<_> = files(&changes).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        upkeep.compact(&job, LATER, &|| true).unwrap().unwrap();
        if files(&changes).len() < before.len() {
            left = before[before.len() - 5..].to_vec();
            left.iter().for_each(|(path, text)| fs::write(path, text).unwrap());
            assert_eq!(found(root.path()), [], "round {round}");
        }
    }
    assert_eq!(left.len(), 5, "changes were folded");
    assert_eq!(
        files(&root.path().join("_headrig/auto/catalogues")).len(),
        2,
        "all of them are kept, they are the proof"
    );
    assert_eq!(found(root.path()), []);
    let first = files(&root.path().join("_headrig/auto/catalogues")).remove(0);
    let sound = fs::read_to_string(&first).unwrap();
    fs::write(&first, sound.replacen("\\\"at_us\\\":", "\\\"at_us\\\": ", 1)).unwrap();
    assert_eq!(tampered(root.path()).len(), 1);
}
