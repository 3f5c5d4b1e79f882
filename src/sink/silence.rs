//! Silences: what somebody asked not to be told for a while, as Alertmanager has them (API v2), kept in a file.
//!
//! One set for all pipelines of the daemon. It is in memory and in `silences.json` of the data folder, which is replaced as a
//! whole with each change; a start goes on with what is there. Those that ended a week ago are forgotten.

use crate::time::{EventTime, Span};
use regex::Regex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Silences at a time, at most: each is looked at for each alert that waits.
const MOST: usize = 1_000;
/// How long those that have ended are shown.
const KEPT: Span = Span::from_secs(7 * 86_400);
const FILE: &str = "silences.json";

/// One label that an alert must have, or must not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Matcher {
    pub name: String,
    /// What the label is compared with; a label that is missing counts as the empty text.
    pub value: String,
    /// Whether `value` is a regular expression for the whole of the label.
    #[serde(default)]
    pub is_regex: bool,
    #[serde(default = "yes")]
    pub is_equal: bool,
}

fn yes() -> bool {
    true
}

/// What is not to be told, when, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    pub id: String,
    /// All must match; at least one.
    pub matchers: Vec<Matcher>,
    /// In µs since 1970, as those below.
    pub starts_at: i64,
    /// Exclusive.
    pub ends_at: i64,
    pub updated_at: i64,
    pub created_by: String,
    pub comment: String,
}

/// As Alertmanager calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SilenceState {
    Pending,
    Active,
    Expired,
}

impl SilenceState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Expired => "expired",
        }
    }
}

impl Silence {
    pub fn state(&self, now: EventTime) -> SilenceState {
        match now.micros() {
            now if now >= self.ends_at => SilenceState::Expired,
            now if now < self.starts_at => SilenceState::Pending,
            _ => SilenceState::Active,
        }
    }
}

/// Why a silence cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SilenceError {
    #[error("cannot silence without a matcher: that would be every alert")]
    NoMatcher,
    #[error("cannot silence by matchers that every alert passes: one must ask for a text that is not empty")]
    MatchesAll,
    #[error("cannot use a matcher without a label's name")]
    NoName,
    #[error("cannot read {value:?} as a regular expression: {cause}")]
    Regex { value: String, cause: String },
    #[error("cannot silence until a time that is over, or that lies before the beginning")]
    Over,
    #[error("cannot find the silence {0:?}, or it is over")]
    Unknown(String),
    #[error("cannot have more than {MOST} silences at a time")]
    TooMany,
    #[error("cannot keep silences in {}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
}

#[derive(Debug)]
struct Compiled {
    silence: Silence,
    patterns: Vec<Option<Regex>>,
}

impl Compiled {
    fn new(silence: Silence) -> Result<Self, SilenceError> {
        let pattern = |matcher: &Matcher| {
            let compiled = matcher.is_regex.then(|| Regex::new(&format!("^(?s:{})$", matcher.value))).transpose();
            compiled.map_err(|error| SilenceError::Regex {
                value: matcher.value.clone(),
                cause: error.to_string().lines().last().unwrap_or_default().trim().to_owned(),
            })
        };
        let patterns = silence.matchers.iter().map(pattern).collect::<Result<_, _>>()?;
        Ok(Self { silence, patterns })
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.silence.matchers.iter().zip(&self.patterns).all(|(matcher, pattern)| {
            let label = labels.get(&matcher.name).map_or("", String::as_str);
            let is = pattern.as_ref().map_or_else(|| label == matcher.value, |pattern| pattern.is_match(label));
            is == matcher.is_equal
        })
    }
}

/// All silences of a daemon.
#[derive(Debug, Default)]
pub struct Silences {
    path: Option<PathBuf>,
    all: Mutex<Vec<Compiled>>,
}

