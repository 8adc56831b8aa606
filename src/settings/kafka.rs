//! How records go to Kafka: `Router.<TYPE>.K`, then the keys of all types (router.md 15.1).

use std::path::PathBuf;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;
use super::router::RouterSettings;

const SECOND: Kind = Kind::Duration(Unit::Second);

/// Most that librdkafka takes for one batch.
const MOST_BATCH_BYTES: u64 = 1_000_000_000;

pub(super) const KEYS: &[Key] = &[
    Key::new("Router.dialTimeout", SECOND, "10s", "Kafka: longest wait for a connection to a broker.")
        .also(&["Router.kafkaDialTimeout", "Router.<TYPE>.dialTimeout"])
        .hot(),
    Key::new("Router.readTimeout", SECOND, "10s", "Kafka: longest wait for the answer of a broker.")
        .also(&["Router.kafkaReadTimeout", "Router.<TYPE>.readTimeout"])
        .hot(),
    Key::new("Router.writeTimeout", SECOND, "10s", "Kafka: longest time of writing a request to a broker.")
        .also(&["Router.kafkaWriteTimeout", "Router.<TYPE>.writeTimeout"])
        .hot(),
    Key::new("Router.compression", Kind::Int, "-1", "Kafka: -1 and 0 none, 1 gzip, 2 snappy, 3 lz4.")
        .also(&["Router.kafkaCompression", "Router.<TYPE>.compression"])
        .hot(),
    Key::new(
        "Router.batchTimeout",
        Kind::Duration(Unit::Milli),
        "5ms",
        "Kafka: how long a record waits for others of its partition.",
    )
    .also(&["Router.<TYPE>.batchTimeout"])
    .hot(),
    Key::new("Router.batchSize", Kind::Int, "0", "Kafka: most records of one batch; 0 = noOfWorkers.")
        .also(&["Router.<TYPE>.batchSize"])
        .hot(),
    Key::new("Router.batchBytes", Kind::Bytes(1), "1MB", "Kafka: most bytes of one batch, and of one record.")
        .also(&["Router.<TYPE>.batchBytes"])
        .hot(),
    Key::new("Router.tlsInsecureSkipVerify", Kind::Bool, "false", "Kafka: trust any certificate of a broker.")
        .also(&["Router.<TYPE>.tlsInsecureSkipVerify"])
        .hot(),
    Key::new(
        "KAFKA_SSL_CERTIFICATE_FILE_PATH",
        Kind::Text,
        "",
        "Client certificate for Kafka brokers whose destination names a CA certificate (PEM).",
    )
    .hot(),
    Key::new("KAFKA_SSL_KEY_FILE_PATH", Kind::Text, "", "The key of that certificate (PEM).").hot(),
];

/// How a producer compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the formats")]
pub enum KafkaCompression {
    None,
    Gzip,
    Snappy,
    Lz4,
}

/// Settings of the producers of one destination type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the key of the same name; the catalogue holds the help")]
pub struct KafkaSettings {
    pub dial_timeout: Duration,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    pub compression: KafkaCompression,
    pub batch_timeout: Duration,
    pub batch_size: usize,
    pub batch_bytes: u64,
    pub tls_insecure_skip_verify: bool,
    /// Files of a client certificate and of its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

impl KafkaSettings {
    /// The settings that the reader finds; `workers` is how many records of a destination may be under way at once.
    pub(super) fn read(r: &Reader<'_>, workers: usize) -> KafkaSettings {
        let compression = match r.int("Router.compression") {
            1 => KafkaCompression::Gzip,
            2 => KafkaCompression::Snappy,
            3 => KafkaCompression::Lz4,
            -1 | 0 => KafkaCompression::None,
            other => {
                r.reject("Router.compression", format!("{other} is none of -1, 0, 1, 2 and 3"));
                KafkaCompression::None
            }
        };
        let duration = |key: &str| r.duration(key).max(Duration::from_millis(1));
        let batch_size = r.count("Router.batchSize");
        let files = (r.text("KAFKA_SSL_CERTIFICATE_FILE_PATH"), r.text("KAFKA_SSL_KEY_FILE_PATH"));
        KafkaSettings {
            dial_timeout: duration("Router.dialTimeout"),
            read_timeout: duration("Router.readTimeout"),
            write_timeout: duration("Router.writeTimeout"),
            compression,
            batch_timeout: r.duration("Router.batchTimeout"),
            batch_size: if batch_size == 0 { workers } else { batch_size },
            batch_bytes: r.bytes("Router.batchBytes").clamp(1_000, MOST_BATCH_BYTES),
            tls_insecure_skip_verify: r.flag("Router.tlsInsecureSkipVerify"),
            client_certificate: Some(files)
                .filter(|(certificate, key)| !certificate.is_empty() && !key.is_empty())
                .map(|(certificate, key)| (PathBuf::from(certificate), PathBuf::from(key))),
        }
    }
}

impl RouterSettings {
    /// How records go to destinations of this Kafka type (`KAFKA`).
    pub fn kafka(&self, destination_type: &str) -> KafkaSettings {
        let reader = Reader::scoped(&self.raw, &[format!("Router.{destination_type}")]);
        KafkaSettings::read(&reader, self.of_type(destination_type).workers)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::settings::Raw;

    #[test]
    fn the_type_goes_before_the_key_of_all_types() {
        let mut raw = Raw::default();
        for (name, text) in [
            ("Router.kafkaDialTimeout", "3s"),
            ("Router.AZURE_EVENT_HUB.dialTimeout", "4s"),
            ("Router.KAFKA.noOfWorkers", "7"),
            ("Router.CONFLUENT_CLOUD.batchSize", "5"),
            ("Router.kafkaCompression", "3"),
            ("KAFKA_SSL_CERTIFICATE_FILE_PATH", "/a"),
        ] {
            raw.flags.insert(name.to_ascii_lowercase(), vec![text.to_owned()]);
        }
        let router = RouterSettings { enabled: true, raw: Arc::new(raw) };
        let seconds = |kind: &str| router.kafka(kind).dial_timeout.as_secs();
        assert_eq!((seconds("KAFKA"), seconds("AZURE_EVENT_HUB")), (3, 4));
        assert_eq!((router.kafka("KAFKA").batch_size, router.kafka("CONFLUENT_CLOUD").batch_size), (7, 5));
        assert_eq!(router.kafka("KAFKA").compression, KafkaCompression::Lz4);
        assert_eq!(router.kafka("KAFKA").client_certificate, None, "a certificate without its key is none");
    }
}
