//! Rules of identity resolution: two identifiers that are of one user (warehouse.md 5).

use super::columns::{Columns, MergedIds, Row};
use super::event_type::EventType;
use super::names::Naming;
use super::prepared::Prepared;
use super::refused::Refused;
use super::types::ColumnType;
use super::value::Json;

/// An identifier: its kind and its value. Both may be blank.
struct Identifier<'e> {
    kind: String,
    value: Option<Json<'e>>,
}

impl Identifier<'_> {
    fn is_blank(&self) -> bool {
        self.value.as_ref().is_none_or(Json::is_blank)
    }

    fn value_text(&self) -> String {
        self.value.as_ref().map(|value| value.to_text().into_owned()).unwrap_or_default()
    }

    /// The value where there is one, be it blank.
    fn present_text(&self) -> Option<String> {
        self.value.as_ref().filter(|value| **value != Json::Null).map(|value| value.to_text().into_owned())
    }
}

/// The rule that follows from an event, if any.
pub(super) fn merge_rule<'e>(event: &Prepared<'e>, naming: Naming) -> Result<Option<Row<'e>>, Refused> {
    let (one, two) = identifiers(event)?;
    if one.is_blank() {
        return Ok(None);
    }
    let mut columns = Columns::default();
    let mut put = |name: &str, text: String| {
        columns.put(naming.safe(name.to_owned()).into(), ColumnType::String, Json::Text(text.into()));
    };
    put("merge_property_1_type", one.kind.clone());
    put("merge_property_1_value", one.value_text());
    let mut merged_ids = MergedIds { one: one.value_text(), two: None };
    if let Some(two) = two {
        if !two.is_blank() {
            put("merge_property_2_type", two.kind.clone());
            put("merge_property_2_value", two.value_text());
        }
        merged_ids.two = two.present_text();
    }
    Ok(Some(Row {
        table: naming.safe("rudder_identity_merge_rules".to_owned()),
        columns,
        received_at: event.received_at.clone(),
        merged_ids: Some(merged_ids),
    }))
}

fn identifiers<'e>(event: &Prepared<'e>) -> Result<(Identifier<'e>, Option<Identifier<'e>>), Refused> {
    let of = |kind: &str, key: &str| Ok(Identifier { kind: kind.to_owned(), value: event.member(key)? });
    Ok(match event.event_type {
        EventType::Merge => {
            let (one, two) = named_identifiers(event.member("mergeProperties")?)?;
            (one, Some(two))
        }
        EventType::Alias => (of("user_id", "userId")?, Some(of("user_id", "previousId")?)),
        _ => {
            let anonymous = of("anonymous_id", "anonymousId")?;
            let user = of("user_id", "userId")?;
            if anonymous.is_blank() { (user, None) } else { (anonymous, Some(user)) }
        }
    })
}

/// The identifiers that a merge event names itself.
fn named_identifiers(properties: Option<Json<'_>>) -> Result<(Identifier<'_>, Identifier<'_>), Refused> {
    let identifiers = match properties {
        None | Some(Json::Null) => return Err(Refused::NoTwoIdentifiers),
        Some(Json::Array(identifiers)) => identifiers,
        Some(_) => return Err(Refused::BlankIdentifier),
    };
    let [one, two] = <[Json<'_>; 2]>::try_from(identifiers).map_err(|_| Refused::NoTwoIdentifiers)?;
    Ok((named(&one)?, named(&two)?))
}

fn named<'e>(identifier: &Json<'e>) -> Result<Identifier<'e>, Refused> {
    let member = |key: &str| identifier.get(key).filter(|value| !value.is_blank()).ok_or(Refused::BlankIdentifier);
    Ok(Identifier { kind: member("type")?.to_text().into_owned(), value: Some(member("value")?.clone()) })
}
