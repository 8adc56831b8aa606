//! Everything that settings and configuration say about delivering to one destination, worked out once per change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

use super::barrier;
use super::delivery::{DeliveryRules, Way};
use super::drain::Standing;
use super::event_origin::ConfiguredOrigins;
use super::events::{Labels, Meters};
use super::throttle::{AdaptiveParams, Rate};
use super::wire::Identity;
use crate::backend_config::{Destination, Scrubber, Snapshot};
use crate::clock::Clock;
use crate::destination::private_address::AddressRules;
use crate::destination::{Plan as Transformation, is_transformed_by_router};
use crate::settings::{RouterTypeSettings, Settings};
use crate::stream::{Client, Surroundings};

/// Rates per endpoint label or event type that are remembered.
const RATES: usize = 200;

/// Types that are served by a client of their own, never over HTTP (router.md 2).
const NOT_OVER_HTTP: [&str; 17] = [
    "KINESIS",
    "KAFKA",
    "AZURE_EVENT_HUB",
    "FIREHOSE",
    "EVENTBRIDGE",
    "GOOGLEPUBSUB",
    "CONFLUENT_CLOUD",
    "PERSONALIZE",
    "GOOGLESHEETS",
    "BQSTREAM",
    "LAMBDA",
    "GOOGLE_CLOUD_FUNCTION",
    "WUNDERKIND",
    "REDIS",
    "MQTT",
    "NATS",
    "SQS",
];

/// How one destination is delivered to.
#[derive(Debug)]
pub(super) struct Plan {
    /// The whole settings, for look-ups by event type or endpoint.
    whole: Arc<Settings>,
    pub(super) kind: String,
    id: String,
    pub(super) settings: RouterTypeSettings,
    pub(super) way: Way,
    pub(super) identity: Identity,
    pub(super) origins: ConfiguredOrigins,
    pub(super) standing: Standing,
    pub(super) destination: Option<Arc<Destination>>,
    pub(super) keeps_warnings: bool,
    pub(super) over_http: bool,
    /// The client of a type that is not served over HTTP.
    pub(super) client: Option<Arc<Client>>,
    /// What the router makes of events that the processor left as they are.
    pub(super) transformation: Option<Arc<Transformation>>,
    pub(super) labels: Labels,
    pub(super) meters: Meters,
    pub(super) rate: Rate,
    event_rates: Mutex<HashMap<String, Rate>>,
    endpoint_rates: Mutex<HashMap<String, Rate>>,
    /// Takes secrets out of what a destination answers.
    pub(super) scrubber: Arc<Scrubber>,
}

impl Plan {
    /// The plan for the destination `id`, whose jobs are of the type `kind` and come from `workspace_id`.
    pub(super) fn new(
        whole: &Arc<Settings>,
        config: Option<&Snapshot>,
        kind: &str,
        id: &str,
        workspace_id: &str,
        clock: &Clock,
    ) -> Plan {
        let mut settings = whole.router.of_destination(kind, id);
        let destination = config.and_then(|config| config.destination_by_id.get(id)).cloned();
        let standing = match &destination {
            None => Standing::Unknown,
            Some(destination) if destination.enabled => Standing::Enabled,
            Some(_) => Standing::Disabled,
        };
        let definition_says = |name: &str| {
            let value = destination.as_ref().and_then(|destination| destination.definition.config.get(name));
            value == Some(&Value::Bool(true))
        };
        settings.save_destination_response |= definition_says("saveDestinationResponse");
        let rules = DeliveryRules {
            timeout: settings.http_timeout,
            idle_per_host: settings.idle_connections_per_host,
            force_http1: settings.force_http1,
            private_ranges: AddressRules::private(&settings.private_ip_ranges),
            allows_metadata: settings.allow_metadata_ips,
            guarded_uses_proxy: settings.guarded_uses_proxy,
            own_listeners: whole.admin.listen.into_iter().collect(),
            keeps_successful_body: settings.save_destination_response,
        };
        let around = Surroundings {
            workspace_id: workspace_id.to_owned(),
            clock: clock.clone(),
            addresses: AddressRules {
                refused: if settings.block_private_ips { rules.private_ranges.clone() } else { Vec::new() },
                allows_metadata: settings.allow_metadata_ips && !settings.block_private_ips,
                own: Vec::new(),
            },
            own_listeners: rules.own_listeners.clone(),
        };
        let (limit, window) = whole.router.throttle(kind, id, None);
        let name = destination.as_ref().map_or("", |destination| destination.name.as_str());
        let labels = Labels::new(kind, id, name, workspace_id);
        Plan {
            whole: Arc::clone(whole),
            kind: kind.to_owned(),
            id: id.to_owned(),
            way: Way::new(rules),
            identity: Identity { user_agent: settings.user_agent.clone(), instance_id: settings.instance_id.clone() },
            origins: match &destination {
                Some(destination) => ConfiguredOrigins::of(destination, &settings.event_url_hosts),
                None => ConfiguredOrigins::default(),
            },
            standing,
            keeps_warnings: definition_says("supportsDeliveredWithWarnings")
                || settings.delivered_with_warnings_workspaces.iter().any(|listed| listed == workspace_id),
            over_http: !NOT_OVER_HTTP.contains(&kind),
            client: destination
                .as_ref()
                .and_then(|destination| Client::of(kind, &destination.config, &whole.router, &around))
                .map(Arc::new),
            transformation: destination
                .as_ref()
                .filter(|_| is_transformed_by_router(kind))
                .map(|destination| Arc::new(Transformation::of_type(kind, destination))),
            meters: Meters::new(&labels),
            labels,
            rate: Rate { limit, window },
            event_rates: Mutex::default(),
            endpoint_rates: Mutex::default(),
            scrubber: config.map(|config| Arc::clone(&config.scrubber)).unwrap_or_default(),
            destination,
            settings,
        }
    }

