//! Vectors of the router suite about single destination types: what events become, partitions, client errors, and
//! the record of a staging file.

use std::io;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use pintle::backend_config::{Destination, DestinationDefinition};
use pintle::destination::{Message, Plan};
use pintle::event::fnv::fnv1a_32;
use pintle::jobsdb::StagingFile;
use pintle::stream::kafka::{Target, partition_of};
use pintle::stream::redis::{merge_at, refuses_credentials};
use pintle::stream::{Fault, read_certificates};

type Outcome = Result<(), String>;

/// Runs the case; `None` for kinds that belong to others.
pub fn run_case(kind: &str, given: &Value, expect: &Value) -> Option<(bool, String)> {
    let outcome = match kind {
        "webhook_map" => webhook_map(given, expect),
        "http_dest_map" => http_dest_map(given, expect),
        "http_dest_batch" => http_dest_batch(given, expect),
        "kafka_partition" => kafka_partition(given, expect),
        "kafka_map" => kafka_map(given, expect),
        "redis_map" => redis_map(given, expect),
        "redis_json_merge" => redis_json_merge(given, expect),
        "staging_notification" => staging_notification(given, expect),
        "custom_client_errors" => custom_client_errors(given, expect),
        _ => return None,
    };
    Some(match outcome {
        Ok(()) => (true, String::new()),
        Err(difference) => (false, difference),
    })
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn same(found: &Value, expected: &Value) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("expected {expected}, found {found}")) }
}

/// Every member that is expected is there; others do not matter.
fn covers(found: &Value, expected: &Value) -> Outcome {
    for (name, value) in expected.as_object().into_iter().flatten() {
        same(&found[name], value).map_err(|difference| format!("{name}: {difference}"))?;
    }
    Ok(())
}

fn plan(type_name: &str, given: &Value) -> Plan {
    Plan::new(&Arc::new(Destination {
        id: given["destination_id"].as_str().unwrap_or("d1").to_owned(),
        workspace_id: given["workspace_id"].as_str().unwrap_or_default().to_owned(),
        config: given["config"].as_object().cloned().unwrap_or_default(),
        definition: DestinationDefinition { name: type_name.to_owned(), ..DestinationDefinition::default() },
        ..Destination::default()
    }))
}

/// The one output for a message, or the refusal's code and text.
fn output(type_name: &str, given: &Value, message: &Value) -> Result<Result<Value, (u16, String)>, String> {
    let text = message.to_string();
    let message = Message::parse(&text).map_err(|error| error.to_string())?;
    match plan(type_name, given).transform(&message, &|| given["metadata"].clone()) {
        Ok(outputs) if outputs.len() == 1 => {
            Ok(Ok(serde_json::from_slice(&outputs[0].payload).map_err(|error| error.to_string())?))
        }
        Ok(outputs) => Err(format!("{} outputs", outputs.len())),
        Err(refusal) => Ok(Err((refusal.status(), refusal.message))),
    }
}

/// Compares with an expected error: a code, and a text or a part of it.
fn refused_as((code, message): &(u16, String), error: &Value) -> Outcome {
    let wanted = error.as_str().unwrap_or_else(|| {
        ["contains", "text", "message", "error"].into_iter().find_map(|key| error[key].as_str()).unwrap_or_default()
    });
    if error["code"].is_number() {
        same(&json!(code), &error["code"])?;
    }
    if message.contains(wanted) { Ok(()) } else { Err(format!("expected {wanted}, found {message}")) }
}

fn webhook_map(given: &Value, expect: &Value) -> Outcome {
    match output("WEBHOOK", given, &given["message"])? {
        Ok(request) => same(&request, &expect["request"]),
        Err(refused) => refused_as(&refused, &expect["error"]),
    }
}

fn http_dest_map(given: &Value, expect: &Value) -> Outcome {
    match output("HTTP", given, &given["message"])? {
        Ok(request) => covers(&request, &expect["request"]),
        Err(refused) => refused_as(&refused, &expect["error"]),
    }
}

