//! A store in a bad state: storms of 503, answers that are late or lost, connections that end in the middle, logins that end, a bucket
//! that is gone. Sources are held back, memory stays what it was, somebody is told what to do, and in the end each row is there once.

use crate::bucket::{Minio, keys};
use crate::harness::{Running, assert_exit, headrig, python, temporary, text, until};
use crate::proxy::{Fault, Proxy, Request};
use crate::upkeep::{LINES, append, changes, kept};
use rustix::process::Signal;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
const URL: &str = "s3://logs/app";

/// A store, and the way to it.
struct Store {
    minio: Minio,
    proxy: Proxy,
}

impl Store {
    fn start(folder: &Path) -> Option<Self> {
        let minio = Minio::start(folder)?;
        minio.make_bucket("logs");
        let proxy = Proxy::start(minio.port);
        Some(Self { minio, proxy })
    }

    /// headrig on the bad way.
    fn headrig(&self) -> Command {
        let mut command = self.minio.headrig();
        command.env("AWS_ENDPOINT", self.proxy.endpoint());
        command
    }

    /// A daemon on the bad way, and the address that it listens at.
    fn daemon(&self, folder: &Path, file: &Path) -> (Running, String) {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = self.headrig();
        command.args(["run", "--data-dir"]).arg(folder.join("data")).arg(file).env("HEADRIG_LISTEN", &address);
        (Running::start(&mut command), address)
    }

    /// What `verify` says, on a way without faults: its exit code, and the records.
    fn records(&self) -> (Option<i32>, u64) {
        let verified = self.minio.headrig().args(["verify", "--deep", "--format", "json", URL]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap_or_default();
        (verified.status.code(), report["pipelines"][0]["records"].as_u64().unwrap_or(0))
    }

    /// What DuckDB counts in a copy of the bucket's `data`: rows, and those whose id is there already.
    fn count(&self, folder: &Path) -> String {
        let copy = folder.join("copy");
        fs::create_dir_all(&copy).unwrap();
        for (number, key) in keys(&self.minio, "app/data/date").iter().enumerate() {
            fs::write(copy.join(format!("{number}.parquet")), self.minio.object(key)).unwrap();
        }
        let sql = "select count(*), count(request_id) - count(distinct request_id)";
        let script = format!(
            "import duckdb; print(*duckdb.sql(\"{sql} from read_parquet('{}/*')\").fetchone())",
            copy.display()
        );
        let counted = python().args(["-c", &script]).output().unwrap();
        assert_exit(&counted, 0);
        text(&counted.stdout).trim().to_owned()
    }
}

fn get(address: &str, path: &str) -> String {
    text(&Command::new("curl").args(["-s", &format!("http://{address}{path}")]).output().unwrap().stdout)
}

/// The sum of a metric's series.
fn metric(address: &str, name: &str) -> f64 {
    let all = get(address, "/metrics");
    let series = all.lines().filter(|line| line.starts_with(name));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Resident memory in kB.
fn resident(running: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn end(mut running: Running) {
    running.signal(Signal::TERM);
    let code = running.wait();
    assert_eq!(code, Some(0), "{}", running.all_stderr().join("\n"));
}

/// A follower that seals three times a second and does nothing else.
fn follower(folder: &Path, more: &str) -> PathBuf {
    crate::harness::pipeline(
        folder,
        &format!(
            "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}/in.ndjson\"], follow: true }} }}\n\
             decode: {{ envelope: fly, schema: access }}\nlimits: {{ memory: 64MB }}\n\
             archive: {{ url: \"{URL}\", flush: {{ every: 300ms }}{more} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            folder.display()
        ),
    )
}

/// Appends generated lines `from..to` to what is followed.
fn feed(folder: &Path, from: usize, to: usize) {
    let lines = headrig().args(["generate", "--events", &to.to_string()]).output().unwrap().stdout;
    let skipped = lines.split_inclusive(|byte| *byte == b'\n').take(from).map(<[u8]>::len).sum::<usize>();
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("in.ndjson")).unwrap();
    file.write_all(&lines[skipped..]).unwrap();
}

#[test]
fn a_storm_holds_sources_back_with_memory_as_it_was_and_passes() {
    let folder = temporary();
    let Some(store) = Store::start(folder.path()) else { return };
    feed(folder.path(), 0, 20_000);
    let file = follower(folder.path(), "");
    let (running, address) = store.daemon(folder.path(), &file);
    until(PATIENCE, || store.records().1 == 20_000);
    store.proxy.all(Fault::Refuse(503, "SlowDown"));
    // 120 MB, far more than the daemon may hold.
    feed(folder.path(), 20_000, 220_000);
    let told = running.stderr_line(PATIENCE, |line| line.contains("takes nothing for now"));
    assert!(told.contains("SlowDown") && told.contains("the store asks for fewer requests"), "{told}");
    let ready = get(&address, "/readyz");
    assert!(ready.starts_with("not ready: pipeline p: the archive waits: cannot") && ready.contains("503"), "{ready}");
    let taken = metric(&address, "headrig_source_records_total");
    assert!(taken < 150_000.0, "the source went on to {taken} of 220,000 lines");
    let mut resident_kb = Vec::new();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(500));
        resident_kb.push(resident(&running));
    }
    let (least, most) = (resident_kb.iter().min().unwrap(), resident_kb.iter().max().unwrap());
    println!("resident in the storm: {least} to {most} kB, {taken} records taken");
    assert!(most - least < 8_192, "memory grows: {resident_kb:?}");
    assert_eq!(metric(&address, "headrig_source_records_total"), taken, "the source is held back");
    assert!(metric(&address, "headrig_archive_retries_total{") >= 1.0);
    store.proxy.mend();
    running.stderr_line(PATIENCE, |line| line.contains("done waiting"));
    until(PATIENCE, || metric(&address, "headrig_source_records_total") >= 220_000.0);
    until(PATIENCE, || get(&address, "/readyz") == "ready\n");
    end(running);
    assert_eq!(store.records(), (Some(0), 220_000));
    let rows =
        store.minio.headrig().args(["query", URL, "select count(*) from logs", "--format", "csv"]).output().unwrap();
    let rows = text(&rows.stdout).lines().nth(1).unwrap().to_owned();
    assert_eq!(store.count(folder.path()), format!("{rows} 0"));
}

