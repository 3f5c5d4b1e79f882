//! Every cap of the system, each with its unit and reason. What happens at a cap is said here and counted there.

use crate::time::Span;

/// Longest record in bytes, its line end not counted. NATS' default maximum message is 1 MB; a longer line is no log
/// line. A longer record becomes a dead letter (`too_long`) of which this much is kept.
pub const RECORD_BYTES: usize = 1 << 20;

/// Bytes that a source puts into one batch, at least one record. Large enough that per-batch work vanishes, small
/// enough that a batch and its columns stay in a 2 MB L2 cache.
pub const BATCH_BYTES: usize = 1 << 20;

/// Records in one batch, for sources of short lines.
pub const BATCH_RECORDS: usize = 8_192;

/// How long a source waits for more before it hands on a batch that is not full. Adds to alert latency.
pub const BATCH_WAIT: Span = Span::from_micros(100_000);

/// Batches waiting between a source and the decoder, per pipeline. With [`BATCH_BYTES`], this bounds memory there.
pub const RAW_QUEUE: usize = 4;

/// Buffers of raw batches that are kept to be used again, per pipeline: as many as wait in front of the decoder, and one
/// that is being filled.
pub const BUFFERS_KEPT: usize = RAW_QUEUE + 1;

/// Threads that decode. More than there are cores help nobody; `check` refuses more than this.
pub const DECODE_THREADS: usize = 64;

/// Default of `limits.memory`, in bytes: what the stages of one pipeline hold together. Programs, stacks and fragmentation
/// come on top, so that a small machine of 512 MB has room for several pipelines.
pub const MEMORY_BYTES: u64 = 128_000_000;

/// Least `limits.memory`, in bytes; `check` refuses less. The raw queue's and the archive queue's batches and a row group
/// of a few thousand rows need about this much, whatever gives way.
pub const LEAST_MEMORY_BYTES: u64 = 16_000_000;

/// What a batch takes on its way through the pipeline, in [`BATCH_BYTES`]: once raw, and its columns, which have grown
/// by doubling.
pub const MEMORY_PER_BATCH: usize = 4;

/// What one row of a closed window is counted with, in bytes of `limits.memory`, while it waits for the archive: with the
/// default budget [`WINDOW_ROWS_WAITING`] may wait, with less memory fewer.
pub const MEMORY_PER_WINDOW_ROW: u64 = 1_280;

/// Decoded batches waiting for the archive.
pub const ARCHIVE_QUEUE: usize = 4;

/// How long a receiver that takes nothing is tried again with the same events, before they are given up and counted as failed.
pub const DELIVERY_DEADLINE: Span = Span::from_secs(24 * 3600);

/// Alert events waiting for one receiver. When it is full the pipeline waits: an alert is never thrown away.
pub const ALERT_QUEUE: usize = 1_024;

/// Depth of nested JSON in a record; deeper is not JSON to us. Protects the stack from hostile input.
pub const JSON_DEPTH: usize = 64;

/// Literals that a decoder keeps of the layouts that it has learned. More, and all are forgotten and learned anew. A
/// program's lines have some 20 each, most of them shared; each takes some 250 bytes.
pub const LAYOUT_EDGES: usize = 8_192;

/// Bytes of those literals together; each is kept twice.
pub const LAYOUT_BYTES: usize = 1 << 20;

/// Ways in which known layouts may go on at one place; further ones are not learned, as looking through more of them
/// costs more than parsing.
pub const LAYOUT_BRANCHES: usize = 24;

/// A stamp further ahead of the envelope's, the broker's or the arrival's time than this is not usable.
pub const MAX_FUTURE: Span = Span::from_secs(300);

/// Metric series of one pipeline, all metrics together. More go to `_other_` and are counted.
pub const SERIES_PER_PIPELINE: usize = 10_000;

/// Metric series of one metric, so that one label cannot take the whole pipeline's share.
pub const SERIES_PER_METRIC: usize = 2_000;

/// Buckets of one histogram, +Inf not counted; each is a series to Prometheus. More are a mistake that `check` refuses.
pub const BUCKETS_PER_HISTOGRAM: usize = 64;

