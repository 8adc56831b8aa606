//! `<data>/tmp/addresses.json`: where the node listens, for tools that start it on free ports.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;

/// Writes the file whole or not at all.
pub(super) fn write(
    data_dir: &Path,
    gateway: &[SocketAddr],
    admin: Option<SocketAddr>,
    admin_socket: &Path,
    code: Option<SocketAddr>,
) -> io::Result<()> {
    let document = json!({
        "gateway": gateway.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "admin": admin.map(|address| address.to_string()),
        "admin_socket": admin_socket,
        "code": code.map(|address| address.to_string()),
    });
    let folder = data_dir.join("tmp");
    fs::create_dir_all(&folder)?;
    let (path, temporary) = (folder.join("addresses.json"), folder.join("addresses.json.new"));
    fs::write(&temporary, format!("{document}\n"))?;
    fs::rename(&temporary, &path)
}

/// Removes the file when the node stops.
pub(super) fn remove(data_dir: &Path) -> io::Result<()> {
    match fs::remove_file(data_dir.join("tmp/addresses.json")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_every_listener_and_goes_with_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let gateway = ["127.0.0.1:8080".parse().unwrap()];
        write(dir.path(), &gateway, None, Path::new("/run/a.sock"), None).unwrap();
        let text = fs::read_to_string(dir.path().join("tmp/addresses.json")).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected =
            json!({"gateway": ["127.0.0.1:8080"], "admin": null, "admin_socket": "/run/a.sock", "code": null});
        assert_eq!(document, expected);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert!(!dir.path().join("tmp/addresses.json").exists());
    }
}
