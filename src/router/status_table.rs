//! From a response code to the state of a job (router.md 7.1).

/// Code of a payload that does not decode: retried without limit, not a delivery.
pub const UNDECODABLE: i32 = 599;
/// Code of a destination that took the job but warned about it.
pub const DELIVERED_WITH_WARNING: i32 = 296;

/// The state that a code leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Delivered.
    Succeeded,
    /// On purpose not delivered.
    Filtered,
    /// Given up.
    Aborted,
    /// To be retried.
    Failed,
}

impl Verdict {
    /// The name of the state in statuses and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Succeeded => "succeeded",
            Verdict::Filtered => "filtered",
            Verdict::Aborted => "aborted",
            Verdict::Failed => "failed",
        }
    }
}

/// Whether the code stands for a handled job.
pub fn is_success(code: i32) -> bool {
    (200..300).contains(&code)
}

/// Whether the code ends the job's life, one way or the other.
pub fn is_terminal(code: i32) -> bool {
    code != 408 && code != 429 && (200..500).contains(&code)
}

/// The state of a job whose last attempt ended with this code.
pub fn verdict(code: i32) -> Verdict {
    match code {
        298 => Verdict::Filtered,
        _ if is_success(code) => Verdict::Succeeded,
        _ if is_terminal(code) => Verdict::Aborted,
        _ => Verdict::Failed,
    }
}

/// The code as it is stored: 296 becomes 200 unless someone asked to see the warnings.
pub fn stored_code(code: i32, keeps_warnings: bool) -> i32 {
    if code == DELIVERED_WITH_WARNING && !keeps_warnings { 200 } else { code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_leads_to_the_documented_state() {
        let table: [(std::ops::Range<i32>, Verdict); 9] = [
            (-1..200, Verdict::Failed),
            (200..298, Verdict::Succeeded),
            (298..299, Verdict::Filtered),
            (299..300, Verdict::Succeeded),
            (300..408, Verdict::Aborted),
            (408..409, Verdict::Failed),
            (409..429, Verdict::Aborted),
            (430..500, Verdict::Aborted),
            (500..1_100, Verdict::Failed),
        ];
        for (codes, expected) in table {
            for code in codes {
                assert_eq!(verdict(code), expected, "{code}");
                assert_eq!(is_success(code), matches!(expected, Verdict::Succeeded | Verdict::Filtered), "{code}");
                assert_eq!(is_terminal(code), expected != Verdict::Failed, "{code}");
            }
        }
        assert_eq!(verdict(429), Verdict::Failed);
    }

    #[test]
    fn a_warning_is_stored_as_a_plain_success_unless_asked_for() {
        assert_eq!(stored_code(296, false), 200);
        assert_eq!(stored_code(296, true), 296);
        assert_eq!(stored_code(204, false), 204);
    }
}