/// Bytes of a metric label's value; Prometheus hosts refuse more than 2,048. Longer values are cut at a character.
pub const LABEL_VALUE_BYTES: usize = 1_024;

/// Groups that one window definition holds open at a time; records of further groups are counted as dropped
/// (`window_groups`) and stay in the archive.
pub const GROUPS_PER_WINDOW: usize = 100_000;

/// States that one window definition holds, one per open pane and group; records that would need one more are counted
/// as dropped (`window_groups`) and stay in the archive. A source that lags far behind the others, or is silent, keeps
/// panes open without end: this bounds their memory (some 100 bytes each with counts and sums, a few KB with quantiles).
pub const STATES_PER_WINDOW: usize = 1_000_000;

/// Rows of closed windows, and one more for each window, that wait for the archive; more are sealed at once. Old input
/// is read much faster than it was written and may close days of windows between two seals by time.
pub const WINDOW_ROWS_WAITING: usize = 100_000;

/// Bytes of the state of windows, alerts and clock that is kept over a restart, before compression; a larger one is
/// refused, when it is saved as when it is read. 100,000 groups with a count and a quantile take some 10 MB.
pub const STATE_BYTES: usize = 1 << 30;

/// Bytes of gathered states that go into one message between daemons, before compression; more are cut into several. One group of
/// one pane is never cut: see [`PARTIAL_SKETCHES`].
pub const PARTIAL_BYTES: usize = 256 << 10;

/// Bytes of a message between daemons after decompression; a larger one is none of ours.
pub const PARTIAL_MESSAGE_BYTES: usize = 8 << 20;

/// Quantiles and distinct counts of a window that is merged over daemons; `check` refuses more. Each takes up to 36 KB of one group
/// and pane, and all of them together must fit into a record of [`RECORD_BYTES`].
pub const PARTIAL_SKETCHES: usize = 20;

/// Most partitions of the topic between daemons; each of them gets a message for each seal of each daemon.
pub const PARTIAL_PARTITIONS: u32 = 1_000;

/// Bytes of messages between daemons that are sealed and not published yet; beyond, no further records are worked off until brokers
/// have taken them.
pub const PARTIAL_OUTBOX_BYTES: usize = 64 << 20;

/// How long a pipeline that ends waits for brokers to take what it has sealed; what they don't is published by the next start, or by
/// whoever takes its partitions over.
pub const PARTIAL_DRAIN: Span = Span::from_secs(10);

/// Panes that a window may be put together from; `check` refuses more, which would make each closing a merge of that
/// many states per group.
pub const PANES_PER_WINDOW: i64 = 10_000;

/// Longest window, and longest lateness: ten years; `check` refuses more. Keeps all sums of times far from the ends of
/// their range.
pub const WINDOW_SPAN: Span = Span::from_secs(3_650 * 86_400);

/// Default of a session window's `max`: a group that never pauses has a result once a day.
pub const SESSION_MAX: Span = Span::from_secs(86_400);

/// Pieces that a session as long as `max` is kept in. It can only be cut between two of them, so that where it is cut doesn't
/// depend on the order of records; the more, the nearer to `max`, and the more states.
pub const SESSION_PIECES: i64 = 4;

/// Least `absent_for` of an alert: below it, a pause between two batches would be an absence.
pub const LEAST_ABSENCE: Span = Span::from_secs(1);

/// Default of an alert's `forget_after`: a group that was seen and has been absent for this long is not missed any more, as it will not
/// come back. With one name for each start of a program, what is followed stays small.
pub const FORGET_AFTER: Span = Span::from_secs(86_400);

/// Producers of one pipeline, with `watermark_by`, in all its partitions; those beyond share one watermark in each partition and are counted.
/// Each takes some 150 bytes.
pub const PRODUCERS: usize = 10_000;

/// A producer that has been silent for this long, while nothing waited, is forgotten: its name may never come again.
pub const PRODUCER_FORGOTTEN: Span = Span::from_secs(3_600);

