//! The commands as users type them.

use crate::harness::{Running, assert_exit, headrig, pipeline, project, temporary, text};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

#[test]
fn check_prints_each_broken_pipeline_with_place_and_remedy() {
    let mut checked = 0;
    for entry in fs::read_dir(project().join("tests/config/bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let expected: Vec<String> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: ").map(str::to_owned))
            .collect();
        let output = headrig().arg("check").arg(&path).output().unwrap();
        assert_exit(&output, 78);
        let said = text(&output.stderr);
        for line in &expected {
            let (message, hint) = line.split_once(" | hint: ").unwrap_or((line, ""));
            let message = format!("{}:{message}", path.display());
            assert!(said.contains(&message) && said.contains(hint), "{line}\nis not in:\n{said}");
        }
        checked += expected.len();
    }
    assert!(checked >= 10, "only {checked} mistakes were checked");
}

/// A pipeline with a window over one column.
fn shop(lines: &Path, schema: &Path, archive: &Path) -> String {
    format!(
        "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}\"] }} }}\ndecode: {{ envelope: none, schema: {} }}\n\
         windows:\n  - {{ name: w, kind: tumbling, size: 1m, where: total > 1, aggregate: {{ n: count(*) }} }}\n\
         archive: {{ url: \"{}\" }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
        lines.display(),
        schema.display(),
        archive.display()
    )
}

#[test]
fn a_schema_is_followed_from_version_to_version() {
    let folder = temporary();
    let (schema, lines, archive) =
        (folder.path().join("shop.yaml"), folder.path().join("lines"), folder.path().join("archive"));
    let write = |version: u32, columns: &str| {
        fs::write(&schema, format!("schema: shop\nversion: {version}\ncolumns:\n{columns}")).unwrap();
    };
    let line = "{\"timestamp\":\"2026-05-06T05:00:00Z\",\"total\":7,\"customer\":\"c\"}\n";
    fs::write(&lines, line).unwrap();
    let file = pipeline(folder.path(), &shop(&lines, &schema, &archive));
    let check = |code: i32, parts: &[&str]| {
        let output = headrig().arg("check").arg(&file).output().unwrap();
        assert_exit(&output, code);
        let said = text(&output.stderr);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in:\n{said}"));
        assert_eq!(said.contains("warning: "), parts.iter().any(|part| part.contains("warning: ")), "{said}");
    };
    let run = || assert_exit(&headrig().args(["run", "--once"]).arg(&file).output().unwrap(), 0);
    write(1, "  - { name: total, type: int }\n");
    check(0, &["sound"]);
    run();
    // Promoted, widened, deprecated.
    let newer = "  - { name: total, type: float, deprecated: use amount }\n  - { name: amount, type: float }\n  \
                 - { name: customer, type: text }\n";
    write(2, newer);
    check(
        0,
        &[
            "; deprecated columns: total (use amount)",
            "pipeline.yaml:5:13: warning: window `w` uses the column `total`, which is deprecated",
            "hint: use `amount`",
        ],
    );
    let json = headrig().args(["check", "--format", "json"]).arg(&file).output().unwrap();
    assert_exit(&json, 0);
    let found: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&found[0]["severity"], &found[0]["line"]), (&"warning".into(), &5.into()), "{found}");
    fs::write(&lines, format!("{line}{}", line.replace(":7", ":7.5,\"amount\":7.5"))).unwrap();
    run();
    let ask = |sql: &str| {
        let output = headrig().arg("query").arg(&archive).args([sql, "--format", "csv"]).output().unwrap();
        assert_exit(&output, 0);
        text(&output.stdout)
    };
    assert_eq!(
        ask("select total, amount, customer from logs order by 1"),
        "total,amount,customer\n7.0,,c\n7.5,7.5,c\n"
    );
    assert!(
        ask("describe logs").contains("total,float,yes,file,\"deprecated, use amount\"\n"),
        "{}",
        ask("describe logs")
    );
    // Back to the first version, and narrower: the one is warned of, the other refused.
    write(1, newer);
    check(
        0,
        &[
            "warning: the archive has rows of version 2 of schema shop",
            ", and this is version 1",
            "warning: window `w`",
        ],
    );
    write(3, "  - { name: total, type: int }\n");
    check(78, &["cannot write column total of data as int, the archive has it as float"]);
}

