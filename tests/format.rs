//! The format on disk: every fixture of a former format opens, a decoder written from `storage-format.md`
//! alone agrees with the code, and a log that was torn at any byte loses nothing but its torn end.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pintle::clock::Clock;
use pintle::jobsdb::{
    Durability, JobState, JobsDb, JournalRecord, Limits, Namespace, NewJob, Outcome, Queue, RunKey, RunStats, Select,
    Status, Tx,
};
use pintle::settings::{Profile, Settings};
use pintle::storage::Storage;
use uuid::Uuid;

const START_MS: i64 = 1_700_000_000_000;

fn settings() -> Settings {
    let mut settings = Settings::defaults();
    settings.storage.profile = Profile::Small;
    settings.storage.allow_unsafe_fs = true;
    settings.storage.ballast = 0;
    settings.storage.soft_free = Some(1);
    settings
}

fn open(folder: &Path, clock: &Clock) -> JobsDb {
    let settings = settings();
    let storage = Storage::open(folder, &settings.storage, clock).unwrap();
    JobsDb::open(storage, &settings, clock.clone()).unwrap()
}

fn new_job<'a>(user: &'a str, payload: &'a [&'a [u8]]) -> NewJob<'a> {
    NewJob {
        uuid: Uuid::from_bytes([7; 16]),
        workspace_id: "ws",
        custom_val: "WEBHOOK",
        source_id: "src",
        destination_id: "dst",
        user_id: user,
        parameters: br#"{"source_id":"src"}"#,
        payload,
        event_count: 1,
    }
}

fn fetch(jobs: &JobsDb, queue: Queue) -> Vec<pintle::jobsdb::Job> {
    jobs.fetch(queue, &Select::default(), Limits { jobs: 1_000, events: 0, bytes: 0 }).unwrap().jobs
}

/// Writes the data directory that the fixture of the current format was made of.
fn write_fixture(folder: &Path) {
    let clock = Clock::manual(START_MS);
    let jobs = open(folder, &clock);
    let mut tx = Tx::new(Durability::Durable);
    for user in ["ann", "bob", "ann", "eve"] {
        tx.append(Queue::Rt, jobs.encode(Queue::Rt, &new_job(user, &[b"{\"n\":", user.as_bytes(), b"}"])));
    }
    tx.append(Queue::Gw, jobs.encode(Queue::Gw, &new_job("ann", &[b"{}"])));
    tx.put(Namespace::Configuration, b"workspace".to_vec(), b"{}".to_vec());
    tx.journal_put(
        Queue::BatchRt,
        JournalRecord { op: 5, operation: "upload_manifest".to_owned(), payload: vec![1], start_ms: START_MS },
    );
    tx.dedup_put(0x0102, START_MS + 1_000);
    jobs.commit_blocking(tx).unwrap();
    let leased = jobs.fetch(Queue::Rt, &Select::default(), Limits { jobs: 2, events: 0, bytes: 0 }).unwrap().jobs;
    let status = Status {
        attempt: 1,
        exec_ms: START_MS,
        retry_ms: START_MS + 10_000,
        error_code: "500".to_owned(),
        error_response: b"{}".to_vec(),
        parameters: b"{}".to_vec(),
    };
    let mut tx = Tx::new(Durability::Durable);
    tx.finish(leased[0].lease, Outcome::Failed { status, blocks_user: true });
    tx.finish(leased[1].lease, Outcome::Succeeded);
    jobs.commit_blocking(tx).unwrap();
    // The third job waits behind the first: reading moves it to the blocked index.
    assert_eq!(fetch(&jobs, Queue::Rt).len(), 1);
    jobs.close();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

#[test]
fn the_fixture_of_format_1_opens_with_everything_in_it() {
    if let Ok(target) = std::env::var("PINTLE_WRITE_FIXTURE") {
        write_fixture(Path::new(&target));
    }
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixture(), folder.path());
    let clock = Clock::manual(START_MS);
    let jobs = open(folder.path(), &clock);
    let ready: Vec<(u64, String)> = fetch(&jobs, Queue::Rt).into_iter().map(|job| (job.id, job.user_id)).collect();
    assert_eq!(ready, [(4, "eve".to_owned())], "1 is delayed, 2 is done, 3 is blocked");
    assert_eq!(&fetch(&jobs, Queue::Gw)[0].payload[..], b"{}");
    assert_eq!(jobs.get(Namespace::Configuration, b"workspace").unwrap().unwrap(), b"{}");
    assert_eq!(jobs.journal(Queue::BatchRt).unwrap()[0].op, 5);
    assert_eq!(jobs.dedup_seen(&[0x0102], Duration::from_secs(60)).unwrap(), [true]);
    drop(jobs);

    clock.advance(Duration::from_secs(11));
    let jobs = open(folder.path(), &clock);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut due = Vec::new();
    while due.is_empty() && std::time::Instant::now() < deadline {
        due = fetch(&jobs, Queue::Rt).into_iter().filter(|job| job.id == 1).collect();
    }
    let last = due[0].last.clone().unwrap();
    assert_eq!((last.state, last.status.attempt, last.status.error_code.as_str()), (JobState::Failed, 1, "500"));
    jobs.commit_blocking({
        let mut tx = Tx::new(Durability::Lazy);
        tx.append(Queue::Rt, jobs.encode(Queue::Rt, &new_job("new", &[b"x"])));
        tx
    })
    .map(|receipt| assert_eq!(receipt.job_ids, [5]))
    .unwrap();
}

