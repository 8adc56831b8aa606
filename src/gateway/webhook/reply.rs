//! The answer of the external transformer to one batch (gateway.md 10.4): one element for each request, in order.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Failure, Refusal, ToSource, Transformed};

/// Longest text of a transformer that is passed on.
const LONGEST_TEXT: usize = 10 * 1024;

/// What becomes of one request.
pub(super) type Verdict = Result<Transformed, Failure>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Element<'a> {
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(rename = "outputToSource")]
    output_to_source: Option<Value>,
    #[serde(rename = "statusCode")]
    status_code: Value,
    error: Value,
}

/// Reads an answer to this many requests.
///
/// # Errors
/// It is no list of so many elements.
pub(super) fn read(answer: &Bytes, requests: usize) -> Result<Vec<Verdict>, Failure> {
    let elements: Vec<&RawValue> = serde_json::from_slice(answer).map_err(|_| Refusal::TransformerFormat)?;
    if elements.len() != requests {
        return Err(Refusal::TransformerFormat.into());
    }
    Ok(elements.into_iter().map(|element| verdict(answer, element.get())).collect())
}

fn verdict(answer: &Bytes, element: &str) -> Verdict {
    // A list would pass for the members in their order.
    if !element.starts_with('{') {
        return Err(Refusal::TransformerFormat.into());
    }
    let element: Element<'_> = serde_json::from_str(element).map_err(|_| Refusal::TransformerFormat)?;
    match &element.error {
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => return Err(told(&element.status_code, text)),
        _ => return Err(Refusal::TransformerError.into()),
    }
    let output = match element.output {
        None => None,
        Some(output) if !output.get().starts_with('{') => return Err(Refusal::OutputFormat.into()),
        Some(output) => Some(answer.slice_ref(output.get().as_bytes())),
    };
    let to_source = element.output_to_source.as_ref().map(to_source).transpose()?;
    if output.is_none() && to_source.is_none() {
        return Err(Refusal::NoOutput.into());
    }
    Ok(Transformed { output, to_source })
}

/// The text that the transformer refuses a request with.
fn told(status: &Value, text: &str) -> Failure {
    let status = match status {
        Value::Null => StatusCode::BAD_REQUEST,
        status if status.as_u64() == Some(0) => StatusCode::BAD_REQUEST,
        status => {
            let code =
                status.as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (200..=599).contains(code));
            match code.and_then(|code| StatusCode::from_u16(code).ok()) {
                // An answer without a body cannot carry the text.
                Some(code) if !matches!(code.as_u16(), 204 | 205 | 304) => code,
                _ => return Refusal::SourceTransformer.into(),
            }
        }
    };
    let end = (0..=LONGEST_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    Failure::told(status, text.get(..end).unwrap_or_default())
}

fn to_source(value: &Value) -> Result<ToSource, Failure> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let body = STANDARD.decode(text("body").unwrap_or_default()).map_err(|_| Refusal::OutputJson)?;
    Ok(ToSource { body: Bytes::from(body), content_type: text("contentType").unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_element_has_its_answer() {
        let event = r#"{"batch":[{"userId":"u","n":12345678901234567890123}]}"#;
        let hello = ToSource { body: Bytes::from_static(b"hello"), content_type: "text/x".to_owned() };
        let told = |status: u16, text: &str| Err(Failure::told(StatusCode::from_u16(status).unwrap(), text));
        let refused = |refusal: Refusal| Err(Failure::Refused(refusal));
        for (element, expected) in [
            (format!(r#"{{"output":{event}}}"#), Ok(Transformed { output: Some(Bytes::from(event)), to_source: None })),
            (
                r#"{"outputToSource":{"body":"aGVsbG8=","contentType":"text/x"}}"#.to_owned(),
                Ok(Transformed { output: None, to_source: Some(hello.clone()) }),
            ),
            (
                format!(r#"{{"output":{event},"outputToSource":{{"body":"aGVsbG8=","contentType":"text/x"}}}}"#),
                Ok(Transformed { output: Some(Bytes::from(event)), to_source: Some(hello) }),
            ),
            (r#"{"statusCode":422,"error":"no"}"#.to_owned(), told(422, "no")),
            (r#"{"statusCode":0,"error":"no"}"#.to_owned(), told(400, "no")),
            (r#"{"error":"no","output":{}}"#.to_owned(), told(400, "no")),
            (r#"{"statusCode":99,"error":"no"}"#.to_owned(), refused(Refusal::SourceTransformer)),
            (r#"{"statusCode":204,"error":"no"}"#.to_owned(), refused(Refusal::SourceTransformer)),
            (r#"{"statusCode":200}"#.to_owned(), refused(Refusal::NoOutput)),
            (r#"{"output":null,"error":""}"#.to_owned(), refused(Refusal::NoOutput)),
            (r#"{"output":[1]}"#.to_owned(), refused(Refusal::OutputFormat)),
            (r#"{"error":{"a":1}}"#.to_owned(), refused(Refusal::TransformerError)),
            (r#"{"outputToSource":{"body":"***"}}"#.to_owned(), refused(Refusal::OutputJson)),
            ("7".to_owned(), refused(Refusal::TransformerFormat)),
            ("[]".to_owned(), refused(Refusal::TransformerFormat)),
        ] {
            let answer = Bytes::from(format!("[{element}]"));
            assert_eq!(read(&answer, 1), Ok(vec![expected]), "{element}");
        }
        let long = format!(r#"[{{"error":"{}"}}]"#, "ä".repeat(20_000));
        let verdicts = read(&Bytes::from(long), 1).unwrap();
        assert!(matches!(&verdicts[0], Err(Failure::Told { text, .. }) if text.len() <= LONGEST_TEXT));
    }

    #[test]
    fn an_answer_of_another_length_or_form_is_refused() {
        for answer in ["", "{}", "[{}", "[{}]", "[{},{},{}]", "null"] {
            let refused = read(&Bytes::copy_from_slice(answer.as_bytes()), 2);
            assert_eq!(refused, Err(Failure::Refused(Refusal::TransformerFormat)), "{answer}");
        }
    }
}
