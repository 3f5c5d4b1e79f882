//! NATS and JetStream with a real server, which is killed and started again, as is headrig.

use crate::harness::{Running, assert_exit, duckdb, headrig, pipeline, project, python, temporary, text, until};
use headrig::source::nats::{Login, Server, Taken};
use rustix::process::Signal;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A nats-server that is killed with the test, by its process id.
struct Nats {
    child: Child,
    port: u16,
    folder: PathBuf,
    options: Vec<String>,
}

impl Nats {
    fn start(folder: &Path, options: &[String]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = folder.join("jetstream");
        let child = spawn(port, &folder, options);
        Self { child, port, folder, options: options.to_vec() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.options);
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Asks for `subject` and returns the answer.
    fn ask(&self, subject: &str, body: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let login = Login { user: None, password: None, token: None, creds: None, tls: None };
        runtime.block_on(async {
            let mut connection = Server::new(&self.url(), login).unwrap().connect("test").await.unwrap();
            connection.subscribe("_INBOX.test", None, 1);
            connection.publish(subject, Some("_INBOX.test"), &[], body.as_bytes());
            connection.flush().await.unwrap();
            loop {
                match connection.take().unwrap() {
                    Taken::Message(message) => return String::from_utf8(message.payload.to_vec()).unwrap(),
                    Taken::Nothing => connection.fill().await.unwrap(),
                    _ => {}
                }
            }
        })
    }

    fn make_stream(&self) {
        let answer =
            self.ask("$JS.API.STREAM.CREATE.LOGS", r#"{"name":"LOGS","subjects":["logs.>"],"storage":"file"}"#);
        assert!(!answer.contains("\"error\""), "{answer}");
    }
}

fn spawn(port: u16, folder: &Path, options: &[String]) -> Child {
    let mut command = Command::new(project().join("tests/servers/nats.sh"));
    command.arg(port.to_string()).arg(folder).args(options).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    until(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert!(child.try_wait().unwrap().is_none(), "nats-server is missing or doesn't start");
    child
}

impl Drop for Nats {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a pipeline for `source`, whose archive and data lie there, too.
fn prepare(folder: &Path, name: &str, source: &str, flush: &str) -> PathBuf {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    let archive = folder.join("archive");
    pipeline(
        &folder,
        &format!(
            "pipeline: p\nsources:\n  s: {source}\ndecode: {{ envelope: fly, schema: access }}\narchive: {{ url: \"{}\", \
             flush: {{ every: {flush} }} }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            archive.display()
        ),
    )
}

fn run(file: &Path) -> Command {
    let mut command = headrig();
    command.arg("run").arg(file).env("HEADRIG_DATA_DIR", file.parent().unwrap().join("data"));
    command
}

/// Starts headrig and waits until it listens.
fn listening(file: &Path) -> Running {
    let running = Running::start(&mut run(file));
    running.stderr_line(PATIENCE, |line| line.contains("connected to NATS"));
    running
}

fn generate(events: u32, seed: u32, output: &str) {
    let (events, seed) = (events.to_string(), seed.to_string());
    let arguments = ["generate", "--events", &events, "--seed", &seed, "--output", output];
    assert_exit(&headrig().args(arguments).output().unwrap(), 0);
}

/// The archive that the same lines give when they are read from files.
fn truth(folder: &Path, parts: &[(u32, u32)]) -> PathBuf {
    for (events, seed) in parts {
        generate(*events, *seed, &folder.join(format!("{seed}.ndjson")).display().to_string());
    }
    let source = format!("{{ type: file, paths: [\"{}/*.ndjson\"] }}", folder.display());
    let file = prepare(folder, "truth", &source, "1h");
    assert_exit(&run(&file).arg("--once").output().unwrap(), 0);
    file.with_file_name("archive")
}

#[track_caller]
fn assert_same(archive: &Path, truth: &Path, records: u32) {
    let told = duckdb("same.py", &[archive, truth, Path::new(&records.to_string())]);
    assert!(!told.is_empty(), "the comparison says what it compared");
}

/// Records in an archive, rows and dead letters; whatever a reader sees while headrig is at work.
fn records(archive: &Path) -> u32 {
    let count = "import duckdb, glob, sys\ntotal = 0\nfor kind in ('data', 'dead'):\n    \
                 files = glob.glob(f'{sys.argv[1]}/{kind}/**/*.parquet', recursive=True)\n    \
                 total += duckdb.sql(f'select count(*) from read_parquet({files})').fetchone()[0] if files else 0\nprint(total)";
    let output = python().args(["-c", count]).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().parse().unwrap()
}

fn end(mut running: Running) {
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
}

/// Bytes in the segments of a spool.
fn spool_bytes(file: &Path) -> u64 {
    let pattern = format!("{}/data/p/s/*.spool", file.parent().unwrap().display());
    glob::glob(&pattern).unwrap().map(|path| fs::metadata(path.unwrap()).map_or(0, |file| file.len())).sum()
}

/// Pauses of 200 to 999 ms, the same each time.
fn pauses(count: u64) -> impl Iterator<Item = Duration> {
    (1..=count).map(|turn| Duration::from_millis(200 + turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 800))
}

#[test]
fn what_core_nats_sent_and_the_spool_accepted_survives_kills() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    let source = format!("{{ type: nats, url: \"{}\", subject: logs.> }}", server.url());
    // Nothing is sealed at first: all that counts is the spool.
    let file = prepare(folder.path(), "nats", &source, "1h");
    let running = listening(&file);
    generate(20_000, 1, &format!("{}/logs.app.fra.1", server.url()));
    let truth = truth(folder.path(), &[(20_000, 1)]);
    // A segment's head, and one for each record.
    let lines = fs::read_to_string(folder.path().join("1.ndjson")).unwrap();
    let expected = 16 + lines.lines().map(|line| 36 + line.len() as u64).sum::<u64>();
    until(PATIENCE, || spool_bytes(&file) == expected);
    running.signal(Signal::KILL);
    drop(running);
    let archive = file.with_file_name("archive");
    assert_eq!(records(&archive), 0);

    prepare(folder.path(), "nats", &source, "200ms");
    for pause in pauses(5) {
        let running = Running::start(&mut run(&file));
        std::thread::sleep(pause);
        running.signal(Signal::KILL);
    }
    let running = listening(&file);
    until(PATIENCE, || records(&archive) >= 20_000);
    end(running);
    assert_same(&archive, &truth, 20_000);
}

#[test]
fn an_outage_of_the_server_is_bridged_and_the_gap_named() {
    let folder = temporary();
    let mut server = Nats::start(folder.path(), &[]);
    let source = format!("{{ type: nats, url: \"{}\", subject: logs.> }}", server.url());
    let file = prepare(folder.path(), "nats", &source, "200ms");
    let running = listening(&file);
    let subject = format!("{}/logs.app.fra.1", server.url());
    generate(1_000, 1, &subject);
    let archive = file.with_file_name("archive");
    until(PATIENCE, || records(&archive) == 1_000);
    server.kill();
    running.stderr_line(PATIENCE, |line| line.contains("interrupted") && line.contains("\"kind\":\"broken\""));
    running.stderr_line(PATIENCE, |line| line.contains("\"kind\":\"unreachable\"") && line.contains("nothing listens"));
    std::thread::sleep(Duration::from_secs(5));
    server.start_again();
    running.stderr_line(PATIENCE, |line| line.contains("connected to NATS"));
    generate(1_000, 2, &subject);
    let gap = running.stderr_line(PATIENCE, |line| line.contains("a gap"));
    assert!(gap.contains("\"from\"") && gap.contains("\"to\"") && gap.contains("\"gap\""), "{gap}");
    until(PATIENCE, || records(&archive) >= 2_000);
    end(running);
    assert_same(&archive, &truth(folder.path(), &[(1_000, 1), (1_000, 2)]), 2_000);
}

#[test]
fn the_members_of_a_queue_group_share_the_messages() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    let source = format!("{{ type: nats, url: \"{}\", subject: logs.>, queue: q }}", server.url());
    let files = ["a", "b"].map(|name| prepare(folder.path(), name, &source, "200ms"));
    let members = files.each_ref().map(|file| listening(file));
    generate(3_000, 1, &format!("{}/logs.app.fra.1", server.url()));
    let count = || files.each_ref().map(|file| records(&file.with_file_name("archive")));
    until(PATIENCE, || count().iter().sum::<u32>() >= 3_000);
    members.into_iter().for_each(end);
    let counts = count();
    assert_eq!(counts.iter().sum::<u32>(), 3_000);
    assert!(counts.iter().all(|count| *count > 300), "{counts:?}");
}

#[track_caller]
fn assert_fails(source: &str, parts: &[&str]) -> Output {
    let folder = temporary();
    let file = prepare(folder.path(), "wrong", source, "1s");
    let output = run(&file).output().unwrap();
    assert_exit(&output, 1);
    let said = text(&output.stderr);
    parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in:\n{said}"));
    // The check says the same, with the place.
    let checked = headrig().args(["check", "--connect"]).arg(&file).output().unwrap();
    assert_exit(&checked, 78);
    let said = text(&checked.stderr);
    assert!(said.starts_with(&format!("{}:", file.display())), "{said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in:\n{said}"));
    output
}

#[test]
fn what_is_wrong_with_a_connection_is_told_before_anything_runs() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &["--user", "u", "--pass", "secret"].map(str::to_owned));
    let url = server.url();
    let wrong = format!("{{ type: nats, url: \"{url}\", subject: logs.>, user: u, password: wrong }}");
    let output = assert_fails(&wrong, &["cannot log in to NATS", "Authorization Violation", "hint: look at `user`"]);
    assert!(!text(&output.stderr).contains("wrong }"), "no secret is shown");
    let plain = format!(
        "{{ type: nats, url: \"{}\", subject: logs.>, user: u, password: secret }}",
        url.replace("nats", "tls")
    );
    assert_fails(&plain, &["cannot use TLS with NATS", "the server has none", "hint: write nats://"]);
    let stream = format!("{{ type: jetstream, url: \"{url}\", stream: NONE, durable: d, user: u, password: secret }}");
    assert_fails(&stream, &["cannot use stream \"NONE\"", "stream not found", "hint: look at `stream`"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = format!("{{ type: nats, url: \"nats://127.0.0.1:{nobody}\", subject: a }}");
    assert_fails(&refused, &["cannot connect to NATS", "hint: nothing listens there"]);

    let right = format!("{{ type: nats, url: \"{url}\", subject: logs.>, user: u, password: secret }}");
    let file = prepare(folder.path(), "right", &right, "200ms");
    let running = listening(&file);
    generate(500, 1, &format!("nats://u:secret@127.0.0.1:{}/logs.a", server.port));
    until(PATIENCE, || records(&file.with_file_name("archive")) == 500);
    end(running);
}

/// A certificate for `name`, signed by itself, as a CA may.
fn certificate(folder: &Path, name: &str) -> [String; 2] {
    let [cert, key] = ["cert.pem", "key.pem"].map(|file| folder.join(file).display().to_string());
    let subject = format!("subjectAltName={name}");
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=headrig-test", "-addext", &subject, "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &cert])
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", text(&output.stderr));
    [cert, key]
}