fn http_dest_batch(given: &Value, expect: &Value) -> Outcome {
    let events = list(given, "events");
    let texts: Vec<String> = events.iter().map(|event| event["message"].to_string()).collect();
    let metadata = || Value::Null;
    let messages: Vec<(Message<'_>, &dyn Fn() -> Value)> = texts
        .iter()
        .map(|text| Ok((Message::parse(text).map_err(|error| error.to_string())?, &metadata as &dyn Fn() -> Value)))
        .collect::<Result<_, String>>()?;
    let (mut requests, mut failed) = (Vec::new(), Vec::new());
    for routed in plan("HTTP", given).route(&messages) {
        let jobs: Vec<&Value> = routed.places.iter().map(|place| &events[*place]["job"]).collect();
        match routed.payload {
            Ok(payload) => {
                let mut request: Value = serde_json::from_slice(&payload).map_err(|error| error.to_string())?;
                request["jobs"] = json!(jobs);
                if routed.is_batch {
                    request["batch"] = request["body"]["JSON_ARRAY"]["batch"].clone();
                }
                requests.push(request);
            }
            Err(refusal) => failed.push(json!({ "jobs": jobs, "code": refusal.status(), "error": refusal.message })),
        }
    }
    for (name, found) in [("requests", requests), ("failed", failed)] {
        let expected = list(expect, name);
        if expect.get(name).is_some() || name == "requests" {
            same(&json!(found.len()), &json!(expected.len())).map_err(|difference| format!("{name}: {difference}"))?;
            for (found, expected) in found.iter().zip(expected) {
                covers(found, expected)?;
            }
        }
    }
    Ok(())
}

fn kafka_partition(given: &Value, expect: &Value) -> Outcome {
    let partitions = given["partitions"].as_u64().and_then(|count| u32::try_from(count).ok()).ok_or("no partitions")?;
    let keys = || list(given, "keys").iter().filter_map(Value::as_str);
    let found = json!({
        "partition": keys().map(|key| partition_of(key.as_bytes(), partitions)).collect::<Vec<_>>(),
        "fnv1a32": keys().map(|key| fnv1a_32(key.as_bytes())).collect::<Vec<_>>(),
    });
    covers(&found, expect)
}

fn kafka_map(given: &Value, expect: &Value) -> Outcome {
    let (messages, expected) = (list(given, "messages"), list(expect, "out"));
    same(&json!(messages.len()), &json!(expected.len()))?;
    for (message, expected) in messages.iter().zip(expected) {
        let found = output("KAFKA", given, message)?.map_err(|(_, text)| text)?;
        same(&found["message"], message)?;
        let mut found = found;
        if expected.get("message").is_none()
            && let Some(members) = found.as_object_mut()
        {
            members.shift_remove("message");
        }
        same(&found, expected)?;
    }
    Ok(())
}

fn redis_map(given: &Value, expect: &Value) -> Outcome {
    match output("REDIS", given, &given["message"])? {
        Ok(record) => {
            let mut record = record["message"].clone();
            let writes_document = record.get("fields").is_none() && record.get("hash").is_none();
            record["command"] = if writes_document { "JSON.SET" } else { "HSET" }.into();
            covers(&record, expect)
        }
        Err(refused) => refused_as(&refused, &expect["error"]),
    }
}

fn redis_json_merge(given: &Value, expect: &Value) -> Outcome {
    let stored = Some(&given["stored"]).filter(|stored| !stored.is_null()).cloned();
    same(&merge_at(stored, text(given, "path"), given["value"].clone()), &expect["written"])
}

fn staging_notification(given: &Value, expect: &Value) -> Outcome {
    let lines = list(given, "payload_lines").iter().filter_map(Value::as_str);
    let file =
        StagingFile::of_lines(lines, text(given, "source"), text(given, "destination"), text(given, "object_key"));
    let found = serde_json::to_value(file).map_err(|error| error.to_string())?;
    covers(&found, &expect["notification"])
}

fn custom_client_errors(given: &Value, expect: &Value) -> Outcome {
    let codes = list(given, "cases").iter().map(|case| client_error(case.as_str().unwrap_or_default()));
    let codes = codes.collect::<Result<Vec<i32>, String>>()?;
    same(&json!(codes), &expect["codes"])
}

/// Brings about what the case names, as far as that needs no server, and asks for its code.
fn client_error(case: &str) -> Result<i32, String> {
    let has = |words: &[&str]| words.iter().any(|word| case.to_lowercase().contains(word));
    let without = |key: &str| {
        let mut config = Map::new();
        for (name, value) in [("topic", "t"), ("hostName", "h"), ("port", "9092")] {
            if name != key {
                config.insert(name.to_owned(), value.into());
            }
        }
        Target::read(&config).err().map(|fault| fault.code()).ok_or_else(|| format!("{key} may be missing"))
    };
    let broken = |kind: io::ErrorKind| Ok(Fault::of_connecting(&io::Error::from(kind)).code());
    if refuses_credentials(case) {
        Ok(Fault::Credentials(case.to_owned()).code())
    } else if has(&["missing", "empty", "invalid port"]) {
        let key = if has(&["host"]) {
            "hostName"
        } else if has(&["port"]) {
            "port"
        } else {
            "topic"
        };
        without(key)
    } else if has(&["certificate"]) && has(&["bad", "invalid", "broken", "unreadable"]) {
        read_certificates("no certificate").err().map(|fault| fault.code()).ok_or_else(|| "it was taken".to_owned())
    } else if has(&["schema"]) {
        Ok(Fault::Configuration(case.to_owned()).code())
    } else if has(&["refuse"]) {
        broken(io::ErrorKind::ConnectionRefused)
    } else if has(&["dns", "unknown host", "resolve"]) {
        broken(io::ErrorKind::NotFound)
    } else if has(&["timeout", "timed out"]) {
        broken(io::ErrorKind::TimedOut)
    } else if has(&["tls", "handshake", "unreachable", "breaker", "reset"]) {
        broken(io::ErrorKind::ConnectionReset)
    } else {
        Ok(Fault::Server(case.to_owned()).code())
    }
}
