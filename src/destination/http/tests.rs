use std::sync::Arc;

use super::*;
use crate::backend_config::DestinationDefinition;
use crate::destination::{Plan, Routed};

fn plan(config: &Value) -> Plan {
    Plan::new(&Arc::new(Destination {
        config: config.as_object().cloned().unwrap(),
        has_dynamic_config: config.to_string().contains("{{"),
        definition: DestinationDefinition { name: "HTTP".to_owned(), ..DestinationDefinition::default() },
        ..Destination::default()
    }))
}

fn request(config: &Value, event: &Value) -> Result<Value, String> {
    let text = event.to_string();
    let outputs = plan(config).transform(&Message::parse(&text).unwrap(), &|| Value::Null);
    let outputs = outputs.map_err(|refusal| format!("{} {}", refusal.status(), refusal.message))?;
    Ok(serde_json::from_slice(&outputs[0].payload).unwrap())
}

fn route(config: &Value, events: &[Value]) -> Vec<Routed> {
    let texts: Vec<String> = events.iter().map(Value::to_string).collect();
    let metadata = || Value::Null;
    let events: Vec<(Message<'_>, &dyn Fn() -> Value)> =
        texts.iter().map(|text| (Message::parse(text).unwrap(), &metadata as &dyn Fn() -> Value)).collect();
    plan(config).route(&events)
}

#[test]
fn an_event_becomes_the_request_that_the_mappings_describe() {
    let config = json!({
        "apiUrl": "https://api.example//v1/", "method": "PUT", "auth": "apiKeyAuth", "apiKeyName": "X-Key", "apiKeyValue": "k",
        "headers": [{ "to": "$.X-Kind", "from": "'n'" }, { "to": "$.gone", "from": "$.nowhere" }],
        "queryParams": [{ "to": "page no", "from": "$.properties.page" }],
        "pathParams": [{ "path": "users" }, { "path": "$.userId" }, { "path": "" }],
        "propertiesMapping": [{ "to": "$.b.c", "from": "$.properties.x" }, { "to": "$.b.d", "from": "$.properties.none" }],
    });
    let event = json!({ "userId": "a/b ü", "properties": { "page": 3, "x": [1, null], "none": null } });
    assert_eq!(
        request(&config, &event),
        Ok(json!({
            "version": "1", "type": "REST", "method": "PUT", "endpoint": "https://api.example/v1/users/a%2Fb%20%C3%BC",
            "headers": { "X-Key": "k", "X-Kind": "n", "Content-Type": "application/json" }, "params": { "page no": 3 },
            "body": { "JSON": { "b": { "c": [1, null] } }, "JSON_ARRAY": {}, "XML": {}, "FORM": {} },
            "files": {}, "userId": "",
        }))
    );
}

#[test]
fn each_form_of_body_is_written_its_way() {
    let body = |format: &str, event: Value| {
        let config =
            json!({ "apiUrl": "https://a.example", "format": format, "isDefaultMapping": true, "xmlRootKey": "ev" });
        let request = request(&config, &event).unwrap();
        (request["headers"]["Content-Type"].clone(), request["body"].clone())
    };
    let event = json!({ "a": "x", "n": null, "o": { "k": 1, "z": null } });
    let (kind, form) = body("FORM", event.clone());
    assert_eq!(kind, "application/x-www-form-urlencoded");
    assert_eq!(form["FORM"], json!({ "a": "x", "o": "{\"k\":1}" }));
    let (kind, xml) = body("XML", event.clone());
    assert_eq!(kind, "application/xml");
    assert_eq!(xml["XML"]["payload"], "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ev><a>x</a><o><k>1</k></o></ev>");
    assert_eq!(body("JSON", event).1["JSON"], json!({ "a": "x", "o": { "k": 1 } }));
    assert_eq!(body("XML", json!({ "n": null })).1, json!({ "JSON": {}, "JSON_ARRAY": {}, "XML": {}, "FORM": {} }));
}

#[test]
fn a_mapping_of_the_whole_may_be_a_list_and_nothing_less() {
    let config =
        |from: &str| json!({ "apiUrl": "https://a.example", "propertiesMapping": [{ "from": from, "to": "$" }] });
    let event = json!({ "items": [{ "a": null }, 2], "text": "t" });
    assert_eq!(request(&config("$.items"), &event).unwrap()["body"]["JSON_ARRAY"], json!({ "batch": "[{},2]" }));
    assert!(request(&config("$.text"), &event).unwrap_err().starts_with("400 Error in custom mappings: "));
}

#[test]
fn the_content_type_of_the_format_comes_behind_that_of_a_mapping() {
    let config = json!({
        "apiUrl": "https://a.example",
        "headers": [{ "to": "$.Content-Type", "from": "'a'" }, { "to": "$.'content-type'", "from": "'b'" }],
    });
    let headers = request(&config, &json!({})).unwrap()["headers"].to_string();
    assert_eq!(headers, r#"{"content-type":"b","Content-Type":"application/json"}"#);
}

#[test]
fn what_cannot_work_is_refused_with_the_known_text() {
    let url = "https://a.example";
    for (config, text) in [
        (json!({}), "400 API URL is required. Aborting"),
        (
            json!({ "apiUrl": url, "auth": "basicAuth", "password": "p" }),
            "400 Username is required for Basic Authentication. Aborting",
        ),
        (
            json!({ "apiUrl": url, "auth": "bearerTokenAuth" }),
            "400 Token is required for Bearer Token Authentication. Aborting",
        ),
        (
            json!({ "apiUrl": url, "auth": "apiKeyAuth" }),
            "400 API Key Name is required for API Key Authentication. Aborting",
        ),
        (
            json!({ "apiUrl": url, "auth": "apiKeyAuth", "apiKeyName": "k" }),
            "400 API Key Value is required for API Key Authentication. Aborting",
        ),
        (json!({ "apiUrl": url, "pathParams": [{ "path": "a/b" }] }), "400 Path value cannot contain \"/\""),
        (json!({ "apiUrl": url, "pathParams": [{ "path": "$.nope" }] }), "400 Path not found in the object."),
        (
            json!({ "apiUrl": url, "headers": [{ "from": "$.n", "to": "h" }] }),
            "400 Header \"h\" has a non-string value of type \"number\"",
        ),
        (
            json!({ "apiUrl": url, "headers": [{ "from": "$.o", "to": "h" }] }),
            "400 Header \"h\" has a non-string value of type \"object\"",
        ),
    ] {
        assert_eq!(request(&config, &json!({ "n": 1, "o": {} })), Err(text.to_owned()), "{config}");
    }
    let unreadable = json!({ "apiUrl": url, "queryParams": [{ "from": "$..a", "to": "q" }] });
    assert!(request(&unreadable, &json!({})).unwrap_err().starts_with("400 Error in custom mappings: "));
}

#[test]
fn events_with_one_request_in_common_share_it_up_to_the_size() {
    let config = json!({
        "apiUrl": "https://a.example", "isBatchingEnabled": true, "maxBatchSize": "2",
        "headers": [{ "from": "$.h", "to": "h" }], "propertiesMapping": [{ "from": "$.id", "to": "id" }],
    });
    let events = [
        json!({ "id": 0 }),
        json!({ "id": 1, "h": "x" }),
        json!({ "id": 2, "h": 5 }),
        json!({ "id": 3 }),
        json!({ "id": 4 }),
        json!({}),
        json!({ "id": 6, "context": { "sources": { "job_id": "run" } } }),
        json!({ "statusCode": 200, "type": "REST" }),
    ];
    let found: Vec<(Vec<usize>, bool, String)> = route(&config, &events)
        .into_iter()
        .map(|routed| {
            let text = match routed.payload {
                Ok(payload) => {
                    let payload: Value = serde_json::from_slice(&payload).unwrap();
                    payload["body"]["JSON_ARRAY"]["batch"].as_str().unwrap_or("as it is").to_owned()
                }
                Err(refusal) => refusal.message,
            };
            (routed.places, routed.is_batch, text)
        })
        .collect();
    let expected = [
        (vec![0, 3], true, "[{\"id\":0},{\"id\":3}]"),
        (vec![4, 5], true, "[{\"id\":4}]"),
        (vec![1], true, "[{\"id\":1}]"),
        (vec![6], true, "[{\"id\":6}]"),
        (vec![7], false, "as it is"),
        (vec![2], false, "Header \"h\" has a non-string value of type \"number\""),
    ];
    assert_eq!(found, expected.map(|(places, is_batch, text)| (places, is_batch, text.to_owned())));
}

#[test]
fn without_batching_every_event_has_its_own_request() {
    for config in [
        json!({ "apiUrl": "https://a.example", "isDefaultMapping": true }),
        json!({ "apiUrl": "https://a.example", "isDefaultMapping": true, "isBatchingEnabled": true, "format": "FORM" }),
    ] {
        assert!(!plan(&config).joins_events());
        let routed = route(&config, &[json!({ "a": 1 }), json!({ "a": 2 })]);
        assert_eq!(
            routed.iter().map(|one| (one.places.clone(), one.is_batch)).collect::<Vec<_>>(),
            [(vec![0], false), (vec![1], false)]
        );
    }
}

#[test]
fn templates_give_events_configurations_of_their_own() {
    let config = json!({
        "apiUrl": "{{ event.properties.url || https://b.example }}", "isBatchingEnabled": true, "isDefaultMapping": true,
    });
    assert!(plan(&config).joins_events());
    let routed = route(
        &config,
        &[json!({ "properties": { "url": "https://a.example" } }), json!({ "k": 1 }), json!({ "k": 2 })],
    );
    assert_eq!(routed.iter().map(|one| one.places.clone()).collect::<Vec<_>>(), [vec![0], vec![1, 2]]);
}
