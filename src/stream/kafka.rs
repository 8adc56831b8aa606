//! Kafka, and what speaks its protocol: KAFKA, CONFLUENT_CLOUD, AZURE_EVENT_HUB (router.md 15).
//!
//! A record goes out with the user as its key, to the partition that the key says, and counts as sent when all
//! replicas that are in step have it. One request to a broker is under way at a time, so that a repeat inside the
//! client never passes a later record. Records of one user come one after the other.

mod avro;
mod partition;
mod producer;
mod target;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::fault::Fault;
use super::record::Record;
use super::standing::{Standing, is_same_configuration};
use crate::settings::KafkaSettings;
use producer::Producer;

pub use avro::Schemas;
pub use partition::partition_of;
pub use target::{Login, Target};

/// The cluster of one destination.
pub struct Kafka {
    config: Map<String, Value>,
    settings: KafkaSettings,
    target: Result<Target, Fault>,
    producer: Standing<Arc<Producer>>,
}

impl std::fmt::Debug for Kafka {
    /// Without the configuration, which holds passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Kafka {
    /// The client for a destination of this type. What is wrong with its configuration is told with every record.
    pub fn new(type_name: &str, config: &Map<String, Value>, settings: KafkaSettings) -> Kafka {
        let target = match type_name {
            "CONFLUENT_CLOUD" => Target::read_confluent_cloud(config),
            "AZURE_EVENT_HUB" => Target::read_event_hub(config),
            _ => Target::read(config),
        };
        Kafka { config: config.clone(), settings, target, producer: Standing::default() }
    }

    /// Whether both come from the same configuration and settings.
    pub fn is_configured_like(&self, other: &Kafka) -> bool {
        self.settings == other.settings && is_same_configuration(&self.config, &other.config)
    }

    /// Sends what the payload says and waits until the cluster has it.
    ///
    /// # Errors
    /// As [`super::Client::send`].
    pub async fn send(&self, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
        let target = self.target.as_ref().map_err(Fault::clone)?;
        let record = Record::read(payload)?;
        let encoded = target.schemas.as_ref().map(|schemas| schemas.encode(&record)).transpose()?;
        let value = encoded.as_deref().unwrap_or(&record.message);
        let topic = record.topic.as_deref().unwrap_or(&target.topic);
        let connect = Producer::connect(target, &self.settings, timeout);
        let (number, producer) = self.producer.get(|producer| producer.trouble().is_none(), connect).await?;
        let sent = producer.send(topic, record.user_id.as_bytes(), value, timeout).await;
        if producer.trouble().is_some() {
            self.producer.give_up(number);
        }
        sent
    }
}
