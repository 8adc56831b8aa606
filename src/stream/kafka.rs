//! The rules of Kafka that need no broker: partitions and the form of a configuration (router.md 15.1).

use serde_json::{Map, Value};

use super::fault::Fault;
use crate::event::fnv::fnv1a_32;

/// The partition of a key among `partitions`. An empty key is a key like any other.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (fnv1a_32(key) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0)
}

/// Where a cluster is and how to talk to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The topic of records that name none.
    pub topic: String,
    /// `host:port` of every broker that is named.
    pub brokers: Vec<String>,
    /// PEM of the authority that the brokers' certificates come from; `None` = those of the system.
    pub ca_certificate: Option<String>,
}

impl Target {
    /// Reads a destination's configuration; keys match whatever their case.
    ///
    /// # Errors
    /// [`Fault::Configuration`] for what is missing or cannot be read.
    pub fn read(config: &Map<String, Value>) -> Result<Target, Fault> {
        let find = |name: &str| config.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let text = |name: &str| match find(name) {
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let fault = |text: &str| Err(Fault::Configuration(text.to_owned()));
        let (topic, hosts, port) = (text("topic"), text("hostName"), text("port"));
        if topic.is_empty() {
            return fault("topic cannot be empty");
        }
        if hosts.is_empty() {
            return fault("hostname cannot be empty");
        }
        let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
            return fault(&format!("invalid port: {port:?} is not between 1 and 65535"));
        };
        let brokers = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
        let uses_tls = find("sslEnabled") == Some(&Value::Bool(true));
        let ca_certificate = Some(text("caCertificate")).filter(|text| uses_tls && !text.is_empty());
        if let Some(certificate) = &ca_certificate {
            read_certificates(certificate)?;
        }
        Ok(Target { topic, brokers: brokers.map(|host| format!("{host}:{port}")).collect(), ca_certificate })
    }
}

/// Whether a text holds certificates in PEM form.
///
/// # Errors
/// [`Fault::Configuration`] when it holds none or one that cannot be read.
pub fn read_certificates(pem: &str) -> Result<(), Fault> {
    let fault = |why: &str| Fault::Configuration(format!("the CA certificate cannot be used: {why}"));
    let certificates =
        reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| fault(&error.to_string()))?;
    if certificates.is_empty() { Err(fault("there is no certificate in it")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_with_the_top_bit_of_their_hash_set_have_a_partition_too() {
        for (key, partitions, expected) in [("", 10, 3), ("a", 10, 2), ("foobar", 7, 5), ("a", 1, 0), ("a", 0, 0)] {
            assert_eq!(partition_of(key.as_bytes(), partitions), expected, "{key}");
        }
    }

    #[test]
    fn a_configuration_names_topic_hosts_and_port() {
        let read = |config: Value| {
            Target::read(config.as_object().unwrap()).map_err(|fault| (fault.code(), fault.to_string()))
        };
        let target = read(json!({ "Topic": "t", "hostname": "a, b", "port": "9092" })).unwrap();
        assert_eq!((target.topic.as_str(), target.brokers), ("t", vec!["a:9092".to_owned(), "b:9092".to_owned()]));
        for (config, text) in [
            (json!({ "hostName": "a", "port": "1" }), "topic cannot be empty"),
            (json!({ "topic": "t", "port": "1" }), "hostname cannot be empty"),
            (json!({ "topic": "t", "hostName": "a", "port": "0" }), "invalid port: \"0\" is not between 1 and 65535"),
            (json!({ "topic": "t", "hostName": "a" }), "invalid port: \"\" is not between 1 and 65535"),
        ] {
            assert_eq!(read(config), Err((400, text.to_owned())));
        }
        let bad = json!({ "topic": "t", "hostName": "a", "port": 1, "sslEnabled": true, "caCertificate": "nonsense" });
        assert_eq!(read(bad).unwrap_err().0, 400);
    }
}
