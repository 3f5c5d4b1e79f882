//! The log generator: what a small API on Fly.io writes, deterministic by its seed. Pure.
//!
//! Lines are Fly envelopes around structlog's JSON (or around plain text), in the layouts, time formats and with the
//! oddities that real streams have: disorder of up to 1.5 s, two kinds of JSON spacing and key order, escapes within
//! escapes, text lines, JSON cut short, values of an unexpected type, records without a time. With `incident`, errors
//! rise on two routes and later one route becomes slow; that repeats every five minutes (see `Phase`).
//!
//! Text is written as it stands in the envelope: what is quoted in the inner JSON has one backslash before the
//! quote, and a backslash of the inner JSON is two.

use super::structlog::{Object, Stamps};
use crate::time::EventTime;

/// Lines of one seed.
#[derive(Debug, Clone)]
pub struct Traffic {
    random: Random,
    start: EventTime,
    rate: u64,
    incident: bool,
    line: u64,
    stamps: Stamps,
    latencies: Vec<f64>,
}

/// A route with its share of the requests (per 1,000) and its median latency.
struct Route {
    path: &'static [u8],
    share: u32,
    median_ms: f64,
    posts: bool,
}

const fn route(path: &'static str, share: u32, median_ms: f64, posts: bool) -> Route {
    Route { path: path.as_bytes(), share, median_ms, posts }
}

/// The routes; the first two have the errors of the incident and the third is the slow one.
const ROUTES: [Route; 15] = [
    route("/v1/programs/search", 304, 48.0, false),
    route("/v1/me", 100, 22.0, false),
    route("/v1/programs/{id}", 151, 30.0, false),
    route("/v1/billing/webhook", 73, 35.0, true),
    route("/v1/keys", 60, 28.0, true),
    route("/healthz", 51, 4.0, false),
    route("/readyz", 44, 5.0, false),
    route("/v1/exclusions/check", 37, 40.0, true),
    route("/v1/meta", 33, 15.0, false),
    route("/v1/admin/usage", 30, 120.0, false),
    route("/v1/feedback", 27, 33.0, true),
    route("/v1/dashboard", 24, 160.0, false),
    route("/mcp", 24, 75.0, true),
    route("/v1/calendar", 22, 45.0, false),
    route("/v1/stats", 20, 90.0, false),
];

const MACHINES: [(&[u8], &[u8]); 3] =
    [(b"d8f16a91b7584a", b"d8f1"), (b"414c341027c4d1", b"414c"), (b"c386bbcd613e30", b"c386")];

const TIERS: [&[u8]; 3] = [b"free", b"paid", b"pro"];

/// Search texts as they stand in the envelope: escapes of the inner JSON have two backslashes.
const QUERIES: [&str; 10] = [
    "",
    r"\\u3082\\u306e\\u3065\\u304f\\u308a",
    "it導入",
    r"\\u88dc\\u52a9\\u91d1 2026",
    r#"say \\\"hello\\\""#,
    r"back\\\\slash",
    r"tab\\there",
    r"newline\\nin q",
    "renewable energy",
    r"caf\\u00e9 \\ud83d\\ude00",
];

/// Plain lines of the proxy, the health checks and the server, as they stand in the envelope.
const TEXTS: [&str; 6] = [
    "[PR03] could not find a good candidate within 40 attempts at load balancing. last error: [PR01] no known healthy instances found for route tcp/443",
    "Health check 'servicecheck-00-http-8080' on port 8080 has failed. Your app is not responding properly.",
    r#"INFO:     127.0.0.1:0 - \"GET /healthz HTTP/1.1\" 200 OK"#,
    r#"  File \"/app/src/main.py\", line 12, in handler {not json}"#,
    "machine exited with exit code 0, not restarting",
    "init_db: 14 migrations applied, setup_logging done",
];

const EXCEPTIONS: [&str; 3] = [
    "sqlite3.OperationalError: database is locked",
    "httpx.ReadTimeout: upstream took more than 5.0 s",
    r"KeyError: \\u0027program_id\\u0027",
];

/// What the incident does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Normal,
    /// From 20 s to 45 s of each cycle: 5xx on the first two routes.
    Errors,
    /// From 60 s to 85 s: the third route is slow.
    Slow,
}

const CYCLE_SECS: i64 = 300;

/// Most that a stamp lies behind its place in the stream, in microseconds.
const JITTER_MICROS: u64 = 1_500_000;

