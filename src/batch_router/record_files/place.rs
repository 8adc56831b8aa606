//! Where a file of records goes: the configured path with its placeholders, and the number of the part
//! (router.md 22.2).

use jiff::Timestamp;

/// The configured path.
///
/// # Errors
/// It does not keep destinations and runs apart, or leaves the folder.
pub(super) fn checked(path: &str) -> Result<&str, String> {
    for needed in ["{destinationID}", "{jobRunID}"] {
        if !path.contains(needed) {
            return Err(format!("filePath must contain {needed}"));
        }
    }
    if path.split('/').any(|part| part == "..") {
        return Err("filePath must not contain `..`".to_owned());
    }
    Ok(path)
}

/// The path of a run's files, without the number of the part. Unknown placeholders stay.
pub(super) fn expanded(path: &str, destination_id: &str, job_run_id: &str, now_ms: i64) -> String {
    let now = Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut path = path.to_owned();
    for (placeholder, format) in
        [("{YYYY}", "%Y"), ("{MM}", "%m"), ("{DD}", "%d"), ("{hh}", "%H"), ("{mm}", "%M"), ("{ss}", "%S")]
    {
        path = path.replace(placeholder, &now.strftime(format).to_string());
    }
    path.replace("{ms}", &format!("{:03}", now_ms.rem_euclid(1_000)))
        .replace("{timestampInSec}", &now_ms.div_euclid(1_000).to_string())
        .replace("{timestampInMS}", &now_ms.to_string())
        .replace("{destinationID}", &clean(destination_id))
        .replace("{jobRunID}", &clean(job_run_id))
}

/// The path with the number of the part before its extension.
pub(super) fn numbered(path: &str, part: u64) -> String {
    let name_at = path.rfind('/').map_or(0, |at| at + 1);
    match path.rfind('.').filter(|at| *at > name_at) {
        Some(at) => {
            let (name, extension) = path.split_at(at);
            format!("{name}_{part}{extension}")
        }
        None => format!("{path}_{part}"),
    }
}

/// Ids are data: none of them may name a folder.
fn clean(id: &str) -> String {
    id.replace('/', "_").replace("..", "__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_parts_are_numbered() {
        let path = "/in/{destinationID}/{YYYY}-{MM}-{DD}/{hh}{mm}{ss}{ms}_{timestampInSec}_{jobRunID}_{other}.csv";
        let filled = expanded(checked(path).unwrap(), "d1", "../run", 1_767_225_601_042);
        assert_eq!(filled, "/in/d1/2026-01-01/000001042_1767225601____run_{other}.csv");
        assert_eq!(numbered("/a.b/name.csv", 2), "/a.b/name_2.csv");
        assert_eq!(numbered("/a.b/name", 1), "/a.b/name_1");
        assert!(checked("/x/{destinationID}.csv").is_err());
        assert!(checked("/x/../{destinationID}{jobRunID}.csv").is_err());
    }
}
