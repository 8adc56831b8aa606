use super::super::Kafka;
use super::*;
use crate::settings::Settings;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::types::RDKafkaRespErr;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(10);

fn settings() -> KafkaSettings {
    Settings::defaults().router.kafka("KAFKA")
}

fn kafka(brokers: &str, more: serde_json::Value) -> Kafka {
    let (host, port) = brokers.split(',').next().unwrap().rsplit_once(':').unwrap();
    let mut config = json!({ "topic": "events", "hostName": host, "port": port });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Kafka::new("KAFKA", config.as_object().unwrap(), settings())
}

fn payload(user: &str, n: usize) -> Vec<u8> {
    json!({ "message": { "n": n }, "userId": user, "topic": "events" }).to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_lies_in_the_partition_of_its_key_until_the_cluster_goes_and_again_once_it_is_back() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("events", 7, 1).unwrap();
    let client = kafka(&cluster.bootstrap_servers(), json!({}));
    for (n, user) in ["", "a", "foobar"].iter().enumerate() {
        client.send(&payload(user, n), LIMIT).await.unwrap();
    }
    cluster.broker_down(1).unwrap();
    let fault = client.send(&payload("a", 3), LIMIT).await.unwrap_err();
    assert!(fault.is_unreachable(), "{fault:?}");
    let fault = client.send(&payload("a", 4), LIMIT).await.unwrap_err();
    assert!(fault.is_unreachable() && fault.code() == 500, "{fault:?}");
    cluster.broker_up(1).unwrap();
    let mut sent = Err(fault);
    for _ in 0..100 {
        sent = client.send(&payload("a", 5), LIMIT).await;
        if sent.is_ok() {
            break;
        }
    }
    sent.unwrap();

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let mut places = rdkafka::TopicPartitionList::new();
    for partition in 0..7 {
        places.add_partition_offset("events", partition, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&places).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let message = consumer.poll(LIMIT).expect("a record within the limit").unwrap();
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        let value = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
        assert_eq!(message.partition(), i32::try_from(super::super::partition_of(key.as_bytes(), 7)).unwrap());
        seen.push((key, value));
    }
    seen.sort();
    let expected = [("", 0), ("a", 1), ("a", 5), ("foobar", 2)];
    assert_eq!(seen, expected.map(|(key, n)| (key.to_owned(), format!("{{\"n\":{n}}}"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cluster_says_of_a_record_decides_whether_it_is_sent_again() {
    let cluster = MockCluster::new(1).unwrap();
    let client = kafka(&cluster.bootstrap_servers(), json!({}));
    client.send(&payload("u", 0), LIMIT).await.unwrap();
    // As often as the client tries.
    for (error, times, code) in [
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, 1, 400),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 1, 400),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, 3, 500),
    ] {
        let errors = vec![error; times];
        cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &errors);
        let fault = client.send(&payload("u", 1), LIMIT).await.unwrap_err();
        assert_eq!(fault.code(), code, "{fault:?}");
        assert!(fault.is_answer() && !fault.is_unreachable(), "{fault:?}");
    }
    let long = json!({ "message": { "text": "x".repeat(2_000_000) }, "userId": "u" }).to_string();
    assert_eq!(client.send(long.as_bytes(), LIMIT).await.unwrap_err().code(), 400);
    client.send(&payload("u", 2), LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_is_away_is_unreachable_and_a_configuration_that_cannot_work_is_final() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let fault = kafka(&nobody, json!({})).send(&payload("u", 0), LIMIT).await.unwrap_err();
    assert_eq!((fault.code(), fault.is_unreachable()), (500, true), "{fault:?}");
    let fault = kafka(&nobody, json!({ "port": "none" })).send(&payload("u", 0), LIMIT).await.unwrap_err();
    assert_eq!(fault.code(), 400);
}

#[test]
fn a_login_goes_over_tls_with_the_authority_of_the_configuration() {
    let config = json!({
        "topic": "t", "hostName": "a,b", "port": "9093", "sslEnabled": true,
        "caCertificate": include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/ca.pem")),
        "useSASL": true, "saslType": "sha512", "username": "u", "password": "p",
    });
    let target = Target::read(config.as_object().unwrap()).unwrap();
    let settings = KafkaSettings { client_certificate: Some(("/c".into(), "/k".into())), ..settings() };
    let config = config_of(&target, &settings, LIMIT);
    for (key, value) in [
        ("bootstrap.servers", "a:9093,b:9093"),
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("ssl.certificate.location", "/c"),
        ("acks", "all"),
        ("max.in.flight.requests.per.connection", "1"),
        ("message.timeout.ms", "10000"),
    ] {
        assert_eq!(config.get(key), Some(value), "{key}");
    }
    assert!(config.get("ssl.ca.pem").is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")));
    assert_eq!(config.get("ssl.ca.location"), None);
}
