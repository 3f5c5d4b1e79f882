//! Core NATS with a real server, which is killed and started again, as is headrig.

use crate::harness::{Running, SmallDisk, assert_exit, headrig, temporary, text, until};
use crate::served::{
    Nats, PATIENCE, assert_same, end, free_port, generate, listening, pauses, prepare, records, run, truth,
};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// Bytes in the segments of a spool.
fn spool_bytes(file: &Path) -> u64 {
    spool_bytes_below(&file.with_file_name("data"))
}

fn spool_bytes_below(data: &Path) -> u64 {
    let pattern = format!("{}/p/s/*.spool", data.display());
    glob::glob(&pattern).unwrap().map(|path| fs::metadata(path.unwrap()).map_or(0, |file| file.len())).sum()
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
    // `HEADRIG_OUTAGE` makes it longer, in seconds.
    let outage = std::env::var("HEADRIG_OUTAGE").map_or(5, |seconds| seconds.parse().expect("a number"));
    std::thread::sleep(Duration::from_secs(outage));
    server.start_again();
    running.stderr_line(PATIENCE, |line| line.contains("connected to NATS"));
    generate(1_000, 2, &subject);
    let gap = running.stderr_line(PATIENCE, |line| line.contains("a gap"));
    assert!(gap.contains("\"from\"") && gap.contains("\"to\"") && gap.contains("\"gap\""), "{gap}");
    until(PATIENCE, || records(&archive) >= 2_000);
    end(running);
    assert_same(&archive, &truth(folder.path(), &[(1_000, 1), (1_000, 2)]), 2_000);
}

/// The first line that a server says.
fn greeting(port: u16) -> String {
    let mut line = String::new();
    BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn when_a_server_of_a_cluster_goes_another_one_is_listened_to() {
    let folders = [temporary(), temporary()];
    let (ports, routes) = ([free_port(), free_port()], [free_port(), free_port()]);
    let mut servers: Vec<Nats> = (0..2)
        .map(|at| {
            let [own, other] = [routes[at], routes[1 - at]].map(|port| format!("nats://127.0.0.1:{port}"));
            let name = format!("s{at}");
            let options = ["--cluster", &own, "--cluster_name", "c", "--routes", &other, "--name", &name];
            Nats::start_at(ports[at], folders[at].path(), &options.map(str::to_owned))
        })
        .collect();
    until(PATIENCE, || greeting(ports[0]).contains(&format!("127.0.0.1:{}", ports[1])));
    // The first daemon knows of the second server what the first one tells; of the other daemon's, one is not there.
    let urls = [servers[0].url(), format!("nats://127.0.0.1:{},{}", free_port(), servers[1].url())];
    let files = [0, 1].map(|at| {
        let source = format!("{{ type: nats, url: \"{}\", subject: logs.> }}", urls[at]);
        prepare(folders[at].path(), "nats", &source, "200ms")
    });
    let running = files.each_ref().map(|file| listening(file));
    let archives = files.each_ref().map(|file| file.with_file_name("archive"));
    generate(1_000, 1, &format!("{}/logs.app.fra.1", servers[1].url()));
    until(PATIENCE, || archives.iter().all(|archive| records(archive) == 1_000));
    servers[0].kill();
    let other = format!("\"server\":\"127.0.0.1:{}\"", ports[1]);
    running[0].stderr_line(PATIENCE, |line| line.contains("connected to NATS") && line.contains(&other));
    generate(1_000, 2, &format!("{}/logs.app.fra.1", servers[1].url()));
    until(PATIENCE, || archives.iter().all(|archive| records(archive) == 2_000));
    running.into_iter().for_each(end);
    let truth = truth(folders[0].path(), &[(1_000, 1), (1_000, 2)]);
    archives.iter().for_each(|archive| assert_same(archive, &truth, 2_000));
}

/// Nothing of what the spool accepted is lost when its disk is full, what comes meanwhile is counted, and with room again it
/// goes on.
#[test]
fn a_full_disk_under_the_spool_holds_the_server_back() {
    let folder = temporary();
    let Some(disk) = SmallDisk::mount("3m", "a spool on one") else { return };
    let server = Nats::start(folder.path(), &[]);
    let source = format!("{{ type: nats, url: \"{}\", subject: logs.> }}", server.url());
    // Nothing is sealed before the end: no segment goes.
    let file = prepare(folder.path(), "nats", &source, "1h");
    let mut running = Running::start(run(&file).env("HEADRIG_DATA_DIR", disk.path()));
    running.stderr_line(PATIENCE, |line| line.contains("connected to NATS"));
    let subject = format!("{}/logs.app.fra.1", server.url());
    let publishing = |seed| {
        let subject = subject.clone();
        std::thread::spawn(move || generate(20_000, seed, &subject))
    };
    let first = publishing(1);
    let told = running.stderr_line(PATIENCE, |line| line.contains("the spool's disk is full, holding back"));
    assert!(told.contains("No space left") && told.contains("free space on that disk"), "{told}");
    disk.resize("20m");
    first.join().unwrap();
    // 13 MB are in it, and 7 MB are left: of the next lines some come in vain.
    until(PATIENCE, || spool_bytes_below(disk.path()) > 12_000_000);
    let second = publishing(2);
    running.stderr_line(PATIENCE, |line| line.contains("what comes from now on is lost and counted"));
    second.join().unwrap();
    disk.resize("200m");
    generate(1_000, 3, &subject);
    let first = running.stderr_line(PATIENCE, |line| line.contains("has room again"));
    // The server has more for us by then, in order: the last line is the last to come.
    let copy = folder.path().join("3.ndjson");
    generate(1_000, 3, &copy.display().to_string());
    let copy = fs::read(copy).unwrap();
    let last = copy.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap();
    let finder = memchr::memmem::Finder::new(last);
    let segment = disk.path().join("p/s/00000000000000000000.spool");
    until(PATIENCE, || finder.find(&fs::read(&segment).unwrap()).is_some());
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    // A little may have fitted in while it was full, so there may have been room more than once.
    let lines = running.all_stderr();
    let again = lines.iter().filter(|line| line.contains("has room again")).chain([&first]);
    let lost = again.map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["fields"]["lost"].as_u64().unwrap_or_else(|| panic!("{line}")) as u32
    });
    let lost: u32 = lost.sum();
    assert!((1..20_000).contains(&lost), "{lost}");
    let archive = file.with_file_name("archive");
    assert_eq!(records(&archive), 41_000 - lost, "all but {lost}");
    assert_exit(&headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap(), 0);
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