#[test]
fn a_connection_is_encrypted_and_the_servers_name_checked() {
    for (name, is_right) in [("IP:127.0.0.1", true), ("DNS:nats.example.com", false)] {
        let folder = temporary();
        let [cert, key] = certificate(folder.path(), name);
        let server = Nats::start(
            folder.path(),
            &["--tls".to_owned(), "--tlscert".to_owned(), cert.clone(), "--tlskey".to_owned(), key],
        );
        let source = |tls: &str| format!("{{ type: nats, url: \"{}\", subject: logs.>{tls} }}", server.url());
        assert_fails(&source(""), &["cannot make a TLS connection", "hint: give the certificate that signed"]);
        let trusting = source(&format!(", tls: {{ ca: \"{cert}\" }}"));
        if is_right {
            let file = prepare(folder.path(), "tls", &trusting, "200ms");
            end(listening(&file));
        } else {
            assert_fails(&trusting, &["cannot make a TLS connection", "hint: the certificate is for another name"]);
        }
    }
}

#[test]
fn every_message_of_a_stream_is_archived_once_whatever_is_killed() {
    let folder = temporary();
    let mut server = Nats::start(folder.path(), &[]);
    server.make_stream();
    let source = format!("{{ type: jetstream, url: \"{}\", stream: LOGS, durable: headrig }}", server.url());
    let file = prepare(folder.path(), "js", &source, "150ms");
    let subject = format!("jetstream://127.0.0.1:{}/logs.app.fra.1", server.port);
    // `HEADRIG_STREAMED=500000 HEADRIG_KILLS=20 cargo test … --test it -- nats::every_message` is issue 4's own size.
    let size = |name, usual| std::env::var(name).map_or(usual, |number| number.parse().expect("a number"));
    let (half, kills) = (size("HEADRIG_STREAMED", 60_000) / 2, size("HEADRIG_KILLS", 12) / 2);
    let parts = [(half, 1), (half, 2)];
    for (events, seed) in parts {
        let output = subject.clone();
        let publishing = std::thread::spawn(move || generate(events, seed, &output));
        for pause in pauses(u64::from(kills)) {
            let running = Running::start(&mut run(&file));
            std::thread::sleep(pause);
            running.signal(Signal::KILL);
        }
        publishing.join().unwrap();
        // The server goes and comes back under a headrig that goes on.
        let running = Running::start(&mut run(&file));
        std::thread::sleep(Duration::from_millis(700));
        server.kill();
        std::thread::sleep(Duration::from_millis(700));
        server.start_again();
        until(PATIENCE, || records(&file.with_file_name("archive")) >= seed * half);
        end(running);
    }
    assert_exit(&run(&file).arg("--once").output().unwrap(), 0);
    assert_same(&file.with_file_name("archive"), &truth(folder.path(), &parts), 2 * half);
}

