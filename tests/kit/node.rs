//! A real node: the built binary as a process of its own, on free ports, in a temporary folder.
//!
//! The node writes the addresses that it got to `<data>/tmp/addresses.json` once it listens; the kit waits for that
//! file. Its output goes to a file, whose end is shown when the test fails.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::workspace::Workspace;
use super::{holds_within, wait_until};

/// Longest wait for a node to listen.
const START_LIMIT: Duration = Duration::from_mins(1);
/// Longest wait for an orderly stop.
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// What every test wants: small reserves, files soon, any file system.
const TEST_SETTINGS: &str = r#"
[Storage]
allowUnsafeFs = true
ballast = "0"
softFree = "64MiB"
hardFree = "32MiB"

[BatchRouter]
uploadFreq = "1s"
"#;

/// Says how a node is to be.
pub struct NodeBuilder {
    workspace: Option<Value>,
    settings: String,
    data: Option<PathBuf>,
    passed: Option<TcpListener>,
}

/// A node and its place on disk. Killed when dropped.
pub struct Node {
    root: TempDir,
    data: PathBuf,
    has_workspace: bool,
    passed: Option<TcpListener>,
    process: Option<Child>,
    address: SocketAddr,
}

impl Default for NodeBuilder {
    fn default() -> NodeBuilder {
        NodeBuilder::new()
    }
}

impl NodeBuilder {
    /// A node with test settings on the embedded default workspace.
    pub fn new() -> NodeBuilder {
        NodeBuilder { workspace: None, settings: TEST_SETTINGS.to_owned(), data: None, passed: None }
    }

    /// The workspace file.
    pub fn workspace(mut self, workspace: &Workspace) -> NodeBuilder {
        self.workspace = Some(workspace.document());
        self
    }

    /// Other settings than those of every test (the text of a settings file).
    pub fn settings(mut self, toml: &str) -> NodeBuilder {
        toml.clone_into(&mut self.settings);
        self
    }

    /// More settings, behind those of every test.
    pub fn more_settings(mut self, toml: &str) -> NodeBuilder {
        self.settings.push_str(toml);
        self
    }

    /// Settings without a section, which stand before all others.
    pub fn first_settings(mut self, toml: &str) -> NodeBuilder {
        self.settings.insert_str(0, toml);
        self
    }

    /// A workspace file of any content.
    pub fn document(mut self, document: Value) -> NodeBuilder {
        self.workspace = Some(document);
        self
    }

    /// Another data directory than one in the temporary folder.
    pub fn data(mut self, data: &Path) -> NodeBuilder {
        self.data = Some(data.to_owned());
        self
    }

    /// A socket that the node is given as the service manager gives it.
    pub fn passed_socket(mut self, socket: TcpListener) -> NodeBuilder {
        self.passed = Some(socket);
        self
    }

    /// Lays the files out without starting anything.
    pub fn prepare(self) -> Node {
        let root = tempfile::Builder::new().prefix("pintle-test-").tempdir().expect("a temporary folder");
        let data = self.data.unwrap_or_else(|| root.path().join("data"));
        std::fs::write(root.path().join("pintle.toml"), &self.settings).expect("the settings can be written");
        let node = Node {
            has_workspace: self.workspace.is_some(),
            root,
            data,
            passed: self.passed,
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        if let Some(workspace) = self.workspace {
            node.write_workspace(&workspace.to_string());
        }
        node
    }

    /// Starts it and waits until it listens.
    pub fn start(self) -> Node {
        let mut node = self.prepare();
        node.start();
        node
    }
}

/// Runs a verb of the binary and waits for its end.
pub fn pintle<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pintle"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

impl Node {
    /// The address that events go to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The settings file.
    pub fn settings_file(&self) -> PathBuf {
        self.root.path().join("pintle.toml")
    }

    /// The workspace file.
    pub fn workspace_file(&self) -> PathBuf {
        self.root.path().join("workspaceConfig.json")
    }

    /// Writes a file of code or a plan beside the workspace file.
    pub fn write_beside_workspace(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(path, text).expect("the file can be written");
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.root.path().join("admin.sock")
    }