/// What an archive goes through in which a plan meets every request, while it seals, compacts and lets rows go; each row is in it
/// once at the end.
fn goes_on(plan: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
    let folder = temporary();
    let Some(store) = Store::start(folder.path()) else { return };
    let more = "audit: true\n  table: delta\n  patience: 10m\n  retain: { windows: { keep: 1d } }";
    let file = kept(folder.path(), URL, true, more);
    append(folder.path(), 0);
    store.proxy.set(plan);
    let (running, address) = store.daemon(folder.path(), &file);
    let home = store.minio.folder.join("logs/app/_headrig/p");
    let rounds = 6;
    for round in 1..rounds {
        until(PATIENCE, || metric(&address, "headrig_archive_rows_total{kind=\"data\"") >= (round * LINES) as f64);
        append(folder.path(), round * LINES);
    }
    until(PATIENCE, || metric(&address, "headrig_archive_rows_total{kind=\"data\"") >= (rounds * LINES) as f64);
    until(PATIENCE, || changes(&home) > 3);
    store.proxy.mend();
    end(running);
    let compacted = store.minio.headrig().args(["compact", "--after", "0", "--grace", "0", URL]).output().unwrap();
    assert_exit(&compacted, 0);
    let verified = store.minio.headrig().args(["verify", "--deep", "--audit", URL]).output().unwrap();
    assert_exit(&verified, 0);
    assert_eq!(store.records(), (Some(0), rounds * (LINES + 1)), "one line of each round is a dead letter");
    assert_eq!(store.count(folder.path()), format!("{} 0", rounds * LINES));
    let script = crate::harness::project().join("tests/duckdb/delta.py");
    let environment = store.minio.headrig();
    let mut delta = python();
    delta.envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let delta = delta.arg(script).args(["count", URL]).output().unwrap();
    assert_exit(&delta, 0);
    let expected = format!("rows {0} different {0} dead {rounds} windows 0", rounds * LINES);
    assert_eq!(text(&delta.stdout).trim(), expected);
}

