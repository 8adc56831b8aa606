//! Real-time delivery: `Router.<TYPE>.K`, then `Router.K` (router.md 24).

use std::sync::Arc;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::{Raw, Reader};

pub(super) const KEYS: &[Key] = &[
    Key::new("Router.noOfWorkers", Kind::Int, "64", "Workers of one destination.").also(&["Router.<TYPE>.noOfWorkers"]),
    Key::new("Router.httpTimeout", Kind::Duration(Unit::Second), "10s", "Longest time of one request.").also(&[
        "Router.httpTimeoutInS",
        "Router.<TYPE>.httpTimeout",
        "Router.<TYPE>.httpTimeoutInS",
    ]),
];

/// Settings of the router; those of one destination type through [`RouterSettings::of_type`].
#[derive(Clone, Debug)]
pub struct RouterSettings {
    raw: Arc<Raw>,
}

/// Settings of one destination type.
#[derive(Clone, Debug)]
pub struct RouterTypeSettings {
    /// Workers of one destination.
    pub workers: usize,
    /// Longest time of one request.
    pub http_timeout: Duration,
}

impl RouterSettings {
    pub(super) fn read(r: &Reader<'_>, raw: &Arc<Raw>) -> RouterSettings {
        let general = r.within(&[]);
        let _general_is_valid = RouterTypeSettings::read(&general);
        r.absorb(general);
        RouterSettings { raw: Arc::clone(raw) }
    }

    /// Settings of the destination type (`WEBHOOK`).
    pub fn of_type(&self, destination_type: &str) -> RouterTypeSettings {
        RouterTypeSettings::read(&Reader::scoped(&self.raw, &[format!("Router.{destination_type}")]))
    }
}

impl RouterTypeSettings {
    fn read(r: &Reader<'_>) -> RouterTypeSettings {
        RouterTypeSettings {
            workers: r.count("Router.noOfWorkers").max(1),
            http_timeout: r.duration("Router.httpTimeout"),
        }
    }
}