/// Producers whose clocks are told to be off, at a time: each is a series of a metric.
pub const SKEWS_TOLD: usize = 10;

/// How often it is told how far producers' clocks are off.
pub const SKEW_EVERY: Span = Span::from_secs(10);

/// A producer whose clock is off by this much is logged, once until it isn't any more. It is the default of `lateness`: without
/// `watermark_by` it would make others' records late.
pub const SKEW_LOGGED: Span = Span::from_secs(30);

/// Bytes of a text that the aggregates `first` and `last` keep of each group and pane; longer ones are cut at a character.
pub const EDGE_TEXT_BYTES: usize = 1_024;

/// A partition that has been silent for this long doesn't hold event time back any more.
pub const IDLE_AFTER: Span = Span::from_secs(30);

/// Parquet writers open at a time (one per Hive partition). One more closes the one written least recently.
pub const OPEN_WRITERS: usize = 16;

/// How long a request to an object store is tried again by itself. What starts shall tell soon that it cannot; what runs waits
/// longer, by [`ARCHIVE_PAUSES`].
pub const STORE_RETRY: Span = Span::from_secs(20);

/// First and longest pause before the archive tries again what its disk or store didn't take; in between it doubles.
pub const ARCHIVE_PAUSES: [Span; 2] = [Span::from_micros(200_000), Span::from_secs(10)];

/// How often the log says that the archive still waits.
pub const ARCHIVE_REMINDER: Span = Span::from_secs(300);

/// Rows of a Parquet row group.
pub const ROW_GROUP_ROWS: usize = 131_072;

/// Bytes (encoded, estimated) of a row group that is being built; it is closed before it grows larger. With
/// [`OPEN_WRITERS`] this bounds the archive's memory.
pub const ROW_GROUP_BYTES: usize = 32 << 20;

/// Rows of one file that wait to be encoded together. Going through all columns costs as much for few rows as for many,
/// and what encodes a column (its dictionary, the compressor) has to come back into the cache each time.
pub const ENCODE_ROWS: usize = 8_192;

/// Bytes, as Arrow arrays, of rows of one file that wait to be encoded; for rows with long texts.
pub const ENCODE_BYTES: usize = 8 << 20;

/// Bytes, as Arrow arrays, that wait in all files together. Beyond, rows are encoded as they come.
pub const ENCODE_WAITING_BYTES: usize = 16 << 20;

/// Seals of a chain after which those before the newest are folded into a summary: at one a minute, every four hours.
pub const FOLD_ENTRIES: u64 = 256;

/// Bytes of window and alert state that are kept within a seal; a larger state is an object of its own.
pub const STATE_INLINE_BYTES: usize = 4_096;

/// Daemons that find a name of their own in one data folder, per pipeline.
pub const INSTANCES: usize = 64;

/// Least time between two seals that are made only for alert events: what fires meanwhile is told together.
pub const ALERT_SEAL: Span = Span::from_secs(1);

/// How often a claim is tried again when another writer was faster.
pub const CLAIM_ROUNDS: usize = 64;

/// How often a commit to a Delta log is made anew when another writer was faster.
pub const DELTA_ROUNDS: usize = 64;

/// Commits of a Delta log that are in memory at once while it is read.
pub const DELTA_READ_COMMITS: usize = 1_024;

/// Files that a Delta log lacks at a start, from which on they are looked for by listing their folders and not one by one.
pub const DELTA_LISTED_FILES: usize = 16;

/// Least time between two seals of which one is made only for somebody who wants to read all rows now.
pub const LIVE_SEAL: Span = Span::from_secs(1);

/// How long somebody who wants that waits, until an archive that takes nothing is given up.
pub const LIVE_PATIENCE: Span = Span::from_secs(30);

/// How many may have asked a pipeline for it without having been heard; further ones wait to ask.
pub const LIVE_WAITING: usize = 64;

/// How often stored and waiting rows are looked at for a flush by time.
pub const TICK: Span = Span::from_micros(200_000);

/// Default of `--drain-timeout`: how long a shutdown may take before it is cut off.
pub const DRAIN: Span = Span::from_secs(30);