impl Silences {
    /// Those that are kept in `data_dir`; none where nothing is kept.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn open(data_dir: &Path) -> Result<Self, SilenceError> {
        let path = data_dir.join(FILE);
        let failed = |cause: io::Error| SilenceError::File { path: path.clone(), cause };
        let kept: Vec<Silence> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let all = kept.into_iter().map(Compiled::new).collect::<Result<_, _>>()?;
        Ok(Self { path: Some(path), all: Mutex::new(all) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Compiled>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an alert with these labels is not to be told now.
    pub fn silence(&self, labels: &BTreeMap<String, String>, now: EventTime) -> bool {
        let active = |one: &&Compiled| one.silence.state(now) == SilenceState::Active;
        self.lock().iter().filter(active).any(|one| one.matches(labels))
    }

    /// All that are not forgotten, the newest first.
    pub fn list(&self) -> Vec<Silence> {
        self.lock().iter().rev().map(|one| one.silence.clone()).collect()
    }

    /// Adds a silence, or puts it in the place of the one with its id, where that is not over. An empty id gets one.
    ///
    /// # Errors
    /// When it would match every alert, has no time, names one that is not there, or cannot be kept.
    pub fn put(&self, mut silence: Silence, now: EventTime) -> Result<String, SilenceError> {
        check(&silence, now)?;
        silence.updated_at = now.micros();
        let mut all = self.lock();
        let replaced = all.iter().position(|one| one.silence.id == silence.id);
        if silence.id.is_empty() {
            silence.id = fresh_id(&all, &silence);
        } else if replaced.is_none_or(|at| all[at].silence.state(now) == SilenceState::Expired) {
            return Err(SilenceError::Unknown(silence.id));
        }
        let id = silence.id.clone();
        let mut next: Vec<Silence> = all.iter().map(|one| one.silence.clone()).collect();
        match replaced.filter(|at| next[*at].id == id) {
            Some(at) => next[at] = silence,
            None => next.push(silence),
        }
        next.retain(|one| one.ends_at > (now - KEPT).micros());
        if next.len() > MOST {
            return Err(SilenceError::TooMany);
        }
        self.change(&mut all, next)?;
        Ok(id)
    }

    /// Ends a silence now.
    ///
    /// # Errors
    /// When there is none of this id that isn't over, or the change cannot be kept.
    pub fn end(&self, id: &str, now: EventTime) -> Result<(), SilenceError> {
        let mut all = self.lock();
        let mut next: Vec<Silence> = all.iter().map(|one| one.silence.clone()).collect();
        let known = next.iter_mut().find(|one| one.id == id && one.state(now) != SilenceState::Expired);
        let Some(known) = known else { return Err(SilenceError::Unknown(id.to_owned())) };
        (known.ends_at, known.updated_at) = (now.micros(), now.micros());
        known.starts_at = known.starts_at.min(now.micros());
        self.change(&mut all, next)
    }

    /// Keeps `next`, and only then lets it hold.
    fn change(&self, all: &mut Vec<Compiled>, next: Vec<Silence>) -> Result<(), SilenceError> {
        if let Some(path) = &self.path {
            write(path, &next).map_err(|cause| SilenceError::File { path: path.clone(), cause })?;
        }
        *all = next.into_iter().map(Compiled::new).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// Replaces the file as a whole, on disk when this returns.
fn write(path: &Path, silences: &[Silence]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    let staged = path.with_extension("json.tmp");
    let mut file = std::fs::File::create(&staged)?;
    file.write_all(&serde_json::to_vec_pretty(silences)?)?;
    file.sync_all()?;
    std::fs::rename(&staged, path)?;
    std::fs::File::open(folder)?.sync_all()
}

fn check(silence: &Silence, now: EventTime) -> Result<(), SilenceError> {
    if silence.matchers.is_empty() {
        return Err(SilenceError::NoMatcher);
    }
    if silence.matchers.iter().any(|matcher| matcher.name.is_empty()) {
        return Err(SilenceError::NoName);
    }
    if silence.ends_at <= silence.starts_at || silence.ends_at <= now.micros() {
        return Err(SilenceError::Over);
    }
    // As Alertmanager: an alert without any of the labels must not be silenced by it.
    let compiled = Compiled::new(silence.clone())?;
    if compiled.matches(&BTreeMap::new()) { Err(SilenceError::MatchesAll) } else { Ok(()) }
}

/// An id in the form of a UUID, of what the silence says and when; another one where that is taken.
fn fresh_id(all: &[Compiled], silence: &Silence) -> String {
    (0_u32..)
        .map(|number| {
            let said = serde_json::to_vec(&(silence, number)).expect("a silence is JSON");
            let hex: String = Sha256::digest(&said).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
        })
        .find(|id| all.iter().all(|one| one.silence.id != *id))
        .expect("ids never run out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(name: &str, value: &str) -> Matcher {
        Matcher { name: name.to_owned(), value: value.to_owned(), is_regex: false, is_equal: true }
    }

    fn silence(matchers: Vec<Matcher>, from: i64, to: i64) -> Silence {
        let (created_by, comment) = ("me".to_owned(), "deploy".to_owned());
        Silence { id: String::new(), matchers, starts_at: from, ends_at: to, updated_at: 0, created_by, comment }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn at(micros: i64) -> EventTime {
        EventTime::from_micros(micros)
    }

    #[test]
    fn all_matchers_must_match_the_whole_label_within_the_time() {
        let silences = Silences::default();
        let regex = Matcher { is_regex: true, ..matcher("app", "web|api-.*") };
        let unequal = Matcher { is_equal: false, ..matcher("severity", "P0") };
        silences.put(silence(vec![regex, unequal], 10, 20), at(0)).unwrap();
        let web = labels(&[("app", "web"), ("severity", "P1")]);
        assert!([9, 20].iter().all(|time| !silences.silence(&web, at(*time))), "half open");
        assert!([10, 19].iter().all(|time| silences.silence(&web, at(*time))));
        assert!(silences.silence(&labels(&[("app", "api-7")]), at(10)), "a label that is missing is not P0");
        for other in [labels(&[("app", "webs")]), labels(&[("app", "web"), ("severity", "P0")]), labels(&[])] {
            assert!(!silences.silence(&other, at(10)), "{other:?}");
        }
    }

    #[test]
    fn what_would_silence_everything_or_nothing_is_refused() {
        let silences = Silences::default();
        let refused = |silence: Silence| silences.put(silence, at(5)).unwrap_err().to_string();
        assert!(refused(silence(Vec::new(), 1, 9)).contains("without a matcher"));
        assert!(refused(silence(vec![matcher("", "x")], 1, 9)).contains("name"));
        assert!(refused(silence(vec![matcher("app", "")], 1, 9)).contains("every alert"));
        let broken = Matcher { is_regex: true, ..matcher("app", "(") };
        assert!(refused(silence(vec![broken], 1, 9)).contains("regular expression"));
        for (from, to) in [(9, 9), (1, 5)] {
            assert!(refused(silence(vec![matcher("app", "x")], from, to)).contains("over"));
        }
        let unknown = Silence { id: "x".to_owned(), ..silence(vec![matcher("app", "x")], 1, 9) };
        assert!(refused(unknown).contains("cannot find"));
        assert!(silences.list().is_empty());
    }

    #[test]
    fn they_outlive_the_daemon_are_changed_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let silences = Silences::open(&folder.path().join("data")).unwrap();
        let id = silences.put(silence(vec![matcher("app", "web")], 1, 100), at(5)).unwrap();
        let other = silences.put(silence(vec![matcher("app", "web")], 1, 100), at(5)).unwrap();
        assert_ne!(id, other);
        let later = Silence { id: id.clone(), ..silence(vec![matcher("app", "api")], 1, 200) };
        assert_eq!(silences.put(later, at(6)).unwrap(), id, "changed in its place");
        silences.end(&other, at(7)).unwrap();
        assert!(matches!(silences.end(&other, at(8)), Err(SilenceError::Unknown(_))));

        let again = Silences::open(&folder.path().join("data")).unwrap();
        assert_eq!(again.list(), silences.list());
        assert!(again.silence(&labels(&[("app", "api")]), at(150)));
        assert!(!again.silence(&labels(&[("app", "web")]), at(50)));
        let states: Vec<&str> = again.list().iter().map(|one| one.state(at(50)).as_str()).collect();
        assert_eq!(states, ["expired", "active"]);
        std::fs::write(folder.path().join("data").join(FILE), "[{").unwrap();
        assert!(Silences::open(&folder.path().join("data")).is_err(), "never taken for none");
    }
}