    /// What it wrote to its output so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.output_file()).unwrap_or_default()
    }

    fn output_file(&self) -> PathBuf {
        self.root.path().join("output.log")
    }

    /// Replaces the workspace file as an editor does: written beside it, then renamed.
    pub fn write_workspace(&self, text: &str) {
        let beside = self.root.path().join("workspaceConfig.json.new");
        std::fs::write(&beside, text).expect("the workspace can be written");
        std::fs::rename(&beside, self.workspace_file()).expect("the workspace can be renamed");
    }

    /// Starts the process and waits until it listens. Panics, with its output, when it does not.
    pub fn start(&mut self) {
        if let Err(status) = self.try_start() {
            panic!("the node ended at start with {status}:\n{}", self.output());
        }
    }

    /// Starts the process; the exit status when it ends before it listens.
    pub fn try_start(&mut self) -> Result<(), ExitStatus> {
        assert!(self.process.is_none(), "the node runs already");
        let addresses = self.data.join("tmp/addresses.json");
        // Left behind by a killed process: not the sign that we wait for.
        drop(std::fs::remove_file(&addresses));
        self.process = Some(self.spawn());
        let mut ended = None;
        let listens = holds_within(START_LIMIT, || {
            ended = self.process.as_mut().and_then(|process| process.try_wait().expect("a child can be asked"));
            ended.is_some() || ingest_address(&addresses).is_some()
        });
        if let Some(status) = ended {
            self.process = None;
            return Err(status);
        }
        assert!(listens, "the node does not listen after {START_LIMIT:?}:\n{}", self.output());
        self.address = ingest_address(&addresses).expect("just read");
        Ok(())
    }

    fn spawn(&self) -> Child {
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.output_file())
            .expect("the output file can be opened");
        let binary = env!("CARGO_BIN_EXE_pintle");
        let mut command = match &self.passed {
            None => Command::new(binary),
            Some(_) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg("LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 </dev/null").arg(binary);
                shell
            }
        };
        command
            .arg("run")
            .arg("--config")
            .arg(self.settings_file())
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .arg("--admin-socket")
            .arg(self.admin_socket());
        if self.has_workspace {
            command.arg("--workspace").arg(self.workspace_file());
        }
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(self.passed.as_ref().map_or_else(Stdio::null, |socket| {
                Stdio::from(std::os::fd::OwnedFd::from(socket.try_clone().expect("a socket can be shared")))
            }))
            .stdout(output.try_clone().expect("a file can be shared"))
            .stderr(output);
        command.spawn().expect("the binary starts")
    }

    /// Bytes of memory that the process holds now.
    pub fn resident_bytes(&self) -> u64 {
        let process = self.process.as_ref().expect("the node runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of its memory");
        1024 * line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number")
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().expect("a child can be asked").is_none())
    }

    /// Asks for an orderly stop and waits for it.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait_for_end()
    }

    /// Asks it to read its configuration again.
    pub fn reload(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// Waits for the process to end by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the node runs");
        let mut status = None;
        let ended = holds_within(STOP_LIMIT, || {
            status = process.try_wait().expect("a child can be asked");
            status.is_some()
        });
        if !ended {
            drop(process.kill());
            drop(process.wait());
            panic!("the node did not stop within {STOP_LIMIT:?}:\n{}", self.output());
        }
        status.expect("it ended")
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = self.process.as_ref().expect("the node runs");
        let pid = rustix::process::Pid::from_child(process);
        rustix::process::kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Waits until a line of its output holds the text.
    pub fn wait_for_output(&self, text: &str, limit: Duration) {
        wait_until(&format!("the node writes {text:?}"), limit, || self.output().contains(text));
    }
}

/// The first address of the ingest listener in the file that a listening node writes.
fn ingest_address(file: &Path) -> Option<SocketAddr> {
    let document: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    document["gateway"].get(0)?.as_str()?.parse().ok()
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let end = &lines[lines.len().saturating_sub(60)..];
            eprintln!("the node's last lines:\n    {}", end.join("\n    "));
        }
    }
}
