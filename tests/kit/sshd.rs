//! A real SSH server with SFTP on a free port, run without privileges, for the account that runs the tests.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::wait_until;

/// Longest wait for the server to listen.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Where Debian puts it.
const SSHD: &str = "/usr/sbin/sshd";

/// A running server. Killed when dropped.
pub struct Sshd {
    folder: tempfile::TempDir,
    address: SocketAddr,
    process: Option<Child>,
}

impl Sshd {
    /// Starts a server with fresh keys. Panics where it is not installed.
    pub fn start() -> Sshd {
        assert!(Path::new(SSHD).exists(), "{SSHD} is not there; run `make test-tools`");
        let folder = tempfile::Builder::new().prefix("pintle-sshd-").tempdir().expect("a temporary folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound listener has an address");
        drop(free);
        for name in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.path().join(name))
                .status()
                .expect("ssh-keygen runs");
            assert!(made.success());
        }
        let settings = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/user.pub\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n\
             Subsystem sftp internal-sftp\n",
            port = address.port(),
            root = folder.path().display(),
        );
        std::fs::write(folder.path().join("sshd_config"), settings).expect("the settings can be written");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).expect("our own folder");
        // As root it wants this folder, which only its service makes.
        if super::is_root() {
            std::fs::create_dir_all("/run/sshd").expect("root may make it");
        }
        let mut sshd = Sshd { folder, address, process: None };
        sshd.open();
        sshd
    }

    /// Starts the server (again).
    pub fn open(&mut self) {
        let process = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(self.folder.path().join("sshd_config"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd starts");
        self.process = Some(process);
        wait_until("sshd listens", START_LIMIT, || TcpStream::connect(self.address).is_ok());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A folder that files can be put into.
    pub fn inbox(&self) -> PathBuf {
        self.folder.path().join("inbox")
    }

    /// The private key of the account.
    pub fn user_key(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("user")).expect("the key was made")
    }

    /// The fingerprint of the server's key.
    pub fn fingerprint(&self) -> String {
        let shown = Command::new("ssh-keygen").args(["-l", "-f"]).arg(self.folder.path().join("host.pub")).output();
        let text = String::from_utf8(shown.expect("ssh-keygen runs").stdout).expect("text");
        text.split_whitespace().nth(1).expect("a fingerprint").to_owned()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}
