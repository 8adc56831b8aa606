//! Conditions come and go; each episode is told once, and its end (appliance.md 7). A plain state machine.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::conditions::Condition;

/// A condition that was told and still holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveAlert {
    /// Its kind: `destination_down`, `backlog_age`, `disk`, `configuration`, `store`, `component`.
    pub alert: String,
    /// The destination or component; empty for the node itself.
    pub subject: String,
    /// In words.
    pub text: String,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
}

/// What is sent to those who want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message {
    #[serde(flatten)]
    pub(super) alert: ActiveAlert,
    /// `raised` or `cleared`.
    pub(super) state: &'static str,
    /// When, milliseconds since the epoch.
    pub(super) at_ms: i64,
}

/// Every condition that holds or was told of lately.
#[derive(Debug, Default)]
pub(super) struct Episodes(BTreeMap<(&'static str, String), Episode>);

#[derive(Debug)]
struct Episode {
    since_ms: i64,
    /// Told, and not told to be over.
    active: Option<ActiveAlert>,
    /// When the last beginning was told.
    raised_ms: Option<i64>,
    holds: bool,
}

impl Episodes {
    /// Takes what is wrong now; what is to be told.
    pub(super) fn turn(&mut self, now: Vec<Condition>, repeat_after: Duration, now_ms: i64) -> Vec<Message> {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let mut messages = Vec::new();
        for episode in self.0.values_mut() {
            episode.holds = false;
        }
        for Condition { kind, subject, text, after } in now {
            let episode = self.0.entry((kind, subject.clone())).or_insert(Episode {
                since_ms: now_ms,
                active: None,
                raised_ms: None,
                holds: false,
            });
            episode.holds = true;
            if let Some(active) = &mut episode.active {
                active.text = text;
                continue;
            }
            let lasted = now_ms.saturating_sub(episode.since_ms) >= millis(after);
            let may_tell = episode.raised_ms.is_none_or(|at| now_ms.saturating_sub(at) >= millis(repeat_after));
            if lasted && may_tell {
                let alert = ActiveAlert { alert: kind.to_owned(), subject, text, since_ms: episode.since_ms };
                messages.push(Message { alert: alert.clone(), state: "raised", at_ms: now_ms });
                episode.active = Some(alert);
                episode.raised_ms = Some(now_ms);
            }
        }
        for episode in self.0.values_mut().filter(|episode| !episode.holds) {
            if let Some(alert) = episode.active.take() {
                messages.push(Message { alert, state: "cleared", at_ms: now_ms });
            }
            // The next time it begins anew.
            episode.since_ms = i64::MAX;
        }
        self.0.retain(|_, episode| {
            let told_lately = episode.raised_ms.is_some_and(|at| now_ms.saturating_sub(at) < millis(repeat_after));
            episode.holds || told_lately
        });
        for episode in self.0.values_mut().filter(|episode| episode.holds && episode.since_ms == i64::MAX) {
            episode.since_ms = now_ms;
        }
        messages
    }

    /// What was told and still holds.
    pub(super) fn active(&self) -> Vec<ActiveAlert> {
        self.0.values().filter_map(|episode| episode.active.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    #[test]
    fn an_episode_is_told_once_and_its_end_and_the_next_not_before_an_hour() {
        let condition = |after: u64| Condition {
            kind: "destination_down",
            subject: "d".to_owned(),
            text: "refused".to_owned(),
            after: Duration::from_secs(after * 60),
        };
        let mut episodes = Episodes::default();
        let hour = Duration::from_secs(3_600);
        let mut told = |minute: i64, holds: bool| {
            let now = if holds { vec![condition(5)] } else { Vec::new() };
            let messages = episodes.turn(now, hour, minute * MINUTE);
            let states: Vec<&str> = messages.iter().map(|message| message.state).collect();
            (states.join(" "), episodes.active().len())
        };
        for (minute, holds, states, active) in [
            (0, true, "", 0),
            (4, true, "", 0),
            (5, true, "raised", 1),
            (6, true, "", 1),
            (7, false, "cleared", 0),
            (8, false, "", 0),
            // It flaps: nothing more within the hour, then the episode that still holds is told.
            (10, true, "", 0),
            (30, true, "", 0),
            (66, true, "raised", 1),
            (67, false, "cleared", 0),
            // A short one is not told at all.
            (200, true, "", 0),
            (203, false, "", 0),
            (204, true, "", 0),
            (208, true, "", 0),
            (209, true, "raised", 1),
        ] {
            assert_eq!(told(minute, holds), (states.to_owned(), active), "minute {minute}");
        }
    }
}
