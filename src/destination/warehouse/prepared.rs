//! An event made ready for its rows: what is missing is made up, what rules ask for is at hand (warehouse.md 2.1).

use std::borrow::Cow;

use super::datetime;
use super::event_type::EventType;
use super::refused::Refused;
use super::value::Json;
use super::{Envelope, RowSettings};
use crate::destination::Message;

/// Categories of sources whose events are records with ids of their own.
const CATEGORIES_WITH_RECORDS: [&str; 2] = ["cloud", "singer-protocol"];

/// An event and what came with it.
pub(super) struct Prepared<'e> {
    pub(super) event_type: EventType,
    pub(super) envelope: &'e Envelope<'e>,
    message: &'e Message<'e>,
    message_id: Json<'e>,
    /// As it was written.
    pub(super) received_at: Cow<'e, str>,
    /// The context as it is flattened: an object with the source and destination in it where the settings say so.
    context: Option<Json<'e>>,
    context_ip: Option<Json<'e>>,
    /// Whether the context names the version of a source of records.
    has_sources_version: bool,
}

impl<'e> Prepared<'e> {
    pub(super) fn new(
        message: &'e Message<'e>,
        envelope: &'e Envelope<'e>,
        settings: &RowSettings,
    ) -> Result<Prepared<'e>, Refused> {
        let name = text_of_type(message)?;
        let event_type = EventType::of_name(&name).ok_or(Refused::UnknownType(name))?;
        let member = |key: &str| message.get(key).map(Json::parse).transpose();
        let message_id = match member("messageId")?.filter(|id| !id.is_blank()) {
            Some(id) => id,
            None => Json::Text(Cow::Owned(format!("auto-{}", (envelope.new_id)()))),
        };
        let received_at = match member("receivedAt")? {
            Some(Json::Text(text)) if datetime::normal_form(&text).is_some() => text,
            _ if !envelope.received_at.is_empty() => Cow::Borrowed(envelope.received_at),
            _ => Cow::Owned((envelope.now)()),
        };
        let context = member("context")?;
        let context = if settings.puts_source_in_context { Some(with_source(context, envelope)?) } else { context };
        let context_ip = context.as_ref().and_then(|context| context.get("ip")).cloned();
        let version = context.as_ref().and_then(|context| context.get("sources")?.get("version"));
        let has_sources_version = version.is_some_and(|version| !version.is_blank());
        Ok(Prepared {
            event_type,
            envelope,
            message,
            message_id,
            received_at,
            context,
            context_ip,
            has_sources_version,
        })
    }

    /// The context, which is gone afterwards.
    pub(super) fn take_context(&mut self) -> Option<Json<'e>> {
        self.context.take()
    }

    /// A member of the context, while it is there.
    pub(super) fn context_member(&self, key: &str) -> Option<&Json<'e>> {
        self.context.as_ref().and_then(|context| context.get(key))
    }

    /// A member of the event.
    pub(super) fn member(&self, key: &str) -> Result<Option<Json<'e>>, Refused> {
        self.message.get(key).map(Json::parse).transpose()
    }

    /// Whether a member of the event, as text, is more than blanks.
    pub(super) fn has_text(&self, key: &str) -> Result<bool, Refused> {
        Ok(self.member(key)?.is_some_and(|value| !value.to_text().trim().is_empty()))
    }

    /// The value of a rule.
    pub(super) fn of_rule(&self, rule: &str) -> Result<Option<Json<'e>>, Refused> {
        match rule {
            "id" => Ok(Some(self.message_id.clone())),
            "received_at" => Ok(Some(Json::Text(self.received_at.clone()))),
            "context_ip" => match self.context_ip.as_ref().filter(|ip| !ip.is_blank()) {
                Some(ip) => Ok(Some(ip.clone())),
                None => self.member("request_ip"),
            },
            "context_request_ip" => self.member("request_ip"),
            "context_passed_ip" => Ok(self.context_ip.clone()),
            "anonymous_id" => self.member("anonymousId"),
            "user_id" => self.member("userId"),
            "sent_at" => self.member("sentAt"),
            "original_timestamp" => self.member("originalTimestamp"),
            "group_id" => self.member("groupId"),
            "previous_id" => self.member("previousId"),
            "event_text" => self.member("event"),
            "name" => match self.member("name")?.filter(|name| !name.is_blank()) {
                Some(name) => Ok(Some(name)),
                None => self.member_of("properties", "name"),
            },
            same => self.member(same),
        }
    }

    /// A member of a member.
    fn member_of(&self, object: &str, key: &str) -> Result<Option<Json<'e>>, Refused> {
        let Some(text) = self.message.get(object).filter(|json| json.starts_with('{')) else { return Ok(None) };
        Ok(Json::parse(text)?.get(key).cloned())
    }

    /// Whether the event is a record with an id of its own.
    pub(super) fn is_record(&self) -> bool {
        self.event_type == EventType::Track && CATEGORIES_WITH_RECORDS.contains(&self.envelope.source_category)
    }

    /// The id of the record, `None` where the source has none (warehouse.md 2.7).
    ///
    /// # Errors
    /// [`Refused::NoRecordId`] when the source must have one.
    pub(super) fn record_id(&self, is_required: bool) -> Result<Option<Json<'e>>, Refused> {
        if !is_required && !self.has_sources_version {
            return Ok(None);
        }
        let record_id = self.member("recordId")?.filter(|id| !id.is_blank() && !id.is_container());
        record_id.map(Some).ok_or(Refused::NoRecordId)
    }

    /// The whole event as JSON, with the context as it is flattened, while that is there.
    pub(super) fn full_event(&self) -> String {
        match &self.context {
            Some(context) => {
                let mut event = self.message.clone();
                event.set("context", context.to_json());
                event.to_json()
            }
            None => self.message.to_json(),
        }
    }
}

/// The event's type in lower case; what is no string is written as JSON.
fn text_of_type(message: &Message<'_>) -> Result<String, Refused> {
    let written = message.get("type").map(Json::parse).transpose()?;
    Ok(written.map(|json| json.to_text().to_lowercase()).unwrap_or_default())
}

/// The context with what is known of the source and the destination.
fn with_source<'e>(context: Option<Json<'e>>, envelope: &'e Envelope<'e>) -> Result<Json<'e>, Refused> {
    let mut members = match context {
        None | Some(Json::Null) => Vec::new(),
        Some(Json::Object(members)) => members,
        Some(_) => return Err(Refused::ContextIsNoObject),
    };
    let known = [
        ("sourceId", envelope.source_id),
        ("sourceType", envelope.source_type),
        ("destinationId", envelope.destination_id),
        ("destinationType", envelope.destination_type),
    ];
    members.retain(|(key, _)| !known.iter().any(|(name, _)| name == key));
    members.extend(known.map(|(name, value)| (Cow::Borrowed(name), Json::Text(Cow::Borrowed(value)))));
    Ok(Json::Object(members))
}