/// Bytes of a pipeline or schema file; a larger one is a mistake.
pub const CONFIG_BYTES: u64 = 1 << 20;

/// HTTP connections open at a time. More wait in the system's queue until one ends.
pub const HTTP_CONNECTIONS: usize = 256;

/// Bytes of an HTTP request's line and headers, and of the buffer that a response goes through.
pub const HTTP_HEADER_BYTES: usize = 16 << 10;

/// How long a client may take to send a request's headers, and how long it may keep an idle connection open.
pub const HTTP_HEADER_WAIT: Span = Span::from_secs(30);

/// How old an HTTP connection may become before it has to be made anew, so that clients that read slowly or never
/// cannot hold all of [`HTTP_CONNECTIONS`].
pub const HTTP_CONNECTION_AGE: Span = Span::from_secs(600);

/// How long a request that is being answered may go on when the server ends.
pub const HTTP_DRAIN: Span = Span::from_secs(5);

/// Files of one source that are read side by side when each is read to its end; the others wait their turn. Far below
/// the usual 1,024 descriptors of a process.
pub const FILES_OPEN: usize = 32;

/// Files of one source that are followed at a time. More are passed over with a warning until one ends. A silent file
/// costs one system call per [`FOLLOW_SCAN`] or two and about 2 kB in the whole pipeline, no descriptor.
pub const FILES_FOLLOWED: usize = 100_000;

/// Followed files that are open at a time; one more closes the one that has been silent for longest, or waits while all
/// have more to read. Far below the usual 1,024 descriptors of a process.
pub const FILES_HOT: usize = 256;

/// Positions of files that cannot be found that a checkpoint keeps, a source; should one come back, it is not read again.
/// The oldest are forgotten.
pub const FILES_GONE: usize = 512;

/// How often followed files that are open are looked at for more. Adds to alert latency.
pub const FOLLOW_POLL: Span = Span::from_micros(200_000);

/// How often the sizes of followed files are looked at, and the folders for new files. A file that has been silent for
/// [`FOLLOW_SILENT`] is looked at every second time.
pub const FOLLOW_SCAN: Span = Span::from_secs(1);

/// How long a followed file must be silent before it is closed.
pub const FOLLOW_COLD: Span = Span::from_secs(5);

/// How long a followed file must be silent before it is looked at half as often.
pub const FOLLOW_SILENT: Span = Span::from_secs(60);

/// How often globs are gone through although no folder's time says that something has changed.
pub const FOLLOW_RESCAN: Span = Span::from_secs(30);

/// At most one part in so many of the time is spent on going through globs.
pub const FOLLOW_SCAN_SHARE: i64 = 20;

/// How long a new file that begins like one that is followed must not have grown before it is a file of its own. Until then
/// it may be the copy of a rotation that is about to truncate the other one.
pub const FOLLOW_COPY: Span = Span::from_secs(5);

/// … and how long that is waited for at most, while it grows.
pub const FOLLOW_COPY_MOST: Span = Span::from_secs(300);

/// How long a new file waits at most for the one that was at its path before, while that is still written to.
pub const FOLLOW_HANDOVER: Span = Span::from_secs(10);

/// How long a followed file that was renamed or deleted must be silent before it counts as ended. The writer goes on
/// in the old file until it has noticed the rotation.
pub const FOLLOW_ROTATED: Span = Span::from_secs(1);

/// Depth of nested YAML in a pipeline or schema file; deeper is refused. Protects the stack.
pub const CONFIG_DEPTH: usize = 64;

/// Bytes of a pipeline file after its aliases are expanded; a "billion laughs" file is refused here.
pub const CONFIG_EXPANDED_BYTES: usize = 8 << 20;

/// Mistakes that are looked for in one file before reading it is given up.
pub const CONFIG_PROBLEMS: usize = 100;

/// Bytes that a Kafka client fetches ahead of the pipeline, over all partitions; it comes on top of `limits.memory`. What
/// is under way from the brokers ([`KAFKA_FETCH_BYTES`] each) comes on top of this.
pub const KAFKA_PREFETCH_BYTES: usize = 16 << 20;

