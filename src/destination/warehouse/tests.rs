//! Whole events: what rows they have, for each rule of composition one event.

use serde_json::{Value, json};

use super::*;

const SETTINGS: RowSettings =
    RowSettings { resolves_identities: false, puts_source_in_context: false, most_columns: 1_600 };

/// The rows of an event as `(table, data, columns)`.
fn rows_with(
    settings: RowSettings,
    destination_type: &str,
    category: &str,
    config: Value,
    event: &Value,
) -> Result<Vec<Value>, Refused> {
    let envelope = Envelope {
        source_id: "s1",
        source_type: "Javascript",
        source_category: category,
        destination_id: "d1",
        destination_type,
        received_at: "2030-01-01T00:00:09.000Z",
        now: &|| "2030-01-01T00:00:10.000Z".to_owned(),
        new_id: &|| "fresh".to_owned(),
    };
    let plan = WarehousePlan::new(destination_type, config.as_object().unwrap()).unwrap();
    let stored = event.to_string();
    let message = Message::parse(&stored).unwrap();
    let rows = plan.rows(&message, &envelope, &settings)?;
    Ok(rows.iter().map(|row| serde_json::from_slice(&row.to_json()).unwrap()).collect())
}

fn rows(destination_type: &str, config: Value, event: &Value) -> Vec<Value> {
    rows_with(SETTINGS, destination_type, "", config, event).unwrap()
}

fn tables(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["metadata"]["table"].as_str().unwrap()).collect()
}

fn data(row: &Value) -> &Value {
    &row["data"]
}

fn columns(row: &Value) -> &Value {
    &row["metadata"]["columns"]
}

#[test]
fn a_track_event_has_a_row_in_tracks_and_one_in_its_own_table() {
    let event = json!({
        "type": "Track", "event": "Cart Viewed", "messageId": "m1", "userId": "u1", "channel": "web",
        "sentAt": "2030-01-01T00:00:08.000Z", "request_ip": "192.0.2.1", "context": { "ip": "192.0.2.2", "os": "x" },
        "properties": { "items": 3, "id": "own", "event": "own", "context_os": "own", "opened": "2030-01-01" },
        "userProperties": { "items": 4, "plan": "free" },
    });
    let rows = rows("POSTGRES", json!({}), &event);
    assert_eq!(tables(&rows), ["tracks", "cart_viewed"]);
    let common = json!({
        "id": "m1", "user_id": "u1", "channel": "web", "sent_at": "2030-01-01T00:00:08.000Z", "context_os": "x",
        "received_at": "2030-01-01T00:00:09.000Z", "context_ip": "192.0.2.2", "context_passed_ip": "192.0.2.2",
        "context_request_ip": "192.0.2.1", "event": "cart_viewed", "event_text": "Cart Viewed",
    });
    assert_eq!(data(&rows[0]), &common);
    let mut own = common.clone();
    own["items"] = json!(4);
    own["plan"] = json!("free");
    own["opened"] = json!("2030-01-01T00:00:00.000Z");
    assert_eq!(data(&rows[1]), &own);
    assert_eq!(columns(&rows[1])["opened"], "datetime");
    assert_eq!(columns(&rows[1])["items"], "int");
    assert_eq!(columns(&rows[0])["uuid_ts"], "datetime");
    assert_eq!(rows[0]["metadata"]["receivedAt"], "2030-01-01T00:00:09.000Z");
    assert_eq!(rows[0]["userId"], "");
}

