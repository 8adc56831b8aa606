//! The security token service: the form that asks for a role, and its answers (router.md 17, 20).

use jiff::Timestamp;

use super::signing::Keys;

/// Content type of the form.
pub const FORM: &str = "application/x-www-form-urlencoded";

/// The form that asks for a role.
pub fn form(role: &str, session: &str, external_id: Option<&str>) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", "AssumeRole").append_pair("Version", "2011-06-15");
    form.append_pair("RoleArn", role).append_pair("RoleSessionName", session);
    if let Some(external_id) = external_id {
        form.append_pair("ExternalId", external_id);
    }
    form.finish()
}

/// The keys in an answer, and when they end, milliseconds since the epoch.
pub fn keys(answer: &str) -> Option<(Keys, i64)> {
    let ends: Timestamp = element(answer, "Expiration")?.parse().ok()?;
    let keys = Keys {
        id: element(answer, "AccessKeyId")?.to_owned(),
        secret: element(answer, "SecretAccessKey")?.to_owned(),
        token: Some(element(answer, "SessionToken")?.to_owned()),
    };
    Some((keys, ends.as_millisecond()))
}

/// Why the role was refused: the code and the message of an answer.
pub fn refusal(answer: &str) -> String {
    let text = |name| element(answer, name).unwrap_or_default();
    format!("{} {}", text("Code"), text("Message"))
}

/// The text of the first element of this name; these answers nest nothing of the same name.
fn element<'t>(xml: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_their_end_are_read_from_the_answer() {
        let answer = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId>\
             <SecretAccessKey>s/+</SecretAccessKey><SessionToken>t==</SessionToken>\
             <Expiration>2026-01-01T00:00:01Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
        let (assumed, ends_ms) = keys(answer).unwrap();
        assert_eq!((assumed.id.as_str(), assumed.secret.as_str(), assumed.token.as_deref()), ("A", "s/+", Some("t==")));
        assert_eq!(ends_ms, 1_767_225_601_000);
        assert!(keys("<Error><Code>AccessDenied</Code></Error>").is_none());
    }
}
