//! When a connection gets its next upload (warehouse.md 14.1). A pure function of time, configuration and history.

use std::time::Duration;

use serde_json::{Map, Value};

/// Minutes of a day.
const DAY: i64 = 1_440;

/// Milliseconds of a minute.
const MINUTE_MS: i64 = 60_000;

/// What a destination's configuration says about time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timetable {
    /// Only when somebody asks.
    pub is_manual: bool,
    /// Minutes between two uploads; 0 = at every look.
    pub frequency: Option<i64>,
    /// Minute of the day of one of them.
    pub start: Option<i64>,
    /// Minutes of the day between which there is no upload.
    pub exclude: Option<(i64, i64)>,
}

impl Timetable {
    /// Reads a destination's configuration.
    pub fn read(config: &Map<String, Value>) -> Timetable {
        let text = |key: &str| match config.get(key) {
            Some(Value::String(text)) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let window = config.get("excludeWindow").and_then(Value::as_object);
        let bound = |key: &str| window?.get(key)?.as_str().filter(|text| !text.is_empty()).map(minute_of_day);
        let frequency = text("syncFrequency").and_then(|text| text.parse().ok()).filter(|minutes| *minutes >= 0);
        Timetable {
            is_manual: config.get("manualSync") == Some(&Value::Bool(true)),
            frequency,
            start: text("syncStartAt").map(|text| minute_of_day(&text)),
            exclude: bound("excludeWindowStartTime").zip(bound("excludeWindowEndTime")),
        }
    }
}

/// `HH:MM` as minutes; anything else is midnight.
fn minute_of_day(text: &str) -> i64 {
    let parsed = text.split_once(':').and_then(|(hours, minutes)| {
        let (hours, minutes): (i64, i64) = (hours.trim().parse().ok()?, minutes.trim().parse().ok()?);
        ((0..24).contains(&hours) && (0..60).contains(&minutes)).then_some(hours * 60 + minutes)
    });
    parsed.unwrap_or(0)
}

/// What the connection looks back on. Milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When this process last made an upload.
    pub made_here_ms: Option<i64>,
    /// When the newest upload was made, by whatever process.
    pub newest_ms: Option<i64>,
    /// Somebody asked for an upload.
    pub is_triggered: bool,
}

/// What settings say about it.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Time between two uploads where the configuration names none.
    pub frequency: Duration,
    /// That time rules, whatever the configuration says.
    pub ignores_timetables: bool,
    /// Every look makes an upload.
    pub always: bool,
}

/// Whether the connection gets an upload now.
pub fn is_due(now_ms: i64, timetable: &Timetable, history: History, rules: Rules) -> bool {
    if rules.always || history.is_triggered {
        return true;
    }
    let passed = |length_ms: i64| history.made_here_ms.is_none_or(|made| now_ms.saturating_sub(made) > length_ms);
    let default_ms = i64::try_from(rules.frequency.as_millis()).unwrap_or(i64::MAX);
    if timetable.is_manual {
        return false;
    }
    if rules.ignores_timetables {
        return passed(default_ms);
    }
    if timetable.exclude.is_some_and(|window| is_within(now_ms.div_euclid(MINUTE_MS).rem_euclid(DAY), window)) {
        return false;
    }
    match (timetable.frequency, timetable.start) {
        (Some(0), _) => true,
        (Some(frequency), Some(start)) => {
            let latest = latest_time(now_ms, frequency, start);
            history.newest_ms.is_none_or(|newest| newest < latest)
        }
        (frequency, _) => passed(frequency.map_or(default_ms, |minutes| minutes.saturating_mul(MINUTE_MS))),
    }
}

/// Whether the minute lies between the two, which may have midnight between them.
fn is_within(minute: i64, (from, to): (i64, i64)) -> bool {
    if from <= to { from < minute && minute < to } else { minute > from || minute < to }
}

