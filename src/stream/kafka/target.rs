//! Where a cluster is and how to talk to it, from the configurations of three types (router.md 15).

use serde_json::{Map, Value};

use super::super::fault::Fault;
use super::super::tls::read_certificates;
use super::avro::Schemas;

/// User of Azure's Event Hubs whose password is a connection string.
const CONNECTION_STRING_USER: &str = "$ConnectionString";

/// Where a cluster is and how to talk to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The topic of records that name none.
    pub topic: String,
    /// `host:port` of every broker that is named.
    pub brokers: Vec<String>,
    /// Whether connections are encrypted.
    pub uses_tls: bool,
    /// PEM of the authority that the brokers' certificates come from; `None` = those of the system.
    pub ca_certificate: Option<String>,
    /// How the client says who it is; `None` = not at all. Only over encrypted connections.
    pub login: Option<Login>,
    /// How values are written; `None` = as JSON.
    pub schemas: Option<Schemas>,
}

/// Who a client is, for SASL.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: &'static str,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("mechanism", &self.mechanism).field("user", &self.user).finish_non_exhaustive()
    }
}

/// A configuration whose keys match whatever their case.
struct Config<'a>(&'a Map<String, Value>);

impl Config<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> String {
        match self.value(name) {
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    }

    /// A text of which blanks are a part.
    fn secret(&self, name: &str) -> String {
        self.value(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn flag(&self, name: &str) -> bool {
        self.value(name) == Some(&Value::Bool(true))
    }

    fn topic(&self) -> Result<String, Fault> {
        let topic = self.text("topic");
        if topic.is_empty() { fault("topic cannot be empty") } else { Ok(topic) }
    }
}

fn fault<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Configuration(text.into()))
}

impl Target {
    /// Reads the configuration of a KAFKA destination; keys match whatever their case.
    ///
    /// # Errors
    /// [`Fault::Configuration`] for what is missing or cannot be read.
    pub fn read(config: &Map<String, Value>) -> Result<Target, Fault> {
        let config = Config(config);
        let (topic, hosts, port) = (config.topic()?, config.text("hostName"), config.text("port"));
        if hosts.is_empty() {
            return fault("hostname cannot be empty");
        }
        let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
            return fault(format!("invalid port: {port:?} is not between 1 and 65535"));
        };
        if config.flag("useSSH") {
            return fault("useSSH is not supported; open the tunnel outside and name its end as host and port");
        }
        let brokers = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
        let uses_tls = config.flag("sslEnabled");
        let ca_certificate = Some(config.text("caCertificate")).filter(|text| uses_tls && !text.is_empty());
        if let Some(certificate) = &ca_certificate {
            read_certificates(certificate)?;
        }
        Ok(Target {
            topic,
            brokers: brokers.map(|host| format!("{host}:{port}")).collect(),
            uses_tls,
            ca_certificate,
            login: if uses_tls && config.flag("useSASL") { Some(Login::read(&config)?) } else { None },
            schemas: if config.flag("convertToAvro") {
                Some(Schemas::read(config.value("avroSchemas"), config.flag("embedAvroSchemaID"))?)
            } else {
                None
            },
        })
    }

    /// Reads the configuration of a CONFLUENT_CLOUD destination.
    ///
    /// # Errors
    /// As [`Target::read`].
    pub fn read_confluent_cloud(config: &Map<String, Value>) -> Result<Target, Fault> {
        let config = Config(config);
        let (user, password) = (config.text("apiKey"), config.secret("apiSecret"));
        if user.is_empty() || password.is_empty() {
            return fault("apiKey and apiSecret cannot be empty");
        }
        Target::hosted(&config, Login { mechanism: "PLAIN", user, password })
    }

    /// Reads the configuration of an AZURE_EVENT_HUB destination.
    ///
    /// # Errors
    /// As [`Target::read`].
    pub fn read_event_hub(config: &Map<String, Value>) -> Result<Target, Fault> {
        let config = Config(config);
        let password = config.text("eventHubsConnectionString");
        if password.is_empty() {
            return fault("eventHubsConnectionString cannot be empty");
        }
        Target::hosted(&config, Login { mechanism: "PLAIN", user: CONNECTION_STRING_USER.to_owned(), password })
    }

    fn hosted(config: &Config<'_>, login: Login) -> Result<Target, Fault> {
        let topic = config.topic()?;
        let brokers = config.text("bootstrapServer");
        let brokers: Vec<String> =
            brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()).map(str::to_owned).collect();
        if brokers.is_empty() {
            return fault("bootstrapServer cannot be empty");
        }
        if let Some(broker) = brokers.iter().find(|broker| !names_port(broker)) {
            return fault(format!("bootstrapServer: {broker:?} is not host:port"));
        }
        Ok(Target { topic, brokers, uses_tls: true, ca_certificate: None, login: Some(login), schemas: None })
    }
}

