//! Slack: what happens in a workspace, and the check of the address.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Outcome;
use super::message::{Message, get, is_truthy, time_of_seconds};
use crate::event::time::Moment;

/// Names of a user, in the order in which they are taken.
const NAMES: [&str; 4] = ["real_name_normalized", "real_name", "display_name_normalized", "display_name"];

/// Fields of a profile and the traits that they become.
const TRAITS: [(&str, &str); 6] = [
    ("email", "email"),
    ("phone", "phone"),
    ("first_name", "firstName"),
    ("last_name", "lastName"),
    ("image_original", "avatar"),
    ("title", "title"),
];

pub(super) fn transform(body: Value, now: Timestamp) -> Outcome {
    if body.get("type").and_then(Value::as_str) == Some("url_verification") {
        let challenge = body.get("challenge").cloned().unwrap_or_default();
        return Outcome::json_to_source(json!({"challenge": challenge}).to_string());
    }
    let Some(event) = get(&body, "event").filter(|event| is_truthy(event)) else {
        return Outcome::failed("Missing the required event data");
    };
    let user = get(event, "user");
    let id = user.and_then(|user| user.as_str().or_else(|| user.get("id").and_then(Value::as_str)));
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Outcome::failed("UserId not found");
    };
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let is_user = matches!(kind, "team_join" | "user_change");
    let mut message = Message::new(if is_user { "identify" } else { "track" }, "SLACK");
    if !is_user && !kind.is_empty() {
        message.set("event", json!(title(kind)));
    }
    message.set("anonymousId", json!(anonymous(id)));
    message.set("context.externalId", json!([{"type": "slackUserId", "id": id}]));
    let sent = body.get("event_time");
    let original = [event.get("ts"), event.get("event_ts"), sent].into_iter().flatten().find(|time| is_truthy(time));
    message.set("originalTimestamp", time(original, now));
    message.set("sentAt", time(sent, now));
    if !message.has("event") {
        message.set("event", event.get("type").cloned().unwrap_or_default());
    }
    message.set("timezone", get(event, "user.tz").cloned().unwrap_or_default());
    if let Some(profile) = get(event, "user.profile") {
        for (field, name) in TRAITS {
            message.set(&format!("context.traits.{name}"), get(profile, field).cloned().unwrap_or_default());
        }
        let name = NAMES.iter().find_map(|field| get(profile, field));
        message.set("context.traits.name", name.cloned().unwrap_or_default());
    }
    message.set("properties", event.clone());
    message.finish()
}

/// A time in seconds as events write it: now when there is none, null when it is no number.
fn time(seconds: Option<&Value>, now: Timestamp) -> Value {
    match seconds.filter(|seconds| is_truthy(seconds)) {
        None => json!(Moment::utc(now).to_text()),
        Some(seconds) => time_of_seconds(seconds).map(Value::String).unwrap_or_default(),
    }
}

/// An id of the right length that says nothing about the user.
fn anonymous(id: &str) -> String {
    let digits = Sha256::digest(id.as_bytes()).iter().flat_map(|byte| [byte >> 4, byte & 15]).collect::<Vec<_>>();
    digits.iter().take(36).filter_map(|digit| char::from_digit(u32::from(*digit), 16)).collect()
}

/// `member_joined_channel` as `Member Joined Channel`.
fn title(kind: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters.as_str().chars()).collect::<String>()
    };
    kind.split('_').map(word).collect::<Vec<_>>().join(" ")
}