/// The latest time of the timetable that is not after now. The times of one day are `start` and what lies a multiple
/// of `frequency` before and after it on that day.
fn latest_time(now_ms: i64, frequency: i64, start: i64) -> i64 {
    let frequency = frequency.max(1);
    let midnight_ms = now_ms - now_ms.rem_euclid(DAY * MINUTE_MS);
    let minute = now_ms.div_euclid(MINUTE_MS).rem_euclid(DAY);
    let first = start.rem_euclid(frequency);
    if minute >= first {
        return midnight_ms + (first + (minute - first).div_euclid(frequency) * frequency) * MINUTE_MS;
    }
    let last_of_day = first + (DAY - 1 - first).div_euclid(frequency) * frequency;
    midnight_ms + (last_of_day - DAY) * MINUTE_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(day: i64, hour: i64, minute: i64) -> i64 {
        ((day * 24 + hour) * 60 + minute) * MINUTE_MS
    }

    fn timetable(config: Value) -> Timetable {
        Timetable::read(config.as_object().unwrap())
    }

    const RULES: Rules = Rules { frequency: Duration::from_secs(1_800), ignores_timetables: false, always: false };

    #[test]
    fn times_of_a_day_are_counted_from_the_start_in_both_directions() {
        let timetable = timetable(json!({ "syncFrequency": "180", "syncStartAt": "04:30" }));
        let due = |now, newest| {
            let history = History { newest_ms: Some(newest), ..History::default() };
            is_due(now, &timetable, history, RULES)
        };
        let table = [
            (at(9, 4, 29), at(9, 1, 30), false),
            (at(9, 4, 30), at(9, 1, 30), true),
            (at(9, 4, 30), at(9, 4, 30), false),
            (at(9, 7, 29), at(9, 4, 31), false),
            (at(9, 1, 29), at(8, 22, 30), false),
            (at(9, 1, 29), at(8, 22, 29), true),
            (at(9, 23, 59), at(9, 22, 29), true),
            (at(9, 12, 0), at(1, 0, 0), true),
        ];
        for (now, newest, expected) in table {
            assert_eq!(due(now, newest), expected, "{now} {newest}");
        }
        assert!(is_due(at(9, 0, 0), &timetable, History::default(), RULES));
    }

    #[test]
    fn without_a_start_the_time_since_the_last_one_of_this_process_counts() {
        let made = |minutes| History { made_here_ms: Some(at(9, 12, 0) - minutes * MINUTE_MS), ..History::default() };
        let (none, hourly) = (timetable(json!({})), timetable(json!({ "syncFrequency": "60" })));
        let now = at(9, 12, 0);
        assert!(is_due(now, &none, History { newest_ms: Some(now), ..History::default() }, RULES));
        assert!(!is_due(now, &none, made(30), RULES) && is_due(now, &none, made(31), RULES));
        assert!(!is_due(now, &hourly, made(60), RULES) && is_due(now, &hourly, made(61), RULES));
        let ignoring = Rules { ignores_timetables: true, ..RULES };
        assert!(is_due(now, &hourly, made(31), ignoring));
    }

    #[test]
    fn a_trigger_a_manual_destination_and_an_excluded_time_decide_first() {
        let now = at(9, 23, 30);
        let triggered = History { is_triggered: true, ..History::default() };
        let manual = timetable(json!({ "manualSync": true, "syncFrequency": "0" }));
        assert!(!is_due(now, &manual, History::default(), RULES));
        assert!(is_due(now, &manual, triggered, RULES));
        assert!(is_due(now, &manual, History::default(), Rules { always: true, ..RULES }));
        let window = |from: &str, to: &str| {
            timetable(json!({ "syncFrequency": "0",
                "excludeWindow": { "excludeWindowStartTime": from, "excludeWindowEndTime": to } }))
        };
        for (from, to, expected) in [
            ("23:00", "01:00", false),
            ("23:30", "01:00", true),
            ("22:00", "23:30", true),
            ("22:00", "23:31", false),
            ("01:00", "23:00", true),
            ("", "", true),
        ] {
            assert_eq!(is_due(now, &window(from, to), History::default(), RULES), expected, "{from} {to}");
        }
        assert!(is_due(now, &window("23:00", "01:00"), triggered, RULES));
    }

    #[test]
    fn a_malformed_start_is_midnight() {
        assert_eq!(timetable(json!({ "syncStartAt": "25:00" })).start, Some(0));
        assert_eq!(timetable(json!({ "syncStartAt": "x" })).start, Some(0));
        assert_eq!(timetable(json!({ "syncStartAt": "" })).start, None);
    }
}
