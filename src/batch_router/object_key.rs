//! Names of objects: where a file of one source lies in a bucket (router.md 19.4).
//!
//! ```text
//! <config prefix>/<folder>/<sourceID>/<customDatePrefix><date>/<unixSeconds>.<sourceID>.<uuid>.json.gz
//! ```

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use uuid::Uuid;

/// How a date is written in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DateLayout {
    /// `2024-02-29`.
    YearFirst,
    /// `02-29-2024`, as buckets of old nodes have it.
    MonthFirst,
}

/// What is known about the objects that a source already has in a bucket.
#[derive(Clone, Copy, Debug)]
pub enum Listing<'a> {
    /// Keys of up to [`LISTED_OBJECTS`] of them.
    Keys(&'a [String]),
    /// The storage did not let us look.
    Failed,
}

/// Objects that are looked at to find the layout in use.
pub const LISTED_OBJECTS: usize = 5;

/// Everything that a key is made of.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// Storage provider (`S3`); it decides about a leading slash.
    pub provider: &'a str,
    /// `prefix` of the destination's configuration.
    pub prefix: &'a str,
    /// Folder of this kind of file (`rudder-logs`).
    pub folder: &'a str,
    /// The source.
    pub source_id: &'a str,
    /// Literal text before the date.
    pub custom_date_prefix: &'a str,
    /// Day of the upload, as the workspace counts days.
    pub date: Date,
    /// How the date is written.
    pub layout: DateLayout,
    /// When the file was started, seconds since the epoch.
    pub started_s: i64,
    /// The file's own id.
    pub uuid: Uuid,
}

impl DateLayout {
    /// The layout that an operator's text chooses; `None` for the empty text.
    pub fn chosen(text: &str) -> Option<DateLayout> {
        match text {
            "" => None,
            "MM-DD-YYYY" => Some(DateLayout::MonthFirst),
            _ => Some(DateLayout::YearFirst),
        }
    }

    /// The layout that a listing of `folder_key` speaks for. The first dated object decides; nothing
    /// dated means the layout of today; a refused look means the old one, because a bucket that hides
    /// its contents is most likely one that has been in use for long.
    pub fn of_listing(folder_key: &str, listing: Listing<'_>) -> DateLayout {
        let keys = match listing {
            Listing::Failed => return DateLayout::MonthFirst,
            Listing::Keys(keys) => keys,
        };
        let folder = folder_key.trim_start_matches('/');
        for key in keys.iter().take(LISTED_OBJECTS) {
            let below = key.trim_start_matches('/').strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            let date = below.and_then(|rest| rest.split('/').next()).unwrap_or_default();
            if let Some(layout) = DateLayout::of_text(date) {
                return layout;
            }
        }
        DateLayout::YearFirst
    }

    fn of_text(text: &str) -> Option<DateLayout> {
        let numbers = |lengths: [usize; 3]| -> Option<[i16; 3]> {
            let mut parts = text.split('-');
            let mut found = [0; 3];
            for (number, length) in found.iter_mut().zip(lengths) {
                let part = parts.next().filter(|part| part.len() == length)?;
                *number = part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()))?;
            }
            parts.next().is_none().then_some(found)
        };
        let is_date = |year: i16, month: i16, day: i16| {
            let (month, day) = (i8::try_from(month).ok()?, i8::try_from(day).ok()?);
            Date::new(year, month, day).ok()
        };
        if let Some([month, day, year]) = numbers([2, 2, 4]) {
            return is_date(year, month, day).map(|_| DateLayout::MonthFirst);
        }
        let [year, month, day] = numbers([4, 2, 2])?;
        is_date(year, month, day).map(|_| DateLayout::YearFirst)
    }

    fn write(self, date: Date) -> String {
        let (year, month, day) = (date.year(), date.month(), date.day());
        match self {
            DateLayout::YearFirst => format!("{year:04}-{month:02}-{day:02}"),
            DateLayout::MonthFirst => format!("{month:02}-{day:02}-{year:04}"),
        }
    }
}

/// The day at `now_ms` in the zone; UTC and the zone's name as an error when nobody knows the zone.
pub fn day_in_zone(now_ms: i64, zone: &str) -> (Date, Option<String>) {
    let now = Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let day = |zone: TimeZone| zone.to_datetime(now).date();
    if zone.is_empty() {
        return (day(TimeZone::UTC), None);
    }
    match TimeZone::get(zone) {
        Ok(found) => (day(found), None),
        Err(_) => (day(TimeZone::UTC), Some(zone.to_owned())),
    }
}