impl Traffic {
    /// Lines that begin at `start` of event time, `rate` a second. The same arguments give the same bytes.
    ///
    /// # Panics
    /// When `rate` is 0.
    pub fn new(seed: u64, start: EventTime, rate: u64, incident: bool) -> Self {
        assert!(rate > 0, "a rate is at least one line a second");
        Self {
            random: Random(seed ^ 0x0068_6561_6472_6967),
            start,
            rate,
            incident,
            line: 0,
            stamps: Stamps::default(),
            latencies: latency_factors(),
        }
    }

    /// Appends the next line, with its `\n`, and returns the record's own time (that of the envelope where it has none).
    pub fn next_line(&mut self, out: &mut Vec<u8>) -> EventTime {
        let offset = u128::from(self.line) * 1_000_000 / u128::from(self.rate);
        self.line += 1;
        let sent = self.start.micros().saturating_add(i64::try_from(offset).unwrap_or(i64::MAX));
        // Squared, so that most records are only a little late.
        let share = self.random.below(1_001);
        let stamp = sent.saturating_sub((JITTER_MICROS * share * share / 1_000_000) as i64);
        let phase = self.phase(sent);
        let (instance, host) = MACHINES[self.random.below(3) as usize];
        let layout = self.random.below(8);
        if layout == 0 {
            // The same envelope as another version of the shipper writes it.
            out.extend_from_slice(b"{\"timestamp\":\"");
            self.stamps.nanos(out, sent, self.line);
            out.extend_from_slice(b"\",\"message\":\"");
            self.message(out, stamp, phase);
            out.extend_from_slice(b"\",\"fly\":{\"region\":\"nrt\",\"app\":{\"name\":\"autonomath\",\"instance\":\"");
            out.extend_from_slice(instance);
            out.extend_from_slice(b"\"}},\"host\":\"");
            out.extend_from_slice(host);
            out.extend_from_slice(b"\",\"event\":{\"provider\":\"app\"},\"log\":{\"level\":\"info\"}}\n");
        } else {
            out.extend_from_slice(b"{\"event\":{\"provider\":\"app\"},\"fly\":{\"app\":{\"instance\":\"");
            out.extend_from_slice(instance);
            out.extend_from_slice(b"\",\"name\":\"autonomath\"},\"region\":\"nrt\"},\"host\":\"");
            out.extend_from_slice(host);
            out.extend_from_slice(b"\",\"log\":{\"level\":\"info\"},\"message\":\"");
            self.message(out, stamp, phase);
            out.extend_from_slice(b"\",\"timestamp\":\"");
            self.stamps.nanos(out, sent, self.line);
            out.extend_from_slice(b"\"}\n");
        }
        EventTime::from_micros(stamp)
    }

    fn phase(&self, at: i64) -> Phase {
        let second = at.saturating_sub(self.start.micros()) / 1_000_000 % CYCLE_SECS;
        match second {
            20..45 if self.incident => Phase::Errors,
            60..85 if self.incident => Phase::Slow,
            _ => Phase::Normal,
        }
    }

