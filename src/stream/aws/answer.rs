//! What AWS says of a call and of each record, and what that means for the job (router.md 17).
//!
//! A fault of the caller gives the record up, one of the server is tried again. Being throttled, and credentials that
//! ran out on the way, are nobody's fault: those are tried again too.

use serde_json::Value;

use super::super::caller::Reply;
use super::super::fault::Fault;

/// Code of a record that came too fast.
const TOO_FAST: i32 = 429;

/// The body of a successful answer.
///
/// # Errors
/// What the service says is wrong.
pub(super) fn of_call(reply: &Reply) -> Result<Value, Fault> {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if (200..300).contains(&reply.status) {
        return Ok(body);
    }
    let kind = kind_of(reply, &body);
    let said = ["message", "Message"].iter().find_map(|key| body.get(key)).and_then(Value::as_str).unwrap_or_default();
    let text = format!("{kind}: {said}");
    Err(if reply.status == 429 {
        Fault::Answered { code: TOO_FAST, text }
    } else {
        of_kind(&kind, text, reply.status < 500)
    })
}

/// Whether the answer says that the credentials ran out.
pub(super) fn says_expired(reply: &Reply) -> bool {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    kind_of(reply, &body).contains("Expired")
}

/// Outcomes in the order of the records, each with an error code or without.
pub(super) fn of_entries(body: &Value, list: &str) -> Vec<Result<(), Fault>> {
    let entries = body.get(list).and_then(Value::as_array).into_iter().flatten();
    entries.map(|entry| of_entry(entry, "ErrorCode", "ErrorMessage")).collect()
}

/// Outcomes of records that were sent with their place as id.
pub(super) fn of_numbered(body: &Value, count: usize) -> Vec<Result<(), Fault>> {
    let list = |key: &str| body.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let outcome = |n: usize| {
        let id = n.to_string();
        let is_it = |entry: &&Value| entry.get("Id").and_then(Value::as_str) == Some(id.as_str());
        if list("Successful").iter().any(|entry| is_it(&entry)) {
            return Ok(());
        }
        match list("Failed").iter().find(is_it) {
            Some(failed) => match of_entry(failed, "Code", "Message") {
                Err(Fault::Answered { text, .. }) if failed.get("SenderFault") == Some(&Value::Bool(false)) => {
                    Err(Fault::Server(text))
                }
                other => other,
            },
            None => Err(Fault::Server("the answer does not speak of this record".to_owned())),
        }
    };
    (0..count).map(outcome).collect()
}

fn of_entry(entry: &Value, code: &str, message: &str) -> Result<(), Fault> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    if text(code).is_empty() {
        return Ok(());
    }
    Err(of_kind(text(code), format!("{}: {}", text(code), text(message)), true))
}

/// `is_callers` says whose fault it is where the kind does not.
fn of_kind(kind: &str, text: String, is_callers: bool) -> Fault {
    let is = |words: &[&str]| words.iter().any(|word| kind.contains(word));
    if is(&["ProvisionedThroughputExceeded", "Throttl", "TooManyRequests"]) {
        Fault::Answered { code: TOO_FAST, text }
    } else if !is_callers || is(&["RequestExpired", "ExpiredToken", "InternalFailure", "InternalError", "Unavailable"])
    {
        Fault::Server(text)
    } else {
        Fault::Answered { code: 400, text }
    }
}

/// The name of an error, without its namespace.
fn kind_of(reply: &Reply, body: &Value) -> String {
    let header = reply.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
    let in_body = || ["__type", "code", "Code"].iter().find_map(|key| body.get(key)).and_then(Value::as_str);
    let kind = header.or_else(in_body).unwrap_or("the service refused the call");
    kind.rsplit('#').next().unwrap_or(kind).split(':').next().unwrap_or(kind).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderMap;
    use serde_json::json;

    #[test]
    fn a_callers_fault_is_final_and_a_servers_is_not() {
        let reply = |status, kind: &str| Reply {
            status,
            headers: HeaderMap::new(),
            body: json!({ "__type": format!("a.b#{kind}"), "message": "m" }).to_string().into_bytes(),
        };
        for (status, kind, code) in [
            (400, "ResourceNotFoundException", 400),
            (400, "ProvisionedThroughputExceededException", 429),
            (400, "ThrottlingException", 429),
            (429, "Whatever", 429),
            (400, "ExpiredTokenException", 500),
            (400, "RequestExpired", 500),
            (500, "InternalFailure", 500),
            (503, "Whatever", 500),
            (403, "AccessDeniedException", 400),
        ] {
            let fault = of_call(&reply(status, kind)).unwrap_err();
            assert_eq!((fault.code(), fault.to_string()), (code, format!("{kind}: m")));
        }
    }

    #[test]
    fn each_record_has_an_outcome_of_its_own() {
        let codes = |outcomes: Vec<Result<(), Fault>>| {
            outcomes.into_iter().map(|outcome| outcome.map_or_else(|fault| fault.code(), |()| 200)).collect::<Vec<_>>()
        };
        let body = json!({ "Records": [{ "ShardId": "s" }, { "ErrorCode": "InternalFailure" }, { "ErrorCode": "Bad" },
            { "ErrorCode": "ProvisionedThroughputExceededException" }] });
        assert_eq!(codes(of_entries(&body, "Records")), [200, 500, 400, 429]);
        let body = json!({ "Successful": [{ "Id": "1" }], "Failed": [
            { "Id": "0", "Code": "Bad", "SenderFault": true }, { "Id": "2", "Code": "Bad", "SenderFault": false }] });
        assert_eq!(codes(of_numbered(&body, 4)), [400, 200, 500, 500]);
    }
}