/// Bytes that one answer of one Kafka broker may bring, about.
pub const KAFKA_FETCH_BYTES: usize = 8 << 20;

/// Bytes of Kafka batches that are being filled, over all partitions; beyond, the fullest is handed on as it is.
pub const KAFKA_FILLING_BYTES: usize = 8 * BATCH_BYTES;

/// How long a Kafka cluster may take to answer when a pipeline starts.
pub const KAFKA_CONNECT: Span = Span::from_secs(5);

/// How long a Kafka group waits for a daemon that is silent before it gives its partitions to others; also how long a
/// daemon that was killed waits for its own partitions when it is started again. Brokers refuse less than 6 s.
pub const KAFKA_SESSION: Span = Span::from_secs(10);

/// How long a Kafka client goes unserved while the pipeline takes nothing; then its partitions are paused and it is
/// served, so that its group doesn't think it dead. Pausing throws away what was fetched ahead, so it is not done lightly.
pub const KAFKA_STALL: Span = Span::from_secs(5);

/// Default of `spool.sync`: how long an accepted record may wait for others to be made durable with it. Adds to the answer
/// of a push, and to alert latency.
pub const SPOOL_SYNC: Span = Span::from_micros(50_000);

/// Default of `spool.size`, in bytes on disk: some 1.5 million lines, for as long as the archive cannot be reached.
pub const SPOOL_BYTES: u64 = 1_000_000_000;

/// Least `spool.size`, in bytes; `check` refuses less. A segment is an eighth of it and must hold a record of
/// [`RECORD_BYTES`].
pub const LEAST_SPOOL_BYTES: u64 = 16_000_000;

/// Bytes of one segment of a spool, at most; they are deleted as a whole when all of it is sealed.
pub const SPOOL_SEGMENT_BYTES: u64 = 64 << 20;

/// Longest line of NATS' protocol in bytes, `INFO` with the addresses of a large cluster; a longer one is no NATS.
pub const NATS_LINE_BYTES: usize = 64 << 10;

/// Longest payload of a NATS message that is read, in bytes: the most that servers may be configured to take. Bounds the
/// memory of a connection; what is longer than [`RECORD_BYTES`] becomes a dead letter.
pub const NATS_PAYLOAD_BYTES: usize = 64 << 20;

/// Bytes that are asked for in one read from a NATS connection.
pub const NATS_READ_BYTES: usize = 64 << 10;

/// Servers of a NATS cluster that are remembered besides those that the pipeline file names.
pub const NATS_SERVERS: usize = 64;

/// How long a NATS server may take to let us in, or to take what we send.
pub const NATS_CONNECT: Span = Span::from_secs(10);

/// How often a NATS server is asked whether it is there, …
pub const NATS_PING: Span = Span::from_secs(5);

/// … and how long it may stay silent, with no message and no answer, before the connection is given up.
pub const NATS_SILENCE: Span = Span::from_secs(15);

/// First and longest pause before connecting to a NATS server again; in between it doubles.
pub const NATS_BACKOFF: [Span; 2] = [Span::from_micros(100_000), Span::from_secs(5)];

/// Deliveries that wait for the spool's writer, of up to a quarter of [`BATCH_BYTES`] each and one message.
pub const SPOOL_QUEUE: usize = 4;

/// How long a source is held back while its spool is full, before what comes is thrown away and counted. Below the 10 s after
/// which a NATS server cuts off who doesn't read.
pub const SPOOL_HOLD: Span = Span::from_secs(5);

/// Default of `stall`: after so long without a message, a NATS subscription that had messages counts as stuck.
pub const NATS_STALL: Span = Span::from_secs(120);

/// Messages that are asked for at once from a JetStream consumer, …
pub const JETSTREAM_PULL: usize = 2_048;

/// … and their bytes: far below the 64 MB that a server holds back for a client before it cuts it off.
pub const JETSTREAM_PULL_BYTES: u64 = 16 << 20;