#[test]
fn tables_that_nobody_wants_are_left_out() {
    let track = json!({ "type": "track", "event": "e" });
    let identify = json!({ "type": "identify", "userId": "u" });
    let with_options = |event: &Value, destination_type: &str, option: &str| {
        let mut event = event.clone();
        event["integrations"] = json!({ destination_type: { "options": { option: true } } });
        event
    };
    assert_eq!(tables(&rows("MSSQL", json!({ "skipTracksTable": true }), &track)), ["e"]);
    assert_eq!(tables(&rows("MSSQL", json!({}), &with_options(&track, "MSSQL", "skipTracksTable"))), ["e"]);
    assert_eq!(tables(&rows("MSSQL", json!({}), &with_options(&track, "RS", "skipTracksTable"))), ["tracks", "e"]);
    assert_eq!(tables(&rows("MSSQL", json!({ "skipUsersTable": true }), &identify)), ["identifies"]);
    assert_eq!(tables(&rows("MSSQL", json!({}), &with_options(&identify, "MSSQL", "skipUsersTable"))), ["identifies"]);
    assert_eq!(tables(&rows("SNOWPIPE_STREAMING", json!({}), &identify)), ["IDENTIFIES"]);
    for user_id in [json!(null), json!(""), json!("  ")] {
        let nobody = json!({ "type": "identify", "userId": user_id });
        assert_eq!(tables(&rows("MSSQL", json!({}), &nobody)), ["identifies"]);
    }
    // An event without a name has no table of its own.
    for name in [json!(null), json!("  "), json!("\u{e9}"), json!({ "a": 1 }), json!(7)] {
        let nameless = json!({ "type": "track", "event": name });
        assert_eq!(tables(&rows("MSSQL", json!({}), &nameless)), ["tracks"], "{name}");
    }
}

#[test]
fn an_identify_event_has_a_row_in_identifies_and_one_in_users() {
    let event = json!({
        "type": "identify", "messageId": "m1", "userId": 7, "anonymousId": "a1", "channel": "web",
        "timestamp": "2030-01-01", "traits": { "plan": "free", "userId": "own" },
        "userProperties": { "plan": "older", "age": 30 }, "context": { "traits": { "plan": "oldest", "town": "x" } },
    });
    let both = rows("POSTGRES", json!({ "allowUsersContextTraits": true }), &event);
    assert_eq!(tables(&both), ["identifies", "users"]);
    let traits = json!({ "plan": "free", "age": 30, "town": "x", "context_traits_plan": "oldest",
        "context_traits_town": "x", "timestamp": "2030-01-01T00:00:00.000Z",
        "received_at": "2030-01-01T00:00:09.000Z" });
    let mut identifies = traits.clone();
    identifies["id"] = json!("m1");
    identifies["user_id"] = json!(7);
    identifies["anonymous_id"] = json!("a1");
    identifies["channel"] = json!("web");
    assert_eq!(data(&both[0]), &identifies);
    let mut users = traits.clone();
    users["id"] = json!(7);
    assert_eq!(data(&both[1]), &users);
    assert_eq!(columns(&both[1])["id"], "int");
    // Without the setting traits of the context stay in the context; data lakes keep no times of users.
    let lake = rows("GCS_DATALAKE", json!({}), &event);
    assert_eq!(data(&lake[0]).get("town"), None);
    assert_eq!(data(&lake[1]).get("_timestamp").or(data(&lake[1]).get("timestamp")), None);
}

#[test]
fn pages_screens_groups_and_aliases_have_one_row() {
    let cases = [
        (
            json!({ "type": "page", "properties": { "name": "home", "url": "/" } }),
            "pages",
            json!({ "name": "home", "url": "/" }),
        ),
        (
            json!({ "type": "screen", "name": "first", "properties": { "name": "home" } }),
            "screens",
            json!({ "name": "first" }),
        ),
        (
            json!({ "type": "group", "groupId": "g", "traits": { "size": 2 } }),
            "_groups",
            json!({ "group_id": "g", "size": 2 }),
        ),
        (
            json!({ "type": "alias", "previousId": "p", "traits": { "x": 1 } }),
            "aliases",
            json!({ "previous_id": "p", "x": 1 }),
        ),
    ];
    for (mut event, table, mut expected) in cases {
        event["messageId"] = json!("m");
        expected["id"] = json!("m");
        expected["received_at"] = json!("2030-01-01T00:00:09.000Z");
        // `groups` is reserved in this one.
        let rows = rows("GCS_DATALAKE", json!({}), &event);
        assert_eq!(tables(&rows), [table]);
        assert_eq!(data(&rows[0]), &expected);
    }
}