#[test]
fn a_stream_is_acknowledged_when_sealed_read_to_its_end_and_refused_when_made_anew() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream();
    let subject = format!("jetstream://127.0.0.1:{}/logs.a", server.port);
    generate(2_000, 1, &subject);
    let source = format!("{{ type: jetstream, url: \"{}\", stream: LOGS, durable: headrig }}", server.url());
    let file = prepare(folder.path(), "js", &source, "200ms");
    let running = Running::start(&mut run(&file));
    let floor = || server.ask("$JS.API.CONSUMER.INFO.LOGS.headrig", "");
    until(PATIENCE, || floor().contains("\"ack_floor\":{\"consumer_seq\":2000,\"stream_seq\":2000"));
    assert_eq!(records(&file.with_file_name("archive")), 2_000, "acknowledged is what is sealed");
    end(running);
    generate(500, 2, &subject);
    for _ in 0..2 {
        assert_exit(&run(&file).arg("--once").output().unwrap(), 0);
        assert_eq!(records(&file.with_file_name("archive")), 2_500, "a second time adds nothing");
    }
    server.ask("$JS.API.STREAM.DELETE.LOGS", "");
    server.make_stream();
    generate(3_000, 3, &subject);
    let output = run(&file).arg("--once").output().unwrap();
    assert_exit(&output, 1);
    let said = text(&output.stderr);
    assert!(said.contains("made anew") && said.contains("hint: its sequences begin anew"), "{said}");
}