    /// One message, as it stands in the envelope. Shares are per 10,000 lines.
    fn message(&mut self, out: &mut Vec<u8>, stamp: i64, phase: Phase) {
        match self.random.below(10_000) {
            0..140 => out.extend_from_slice(TEXTS[self.random.below(6) as usize].as_bytes()),
            140..210 => self.key_issued(out, stamp),
            210..250 => self.volume(out, stamp),
            250..280 => self.bad_signature(out, stamp),
            280..290 => out.extend_from_slice(br#"{\"note\": \"plain\", \"event\": \"no_time\", \"level\": \"info\"}"#),
            290..300 => self.type_clash(out, stamp),
            300..308 => self.cut(out, stamp, phase),
            _ => self.request(out, stamp, phase),
        }
    }

    fn key_issued(&mut self, out: &mut Vec<u8>, stamp: i64) {
        let mut object = self.open(out, stamp, true);
        object.text("logger", b"jpintel.keys");
        object.text("tier", TIERS[self.random.below(3) as usize]);
        object.text("event", b"key.issued");
        object.end("info");
    }

    fn volume(&mut self, out: &mut Vec<u8>, stamp: i64) {
        let growth = self.line.min(1_000_000_000) * 3;
        let mut object = self.open(out, stamp, true);
        object.text("logger", b"cron");
        object.number("db_bytes", 312_169_215 + growth);
        object.number("wal_bytes", self.random.below(96_000_000));
        object.thousandths("data_used_pct", 61_000 + self.random.below(4_000));
        object.number("memory_mb", 240 + self.random.below(120));
        object.text("event", b"cron.volume");
        object.end("info");
    }

    fn bad_signature(&mut self, out: &mut Vec<u8>, stamp: i64) {
        let mut object = self.open(out, stamp, true);
        object.text("logger", b"jpintel.billing");
        object.text("event_type", b"invoice.paid");
        object.text("event", b"bad signature");
        object.end("warning");
    }

    fn type_clash(&mut self, out: &mut Vec<u8>, stamp: i64) {
        let mut object = self.open(out, stamp, true);
        object.text("path", b"/v1/stats");
        object.text("status", b"OK");
        object.text("latency_ms", b"fast");
        object.text("event", b"request_processed");
        object.end("info");
    }

    /// A request of which the shipper lost the end.
    fn cut(&mut self, out: &mut Vec<u8>, stamp: i64, phase: Phase) {
        let start = out.len();
        self.request(out, stamp, phase);
        let mut end = start + 60 + self.random.below(60) as usize;
        // Not within an escape: the envelope itself must stay whole.
        while out[end - 1] == b'\\' {
            end -= 1;
        }
        out.truncate(end);
    }

    fn request(&mut self, out: &mut Vec<u8>, stamp: i64, phase: Phase) {
        let number = pick(self.random.below(1_000) as u32);
        let route = &ROUTES[number];
        let status = self.status(number, phase);
        let failed = status == 500;
        let event: &[u8] = if failed { b"request_failed" } else { b"request_processed" };
        let level = match status {
            500.. => "error",
            400.. => "warning",
            _ => "info",
        };
        let latency = self.latency_micros(number, phase);
        let spaced = self.random.below(4) > 0;
        let mut object = self.open(out, stamp, spaced);
        if spaced {
            object.text("logger", b"api.handlers");
        } else {
            object.text("event", event);
        }
        object.hex("request_id", self.random.next(), 16);
        let (high, low) = (self.random.next(), self.random.next());
        object.hex("trace_id", high, 16);
        object.more_hex(low);
        object.text("method", if route.posts && status != 304 { b"POST" } else { b"GET" });
        object.text("path", route.path);
        object.number("status", status);
        object.thousandths("latency_ms", latency);
        object.text("tier", TIERS[self.random.below(3) as usize]);
        object.hex("api_key_hash_prefix", self.random.below(400) * 0x0109_4c37 + 0x1000_0000, 8);
        object.address("client_ip", self.random.below(256));
        if number == 0 {
            object.text("q", QUERIES[self.random.below(10) as usize].as_bytes());
        }
        if self.random.below(20) == 0 {
            object.extra(self.random.below(4_000));
        }
        if spaced {
            object.text("event", event);
        } else {
            object.text("logger", b"api.handlers");
        }
        if failed {
            object.exception(EXCEPTIONS[self.random.below(3) as usize]);
        }
        object.end(level);
    }

    fn status(&mut self, route: usize, phase: Phase) -> u64 {
        let error_share = match (phase, route) {
            (Phase::Errors, 0) => 350,
            (Phase::Errors, 1) => 200,
            _ => 2,
        };
        let roll = self.random.below(1_000);
        if roll < error_share {
            return if roll % 4 == 3 { 503 } else { 500 };
        }
        match self.random.below(1_000) {
            0..12 => 400,
            12..20 => 401,
            20..32 => 404,
            32..43 => 429,
            43..60 => 304,
            60..90 => 201,
            _ => 200,
        }
    }

    fn latency_micros(&mut self, route: usize, phase: Phase) -> u64 {
        let slow = if phase == Phase::Slow && route == 2 { 45.0 } else { 1.0 };
        let factor = self.latencies[self.random.below(self.latencies.len() as u64) as usize];
        (ROUTES[route].median_ms * slow * factor * 1_000.0) as u64
    }

    fn open<'a>(&mut self, out: &'a mut Vec<u8>, stamp: i64, spaced: bool) -> Object<'a> {
        out.extend_from_slice(if spaced { br#"{\"timestamp\": \""# } else { br#"{\"timestamp\":\""# });
        match self.random.below(3) {
            0 => self.stamps.micros(out, stamp, b"Z"),
            1 => self.stamps.micros(out, stamp, b"+00:00"),
            _ => self.stamps.millis(out, stamp),
        }
        out.extend_from_slice(br#"\""#);
        Object { out, spaced }
    }
}

/// The route of a number below 1,000, by the routes' shares.
fn pick(mut number: u32) -> usize {
    for (index, route) in ROUTES.iter().enumerate() {
        if number < route.share {
            return index;
        }
        number -= route.share;
    }
    unreachable!("the shares add up to 1,000")
}

/// Latencies as multiples of the median: log-normal (sigma 0.55), as 4,096 quantiles in no order.
fn latency_factors() -> Vec<f64> {
    let mut random = Random(0x1a7e);
    // The sum of twelve uniform numbers is as good as normal up to three sigma.
    let normal = |random: &mut Random| (0..12).map(|_| random.below(1_000_001) as f64 / 1e6).sum::<f64>() - 6.0;
    (0..4_096).map(|_| (0.55 * normal(&mut random)).exp()).collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, fast, the same everywhere.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `bound` - 1; its bias is below `bound` / 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use sha2::{Digest, Sha256};
    use std::collections::BTreeMap;

    const START: i64 = 1_767_225_600_000_000;

    fn lines(seed: u64, start: i64, rate: u64, incident: bool, count: usize) -> (Vec<u8>, Vec<EventTime>) {
        let mut traffic = Traffic::new(seed, EventTime::from_micros(start), rate, incident);
        let mut out = Vec::new();
        let stamps = (0..count).map(|_| traffic.next_line(&mut out)).collect();
        (out, stamps)
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_for_ever() {
        let (bytes, _) = lines(1, START, 1_000, true, 50_000);
        let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hash, "d1ce4acaf30bbb143b975d379614662b4a1b7590c4622a2f399be019cba658a7");
        assert_ne!(bytes, lines(2, START, 1_000, true, 50_000).0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_envelope_is_whole_and_every_stamp_is_the_one_returned(
            seed: u64, start in 0i64..4_000_000_000_000_000, rate in 1u64..1_000_000, incident: bool,
        ) {
            let (bytes, stamps) = lines(seed, start, rate, incident, 300);
            let mut last = i64::MIN;
            for (line, stamp) in bytes.strip_suffix(b"\n").unwrap().split(|b| *b == b'\n').zip(&stamps) {
                let envelope: Value = serde_json::from_slice(line).unwrap();
                let sent: jiff::Timestamp = envelope["timestamp"].as_str().unwrap().parse().unwrap();
                prop_assert!(sent.as_microsecond() >= last);
                last = sent.as_microsecond();
                prop_assert!((0..=JITTER_MICROS as i64).contains(&(last - stamp.micros())));
                let Ok(inner) = serde_json::from_str::<Value>(envelope["message"].as_str().unwrap()) else { continue };
                let Some(own) = inner["timestamp"].as_str() else { continue };
                let own: jiff::Timestamp = own.parse().unwrap();
                prop_assert!((0..1_000).contains(&(stamp.micros() - own.as_microsecond())), "{} {}", stamp, own);
            }
            prop_assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 300);
        }
    }

    /// Counts requests, 5xx and those over a second, by path and second of the cycle.
    fn tally(bytes: &[u8], from: i64, to: i64) -> BTreeMap<String, (u32, u32, u32)> {
        let mut tally: BTreeMap<String, (u32, u32, u32)> = BTreeMap::new();
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let envelope: Value = serde_json::from_slice(line).unwrap();
            let sent: jiff::Timestamp = envelope["timestamp"].as_str().unwrap().parse().unwrap();
            let second = (sent.as_microsecond() - START) / 1_000_000;
            let Ok(inner) = serde_json::from_str::<Value>(envelope["message"].as_str().unwrap()) else { continue };
            let (Some(path), Some(status)) = (inner["path"].as_str(), inner["status"].as_u64()) else { continue };
            if (from..to).contains(&second) {
                let entry = tally.entry(path.to_owned()).or_default();
                entry.0 += 1;
                entry.1 += u32::from(status >= 500);
                entry.2 += u32::from(inner["latency_ms"].as_f64().unwrap() > 1_000.0);
            }
        }
        tally
    }

    #[test]
    fn the_incident_is_where_it_should_be_and_nowhere_else() {
        let (bytes, _) = lines(1, START, 500, true, 60_000);
        let share = |from, to, path: &str| {
            let (requests, errors, slow) = tally(&bytes, from, to)[path];
            (f64::from(errors) / f64::from(requests), f64::from(slow) / f64::from(requests))
        };
        assert!((0.3..0.4).contains(&share(20, 45, "/v1/programs/search").0));
        assert!((0.15..0.25).contains(&share(20, 45, "/v1/me").0));
        assert!(share(60, 85, "/v1/programs/{id}").1 > 0.5);
        for (from, to) in [(0, 20), (45, 60), (85, 120)] {
            let tally = tally(&bytes, from, to);
            assert_eq!(tally.len(), ROUTES.len());
            for (path, (requests, errors, slow)) in tally {
                assert!(errors * 20 < requests && slow * 50 < requests, "{path} {from}: {requests} {errors} {slow}");
            }
        }
    }
}