#[test]
fn records_have_ids_of_their_own() {
    let track = |record_id: Value, version: Value| {
        json!({ "type": "track", "event": "e", "messageId": "m", "recordId": record_id,
            "context": { "sources": { "version": version } } })
    };
    let of = |category: &str, event: &Value| rows_with(SETTINGS, "RS", category, json!({}), event);
    let ids = |rows: &[Value]| {
        (data(&rows[0])["record_id"].clone(), data(&rows[0])["id"].clone(), data(&rows[1])["id"].clone())
    };
    let versioned = track(json!(5), json!("v1"));
    for category in ["cloud", "singer-protocol"] {
        assert_eq!(ids(&of(category, &versioned).unwrap()), (json!("5"), json!("m"), json!(5)));
        let without_version = track(json!(5), json!(""));
        assert_eq!(ids(&of(category, &without_version).unwrap()), (json!(null), json!("m"), json!("m")));
        for nothing in [json!(null), json!(""), json!({}), json!([1])] {
            assert_eq!(of(category, &track(nothing, json!("v1"))), Err(Refused::NoRecordId));
        }
    }
    assert_eq!(ids(&of("webhook", &versioned).unwrap()), (json!(null), json!("m"), json!("m")));

    let extract = json!({ "type": "extract", "event": "Contacts", "recordId": "r", "userId": "u",
        "properties": { "name": "x", "event": "own", "user id": "own" } });
    let rows = of("cloud", &extract).unwrap();
    assert_eq!(tables(&rows), ["contacts"]);
    let expected = json!({ "id": "r", "event": "Contacts", "received_at": "2030-01-01T00:00:09.000Z", "name": "x",
        "user_id": "own" });
    assert_eq!(data(&rows[0]), &expected);
    assert_eq!(of("cloud", &json!({ "type": "extract", "event": "e" })), Err(Refused::NoRecordId));
    assert_eq!(of("cloud", &json!({ "type": "extract", "event": " ", "recordId": 1 })), Err(Refused::NoEventName));
    assert_eq!(of("cloud", &json!({ "type": "extract", "event": "\u{e9}", "recordId": 1 })), Err(Refused::NoTableName));
}

#[test]
fn what_an_event_lacks_is_made_up() {
    let bare = &rows("RS", json!({}), &json!({ "type": "page", "messageId": "", "receivedAt": "yesterday" }))[0];
    assert_eq!(data(bare)["id"], "auto-fresh");
    assert_eq!(data(bare)["received_at"], "2030-01-01T00:00:09.000Z");
    let own = &rows("RS", json!({}), &json!({ "type": "page", "receivedAt": "2030-01-01T01:00:00+01:00" }))[0];
    assert_eq!(own["metadata"]["receivedAt"], "2030-01-01T01:00:00+01:00");
    assert_eq!(data(own)["received_at"], "2030-01-01T00:00:00.000Z");
}

#[test]
fn the_source_gets_columns_when_the_settings_say_so() {
    let settings = RowSettings { puts_source_in_context: true, ..SETTINGS };
    let with_source = |event: Value| rows_with(settings, "BQ", "", json!({ "storeFullEvent": true }), &event);
    for context in [json!(null), json!({ "sourceId": "own", "sourceType": 1 })] {
        let row = &with_source(json!({ "type": "page", "context": context })).unwrap()[0];
        assert_eq!(data(row)["context_source_id"], "s1");
        assert_eq!(data(row)["context_source_type"], "Javascript");
        assert_eq!(data(row)["context_destination_id"], "d1");
        assert_eq!(data(row)["context_destination_type"], "BQ");
        let full: Value = serde_json::from_str(data(row)["rudder_event"].as_str().unwrap()).unwrap();
        assert_eq!(full["context"]["sourceId"], "s1");
        assert_eq!(columns(row)["rudder_event"], "string");
        assert_eq!(columns(row)["loaded_at"], "datetime");
    }
    let refused = with_source(json!({ "type": "page", "context": "text" })).unwrap_err();
    assert_eq!((refused.status(), refused.to_string().as_str()), (500, "context is not a map"));
    assert_eq!(rows("BQ", json!({}), &json!({ "type": "page", "context": "text", "name": "n" })).len(), 1);
}

#[test]
fn snowflake_is_in_upper_case_throughout() {
    let event = json!({ "type": "track", "event": "users", "properties": { "uuidTs": 1, "select": 2 } });
    let rows = rows("SNOWFLAKE", json!({ "storeFullEvent": true }), &event);
    assert_eq!(tables(&rows), ["TRACKS", "_USERS"]);
    assert_eq!(columns(&rows[0])["RUDDER_EVENT"], "json");
    assert_eq!(columns(&rows[0])["UUID_TS"], "datetime");
    // A property of that name keeps its value and its type.
    assert_eq!((&data(&rows[1])["UUID_TS"], &columns(&rows[1])["UUID_TS"]), (&json!(1), &json!("int")));
    assert_eq!(data(&rows[1])["_SELECT"], 2);
    assert!(rows.iter().all(|row| data(row).as_object().unwrap().keys().all(|key| *key == key.to_uppercase())));
}