#[test]
fn check_accepts_what_is_shipped_and_prints_json_on_request() {
    let files = [
        "pipelines/delta.yaml",
        "pipelines/demo.yaml",
        "pipelines/event-time.yaml",
        "pipelines/files.yaml",
        "pipelines/fly.yaml",
        "pipelines/fly-nats.yaml",
        "pipelines/jetstream.yaml",
        "pipelines/kafka.yaml",
        "pipelines/kept-local.yaml",
        "pipelines/kept-s3.yaml",
        "pipelines/s3.yaml",
    ];
    assert_exit(&headrig().arg("check").args(files).output().unwrap(), 0);
    let output = headrig().args(["check", "--format", "json"]).args(files).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap(), serde_json::json!([]));
    let folder = temporary();
    let file = pipeline(
        folder.path(),
        "pipeline: p\nsources: { s: { type: stdin } }\ntransform: [ { filter: statsu > 3 } ]\n",
    );
    let output = headrig().args(["check", "--format", "json"]).arg(&file).output().unwrap();
    assert_exit(&output, 78);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found[0]["line"], &found[0]["column"]), (&3.into(), &24.into()));
    assert_eq!(found[0]["hint"], "did you mean `status`?");
}

#[test]
fn check_refuses_a_type_that_the_archive_has_otherwise() {
    let folder = temporary();
    let input = folder.path().join("in.ndjson");
    assert_exit(&headrig().args(["generate", "--events", "50", "--output"]).arg(&input).output().unwrap(), 0);
    let write = |steps: &str, archive: &str| {
        let yaml = format!(
            "pipeline: p\nsources: {{ in: {{ type: file, paths: [\"{}\"] }} }}\ndecode: {{ envelope: fly, schema: access }}\n\
             transform: [{steps}]\narchive: {{ url: \"{}\" }}\nserver: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n",
            input.display(),
            folder.path().join(archive).display()
        );
        pipeline(folder.path(), &yaml)
    };
    let sound = write("", "archive");
    assert_exit(&headrig().args(["run", "--once"]).arg(&sound).output().unwrap(), 0);
    assert_exit(&headrig().arg("check").arg(&sound).output().unwrap(), 0);
    let steps = "{ drop: [status] }, { set: { status: path } }";
    assert_exit(&headrig().arg("check").arg(write(steps, "another")).output().unwrap(), 0);
    let broken = write(steps, "archive");
    let output = headrig().arg("check").arg(&broken).output().unwrap();
    assert_exit(&output, 78);
    let said = text(&output.stderr);
    let expected =
        format!("{}:5:18: cannot write column status of data as text, the archive has it as int", broken.display());
    assert!(said.contains(&expected) && said.contains("hint: a column's type never changes"), "{said}");
}

#[test]
fn schema_prints_what_is_checked_in() {
    let output = headrig().arg("schema").output().unwrap();
    assert_exit(&output, 0);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checked_in = fs::read(project().join("schemas/pipeline.schema.json")).unwrap();
    assert_eq!(printed, serde_json::from_slice::<serde_json::Value>(&checked_in).unwrap());
}

#[test]
fn generate_is_deterministic() {
    let lines = |seed: &str| {
        let output = headrig().args(["generate", "--events", "500", "--incident", "--seed", seed]).output().unwrap();
        assert_exit(&output, 0);
        output.stdout
    };
    assert_eq!(lines("1"), lines("1"));
    assert_ne!(lines("1"), lines("2"));
    assert_eq!(lines("1").iter().filter(|byte| **byte == b'\n').count(), 500);
}

fn get(address: &str, path: &str, accept: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.take(10_000_000).read_to_string(&mut answer).unwrap();
    answer
}

/// A daemon over stdin, and its address.
fn daemon(folder: &std::path::Path) -> (Running, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let yaml = format!(
        "pipeline: p\nsources: {{ s: {{ type: stdin }} }}\ndecode: {{ envelope: none, schema: access }}\nmetrics:\n  \
         - {{ name: http_requests_total, type: counter, help: Requests served, where: status is not null, labels: [path, status] }}\n  \
         - {{ name: http_request_duration_seconds, type: histogram, help: Latency, value: latency_ms / 1000, labels: [path], buckets: [0.1, 1] }}\n\
         archive: {{ url: \"{}\" }}\nserver: {{ listen: \"{port}\" }}\n",
        folder.join("a").display()
    );
    let file = pipeline(folder, &yaml);
    let running = Running::start(headrig().arg("run").arg(&file));
    crate::harness::until(Duration::from_secs(30), || TcpStream::connect(port).is_ok());
    (running, port.to_string())
}

