//! Customer.io: what became of messages and of their customers, as track events.

use serde_json::{Value, json};

use super::Outcome;
use super::message::{Message, get, is_truthy, time_of_seconds};

/// Where a field of the event comes from: the first path that has a value is taken.
const FIELDS: [(&[&str], &str); 25] = [
    (&["event_id", "data.event_id"], "properties.eventId"),
    (&["data.trigger_id"], "properties.triggerId"),
    (&["data.customer_id", "data.identifiers.id"], "userId"),
    (&["data.delivery_id"], "properties.deliveryId"),
    (&["data.action_id"], "properties.actionId"),
    (&["data.broadcast_id"], "properties.broadcastId"),
    (&["data.journey_id"], "properties.journeyId"),
    (&["data.parent_action_id"], "properties.parentActionId"),
    (&["data.identifiers.email", "data.recipient", "data.email_address"], "context.traits.email"),
    (&["data.identifiers.cio_id"], "context.traits.cioId"),
    (&["data.content"], "properties.content"),
    (&["data.content_id"], "properties.contentId"),
    (&["data.subject"], "properties.emailSubject"),
    (&["data.href"], "properties.link.url"),
    (&["data.link_id"], "properties.link.id"),
    (&["data.failure_message", "data.recipients.failure_message"], "properties.reason"),
    (&["data.campaign_id"], "properties.campaignId"),
    (&["data.device_id"], "properties.deviceId"),
    (&["data.device_platform"], "properties.devicePlatform"),
    (&["data.recipients"], "properties.recipients"),
    (&["data.event_type"], "properties.type"),
    (&["data.newsletter_id"], "properties.newsletterId"),
    (&["data.transactional_message_id"], "properties.transactionalMessageId"),
    (&["timestamp"], "originalTimestamp"),
    (&["timestamp"], "sentAt"),
];

pub(super) fn transform(body: &Value) -> Outcome {
    let mut message = Message::new("track", "Customer.io");
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    message.set("event", json!(event_name(&text("object_type").to_lowercase(), text("metric"))));
    for (sources, target) in FIELDS {
        let Some(value) = sources.iter().find_map(|path| get(body, path)) else {
            continue;
        };
        let value = if sources == ["timestamp"] {
            time_of_seconds(value).map(Value::String).unwrap_or_default()
        } else {
            value.clone()
        };
        message.set(target, value);
    }
    let emails = ["data.identifiers.email", "data.recipient", "data.email_address"];
    let email = emails.iter().find_map(|path| get(body, path)).filter(|email| is_truthy(email));
    if let Some(email) = email.filter(|_| !message.has("userId")) {
        message.set("anonymousId", email.clone());
    }
    message.finish()
}

/// The name of what happened to an object.
fn event_name(object: &str, metric: &str) -> String {
    const EMAIL: &[&str] = &[
        "failed",
        "dropped",
        "bounced",
        "subscribed",
        "unsubscribed",
        "converted",
        "opened",
        "delivered",
        "sent",
        "attempted",
        "drafted",
        "deferred",
    ];
    const SMS: &[&str] = &["failed", "bounced", "converted", "delivered", "sent", "attempted", "drafted"];
    const PUSH: &[&str] =
        &["failed", "dropped", "bounced", "converted", "opened", "sent", "attempted", "drafted", "delivered"];
    const CHAT: &[&str] = &["failed", "sent", "attempted", "drafted"];
    let (prefix, plain, own): (&str, &[&str], &[(&str, &str)]) = match object {
        "customer" => ("Customer", &["subscribed", "unsubscribed"], &[]),
        "email" => ("Email", EMAIL, &[("spammed", "Email Marked as Spam"), ("clicked", "Email Link Clicked")]),
        "sms" => ("SMS", SMS, &[("clicked", "SMS Link Clicked")]),
        "push" => ("Push", PUSH, &[("clicked", "Push Link Clicked")]),
        "slack" => ("Slack Message", CHAT, &[("clicked", "Slack Message Link Clicked")]),
        "webhook" => ("Webhook Message", CHAT, &[("clicked", "Webhook Message Link Clicked")]),
        _ => ("", &[], &[]),
    };
    if let Some((_, name)) = own.iter().find(|(known, _)| *known == metric) {
        return (*name).to_owned();
    }
    if !plain.contains(&metric) {
        return "Unknown Event".to_owned();
    }
    let (first, rest) = metric.split_at_checked(1).unwrap_or_default();
    format!("{prefix} {}{rest}", first.to_uppercase())
}
