//! Brokers for real: everything arrives, in order per user, also when the broker is away in the middle; logins and
//! encryption; what a broker refuses.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{
    Client, Kafka, MQTT_PASSWORD, MQTT_USER, MockKafka, Mosquitto, Nats, Node, NodeBuilder, PASSWORD, Received, USER,
    WRITE_KEY, Workspace, batch_body, pintle, track, wait_until,
};
use crate::rules::dead;

const LIMIT: Duration = Duration::from_mins(1);
const EVENTS: i64 = 10_000;
const USERS: i64 = 200;
/// Events before the outage and up to its end.
const OUTAGE: (i64, i64) = (4_000, 7_000);

const SOON: &str = "\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"1s\"\nunreachableProbeMax = \"1s\"\n";

fn start(kind: &str, config: Value) -> Node {
    NodeBuilder::new().workspace(&Workspace::new().destination("broker", kind, config)).more_settings(SOON).start()
}

fn send(node: &Node, numbers: std::ops::Range<i64>) {
    let mut client = Client::new(node.address());
    let numbers: Vec<i64> = numbers.collect();
    for chunk in numbers.chunks(100) {
        let events: Vec<_> = chunk.iter().map(|&n| track(&format!("user-{}", n % USERS), n)).collect();
        let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// Sends everything, with an outage in the middle, and checks what arrives.
fn run(node: &Node, received: &Received, mut open: impl FnMut(bool)) {
    send(node, 0..OUTAGE.0);
    wait_until("deliveries have begun", LIMIT, || received.distinct() > 100);
    open(false);
    send(node, OUTAGE.0..OUTAGE.1);
    open(true);
    send(node, OUTAGE.1..EVENTS);
    let all = usize::try_from(EVENTS).expect("small");
    wait_until("everything arrives", LIMIT, || received.distinct() == all);
    assert_eq!(received.order_violations(), Vec::<String>::new());
    assert_eq!(dead(node), Vec::<Value>::new());
    // What was on its way when the broker went may come again.
    assert!(received.repeats() < all / 10, "{} events came again", received.repeats());
}

#[test]
fn kafka_gets_every_event_in_order_through_an_outage() {
    let kafka = MockKafka::start("events");
    let reader = kafka.read("events");
    let address = kafka.address();
    let (host, port) = address.rsplit_once(':').expect("an address");
    let node = start("KAFKA", json!({ "topic": "events", "hostName": host, "port": port }));
    run(&node, &reader.received(), |is_open| if is_open { kafka.open() } else { kafka.close() });
}

#[test]
fn a_real_kafka_broker_is_logged_in_to_over_tls_and_found_again_after_a_restart() {
    let mut kafka = Kafka::start();
    let address = kafka.address();
    let (host, port) = address.rsplit_once(':').expect("an address");
    let config = |sasl: &str, password: &str, topic: &str| {
        json!({
            "topic": topic, "hostName": host, "port": port, "sslEnabled": true, "caCertificate": Kafka::authority(),
            "useSASL": true, "saslType": sasl, "username": USER, "password": password,
        })
    };
    let node = start("KAFKA", config("sha512", PASSWORD, "scram-512"));
    send(&node, 0..100);
    let reader = kafka.read("scram-512");
    let received = reader.received();
    wait_until("events arrive", LIMIT, || received.distinct() == 100);
    kafka.close();
    send(&node, 100..200);
    kafka.open();
    wait_until("what came meanwhile arrives", LIMIT, || received.distinct() == 200);
    assert_eq!(received.order_violations(), Vec::<String>::new());
    for (sasl, topic) in [("plain", "plain"), ("sha256", "scram-256")] {
        let node = start("KAFKA", config(sasl, PASSWORD, topic));
        send(&node, 0..10);
        let reader = kafka.read(topic);
        let received: Arc<Received> = reader.received();
        wait_until("events arrive", LIMIT, || received.distinct() == 10);
    }
    for (sasl, password) in [("plain", "wrong"), ("sha256", "wrong")] {
        let node = start("KAFKA", config(sasl, password, "refused"));
        send(&node, 0..1);
        wait_until("the event is a dead letter", LIMIT, || dead(&node).len() == 1);
        assert!(dead(&node)[0].to_string().contains("Unable to create client for broker"), "{:?}", dead(&node));
    }
}

#[test]
fn mqtt_gets_every_event_in_order_through_an_outage() {
    let mut mosquitto = Mosquitto::start();
    let config = json!({
        "address": mosquitto.address(), "topic": "kit/events", "username": MQTT_USER, "password": MQTT_PASSWORD,
    });
    let subscriber = mosquitto.subscribe("kit/#");
    let node = start("MQTT", config);
    run(&node, &subscriber.received(), |is_open| if is_open { mosquitto.open() } else { mosquitto.close() });
}

#[test]
fn mqtt_over_tls_trusts_the_authority_that_it_is_told_and_says_a_refused_login() {
    let mosquitto = Mosquitto::start();
    let config = |authority: Option<String>, password: &str| {
        json!({
            "address": mosquitto.tls_address(), "topic": "kit", "tlsEnabled": true, "caCertificate": authority,
            "username": MQTT_USER, "password": password,
        })
    };
    let subscriber = mosquitto.subscribe("kit");
    let workspace = Workspace::new()
        .destination("good", "MQTT", config(Some(Kafka::authority()), MQTT_PASSWORD))
        .destination("refused", "MQTT", config(Some(Kafka::authority()), "wrong"))
        .destination("foreign", "MQTT", config(None, MQTT_PASSWORD));
    let node = NodeBuilder::new().workspace(&workspace).more_settings(SOON).start();
    send(&node, 0..1);
    wait_until("the event arrives", LIMIT, || subscriber.received().distinct() == 1);
    wait_until("the refused login is told", LIMIT, || {
        let letters = dead(&node);
        letters.len() == 1 && letters[0].to_string().contains("Unable to create client for refused")
    });
    let socket = node.admin_socket().display().to_string();
    let shown =
        || String::from_utf8_lossy(&pintle(&["status", "--json", "--admin-socket", &socket]).stdout).into_owned();
    wait_until("the foreign certificate is told", LIMIT, || shown().contains("Unable to create client for foreign"));
    assert_eq!(subscriber.received().repeats(), 0);
}

#[test]
fn nats_stores_every_event_in_order_through_an_outage() {
    let mut nats = Nats::start("kit-token");
    let config = json!({
        "servers": nats.address(), "topic": "kit.events", "stream": "KIT", "token": "kit-token", "deduplicate": true,
    });
    let node = start("NATS", config);
    send(&node, 0..OUTAGE.0);
    wait_until("deliveries have begun", LIMIT, || nats.read("KIT").distinct() > 100);
    nats.close();
    send(&node, OUTAGE.0..OUTAGE.1);
    nats.open();
    send(&node, OUTAGE.1..EVENTS);
    let all = usize::try_from(EVENTS).expect("small");
    wait_until("everything arrives", LIMIT, || nats.read("KIT").distinct() == all);
    let received = nats.read("KIT");
    assert_eq!(received.order_violations(), Vec::<String>::new());
    assert_eq!((received.repeats(), dead(&node)), (0, Vec::new()));
}