/// Reads values as `storage-format.md` describes them, with nothing of the code under test.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(bytes);
        self.0 = tail;
        head
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn unsigned(&mut self) -> u64 {
        let width = match self.byte() {
            0xfb => 2,
            0xfc => 4,
            0xfd => 8,
            small => return u64::from(small),
        };
        self.take(width).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn signed(&mut self) -> i64 {
        let value = self.unsigned();
        (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::try_from(self.unsigned()).unwrap();
        self.take(length)
    }

    fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.bytes()).unwrap()
    }
}

#[test]
fn a_decoder_written_from_the_description_reads_the_fixture() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixture(), folder.path());
    assert_eq!(std::fs::read_to_string(folder.path().join("FORMAT")).unwrap(), "pintle-data 1\n");
    let families = ["default", "jobs", "idx", "status", "dedup", "kv"];
    let database =
        rocksdb::DB::open_cf_for_read_only(&rocksdb::Options::default(), folder.path().join("db"), families, false)
            .unwrap();
    let rows = |family: &str| -> BTreeMap<Vec<u8>, Vec<u8>> {
        let handle = database.cf_handle(family).unwrap();
        let rows = database.iterator_cf(handle, rocksdb::IteratorMode::Start);
        rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    };

    let meta = rows("default");
    let mut format = Reader(&meta[&vec![1]]);
    assert_eq!((format.byte(), format.unsigned(), format.unsigned(), format.signed()), (1, 1, 1, START_MS));
    assert!(format.text().starts_with("pintle "));
    let mut queue = Reader(&meta[&vec![2, 2]]);
    assert_eq!((queue.byte(), queue.unsigned(), queue.unsigned()), (1, 4, 2));
    let mut dataset = Reader(&meta[&vec![3, 2, 0, 0, 0, 1]]);
    assert_eq!((dataset.byte(), dataset.unsigned(), dataset.unsigned(), dataset.signed()), (1, 1, 4, START_MS));
    assert_eq!((dataset.signed(), dataset.unsigned(), dataset.unsigned()), (0, 4, 3), "open, 4 rows, 3 pending");
    let mut partition = Reader(&meta[&vec![4, 0, 0, 0, 0]]);
    assert_eq!(partition.byte(), 1);
    assert_eq!(
        [partition.text(), partition.text(), partition.text(), partition.text()],
        ["ws", "WEBHOOK", "src", "dst"]
    );
    let mut journal = Reader(&meta[&vec![5, 3, 0, 0, 0, 0, 0, 0, 0, 5]]);
    assert_eq!(
        (journal.byte(), journal.text(), journal.bytes(), journal.signed()),
        (1, "upload_manifest", &[1][..], START_MS)
    );

    let jobs = rows("jobs");
    let mut job = Reader(&jobs[&vec![2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4]]);
    assert_eq!((job.byte(), job.take(16)), (1, &[7; 16][..]));
    assert_eq!((job.signed(), job.unsigned(), job.unsigned()), (START_MS * 1_000, 0, 1));
    assert_eq!((job.text(), job.bytes(), job.unsigned()), ("eve", &br#"{"source_id":"src"}"#[..], 0));
    let payload = job.unsigned();
    assert_eq!((payload, job.0), (9, &b"{\"n\":eve}"[..]));

    let kinds: Vec<(u8, u8, usize)> = rows("idx").keys().map(|key| (key[0], key[1], key.len())).collect();
    assert_eq!(kinds, [(0x10, 1, 14), (0x10, 2, 14), (0x11, 2, 22), (0x12, 2, 22)]);
    let index = rows("idx");
    let (key, value) = index.iter().find(|(key, _)| key[0] == 0x11).unwrap();
    assert_eq!(key[2..10], (START_MS.cast_unsigned() + 10_000).to_be_bytes());
    assert_eq!(key[10..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut entry = Reader(value);
    assert_eq!((entry.byte(), entry.unsigned(), entry.unsigned(), entry.unsigned()), (1, 1, 1, 9));
    assert_ne!(entry.unsigned(), 0, "order_hash");
    assert_eq!((entry.signed(), entry.unsigned()), (START_MS, 1));
    let (key, _) = index.iter().find(|(key, _)| key[0] == 0x12).unwrap();
    assert_eq!(key[10..], [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]);

    let status = rows("status");
    let mut status = Reader(&status[&vec![2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]]);
    assert_eq!((status.byte(), status.byte(), status.unsigned()), (1, 1, 1));
    assert_eq!((status.signed(), status.signed(), status.text()), (START_MS, START_MS + 10_000, "500"));
    assert_eq!((status.bytes(), status.bytes(), status.text()), (&b"{}"[..], &b"{}"[..], ""));
    assert!(status.0.is_empty());

    let (key, value) = rows("dedup").into_iter().next().unwrap();
    let expiry = START_MS + 1_000;
    assert_eq!(key[..4], u32::try_from(expiry / 1_000 / 900).unwrap().to_be_bytes());
    assert_eq!(key[4..], 0x0102_u128.to_be_bytes());
    let mut value = Reader(&value);
    assert_eq!((value.byte(), value.signed()), (1, expiry));
    assert_eq!(rows("kv")[&b"\x05workspace".to_vec()], b"{}");
}

#[test]
fn a_decoder_written_from_the_description_reads_runs() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = open(folder.path(), &Clock::manual(START_MS));
    let mut tx = Tx::new(Durability::Durable);
    let key = |destination: &str| RunKey::new("r\u{0}1", "t", "s", destination).unwrap();
    tx.count_run(key(""), RunStats { taken_in: 300, out: 2, failed: 1 });
    tx.fail_run(key("d"), br#"{"n":1}"#, 400);
    jobs.commit_blocking(tx).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(jobs.cancel_run("gone")).unwrap();
    jobs.close();
    drop(jobs);
    let families = ["default", "jobs", "idx", "status", "dedup", "kv"];
    let database =
        rocksdb::DB::open_cf_for_read_only(&rocksdb::Options::default(), folder.path().join("db"), families, false)
            .unwrap();
    let value = |key: &[u8]| database.get_cf(database.cf_handle("kv").unwrap(), key).unwrap().unwrap();
    for (key, numbers) in
        [(&b"\x01r\0\xff1\0\0t\0\0s\0\0\0\0"[..], [300, 2, 1]), (b"\x01r\0\xff1\0\0t\0\0s\0\0d\0\0", [1, 0, 1])]
    {
        let bytes = value(key);
        let mut row = Reader(&bytes);
        assert_eq!((row.byte(), [row.unsigned(), row.unsigned(), row.unsigned()]), (1, numbers));
        assert_eq!((row.signed(), row.0), (START_MS, &b""[..]));
    }
    let head = value(b"\x02r\0\xff1\0\0");
    let mut head = Reader(&head);
    assert_eq!((head.byte(), head.signed(), head.0), (1, START_MS, &b""[..]));
    let failed = value(b"\x02r\0\xff1\0\0t\0\0s\0\0d\0\0{\"n\":1}");
    let mut failed = Reader(&failed);
    assert_eq!((failed.byte(), failed.signed(), failed.0), (1, 400, &b""[..]));
    assert_eq!(value(b"\x06run/gone"), format!("{{\"since_ms\":{START_MS}}}").into_bytes());
}

/// A torn tail of the log, cut at every byte of its last 64 KiB: what was acknowledged before the cut is
/// there, nothing is there twice, and what is there is whole. `PINTLE_TORN_LOG=every` takes each byte
/// (minutes); otherwise every 61st, which meets each kind of place within a record many times.
#[test]
fn a_log_torn_at_any_byte_loses_only_its_torn_end() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START_MS);
    let jobs = open(folder.path(), &clock);
    let log = |folder: &Path| -> PathBuf {
        let logs = std::fs::read_dir(folder.join("db")).unwrap().map(|entry| entry.unwrap().path());
        logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
    };
    let mut acknowledged: Vec<(u64, u64)> = Vec::new();
    for round in 0..120_u64 {
        let mut tx = Tx::new(Durability::Durable);
        let size = 300 + usize::try_from(round % 7).unwrap() * 150;
        let payload = vec![b'a' + u8::try_from(round % 26).unwrap(); size];
        tx.append(Queue::Gw, jobs.encode(Queue::Gw, &new_job("u", &[&payload])));
        let receipt = jobs.commit_blocking(tx).unwrap();
        acknowledged.push((receipt.job_ids[0], std::fs::metadata(log(folder.path())).unwrap().len()));
    }
    let whole = std::fs::metadata(log(folder.path())).unwrap().len();
    let image = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), image.path());
    drop(jobs);

    let first_cut = whole.saturating_sub(64 << 10);
    assert!(acknowledged.first().unwrap().1 < first_cut.max(2_000), "the log is long enough");
    let step = if std::env::var("PINTLE_TORN_LOG").is_ok_and(|value| value == "every") { 1 } else { 61 };
    let cuts: Vec<u64> = (first_cut..=whole).step_by(step).collect();
    let check = |cut: u64, work: &Path| {
        if work.exists() {
            std::fs::remove_dir_all(work).unwrap();
        }
        copy_folder(image.path(), work);
        let torn = std::fs::OpenOptions::new().write(true).open(log(work)).unwrap();
        torn.set_len(cut).unwrap();
        let jobs = open(work, &clock);
        let found = fetch(&jobs, Queue::Gw);
        let ids: Vec<u64> = found.iter().map(|job| job.id).collect();
        let expected = acknowledged.iter().filter(|(_, end)| *end <= cut).count() as u64;
        assert!(ids.len() as u64 >= expected, "cut at {cut}: {} of {expected} acknowledged jobs", ids.len());
        assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<u64>>(), "cut at {cut}: a prefix, nothing twice");
        for job in &found {
            assert!(job.payload.iter().all(|byte| *byte == job.payload[0]), "cut at {cut}: job {} is whole", job.id);
        }
        jobs.close();
    };
    let middle = cuts.len() / 2;
    std::thread::scope(|scope| {
        for (number, half) in [&cuts[..middle], &cuts[middle..]].into_iter().enumerate() {
            let (check, root) = (&check, folder.path());
            scope.spawn(move || half.iter().for_each(|cut| check(*cut, &root.join(format!("torn-{number}")))));
        }
    });
}