fn names_port(broker: &str) -> bool {
    broker
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

impl Login {
    fn read(config: &Config<'_>) -> Result<Login, Fault> {
        let mechanism = match config.text("saslType").to_ascii_lowercase().as_str() {
            "plain" => "PLAIN",
            "sha256" => "SCRAM-SHA-256",
            "sha512" => "SCRAM-SHA-512",
            other => return fault(format!("saslType {other:?} is none of plain, sha256 and sha512")),
        };
        let (user, password) = (config.text("username"), config.secret("password"));
        if user.is_empty() || password.is_empty() {
            return fault("username and password cannot be empty with useSASL");
        }
        Ok(Login { mechanism, user, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CA: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/ca.pem"));

    fn read(config: Value) -> Result<Target, (i32, String)> {
        Target::read(config.as_object().unwrap()).map_err(|fault| (fault.code(), fault.to_string()))
    }

    #[test]
    fn a_configuration_names_topic_hosts_and_port() {
        let target = read(json!({ "Topic": "t", "hostname": "a, b", "port": "9092" })).unwrap();
        assert_eq!((target.topic.as_str(), target.brokers), ("t", vec!["a:9092".to_owned(), "b:9092".to_owned()]));
        assert!(!target.uses_tls);
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
        let ssh = json!({ "topic": "t", "hostName": "a", "port": 1, "useSSH": true });
        assert_eq!(read(ssh).unwrap_err().0, 400);
    }

    #[test]
    fn a_password_is_sent_over_encrypted_connections_only() {
        let config = |ssl: bool, kind: &str, password: &str| {
            json!({
                "topic": "t", "hostName": "a", "port": "9093", "sslEnabled": ssl, "caCertificate": CA,
                "useSASL": true, "saslType": kind, "username": "u", "password": password,
            })
        };
        let plain = read(config(false, "plain", "p")).unwrap();
        assert_eq!((plain.login, plain.ca_certificate, plain.uses_tls), (None, None, false));
        for (kind, mechanism) in [("plain", "PLAIN"), ("sha256", "SCRAM-SHA-256"), ("SHA512", "SCRAM-SHA-512")] {
            let login = read(config(true, kind, " p ")).unwrap().login.unwrap();
            assert_eq!((login.mechanism, login.user.as_str(), login.password.as_str()), (mechanism, "u", " p "));
        }
        assert_eq!(read(config(true, "gssapi", "p")).unwrap_err().0, 400);
        assert_eq!(read(config(true, "plain", "")).unwrap_err().0, 400);
        assert!(!format!("{:?}", read(config(true, "plain", "hidden")).unwrap()).contains("hidden"));
    }

    #[test]
    fn hosted_clusters_have_a_login_of_their_own_kind() {
        let config = json!({
            "topic": "t", "bootstrapServer": "a:9092,b:9093", "apiKey": "k", "apiSecret": "s",
            "eventHubsConnectionString": "Endpoint=sb://a;Key=x=",
        });
        let cloud = Target::read_confluent_cloud(config.as_object().unwrap()).unwrap();
        assert_eq!(cloud.brokers, ["a:9092", "b:9093"]);
        let login = cloud.login.unwrap();
        assert_eq!((login.mechanism, login.user.as_str(), login.password.as_str()), ("PLAIN", "k", "s"));
        let hub = Target::read_event_hub(config.as_object().unwrap()).unwrap();
        let login = hub.login.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("$ConnectionString", "Endpoint=sb://a;Key=x="));
        assert!(hub.uses_tls && hub.ca_certificate.is_none());
        for missing in ["topic", "bootstrapServer", "apiKey", "apiSecret"] {
            let mut config = config.as_object().cloned().unwrap();
            config.remove(missing);
            assert_eq!(Target::read_confluent_cloud(&config).unwrap_err().code(), 400, "{missing}");
        }
        let no_port = json!({ "topic": "t", "bootstrapServer": "a", "eventHubsConnectionString": "c" });
        assert_eq!(Target::read_event_hub(no_port.as_object().unwrap()).unwrap_err().code(), 400);
    }
}
