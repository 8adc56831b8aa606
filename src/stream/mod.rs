//! Streams and key-value stores: destinations that a client of their own serves, not HTTP (router.md 14 to 18).
//!
//! In: the payloads that destination transformations made, and the configuration of a destination. Out: a record in
//! the stream or the store, or a [`Fault`] with the code that judges the job.
//!
//! A client opens its connection when it is first used and again after it broke; it never waits longer than it is
//! told. One file or folder per type.

pub mod aws;
mod caller;
mod config;
mod fault;
pub mod google;
pub mod kafka;
mod mqtt;
mod nats;
mod record;
pub mod redis;
mod standing;
mod tls;
mod together;

use std::net::SocketAddr;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde_json::{Map, Value};

pub use fault::Fault;
pub use tls::{read_certificates, system_authorities, trusting};

use crate::clock::Clock;
use crate::destination::private_address::AddressRules;
use crate::settings::RouterSettings;

/// Characters that are encoded in a part of a URL's path.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What a client needs besides the configuration of its destination.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The workspace of the destination.
    pub workspace_id: String,
    /// The time that calls are signed with.
    pub clock: Clock,
    /// Addresses that cloud APIs may have.
    pub addresses: AddressRules,
    /// Listeners of this node, which no call may reach.
    pub own_listeners: Vec<SocketAddr>,
}

/// The client of one destination.
#[derive(Debug)]
pub enum Client {
    /// Kafka and what speaks its protocol.
    Kafka(Box<kafka::Kafka>),
    /// MQTT.
    Mqtt(Box<mqtt::Mqtt>),
    /// NATS.
    Nats(Box<nats::Nats>),
    /// Redis.
    Redis(Box<redis::Redis>),
    /// A stream of AWS.
    Aws(Box<aws::Aws>),
    /// A stream of Google.
    Google(Box<google::Google>),
}

impl Client {
    /// The client for a destination of this type; `None` when there is none for the type.
    pub fn of(
        type_name: &str,
        config: &Map<String, Value>,
        settings: &RouterSettings,
        around: &Surroundings,
    ) -> Option<Client> {
        match type_name {
            "KAFKA" | "CONFLUENT_CLOUD" | "AZURE_EVENT_HUB" => {
                Some(Client::Kafka(Box::new(kafka::Kafka::new(type_name, config, settings.kafka(type_name)))))
            }
            "MQTT" => Some(Client::Mqtt(Box::new(mqtt::Mqtt::new(config)))),
            "NATS" => Some(Client::Nats(Box::new(nats::Nats::new(config)))),
            "REDIS" => Some(Client::Redis(Box::new(redis::Redis::new(config)))),
            _ => aws::Aws::of(type_name, config, around)
                .map(|aws| Client::Aws(Box::new(aws)))
                .or_else(|| Some(Client::Google(Box::new(google::Google::of(type_name, config, around)?)))),
        }
    }

    /// Sends one payload.
    ///
    /// # Errors
    /// What went wrong; [`Fault::code`] says whether it is worth another attempt.
    pub async fn send(&self, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
        match self {
            Client::Kafka(kafka) => kafka.send(payload, timeout).await,
            Client::Mqtt(mqtt) => mqtt.send(payload, timeout).await,
            Client::Nats(nats) => nats.send(payload, timeout).await,
            Client::Redis(redis) => redis.send(payload, timeout).await,
            Client::Aws(aws) => aws.send(payload, timeout).await,
            Client::Google(google) => google.send(payload, timeout).await,
        }
    }

    /// Whether both come from the same configuration.
    pub fn is_configured_like(&self, other: &Client) -> bool {
        match (self, other) {
            (Client::Kafka(one), Client::Kafka(other)) => one.is_configured_like(other),
            (Client::Mqtt(one), Client::Mqtt(other)) => one.is_configured_like(other),
            (Client::Nats(one), Client::Nats(other)) => one.is_configured_like(other),
            (Client::Redis(one), Client::Redis(other)) => one.is_configured_like(other),
            (Client::Aws(one), Client::Aws(other)) => one.is_configured_like(other),
            (Client::Google(one), Client::Google(other)) => one.is_configured_like(other),
            _ => false,
        }
    }
}
