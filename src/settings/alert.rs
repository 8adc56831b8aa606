//! Alerts (appliance.md 7): when, and who is told.

use std::path::PathBuf;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new("Alert.webhook", Kind::Text, "", "URL that gets every alert as a JSON POST; empty = none.").hot(),
    Key::new(
        "Alert.exec",
        Kind::Text,
        "",
        "Absolute path of a program that is run for every alert, with the alert as JSON on its standard input; empty = none.",
    )
    .hot(),
    Key::new(
        "Alert.destinationDown",
        Kind::Duration(Unit::Second),
        "5m",
        "Alert when a destination cannot be delivered to for this long.",
    )
    .hot(),
    Key::new(
        "Alert.backlogAge",
        Kind::Duration(Unit::Second),
        "1h",
        "Alert when events wait for a destination for this long; 0 = never.",
    )
    .hot(),
    Key::new(
        "Alert.diskFreePercent",
        Kind::Int,
        "10",
        "Alert when less of the data directory's file system is free; 0 = only when ingestion is refused.",
    )
    .hot(),
    Key::new(
        "Alert.repeatAfter",
        Kind::Duration(Unit::Second),
        "1h",
        "Least time between two alerts of the same condition.",
    )
    .hot(),
];

/// Settings of alerts.
#[derive(Clone, Debug)]
pub struct AlertSettings {
    /// Who gets a POST of every alert.
    pub webhook: Option<url::Url>,
    /// The program that is run for every alert.
    pub exec: Option<PathBuf>,
    /// How long a destination is down before it is told.
    pub destination_down: Duration,
    /// The age of a backlog that is told; zero = never.
    pub backlog_age: Duration,
    /// Free part of the file system below which it is told.
    pub disk_free_percent: u64,
    /// Least time between two alerts of one condition.
    pub repeat_after: Duration,
}

impl AlertSettings {
    pub(super) fn read(r: &Reader<'_>) -> AlertSettings {
        let webhook = match r.text("Alert.webhook") {
            text if text.is_empty() => None,
            text => match text.parse::<url::Url>() {
                Ok(url) if matches!(url.scheme(), "http" | "https") => Some(url),
                _ => {
                    r.reject("Alert.webhook", "is no http or https URL");
                    None
                }
            },
        };
        let exec = Some(r.text("Alert.exec")).filter(|path| !path.is_empty()).map(PathBuf::from);
        if exec.as_ref().is_some_and(|path| !path.is_absolute()) {
            r.reject("Alert.exec", "is not an absolute path; write it from the root on");
        }
        AlertSettings {
            webhook,
            exec,
            destination_down: r.duration("Alert.destinationDown"),
            backlog_age: r.duration("Alert.backlogAge"),
            disk_free_percent: u64::try_from(r.int("Alert.diskFreePercent")).unwrap_or(0).min(100),
            repeat_after: r.duration("Alert.repeatAfter"),
        }
    }
}