#[test]
fn what_took_effect_and_whose_reply_is_lost_is_done_once() {
    let lost: Arc<[AtomicU64; 4]> = Arc::default();
    let (counts, mut number) = (Arc::clone(&lost), 0_u64);
    goes_on(move |request| {
        if !request.is_change() {
            return None;
        }
        number += 1;
        let is_lost = number % 3 == 0;
        let kind = match request {
            request if request.is_conditional => 0,
            request if request.is_copy => 1,
            request if request.method == "DELETE" || request.target.ends_with("?delete") => 2,
            _ => 3,
        };
        is_lost.then(|| {
            counts[kind].fetch_add(1, Ordering::Relaxed);
            Fault::LoseReply
        })
    });
    let lost: Vec<u64> = lost.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    println!("replies lost to puts if absent, copies, removals, other puts: {lost:?}");
    assert!(lost.iter().all(|count| *count > 0), "{lost:?}");
}

#[test]
fn connections_that_end_in_the_middle_and_answers_that_are_late_do_no_harm() {
    let met: Arc<[AtomicU64; 5]> = Arc::default();
    let (counts, mut state) = (Arc::clone(&met), 88_172_645_463_325_252_u64);
    goes_on(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let (kind, fault) = match (state >> 33) % 25 {
            0 => (0, Fault::CutRequest),
            1 => (1, Fault::CutReply),
            2 => (2, Fault::Refuse(503, "SlowDown")),
            3 => (3, Fault::Refuse(500, "InternalError")),
            4..7 => (4, Fault::Late(Duration::from_millis(400))),
            _ => return None,
        };
        counts[kind].fetch_add(1, Ordering::Relaxed);
        Some(fault)
    });
    let met: Vec<u64> = met.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    println!("requests cut, replies cut, slowed down, failed, late: {met:?}");
    assert!(met.iter().all(|count| *count > 0), "{met:?}");
}

/// A conditional request that meets an earlier try of itself is told 409 by Amazon, which is neither a yes nor a no.
#[test]
fn a_put_that_is_not_decided_yet_is_asked_for_again() {
    let folder = temporary();
    let Some(store) = Store::start(folder.path()) else { return };
    feed(folder.path(), 0, 3_000);
    let told = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&told);
    store.proxy.set(move |request| {
        let undecided = request.is_conditional && count.fetch_add(1, Ordering::Relaxed) % 3 < 2;
        undecided.then_some(Fault::Refuse(409, "ConditionalRequestConflict"))
    });
    let file = follower(folder.path(), "");
    let once = fs::read_to_string(&file).unwrap().replace("follow: true", "follow: false");
    fs::write(&file, once).unwrap();
    let ran = store.headrig().args(["run", "--once", "--data-dir"]).arg(folder.path().join("data")).arg(&file).output();
    assert_exit(&ran.unwrap(), 0);
    assert_eq!(store.records(), (Some(0), 3_000));
    assert!(told.load(Ordering::Relaxed) >= 3);
}