    /// Goes on with the client of an earlier plan if its configuration is the same: an open connection stays open.
    pub(super) fn keep_client(&mut self, earlier: &Plan) {
        if let (Some(client), Some(known)) = (&self.client, &earlier.client)
            && client.is_configured_like(known)
        {
            self.client = Some(Arc::clone(known));
        }
    }

    /// The rate limit of an event type; that of the destination when types have none of their own.
    pub(super) fn rate_of(&self, event_type: &str) -> Rate {
        if !self.settings.throttle_per_event_type {
            return self.rate;
        }
        remembered(&self.event_rates, event_type, || self.whole.router.throttle(&self.kind, &self.id, Some(event_type)))
    }

    /// The rate limit of requests to an endpoint, by its label.
    pub(super) fn endpoint_rate(&self, endpoint_path: &str) -> Rate {
        let label = if endpoint_path.is_empty() { "default" } else { endpoint_path };
        remembered(&self.endpoint_rates, label, || self.whole.router.delivery_throttle(&self.kind, &self.id, label))
    }

    /// How the limit follows refusals, if it does.
    pub(super) fn adaptive(&self) -> Option<AdaptiveParams> {
        let adaptive = self.settings.adaptive?;
        let default_max = u64::try_from(adaptive.default_max_limit).unwrap_or(u64::MAX);
        let params = AdaptiveParams {
            min_limit: u64::try_from(adaptive.min_limit).unwrap_or(u64::MAX),
            max_limit: if self.rate.limit > 0 { self.rate.limit } else { default_max },
            window: self.rate.window,
            increase_windows: adaptive.increase_windows.max(1),
            increase_percent: f64::from(adaptive.increase_percent),
            tolerance_percent: f64::from(adaptive.tolerance_percent),
            decrease_percent: f64::from(adaptive.decrease_percent),
            decrease_wait_windows: adaptive.decrease_wait_windows,
        };
        let makes_sense =
            params.min_limit > 0 && params.min_limit <= params.max_limit && params.window > Duration::ZERO;
        makes_sense.then_some(params)
    }

    /// The bounds of the order barrier.
    pub(super) fn barrier_params(&self) -> barrier::Params {
        barrier::Params {
            key_threshold: self.settings.order_key_threshold,
            disabled: self.settings.order_disabled,
            half_enabled: self.settings.order_half_enabled,
            drain_limit: self.settings.order_drain_limit,
        }
    }

    /// Whether order is off for the destination by a list of the settings.
    pub(super) fn order_is_off(&self, workspace_id: &str) -> bool {
        let settings = &self.settings;
        settings.ordering_disabled_workspaces.iter().any(|listed| listed == workspace_id)
            || settings.ordering_disabled_destinations.contains(&self.id)
    }
}

fn remembered(rates: &Mutex<HashMap<String, Rate>>, name: &str, look_up: impl Fn() -> (u64, Duration)) -> Rate {
    let mut rates = rates.lock();
    if let Some(rate) = rates.get(name) {
        return *rate;
    }
    let (limit, window) = look_up();
    let rate = Rate { limit, window };
    if rates.len() < RATES {
        rates.insert(name.to_owned(), rate);
    }
    rate
}