/// How long a request for messages stays with a JetStream server.
pub const JETSTREAM_EXPIRES: Span = Span::from_secs(5);

/// How long a JetStream server may take to answer a request.
pub const JETSTREAM_ANSWER: Span = Span::from_secs(10);

/// Default of `ack_wait`: how long a JetStream server waits for an acknowledgement before it sends a message again. Far beyond
/// `archive.flush`, as acknowledged is only what is sealed; after half of it the server is told that a message is still worked
/// on, and one that comes again nevertheless is passed over.
pub const JETSTREAM_ACK_WAIT: Span = Span::from_secs(3_600);

/// Acknowledgements to JetStream that are queued before they are sent, in bytes.
pub const JETSTREAM_ACK_BYTES: usize = 256 << 10;

/// Partitions of a JetStream source, each with a consumer and a connection of its own.
pub const JETSTREAM_PARTITIONS: usize = 256;

/// How often a daemon tells those that share a JetStream stream with it what it reads, …
pub const JETSTREAM_TELL: Span = Span::from_secs(1);

/// … how long it listens at first before it takes anything, so that it knows what the others read, …
pub const JETSTREAM_LISTEN: Span = Span::from_micros(2_500_000);

/// … how long it waits between saying that it takes partitions and taking them, for others that say so of the same, …
pub const JETSTREAM_SETTLE: Span = Span::from_micros(300_000);

/// … and after how much silence the others take what it reads. As Kafka's session timeout here.
pub const JETSTREAM_SESSION: Span = Span::from_secs(10);

/// How long the end of a NATS subscription may take when headrig stops.
pub const NATS_UNSUBSCRIBE: Span = Span::from_secs(2);

/// Changes of an archive (compactions, expiries) after which its list of files is written anew and those before are
/// removed, so that neither a start nor a plan grows with the archive's age.
pub const CATALOGUE_CHANGES: u64 = 64;

/// How long the newest change of an archive in a bucket must stand before another daemon takes the archive's upkeep over,
/// by the monotonic clock of the one that waits. Far longer than one compaction takes.
pub const UPKEEP_LEASE: Span = Span::from_secs(1_800);

/// Sorted runs that are merged at once when a compaction doesn't fit memory.
pub const MERGE_RUNS: usize = 32;

/// Rows of one batch of a sorted run, at most; with [`MERGE_RUNS`] and [`MERGE_BATCH_BYTES`] this bounds a merge.
pub const MERGE_BATCH_ROWS: usize = 512;

/// Bytes of one batch of a sorted run, about.
pub const MERGE_BATCH_BYTES: usize = 256 << 10;

/// Rows that upkeep reads or writes at once, at most, and their bytes, about.
pub const UPKEEP_BATCH_ROWS: usize = 4_096;
pub const UPKEEP_BATCH_BYTES: usize = 2 << 20;

/// Part of `limits.memory` that upkeep may use, as `1/UPKEEP_SHARE`, …
pub const UPKEEP_SHARE: u64 = 4;

/// … and the least that it can work with, in bytes.
pub const LEAST_UPKEEP_BYTES: u64 = 4_000_000;

/// How far the clock may be ahead of the newest seal and of the newest row before retention refuses to believe it.
pub const RETAIN_AHEAD: Span = Span::from_secs(7 * 86_400);

/// Default of `headrig query --memory`, in bytes: what sorts, groups and joins of a query hold together. What decodes files
/// comes on top, a few MB a thread.
pub const QUERY_MEMORY_BYTES: u64 = 256_000_000;

/// Bytes of footers and page indexes that a query keeps, so that no file's is read twice; the oldest are let go.
pub const QUERY_FOOTER_BYTES: usize = 64 << 20;

/// Rows of an answer that a terminal is shown from its beginning, and as many from its end. All of them go to files and
/// pipes.
pub const QUERY_SHOWN_ROWS: usize = 20;

/// Bytes of a file that a script of `headrig test` loads: all of it is in memory, as a crash reads it again.
pub const SCRIPT_INPUT_BYTES: u64 = 256 << 20;