/// A large file whose last request took effect, and whose reply was lost: the store doesn't know the upload any more.
#[test]
fn an_upload_in_parts_whose_end_is_not_answered_is_there() {
    let folder = temporary();
    let Some(store) = Store::start(folder.path()) else { return };
    let mut state = 1_u64;
    let mut line = String::new();
    for _ in 0..16 {
        line.extend((0..900_000).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(state >> 40) as usize % 64])
        }));
        line.push('\n');
    }
    fs::write(folder.path().join("in.ndjson"), line).unwrap();
    let file = follower(folder.path(), "");
    let once = fs::read_to_string(&file).unwrap().replace("follow: true", "follow: false");
    fs::write(
        &file,
        once.replace("envelope: fly", "envelope: none, format: text").replace("every: 300ms", "every: 1h"),
    )
    .unwrap();
    let lost = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&lost);
    store.proxy.set(move |request| {
        let ends = request.method == "POST" && request.target.contains("uploadId=");
        (ends && count.fetch_add(1, Ordering::Relaxed) == 0).then_some(Fault::LoseReply)
    });
    let ran = store.headrig().args(["run", "--once", "--data-dir"]).arg(folder.path().join("data")).arg(&file).output();
    assert_exit(&ran.unwrap(), 0);
    assert!(lost.load(Ordering::Relaxed) >= 2, "the end was asked for again");
    assert_eq!(store.records(), (Some(0), 16));
}

/// What a store says that refuses, and what a user is told to do about it.
const REFUSALS: [(u16, &str, &str); 7] = [
    (400, "ExpiredToken", "start headrig with a session token that is still valid"),
    (403, "InvalidAccessKeyId", "see the credentials, in `archive.store` or in the environment"),
    (403, "SignatureDoesNotMatch", "see the credentials, in `archive.store` or in the environment"),
    (403, "AccessDenied", "let these credentials list, read, put, copy and delete objects below `archive.url`"),
    (403, "RequestTimeTooSkewed", "set this machine's clock right"),
    (404, "NoSuchBucket", "see that the bucket in `archive.url` exists"),
    (400, "AuthorizationHeaderMalformed", "name the bucket's region"),
];

#[test]
fn a_store_that_refuses_in_the_middle_of_a_run_is_waited_for_and_told() {
    let folder = temporary();
    let Some(store) = Store::start(folder.path()) else { return };
    let lines = 500;
    feed(folder.path(), 0, lines);
    let file = follower(folder.path(), "");
    let (running, address) = store.daemon(folder.path(), &file);
    until(PATIENCE, || store.records().1 == lines as u64);
    for (number, (status, code, hint)) in (1..).zip(REFUSALS) {
        store.proxy.all(Fault::Refuse(status, code));
        feed(folder.path(), number * lines, (number + 1) * lines);
        let told = running.stderr_line(PATIENCE, |line| line.contains("takes nothing for now"));
        assert!(told.contains(code) && told.contains(hint), "{code}: {told}");
        let ready = get(&address, "/readyz");
        assert!(ready.starts_with("not ready: ") && ready.contains(code), "{code}: {ready}");
        store.proxy.mend();
        running.stderr_line(PATIENCE, |line| line.contains("done waiting"));
        let all = ((number + 1) * lines) as u64;
        until(PATIENCE, || store.records().1 == all);
        assert_eq!(get(&address, "/readyz"), "ready\n", "{code}");
    }
    // What has gone up takes no room on the daemon's own disk.
    let staged = format!("{}/data/archive/p/staging/**/*.parquet", folder.path().display());
    until(PATIENCE, || glob::glob(&staged).unwrap().count() == 0);
    let refused = metric(&address, "headrig_archive_retries_total{pipeline=\"p\",reason=\"refused\"");
    assert!(refused >= 6.0, "{}", get(&address, "/metrics"));
    end(running);
    assert_eq!(store.records(), (Some(0), ((REFUSALS.len() + 1) * lines) as u64));
}

