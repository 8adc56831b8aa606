//! A full disk: 503 with Retry-After, nothing lost, and recovery without anybody's help.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kit::{
    Client, Load, LoadPlan, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, is_root, skip, track, wait_until,
};

/// Small enough to be full soon, large enough for the store's own needs.
const DISK_MIB: u64 = 192;

/// A file system of its own in a file. Unmounted when dropped.
struct SmallDisk {
    _folder: tempfile::TempDir,
    mount_point: PathBuf,
}

impl SmallDisk {
    fn mount() -> Result<SmallDisk, String> {
        if !is_root() {
            return Err("mounting a small file system needs root".to_owned());
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = folder.path().join("disk.img");
        let mount_point = folder.path().join("disk");
        std::fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(DISK_MIB << 20).map_err(|error| error.to_string())?;
        command("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()])?;
        command("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), mount_point.as_os_str()])?;
        Ok(SmallDisk { _folder: folder, mount_point })
    }

    fn path(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(command("umount", &["-l".as_ref(), self.mount_point.as_os_str()]));
    }
}

fn command(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

#[test]
fn a_full_disk_answers_503_loses_nothing_and_recovers() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(reason) => return skip("disk full", &reason),
    };
    let mut sink = Sink::start();
    sink.forget_bodies();
    let workspace = Workspace::new().webhook("hook", &sink.url());
    // Nobody takes anything away: the backlog fills the disk.
    sink.close();
    let mut node = NodeBuilder::new()
        .workspace(&workspace)
        .data(&disk.path().join("data"))
        .settings(
            "profile = \"small\"\n\
             [Storage]\nallowUnsafeFs = true\nballast = \"8MiB\"\nsoftFree = \"48MiB\"\nhardFree = \"24MiB\"\n\
             [Router]\nunreachableProbeMax = \"2s\"\nmaxRetryBackoff = \"2s\"\nminRetryBackoff = \"1s\"\n",
        )
        .start();
    let load = Load::start(node.address(), "full", LoadPlan { clients: 4, users: 50, batch: 10, filling: 8192 });
    wait_until("the gateway answers 503", Duration::from_mins(3), || load.unavailable() > 20);
    let (acknowledged, refused) = load.stop();
    assert_eq!(refused, Vec::<String>::new(), "room is refused with 503 and Retry-After, never otherwise");
    assert!(!acknowledged.is_empty());
    assert!(node.is_running(), "the node stays up:\n{}", node.output());

    sink.open();
    wait_until("every acknowledged event arrives", Duration::from_mins(5), || {
        let arrived = sink.message_ids();
        acknowledged.iter().all(|id| arrived.contains(id))
    });
    let mut client = Client::new(node.address());
    wait_until("the gateway takes events again", Duration::from_mins(3), || {
        client.post("/v1/batch", WRITE_KEY, &batch_body(&[track("later", 1)])).is_ok_and(|answer| answer.status == 200)
    });
    wait_until("they are delivered", Duration::from_mins(1), || sink.message_ids().contains("later-1"));
    assert_eq!(sink.order_violations(), Vec::<String>::new());
    assert!(node.is_running(), "the node never stopped:\n{}", node.output());
    assert!(node.stop().success());
}