/// The object key.
pub fn object_key(parts: &KeyParts<'_>) -> String {
    let date = format!("{}{}", parts.custom_date_prefix, parts.layout.write(parts.date));
    let name = file_name(parts.started_s, parts.source_id, parts.uuid);
    joined(parts.provider, &[parts.prefix, parts.folder, parts.source_id, &date, &name])
}

/// The folder below which all objects of the source lie.
pub fn folder_key(provider: &str, prefix: &str, folder: &str, source_id: &str) -> String {
    joined(provider, &[prefix, folder, source_id])
}

/// The last part of the key, which is also the name of the local file.
pub fn file_name(started_s: i64, source_id: &str, uuid: Uuid) -> String {
    format!("{started_s}.{source_id}.{uuid}.json.gz")
}

/// Joins the parts as the provider wants it.
pub fn joined(provider: &str, parts: &[&str]) -> String {
    let key = clean_path(parts);
    if provider == "S3" { key.trim().trim_start_matches('/').trim_start().to_owned() } else { key }
}

/// One slash path out of the parts: empty ones vanish, `.` and `..` are resolved and never leave the root.
fn clean_path(parts: &[&str]) -> String {
    let rooted = parts.iter().find(|part| !part.is_empty()).is_some_and(|first| first.starts_with('/'));
    let mut segments: Vec<&str> = Vec::new();
    for segment in parts.iter().flat_map(|part| part.split('/')) {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let path = segments.join("/");
    if rooted { format!("/{path}") } else { path }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn key(provider: &str, prefix: &str, layout: DateLayout) -> String {
        object_key(&KeyParts {
            provider,
            prefix,
            folder: "rudder-logs",
            source_id: "s1",
            custom_date_prefix: "",
            date: date(2026, 3, 7),
            layout,
            started_s: 1_700_000_000,
            uuid: Uuid::nil(),
        })
    }

    #[test]
    fn keys_are_clean_slash_paths() {
        let tail = "rudder-logs/s1/2026-03-07/1700000000.s1.00000000-0000-0000-0000-000000000000.json.gz";
        for (provider, prefix, start) in [
            ("S3", "", ""),
            ("S3", "a", "a/"),
            ("S3", " /a//b/./c/../", "a/b/"),
            ("S3", "../../x", "x/"),
            ("GCS", "/a/", "/a/"),
            ("MINIO", "a//b", "a/b/"),
            ("LOCAL", "..", ""),
        ] {
            assert_eq!(key(provider, prefix, DateLayout::YearFirst), format!("{start}{tail}"), "{provider} {prefix:?}");
        }
        assert!(key("S3", "", DateLayout::MonthFirst).contains("/03-07-2026/"));
    }

    #[test]
    fn the_layout_follows_what_lies_in_the_bucket() {
        let of = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
            DateLayout::of_listing("p/rudder-logs/s1", Listing::Keys(&keys))
        };
        assert_eq!(of(&[]), DateLayout::YearFirst);
        assert_eq!(of(&["p/rudder-logs/s1/12-31-2020/x"]), DateLayout::MonthFirst);
        assert_eq!(of(&["p/rudder-logs/s1/2020-12-31/x"]), DateLayout::YearFirst);
        assert_eq!(of(&["p/rudder-logs/s1/31-12-2020/x"]), DateLayout::YearFirst, "31 is no month");
        assert_eq!(of(&["p/rudder-logs/s11/12-31-2020/x"]), DateLayout::YearFirst, "another source");
        assert_eq!(of(&["p/rudder-logs/s1/readme", "p/rudder-logs/s1/12-31-2020/x"]), DateLayout::MonthFirst);
        assert_eq!(DateLayout::of_listing("p", Listing::Failed), DateLayout::MonthFirst);
    }

    #[test]
    fn any_text_but_one_chooses_the_year_first() {
        assert_eq!(DateLayout::chosen(""), None);
        assert_eq!(DateLayout::chosen("MM-DD-YYYY"), Some(DateLayout::MonthFirst));
        assert_eq!(DateLayout::chosen("DD-MM-YYYY"), Some(DateLayout::YearFirst));
    }

    #[test]
    fn days_are_counted_in_the_zone_of_the_workspace() {
        let late_evening = 1_709_251_198_000;
        assert_eq!(day_in_zone(late_evening, "").0, date(2024, 2, 29));
        assert_eq!(day_in_zone(late_evening, "Asia/Kolkata"), (date(2024, 3, 1), None));
        assert_eq!(day_in_zone(late_evening, "Mars/Olympus"), (date(2024, 2, 29), Some("Mars/Olympus".to_owned())));
    }
}
