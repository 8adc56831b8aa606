//! Child processes of the harness, and what the kernel counts for them.
//!
//! A child is ended by its own process id, and those of this binary end by themselves when the harness goes away,
//! because their standard input closes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// A running child and the lines that it prints.
pub struct Running {
    child: Child,
    name: String,
    lines: Receiver<String>,
}

impl Running {
    /// Starts a command, its standard output read here line by line, its standard error into `log` or ours.
    pub fn start(name: &str, mut command: Command, log: Option<&Path>) -> Result<Running> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(path) = log {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            command.stderr(file);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Running { child, name: name.to_owned(), lines })
    }

    /// Starts this binary with other arguments, as a child that ends with us.
    pub fn start_self<S: AsRef<OsStr>>(name: &str, arguments: &[S]) -> Result<Running> {
        let mut command = Command::new(own_binary()?);
        command.args(arguments).env(ENDS_WITH_PARENT, "1");
        Running::start(name, command, None)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub fn line(&self, within: Duration) -> Result<String> {
        self.lines.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow::anyhow!("{} said nothing for {within:?}", self.name),
            RecvTimeoutError::Disconnected => anyhow::anyhow!("{} ended early", self.name),
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end; `None` when it did not end in time.
    pub fn wait(&mut self, within: Duration) -> Result<Option<std::process::ExitStatus>> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it and takes its exit status.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{} could not be ended: {error}", self.name);
        }
    }
}

const ENDS_WITH_PARENT: &str = "LOAD_ENDS_WITH_PARENT";

/// In a child of the harness: ends the process when the harness is gone.
pub fn end_with_parent() {
    if std::env::var_os(ENDS_WITH_PARENT).is_none() {
        return;
    }
    std::thread::spawn(|| {
        let mut nothing = [0; 64];
        while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
        std::process::exit(0);
    });
}

/// Raises the number of files that this process and its children may open to what the system allows; how many
/// that is.
pub fn raise_open_files() -> u64 {
    let allowed = getrlimit(Resource::Nofile).maximum;
    // Where it cannot be raised, the number that is told is the one that holds.
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: allowed, maximum: allowed }) {
        eprintln!("the limit of open files stays: {error}");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The path of this binary.
pub fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("cannot tell the path of this binary")
}

/// Clock ticks per second of `/proc/<pid>/stat`: fixed at 100 for user space on Linux.
const TICKS: f64 = 100.0;

/// User and system time of a process, all threads, seconds.
pub fn cpu_secs(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name in parentheses may hold blanks: fields are counted after it.
    let (_, fields) = text.rsplit_once(')').with_context(|| format!("{path}: no name"))?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else { bail!("{path}: no times") };
    Ok((user + system) / TICKS)
}

/// A line `Name:   123 kB` or `name: 123` of a file under `/proc/<pid>/`; 0 when it is not there.
fn proc_figure(pid: u32, file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Resident memory, bytes.
pub fn rss_bytes(pid: u32) -> u64 {
    proc_figure(pid, "status", "VmRSS") << 10
}

/// Greatest resident memory so far, bytes.
pub fn rss_peak_bytes(pid: u32) -> u64 {
    proc_figure(pid, "status", "VmHWM") << 10
}

/// Memory in proportion to its sharing, bytes.
pub fn pss_bytes(pid: u32) -> u64 {
    proc_figure(pid, "smaps_rollup", "Pss") << 10
}

/// Bytes that the process caused to be written to devices.
pub fn device_bytes(pid: u32) -> u64 {
    proc_figure(pid, "io", "write_bytes")
}

/// Bytes of all files under a directory, as allocated.
pub fn directory_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
