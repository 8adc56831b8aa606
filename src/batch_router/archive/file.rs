//! Form and name of archive files (jobsdb.md 14): gzip, one line an event:
//! `{"userId":..,"payload":{event},"createdAt":..,"messageId":..}`.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use uuid::Uuid;

use super::super::batch_file::LineFile;
use super::super::object_key::joined;
use crate::jobsdb::Job;
use crate::object_storage::one_component;

/// A file in the making.
pub(super) struct ArchiveFile {
    lines: LineFile,
    events: u64,
    payload_bytes: u64,
    first_ms: i64,
    last_ms: i64,
}

/// A finished file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub(super) events: u64,
    /// When its first event was stored, milliseconds since the epoch.
    pub(super) first_ms: i64,
    last_ms: i64,
}

#[derive(Default, Deserialize)]
struct Identified<'a> {
    #[serde(borrow, default, rename = "messageId")]
    message_id: Cow<'a, str>,
}

impl ArchiveFile {
    pub(super) fn create(path: &Path) -> io::Result<ArchiveFile> {
        let lines = LineFile::create(path)?;
        Ok(ArchiveFile { lines, events: 0, payload_bytes: 0, first_ms: 0, last_ms: 0 })
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Appends the event of a job; its payload goes in as it was stored.
    pub(super) fn add(&mut self, job: &Job) -> io::Result<()> {
        let created = Timestamp::from_microsecond(job.created_us).unwrap_or(Timestamp::UNIX_EPOCH);
        let identified: Identified<'_> = serde_json::from_slice(&job.payload).unwrap_or_default();
        let user_id = serde_json::to_string(&job.user_id)?;
        let message_id = serde_json::to_string(&identified.message_id)?;
        self.lines.line(&[
            b"{\"userId\":",
            user_id.as_bytes(),
            b",\"payload\":",
            &job.payload,
            b",\"createdAt\":\"",
            created.to_string().as_bytes(),
            b"\",\"messageId\":",
            message_id.as_bytes(),
            b"}",
        ])?;
        let created_ms = created.as_millisecond();
        if self.events == 0 {
            self.first_ms = created_ms;
        }
        self.last_ms = created_ms;
        self.events += 1;
        self.payload_bytes += u64::try_from(job.payload.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    pub(super) fn finish(self, path: &Path) -> io::Result<Finished> {
        self.lines.finish(path)?;
        Ok(Finished { events: self.events, first_ms: self.first_ms, last_ms: self.last_ms })
    }
}

impl Finished {
    /// The file's name in its storage.
    pub(super) fn name(&self, workspace_id: &str, uuid: Uuid) -> String {
        let (first, last) = (self.first_ms.div_euclid(1000), self.last_ms.div_euclid(1000));
        format!("{first}_{last}_{}_{uuid}.json.gz", one_component(workspace_id))
    }
}

/// Where a file goes: by source, then by day and hour (UTC) of its first event.
pub(super) fn archive_key(
    provider: &str,
    prefix: &str,
    source_id: &str,
    first_ms: i64,
    instance_id: &str,
    name: &str,
) -> String {
    let first = TimeZone::UTC.to_datetime(Timestamp::from_millisecond(first_ms).unwrap_or(Timestamp::UNIX_EPOCH));
    let (day, hour) = (first.date().to_string(), first.hour().to_string());
    joined(provider, &[prefix, source_id, "gw", &day, &hour, &one_component(instance_id), name])
}

/// When the last event of a file with this name was stored, seconds since the epoch; `None` for other files.
pub(super) fn last_event_s(name: &str) -> Option<i64> {
    let mut parts = name.strip_suffix(".json.gz")?.split('_');
    let _first: i64 = parts.next()?.parse().ok()?;
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_source_day_hour_and_the_times_of_their_events() {
        let finished = Finished { events: 2, first_ms: 1_709_251_198_999, last_ms: 1_709_251_300_000 };
        let name = finished.name("ws", Uuid::nil());
        assert_eq!(name, "1709251198_1709251300_ws_00000000-0000-0000-0000-000000000000.json.gz");
        assert_eq!(last_event_s(&name), Some(1_709_251_300));
        assert_eq!(last_event_s("notes.json.gz"), None);
        assert_eq!(last_event_s("1_2_x.txt"), None);
        let early = 1_709_258_400_000; // 2024-03-01T02:00:00Z
        assert_eq!(archive_key("S3", "/p/", "s1", early, "1", "n"), "p/s1/gw/2024-03-01/2/1/n");
        assert_eq!(archive_key("LOCAL", "", "s1", 1_709_251_198_000, "1", "n"), "s1/gw/2024-02-29/23/1/n");
    }
}