#[test]
fn json_paths_come_from_the_event_and_the_configuration_where_the_warehouse_takes_them() {
    let event = json!({ "type": "track", "event": "e", "properties": { "a": { "x": 1 }, "b": [2], "c": 3 },
        "integrations": { "DATA_WAREHOUSE": { "options": { "jsonPaths": ["track.properties.a"] } },
            "RS": { "options": { "jsonPaths": ["b"] } } } });
    let config = || json!({ "jsonPaths": "track.properties.c" });
    let row = &rows("RS", config(), &event)[1];
    assert_eq!((&data(row)["a"], &data(row)["b"], &data(row)["c"]), (&json!("{\"x\":1}"), &json!("[2]"), &json!("3")));
    assert!(["a", "b", "c"].iter().all(|column| columns(row)[column] == "json"));
    let row = &rows("MSSQL", config(), &event)[1];
    assert_eq!((&data(row)["a_x"], &data(row)["b"], &data(row)["c"]), (&json!(1), &json!([2]), &json!(3)));
}

#[test]
fn a_row_of_too_many_columns_refuses_the_event() {
    let properties: Map<String, Value> = (0..20).map(|n| (format!("p{n}"), json!(n))).collect();
    let event = |channel: &str| json!({ "type": "page", "channel": channel, "properties": properties });
    // 20 properties, and id, received_at, channel, uuid_ts.
    for (most_columns, destination_type, channel, fits) in [
        (24, "POSTGRES", "web", true),
        (23, "POSTGRES", "web", false),
        (23, "SNOWFLAKE", "sources", true),
        (23, "S3_DATALAKE", "web", true),
        (24, "BQ", "web", false),
    ] {
        let settings = RowSettings { most_columns, ..SETTINGS };
        let found = rows_with(settings, destination_type, "", json!({}), &event(channel));
        assert_eq!(found.is_ok(), fits, "{most_columns} {destination_type} {channel}");
    }
    let settings = RowSettings { most_columns: 5, ..SETTINGS };
    let refused = rows_with(settings, "RS", "", json!({}), &event("web")).unwrap_err();
    assert_eq!(refused.to_string(), "rs transformer: Too many columns outputted from the event");
}

#[test]
fn events_of_other_types_are_refused() {
    for (kind, shown) in [(json!("record"), "record"), (json!("Foo"), "foo"), (json!(null), ""), (json!(5), "5")] {
        let refused = rows_with(SETTINGS, "RS", "", json!({}), &json!({ "type": kind })).unwrap_err();
        assert_eq!((refused.status(), refused.to_string()), (400, format!("Unknown event type: \"{shown}\"")));
    }
}