/// A seal that is put while its files are not in place yet meets a bucket that is gone: that is no file that is gone.
#[test]
fn a_bucket_that_goes_between_a_seal_and_its_files_is_waited_for() {
    let folder = temporary();
    let Some(store) = Store::start(folder.path()) else { return };
    feed(folder.path(), 0, 2_000);
    let gone = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&gone);
    // From the first copy on, all is gone for a while: nobody knows the bucket any more.
    store.proxy.set(move |request| {
        let begun = count.load(Ordering::Relaxed);
        if begun > 0 || request.is_copy {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let gone = (request.is_copy || begun > 0) && begun < 8;
        gone.then_some(Fault::Refuse(404, "NoSuchBucket"))
    });
    let file = follower(folder.path(), "");
    let (running, _) = store.daemon(folder.path(), &file);
    running.stderr_line(PATIENCE, |line| line.contains("done waiting"));
    until(PATIENCE, || store.records().1 == 2_000);
    end(running);
    assert_eq!(store.records(), (Some(0), 2_000));
    assert!(gone.load(Ordering::Relaxed) >= 8);
}

/// One who starts headrig, or asks whether it would start, hears at once what is wrong, and what to do.
#[test]
fn a_store_that_refuses_is_told_of_at_the_start() {
    let folder = temporary();
    let Some(store) = Store::start(folder.path()) else { return };
    feed(folder.path(), 0, 100);
    let file = follower(folder.path(), "");
    let says = |output: &Output, code: i32, parts: &[&str]| {
        assert_exit(output, code);
        let said = text(&output.stderr);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in:\n{said}"));
    };
    let run = |arguments: &[&str]| {
        let mut command = store.headrig();
        command.args(arguments);
        if arguments[0] == "run" {
            command.arg("--data-dir").arg(folder.path().join("data"));
        }
        command.arg(&file).output().unwrap()
    };
    for (status, code, hint) in REFUSALS {
        store.proxy.all(Fault::Refuse(status, code));
        says(&run(&["check", "--connect"]), 78, &["pipeline.yaml:5:", "cannot list s3://logs/app/", code, hint]);
        for arguments in [&["run"][..], &["run", "--once"]] {
            says(&run(arguments), 1, &["cannot list s3://logs/app/", code, hint]);
        }
        let verified = store.headrig().args(["verify", URL]).output().unwrap();
        says(&verified, 1, &[code, hint]);
    }
    // Who may look and not put hears of it before there are rows to store, and who may put and not remove.
    for (removes, action) in [(false, "cannot put "), (true, "cannot remove ")] {
        store.proxy.set(move |request| {
            let removal = request.method == "DELETE" || request.target.ends_with("?delete");
            let meant = if removes { removal } else { request.method == "PUT" };
            meant.then_some(Fault::Refuse(403, "AccessDenied"))
        });
        let hint = "let these credentials list, read, put, copy and delete";
        says(&run(&["check", "--connect"]), 78, &["pipeline.yaml:5:", action, hint]);
        says(&run(&["run"]), 1, &[action, hint]);
    }
    store.proxy.mend();
    assert_exit(&run(&["check", "--connect"]), 0);
    assert_eq!(keys(&store.minio, "app/data"), Vec::<String>::new());
    // The real server's own words.
    let strange =
        |name: &str, value: &str| store.headrig().args(["check", "--connect"]).arg(&file).env(name, value).output();
    says(&strange("AWS_ACCESS_KEY_ID", "nobody").unwrap(), 78, &["InvalidAccessKeyId", "see the credentials"]);
}

/// A store that takes a connection and never says a word is given up after half a minute, and asked again.
#[test]
fn a_store_that_says_nothing_is_asked_again() {
    let folder = temporary();
    let Some(store) = Store::start(folder.path()) else { return };
    feed(folder.path(), 0, 1_000);
    let mut hung = false;
    store.proxy.set(move |request| {
        let first = request.is_conditional && !hung;
        hung |= first;
        first.then_some(Fault::Hang)
    });
    let file = follower(folder.path(), "");
    let (running, address) = store.daemon(folder.path(), &file);
    running.stderr_line(PATIENCE, |line| line.contains("takes nothing for now"));
    running.stderr_line(PATIENCE, |line| line.contains("done waiting"));
    until(PATIENCE, || metric(&address, "headrig_source_records_total") >= 1_000.0);
    end(running);
    assert_eq!(store.records(), (Some(0), 1_000));
}