#[test]
fn metrics_health_and_signals() {
    let folder = temporary();
    let (mut running, address) = daemon(folder.path());
    let mut stdin = running.stdin();
    for status in [200, 200, 503] {
        writeln!(stdin, r#"{{"path":"/a","status":{status},"latency_ms":250}}"#).unwrap();
    }
    writeln!(stdin, r#"{{"path":"/a","status":"teapot"}}"#).unwrap();
    stdin.flush().unwrap();
    crate::harness::until(Duration::from_secs(30), || {
        get(&address, "/metrics", "*/*").contains("headrig_source_records_total{pipeline=\"p\",source=\"s\"} 4")
    });
    let metrics = get(&address, "/metrics", "text/plain");
    for line in [
        "# TYPE http_requests_total counter",
        "http_requests_total{path=\"/a\",status=\"200\"} 2",
        "http_requests_total{path=\"/a\",status=\"503\"} 1",
        "http_request_duration_seconds_bucket{path=\"/a\",le=\"0.1\"} 0",
        "http_request_duration_seconds_bucket{path=\"/a\",le=\"1\"} 3",
        "http_request_duration_seconds_count{path=\"/a\"} 3",
        "headrig_decode_errors_total{pipeline=\"p\",reason=\"type_clash\"} 1",
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line}\nis not in:\n{metrics}");
    }
    let open = get(&address, "/metrics", "application/openmetrics-text");
    assert!(open.trim_end().ends_with("# EOF"), "{open}");
    assert!(get(&address, "/healthz", "*/*").starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/readyz", "*/*").starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/nosuch", "*/*").starts_with("HTTP/1.1 404"));

    // A reload of a broken file keeps the old configuration running; one of a sound file goes on with the new.
    let file = folder.path().join("pipeline.yaml");
    let sound = fs::read_to_string(&file).unwrap();
    fs::write(&file, sound.replace("latency_ms / 1000", "latnecy_ms / 1000")).unwrap();
    running.signal(Signal::HUP);
    crate::harness::until(Duration::from_secs(30), || {
        get(&address, "/metrics", "*/*").contains("headrig_reloads_total{outcome=\"failed\"} 1")
    });
    assert!(get(&address, "/readyz", "*/*").starts_with("HTTP/1.1 200"));

    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Some(0));
    let script = "import duckdb, sys; print(duckdb.sql(f\"select count(*), sum(status) from read_parquet('{sys.argv[1]}/a/data/**/*.parquet')\").fetchone())";
    let seen = crate::harness::python().args(["-c", script]).arg(folder.path()).output().unwrap();
    assert_eq!(text(&seen.stdout).trim(), "(4, 903)", "{}", text(&seen.stderr));
}

#[test]
fn help_is_there() {
    for command in ["", "run", "check", "test", "backtest", "generate", "schema"] {
        let command = [command, "--help"].map(str::to_owned).into_iter().filter(|word| !word.is_empty());
        let command: Vec<String> = command.collect();
        let output = headrig().args(&command).output().unwrap();
        assert_exit(&output, 0);
        assert!(output.stdout.len() > 200, "{command:?}");
    }
}

#[test]
fn pipelines_of_one_daemon_are_counted_apart() {
    let folder = temporary();
    let write = |name: &str, events: u32, metric: &str| {
        let path = folder.path().join(format!("{name}.yaml"));
        let yaml = format!(
            "pipeline: {name}\nsources: {{ s: {{ type: generate, rate: 1000000, seed: 1, events: {events} }} }}\n\
             decode: {{ envelope: fly, schema: access }}\nmetrics: [{{ name: {metric}, help: h }}]\n\
             server: {{ listen: \"${{HEADRIG_LISTEN}}\" }}\n"
        );
        std::fs::write(&path, yaml).unwrap();
        path
    };
    let a = write("a", 10, "m_total, type: counter");
    let b = write("b", 20, "m_total, type: counter");
    let c = write("c", 30, "m_total, type: gauge, value: status");
    let output = headrig().args(["run", "--once"]).args([&a, &b]).output().unwrap();
    assert_exit(&output, 0);
    let said = text(&output.stderr);
    assert!(said.contains("\"pipeline\":\"a\",\"lines\":10,") && said.contains("\"lines\":20,"), "{said}");
    let output = headrig().args(["run", "--once"]).args([&a, &c]).output().unwrap();
    assert_exit(&output, 78);
    assert!(text(&output.stderr).contains("cannot serve the metric `m_total` with two types"));
}
