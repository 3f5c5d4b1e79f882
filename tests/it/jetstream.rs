//! JetStream with a real server, which is killed and started again, as is headrig.

use crate::harness::{Running, assert_exit, headrig, temporary, text, until};
use crate::served::{Nats, PATIENCE, assert_same, end, generate, pauses, prepare, records, run, truth};
use rustix::process::Signal;
use std::time::Duration;

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

fn source(server: &Nats, more: &str) -> String {
    format!("{{ type: jetstream, url: \"{}\", stream: LOGS, durable: headrig{more} }}", server.url())
}

fn consumer(server: &Nats, name: &str) -> serde_json::Value {
    serde_json::from_str(&server.ask_well(&format!("$JS.API.CONSUMER.INFO.LOGS.{name}"), "")).unwrap()
}

#[test]
fn messages_that_wait_long_for_a_seal_are_not_sent_again() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream();
    let file = prepare(folder.path(), "js", &source(&server, ", ack_wait: 2s"), "1h");
    generate(500, 1, &format!("jetstream://127.0.0.1:{}/logs.a", server.port));
    let running = Running::start(&mut run(&file));
    let pending = || server.ask("$JS.API.CONSUMER.INFO.LOGS.headrig", "").contains("\"num_ack_pending\":500");
    until(PATIENCE, pending);
    // What doesn't happen has no sign: four times `ack_wait`.
    std::thread::sleep(Duration::from_secs(8));
    let known = consumer(&server, "headrig");
    assert_eq!((&known["num_ack_pending"], &known["num_redelivered"]), (&500.into(), &0.into()), "{known}");
    assert_eq!(known["delivered"]["consumer_seq"], 500, "each was sent once: {known}");
    end(running);
    assert_eq!(records(&file.with_file_name("archive")), 500);
}

#[test]
fn a_stream_that_deletes_what_is_acknowledged_is_empty_when_all_is_sealed() {
    for retention in ["workqueue", "interest"] {
        let folder = temporary();
        let server = Nats::start(folder.path(), &[]);
        server.make_stream_of(retention);
        let file = prepare(folder.path(), "js", &source(&server, ""), "150ms");
        let archive = file.with_file_name("archive");
        // Of retention `interest` only what a consumer waits for is kept, so it is there first.
        end(listening_to_stream(&file));
        let subject = format!("jetstream://127.0.0.1:{}/logs.a", server.port);
        let publishing = std::thread::spawn(move || generate(20_000, 1, &subject));
        for pause in pauses(6) {
            let running = Running::start(&mut run(&file));
            std::thread::sleep(pause);
            running.signal(Signal::KILL);
        }
        publishing.join().unwrap();
        let stored = u64::from(records(&archive));
        assert!(server.messages() + stored >= 20_000, "{retention}: only what is sealed is deleted");
        let running = Running::start(&mut run(&file));
        until(PATIENCE, || server.messages() == 0);
        assert_eq!(records(&archive), 20_000, "{retention}");
        end(running);
        assert_same(&archive, &truth(folder.path(), &[(20_000, 1)]), 20_000);
    }
}

/// Starts headrig and waits until its consumer is there.
fn listening_to_stream(file: &std::path::Path) -> Running {
    let running = Running::start(&mut run(file));
    running.stderr_line(PATIENCE, |line| line.contains("reading a JetStream stream"));
    running
}

#[test]
fn a_second_consumer_of_a_work_queue_is_named_before_anything_runs() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream_of("workqueue");
    let other = r#"{"stream_name":"LOGS","config":{"durable_name":"other","ack_policy":"explicit","filter_subject":"logs.a.>"}}"#;
    server.ask_well("$JS.API.CONSUMER.DURABLE.CREATE.LOGS.other", other);
    for (subject, fits) in [("", false), (", subject: logs.a.b", false), (", subject: logs.b.>", true)] {
        let file = prepare(folder.path(), "js", &source(&server, subject), "1s");
        let output = headrig().args(["check", "--connect"]).arg(&file).output().unwrap();
        assert_exit(&output, if fits { 0 } else { 78 });
        let said = text(&output.stderr);
        if !fits {
            assert!(said.contains("consumer \"other\" reads the same subjects"), "{said}");
            assert!(
                said.contains("hint: a stream of retention `workqueue` has one consumer for each subject"),
                "{said}"
            );
            assert_exit(&run(&file).arg("--once").output().unwrap(), 1);
        }
    }
}

#[test]
fn messages_that_were_deleted_or_hold_nothing_are_no_records() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream();
    generate(1_000, 1, &format!("jetstream://127.0.0.1:{}/logs.a", server.port));
    // 1 to 99 and 500 are gone, and the last one is empty, as markers of deletions are.
    server.ask_well("$JS.API.STREAM.PURGE.LOGS", r#"{"seq":100}"#);
    server.ask_well("$JS.API.STREAM.MSG.DELETE.LOGS", r#"{"seq":500}"#);
    server.ask_well("logs.a", "");
    let file = prepare(folder.path(), "js", &source(&server, ""), "150ms");
    let archive = file.with_file_name("archive");
    assert_exit(&run(&file).arg("--once").output().unwrap(), 0);
    assert_eq!(records(&archive), 900);
    let running = listening_to_stream(&file);
    server.ask_well("$JS.API.STREAM.PURGE.LOGS", "");
    generate(500, 2, &format!("jetstream://127.0.0.1:{}/logs.b", server.port));
    until(PATIENCE, || records(&archive) >= 1_400);
    end(running);
    assert_eq!(records(&archive), 1_400);
    assert_exit(&headrig().args(["verify", "--deep"]).arg(&archive).output().unwrap(), 0);
}

#[test]
fn who_gets_messages_of_our_consumer_takes_nothing_from_the_archive() {
    let folder = temporary();
    let server = Nats::start(folder.path(), &[]);
    server.make_stream();
    let file = prepare(folder.path(), "js", &source(&server, ""), "150ms");
    let archive = file.with_file_name("archive");
    let running = listening_to_stream(&file);
    let subject = format!("jetstream://127.0.0.1:{}/logs.a", server.port);
    for seed in 1..=3 {
        let theft = std::thread::scope(|scope| {
            let publishing = scope.spawn(|| generate(5_000, seed, &subject));
            // Somebody else pulls, and never acknowledges.
            let theft = server.ask("$JS.API.CONSUMER.MSG.NEXT.LOGS.headrig", r#"{"batch":10,"expires":2000000000}"#);
            publishing.join().unwrap();
            theft
        });
        assert!(!theft.is_empty());
    }
    running.stderr_line(PATIENCE, |line| line.contains("somebody else has got messages of it"));
    until(PATIENCE, || records(&archive) >= 15_000);
    end(running);
    assert_same(&archive, &truth(folder.path(), &[(5_000, 1), (5_000, 2), (5_000, 3)]), 15_000);
}
