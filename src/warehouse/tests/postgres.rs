//! A real PostgreSQL server, from the Debian package.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A server in a folder of its own, stopped at the end.
struct Server {
    folder: tempfile::TempDir,
    port: u16,
    binaries: PathBuf,
}

/// The folder of the newest server on this machine.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("bin")).filter(|path| path.join("initdb").exists()).max();
    found.expect("PostgreSQL is not there; run tests/setup test")
}

impl Server {
    /// The server does not run as root: as the user of the Debian package then.
    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        }
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program).args(arguments).current_dir("/").output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn start() -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            let owner = Command::new("chown").arg("postgres").arg(folder.path()).status().unwrap();
            assert!(owner.success());
        }
        let server = Server { folder, port, binaries: binaries() };
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "pintle", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]);
        server.up();
        server
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn up(&self) {
        let options =
            format!("-p {} -k {} -c listen_addresses=127.0.0.1 -c fsync=off", self.port, self.folder.path().display());
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-l", &log, "-w", "-o", &options, "start"]);
    }

    fn down(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    fn config(&self) -> Value {
        json!({ "host": "127.0.0.1", "port": self.port.to_string(), "database": "postgres", "user": "pintle",
            "password": "unused", "sslMode": "disable", "syncFrequency": "0" })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.command("pg_ctl").args(["-D", &self.data(), "-m", "immediate", "stop"]).output();
        if let Err(error) = stopped {
            eprintln!("PostgreSQL was not stopped: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_in_postgres_once_in_the_types_of_their_columns() {
    let server = Server::start();
    let kit = Kit::new("POSTGRES", server.config(), &[]);
    let mut rows = track(
        "a",
        1,
        json!({ "total": 5, "text": "tab\there\nnew\\line \"quoted\" \u{fc}\u{1F600}",
        "select": "reserved", "flag": true, "price": 1.25, "when": at(9) }),
    );
    rows.extend(track("a", 3, json!({ "total": 6 })));
    rows.extend(identify("1", "u1", 1, json!({ "plan": "free", "age": 30 })));
    rows.extend(identify("2", "u1", 3, json!({ "plan": "paid" })));
    kit.stage(&rows).await;
    let running = kit.start();
    kit.until_exported(1).await;
    // A second upload: a new column, a known row, a value that does not fit, a user that is known.
    let mut rows = track("a", 4, json!({ "total": 7, "coupon": "new" }));
    rows.extend(track(
        "b",
        5,
        json!({ "total": "many", "text": "tab\there\nnew\\line \"quoted\" \u{fc}\u{1F600}",
        "select": "x", "flag": true, "price": 1.25, "when": at(9) }),
    ));
    rows.extend(identify("3", "u1", 9, json!({ "city": "Bonn" })));
    kit.stage(&rows).await;
    kit.until_exported(2).await;
    let all = "SELECT id, total, coupon, text, \"select\", flag, price, \"when\" AT TIME ZONE 'UTC' FROM order_done \
        ORDER BY id";
    assert_eq!(
        running.query(all).await,
        ["a 7 new - - - - -", "b - - tab\there\nnew\\line \"quoted\" \u{fc}\u{1F600} x t 1.25 2030-01-02 03:04:09"]
    );
    assert_eq!(running.query("SELECT id, plan, age, city FROM users").await, ["u1 paid 30 Bonn"]);
    let discards = "SELECT row_id, table_name, column_name, column_value FROM rudder_discards";
    assert_eq!(running.query(discards).await, ["b order_done total many"]);
    assert_eq!(running.query("SELECT count(*), count(DISTINCT id) FROM tracks").await, ["2 2"]);
    let types = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'order_done' \
        AND column_name IN ('total', 'price', 'flag', 'when', 'uuid_ts') ORDER BY 1";
    assert_eq!(
        running.query(types).await,
        [
            "flag boolean",
            "price numeric",
            "total bigint",
            "uuid_ts timestamp with time zone",
            "when timestamp with time zone"
        ]
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warehouse_that_is_away_for_a_day_gets_everything_afterwards() {
    let server = Server::start();
    server.down();
    let kit = Kit::new("POSTGRES", server.config(), &[]);
    let running = kit.start();
    kit.stage(&track("00", 0, json!({}))).await;
    kit.until("it failed", |uploads| uploads.iter().any(|upload| upload.attempts() == 1)).await;
    // Half an hour is the longest wait: at each of these times the warehouse is asked again.
    for hour in 1..=24_u32 {
        kit.stage(&track(&format!("{hour:02}"), hour, json!({}))).await;
        kit.clock.advance(Duration::from_secs(3_600));
        running.warehouse.0.wake.notify_one();
        kit.until("it failed again", |uploads| uploads.iter().map(Upload::attempts).sum::<u32>() > hour).await;
    }
    let uploads = kit.uploads();
    assert!(uploads.iter().all(|upload| upload.status != State::Aborted), "{uploads:#?}");
    assert!(uploads.len() <= 26, "{}", uploads.len());
    server.up();
    kit.clock.advance(Duration::from_secs(3_600));
    running.warehouse.0.wake.notify_one();
    kit.until("everything is exported", |uploads| {
        let done = uploads.iter().filter(|upload| upload.status == State::Done(Step::Export));
        done.map(|upload| upload.total_events).sum::<u64>() == 50
    })
    .await;
    let expected: Vec<String> = (0..=24).map(|n| format!("{n:02}")).collect();
    assert_eq!(running.query("SELECT id FROM tracks ORDER BY id").await, expected);
    running.stop().await;
}
