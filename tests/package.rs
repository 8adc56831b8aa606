//! The Debian package and its unit: built from this tree, tried in a clean root, hardened as promised.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn tools() -> Option<PathBuf> {
    std::env::var_os("PINTLE_TEST_TOOLS").map(PathBuf::from)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Why the package cannot be tried here, if it cannot.
fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a root of its own needs root".to_owned());
    }
    let Some(tools) = tools() else {
        return Some("PINTLE_TEST_TOOLS is not set; run the tests with `make test`".to_owned());
    };
    if !tools.join("debian-root.tar").exists() {
        return Some("there is no clean Debian root; `make test-tools` makes one with debootstrap".to_owned());
    }
    None
}

#[test]
fn the_package_installs_starts_upgrades_and_goes_in_a_clean_root() {
    if let Some(reason) = obstacle() {
        println!("SKIPPED the package in a clean root: {reason}");
        return;
    }
    let tools = tools().expect("asked before");
    let binary = Path::new(env!("CARGO_BIN_EXE_pintle"));
    // <target>/debug/pintle: the package is made from the binary that these tests were built with.
    let target = binary.parent().and_then(Path::parent).expect("a target directory");
    let built = Command::new(root().join("packaging/build-deb"))
        .env("CARGO_TARGET_DIR", target)
        .env("PINTLE_TEST_TOOLS", &tools)
        .output()
        .expect("the build script runs");
    assert!(built.status.success(), "{}", text(&built));
    let package = String::from_utf8_lossy(&built.stdout).lines().last().map(str::to_owned).expect("a path");

    let tried = Command::new(root().join("tests/deb/try"))
        .arg(&package)
        .arg(tools.join("debian-root.tar"))
        .output()
        .expect("the script runs");
    println!("{}", text(&tried));
    assert!(tried.status.success(), "{package}:\n{}", text(&tried));
}

#[test]
fn the_unit_keeps_its_exposure_low() {
    let analysed = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager", "--threshold=15"])
        .arg(root().join("systemd/pintle.service"))
        .output();
    let Ok(analysed) = analysed else {
        println!("SKIPPED the exposure of the unit: there is no systemd-analyze here");
        return;
    };
    assert!(analysed.status.success(), "the exposure is above 1.5:\n{}", text(&analysed));
}

#[test]
fn the_package_refuses_exactly_the_formats_that_the_store_refuses() {
    let number_after = |path: &str, before: &str| -> u32 {
        let text = read(path);
        let at = text.find(before).unwrap_or_else(|| panic!("{path} has no {before:?}"));
        let digits: String = text[at + before.len()..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    assert_eq!(
        number_after("packaging/debian/preinst", "SUPPORTED_FORMAT="),
        number_after("src/storage/directory.rs", "pub const FORMAT: u32 = "),
    );
}

#[test]
fn the_package_has_the_version_of_the_crate() {
    let first = read("packaging/changelog").lines().next().expect("a line").to_owned();
    assert!(first.starts_with(&format!("pintle ({})", env!("CARGO_PKG_VERSION"))), "packaging/changelog: {first}");
}
