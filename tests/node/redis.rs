//! REDIS destinations against a real server: hashes, order, an outage, a wrong password.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Client, Node, NodeBuilder, Redis, WRITE_KEY, Workspace, skip, wait_until};
use crate::rules::dead;

const LIMIT: Duration = Duration::from_mins(1);

const SOON: &str = "\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"1s\"\nunreachableProbeMax = \"1s\"\n";

fn start(redis: &Redis, password: &str) -> Node {
    let config = json!({
        "address": redis.address(), "password": password, "clusterMode": false, "database": "0", "prefix": "kit",
    });
    let workspace = Workspace::new().destination("store", "REDIS", config);
    NodeBuilder::new().workspace(&workspace).more_settings(SOON).start()
}

fn identify(node: &Node, user: &str, traits: &Value) {
    let event = json!({ "userId": user, "traits": traits });
    let answer = Client::new(node.address()).post("/v1/identify", WRITE_KEY, &event.to_string()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn the_last_word_about_a_user_stands_also_after_an_outage() {
    const NAME: &str = "the_last_word_about_a_user_stands_also_after_an_outage";
    let Some(mut redis) = Redis::start(Some("secret")) else {
        return skip(NAME, "redis-server is not installed");
    };
    let node = start(&redis, "secret");
    let holds = |redis: &Redis, user: &str, field: &str, value: &str| {
        redis
            .ask(&["HGET", &format!("kit:user:{user}"), field])
            .is_some_and(|answer| answer.contains(&format!("\r\n{value}\r\n")))
    };
    for n in 0..50 {
        identify(&node, "u", &json!({ "n": n, "deep": { "list": [1, "two"] } }));
    }
    wait_until("the last event is in the hash", LIMIT, || holds(&redis, "u", "n", "49"));
    assert!(holds(&redis, "u", "deep.list", "[1,\"two\"]"));
    redis.close();
    for n in 50..100 {
        identify(&node, "u", &json!({ "n": n }));
    }
    identify(&node, "v", &json!({ "name": "Jo" }));
    redis.open();
    wait_until("what came meanwhile arrives", LIMIT, || {
        holds(&redis, "u", "n", "99") && holds(&redis, "v", "name", "Jo")
    });
    assert!(holds(&redis, "u", "deep.list", "[1,\"two\"]"), "what no later event spoke of stays");
}

#[test]
fn a_refused_password_gives_events_up_with_a_reason() {
    const NAME: &str = "a_refused_password_gives_events_up_with_a_reason";
    let Some(redis) = Redis::start(Some("secret")) else {
        return skip(NAME, "redis-server is not installed");
    };
    let node = start(&redis, "wrong");
    identify(&node, "u", &json!({ "a": 1 }));
    wait_until("the event is a dead letter", LIMIT, || {
        let letters = dead(&node);
        letters.len() == 1 && letters[0].to_string().contains("WRONGPASS")
    });
}
