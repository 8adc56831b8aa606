//! Which answers end a call and which are worth another try (processor.md 7.2).

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

/// The first pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How much longer each pause is.
const MULTIPLIER: f64 = 1.5;
/// Status of a transformer that cannot reach who has the code.
const CODE_AWAY: u16 = 809;
/// What an answer that this node understands says of itself.
const API_VERSION: &str = "2";

/// What an answer means for its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    /// The body says what became of the events.
    Good,
    /// No repetition helps: the events fail with this status.
    Final,
    /// Another try may help.
    Again,
    /// The transformer itself wants another try soon.
    Asked,
    /// It cannot fetch code.
    CodeAway,
    /// It speaks another version.
    Incompatible,
}

/// What an answer means.
pub(super) fn sense(status: StatusCode, headers: &HeaderMap) -> Sense {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    match status.as_u16() {
        200 if header("apiversion") == API_VERSION => Sense::Good,
        200 => Sense::Incompatible,
        503 if header("x-rudder-should-retry").eq_ignore_ascii_case("true") => Sense::Asked,
        CODE_AWAY => Sense::CodeAway,
        408 | 429 | 500.. => Sense::Again,
        _ => Sense::Final,
    }
}

/// The pause before the next try, after this many repetitions: half as long or half as long again, by `luck` from 0
/// to 1.
pub(super) fn pause(repetitions: usize, longest: Duration, luck: f64) -> Duration {
    let exponent = i32::try_from(repetitions.min(64)).unwrap_or(64);
    let seconds = FIRST_PAUSE.as_secs_f64() * MULTIPLIER.powi(exponent);
    let seconds = seconds.min(longest.as_secs_f64()) * (0.5 + luck.clamp(0.0, 1.0));
    Duration::try_from_secs_f64(seconds).unwrap_or(longest).min(longest)
}

/// A random number from 0 to 1.
pub(super) fn luck() -> f64 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn every_status_has_its_sense() {
        let table = [
            (200, &[("apiversion", "2")][..], Sense::Good),
            (200, &[], Sense::Incompatible),
            (200, &[("apiversion", "1")], Sense::Incompatible),
            (204, &[], Sense::Final),
            (302, &[], Sense::Final),
            (400, &[], Sense::Final),
            (404, &[], Sense::Final),
            (408, &[], Sense::Again),
            (429, &[], Sense::Again),
            (500, &[], Sense::Again),
            (503, &[], Sense::Again),
            (503, &[("x-rudder-should-retry", "true")], Sense::Asked),
            (504, &[("x-rudder-should-retry", "true")], Sense::Again),
            (809, &[], Sense::CodeAway),
        ];
        for (status, headers, expected) in table {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(sense(StatusCode::from_u16(status).unwrap(), &map), expected, "{status} {headers:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_bound() {
        let longest = Duration::from_secs(30);
        let millis = |repetitions, luck| pause(repetitions, longest, luck).as_millis();
        assert_eq!((millis(0, 0.5), millis(1, 0.5), millis(2, 0.5)), (500, 750, 1125));
        assert_eq!((millis(0, 0.0), millis(0, 1.0)), (250, 750));
        assert_eq!(millis(1_000, 1.0), 30_000);
    }
}
