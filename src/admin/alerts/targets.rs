//! Whom alerts go to: a webhook, a program.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, redirect};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use url::Url;

/// Longest wait for the answer of the webhook.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest run of the program.
const RUN: Duration = Duration::from_secs(30);
/// Bits of a mode that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// Posts the alert. Redirects are not followed: they could lead anywhere.
///
/// # Errors
/// Nobody took it.
pub(super) async fn post(url: &Url, message: &str) -> Result<(), String> {
    let client = Client::builder().timeout(ANSWER).redirect(redirect::Policy::none()).no_proxy().build();
    let client = client.map_err(|error| error.to_string())?;
    let request = client.post(url.clone()).header(reqwest::header::CONTENT_TYPE, "application/json");
    let answer = request.body(message.to_owned()).send().await.map_err(|error| error.without_url().to_string())?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status())) }
}

/// Runs the program, without a shell, with nothing in its environment but `PATH`.
///
/// # Errors
/// The program may not be run, or failed.
pub(super) async fn run(program: &Path, message: &str) -> Result<(), String> {
    if let Some(why) = refused_program(program) {
        return Err(why);
    }
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let mut process = command.kill_on_drop(true).spawn().map_err(|error| format!("it does not start: {error}"))?;
    let feed = process.stdin.take();
    let run = async {
        if let Some(mut feed) = feed {
            // A program that does not care for its input is fine.
            drop(feed.write_all(message.as_bytes()).await);
        }
        process.wait().await.map_err(|error| error.to_string())
    };
    match tokio::time::timeout(RUN, run).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("it ended with {status}")),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("it still ran after {} s and was ended", RUN.as_secs())),
    }
}

/// Why the program may not be run.
fn refused_program(program: &Path) -> Option<String> {
    if !program.is_absolute() {
        return Some("the path is not absolute".to_owned());
    }
    match std::fs::metadata(program) {
        Err(error) => Some(format!("it cannot be looked at: {error}")),
        Ok(facts) if !facts.is_file() => Some("it is no file".to_owned()),
        Ok(facts) if facts.permissions().mode() & OTHERS_WRITE != 0 => {
            Some("others than its owner may write to it; take that right away (chmod go-w)".to_owned())
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_gets_the_alert_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (program, output) = (folder.path().join("hook"), folder.path().join("out"));
        let script =
            format!("#!/bin/sh\n{{ cat; echo; env | cut -d= -f1 | sort; echo \"$#\"; }} > {}\n", output.display());
        std::fs::write(&program, script).unwrap();
        let allow = |mode| std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
        allow(0o700);
        run(&program, r#"{"text":"$(id);|"}"#).await.unwrap();
        let text = std::fs::read_to_string(&output).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first(), Some(&r#"{"text":"$(id);|"}"#));
        assert!(lines.contains(&"PATH") && lines.last() == Some(&"0"), "{text}");
        let more =
            lines[1..lines.len() - 1].iter().filter(|name| !["PATH", "PWD", "_", "SHLVL", "OLDPWD"].contains(*name));
        assert_eq!(more.count(), 0, "{text}");
        allow(0o777);
        assert!(run(&program, "{}").await.unwrap_err().contains("chmod go-w"));
        assert!(run(Path::new("hook"), "{}").await.unwrap_err().contains("absolute"));
    }
}