#[test]
fn merge_rules_are_written_where_identities_are_resolved() {
    let settings = RowSettings { resolves_identities: true, ..SETTINGS };
    let rule_of = |destination_type: &str, event: Value| {
        let rows = rows_with(settings, destination_type, "", json!({}), &event).unwrap();
        let rule = rows.into_iter().find(|row| row["metadata"].get("isMergeRule").is_some());
        rule.map(|rule| {
            let metadata = &rule["metadata"];
            json!([
                rule["data"].as_object().unwrap().values().cloned().collect::<Vec<Value>>(),
                metadata["mergePropOne"],
                metadata["mergePropTwo"],
            ])
        })
    };
    let cases = [
        (
            json!({ "type": "track", "event": "e", "userId": 5, "anonymousId": "a" }),
            Some(json!([["anonymous_id", "a", "user_id", "5"], "a", "5"])),
        ),
        (json!({ "type": "track", "event": "", "userId": "u", "anonymousId": "a" }), None),
        (json!({ "type": "identify", "userId": "u", "anonymousId": "" }), Some(json!([["user_id", "u"], "u", null]))),
        (json!({ "type": "page", "userId": "", "anonymousId": "a" }), Some(json!([["anonymous_id", "a"], "a", ""]))),
        (json!({ "type": "group", "anonymousId": "a" }), Some(json!([["anonymous_id", "a"], "a", null]))),
        (json!({ "type": "screen" }), None),
        (
            json!({ "type": "alias", "userId": "u", "previousId": "p", "anonymousId": "a" }),
            Some(json!([["user_id", "u", "user_id", "p"], "u", "p"])),
        ),
        (json!({ "type": "extract", "event": "e", "recordId": 1, "userId": "u" }), None),
        (
            json!({ "type": "merge", "mergeProperties": [{ "type": "mail", "value": "m" }, { "type": "n", "value": 1 }] }),
            Some(json!([["mail", "m", "n", "1"], "m", "1"])),
        ),
    ];
    for (event, expected) in cases {
        assert_eq!(rule_of("BQ", event.clone()), expected, "{event}");
        assert_eq!(rule_of("RS", event), None);
    }
    let tables_of = |event: Value| {
        let rows = rows_with(settings, "SNOWFLAKE", "", json!({}), &event).unwrap();
        tables(&rows).iter().map(|table| (*table).to_owned()).collect::<Vec<String>>()
    };
    let identify = json!({ "type": "identify", "userId": "u", "anonymousId": "a" });
    assert_eq!(tables_of(identify), ["IDENTIFIES", "RUDDER_IDENTITY_MERGE_RULES", "USERS"]);
}

#[test]
fn a_merge_event_names_two_identifiers() {
    let settings = RowSettings { resolves_identities: true, ..SETTINGS };
    let whole = || json!({ "type": "mail", "value": "m" });
    for (properties, refused) in [
        (json!(null), Refused::NoTwoIdentifiers),
        (json!([]), Refused::NoTwoIdentifiers),
        (json!([whole()]), Refused::NoTwoIdentifiers),
        (json!([whole(), whole(), whole()]), Refused::NoTwoIdentifiers),
        (json!("text"), Refused::BlankIdentifier),
        (json!([whole(), "text"]), Refused::BlankIdentifier),
        (json!([whole(), { "type": "", "value": "m" }]), Refused::BlankIdentifier),
        (json!([{ "type": "mail" }, whole()]), Refused::BlankIdentifier),
    ] {
        let event = json!({ "type": "merge", "mergeProperties": properties });
        assert_eq!(rows_with(settings, "BQ", "", json!({}), &event), Err(refused), "{event}");
        assert_eq!(rows_with(SETTINGS, "BQ", "", json!({}), &event), Ok(Vec::new()));
        assert_eq!(rows_with(settings, "RS", "", json!({}), &event), Ok(Vec::new()));
    }
}

#[test]
fn embedded_warehouses_follow_the_rules_of_their_models() {
    let event = json!({ "type": "group", "properties": {}, "traits": { "a": { "b": 1 } } });
    for (embedded, model) in [
        ("DUCKDB", "POSTGRES"),
        ("SQLITE", "POSTGRES"),
        ("LOCAL_DATALAKE", "S3_DATALAKE"),
        ("DELTA_LOCAL", "S3_DATALAKE"),
        ("ICEBERG_LOCAL", "S3_DATALAKE"),
    ] {
        assert_eq!(rows(embedded, json!({}), &event), rows(model, json!({}), &event), "{embedded}");
    }
    assert!(WarehousePlan::new("S3", &Map::new()).is_none());
}

#[test]
fn the_deepest_event_that_the_gateway_accepts_has_rows() {
    let nested = format!("{}1{}", "{\"k\":".repeat(1_190), "}".repeat(1_190));
    let stored = format!(r#"{{"type":"page","properties":{nested}}}"#);
    let message = Message::parse(&stored).unwrap();
    let envelope = Envelope {
        source_id: "",
        source_type: "",
        source_category: "",
        destination_id: "",
        destination_type: "S3_DATALAKE",
        received_at: "",
        now: &String::new,
        new_id: &String::new,
    };
    let plan = WarehousePlan::new("S3_DATALAKE", &Map::new()).unwrap();
    let rows = plan.rows(&message, &envelope, &SETTINGS).unwrap();
    assert!(rows[0].columns.iter().any(|(name, _)| name.len() == 1_190 * 2 - 1));
}
