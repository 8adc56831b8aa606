//! Rate limits (router.md 9): GCRA, what a job costs, how a limit adapts to refusals, how much a pass asks for.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};

/// Units per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units; 0 = no limit.
    pub limit: u64,
    /// The window, at least a second.
    pub window: Duration,
}

impl Rate {
    /// Whether the rate limits anything. A window below one second does not count.
    pub fn is_active(&self) -> bool {
        self.limit > 0 && self.window >= Duration::from_secs(1)
    }

    /// Units per second.
    pub fn per_second(&self) -> f64 {
        self.limit as f64 / self.window.as_secs_f64()
    }
}

/// The generic cell rate algorithm: a virtual arrival time, in nanoseconds of the caller's clock.
///
/// A fresh limiter lets `limit + 1` units pass at once, then one per `window / limit`.
#[derive(Clone, Debug)]
pub struct Gcra {
    rate: Rate,
    arrival_ns: i128,
}

impl Gcra {
    /// A limiter that has seen nothing.
    pub fn new(rate: Rate) -> Gcra {
        Gcra { rate, arrival_ns: i128::MIN / 4 }
    }

    /// The rate it keeps.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Nanoseconds between two units.
    fn interval_ns(&self) -> i128 {
        i128::try_from(self.rate.window.as_nanos()).unwrap_or(i128::MAX / 4) / i128::from(self.rate.limit.max(1))
    }

    /// Takes `cost` units at `now_ns`, or says how long to wait for them.
    ///
    /// # Errors
    /// The time until the same request would pass.
    pub fn take(&mut self, cost: u64, now_ns: i128) -> Result<(), Duration> {
        let interval = self.interval_ns();
        // What costs more than can ever be saved up passes when everything is: it would wait for ever otherwise.
        let cost = cost.min(self.rate.limit.saturating_add(1));
        let tolerance = interval.saturating_mul(i128::from(self.rate.limit) + 1);
        let arrival = self.arrival_ns.max(now_ns).saturating_add(interval.saturating_mul(i128::from(cost)));
        let excess = arrival - tolerance - now_ns;
        if excess <= 0 {
            self.arrival_ns = arrival;
            return Ok(());
        }
        Err(Duration::from_nanos(u64::try_from(excess).unwrap_or(u64::MAX)))
    }

    /// Single units that would pass at `now_ns`.
    pub fn available(&self, now_ns: i128) -> u64 {
        let interval = self.interval_ns().max(1);
        let tolerance = interval.saturating_mul(i128::from(self.rate.limit) + 1);
        let free = tolerance + now_ns - self.arrival_ns.max(now_ns);
        u64::try_from(free / interval).unwrap_or(0)
    }
}

/// The limiters of one destination, one per event type when that is asked for.
#[derive(Debug, Default)]
pub struct Throttler {
    limiters: HashMap<String, Gcra>,
}

/// Event types that get a limiter of their own before they share one.
const EVENT_TYPES: usize = 32;

impl Throttler {
    /// Takes the job's cost from the limiter of `name` (an event type, or empty). A changed rate starts afresh.
    ///
    /// # Errors
    /// The time to wait.
    pub fn take(&mut self, name: &str, rate: Rate, cost: u64, now_ns: i128) -> Result<(), Duration> {
        if !rate.is_active() {
            return Ok(());
        }
        let name = if self.limiters.contains_key(name) || self.limiters.len() < EVENT_TYPES { name } else { "other" };
        if self.limiters.get(name).is_none_or(|limiter| limiter.rate() != rate) {
            self.limiters.insert(name.to_owned(), Gcra::new(rate));
        }
        match self.limiters.get_mut(name) {
            Some(limiter) => limiter.take(cost, now_ns),
            None => Ok(()),
        }
    }

    /// Single units that would pass now under the rate; `None` = no limit.
    pub fn available(&self, name: &str, rate: Rate, now_ns: i128) -> Option<u64> {
        if !rate.is_active() {
            return None;
        }
        let limiter = self.limiters.get(name).filter(|limiter| limiter.rate() == rate);
        Some(limiter.map_or(rate.limit.saturating_add(1), |limiter| limiter.available(now_ns)))
    }
}

/// What a job of the event type costs: the definition's price times its events, or 1 when prices are ignored.
pub fn cost(definition: &Map<String, Value>, event_type: &str, events: u32, ignore_costs: bool) -> u64 {
    if ignore_costs {
        return 1;
    }
    let prices = definition.get("throttlingCost").and_then(|costs| costs.get("eventType"));
    let price = |name: &str| {
        let number = prices?.get(name)?;
        let whole = number.as_u64().or_else(|| {
            let float = number.as_f64()?;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against the range")]
            (1.0..1e15).contains(&float).then_some(float as u64)
        });
        whole.filter(|price| *price > 0)
    };
    price(event_type).or_else(|| price("default")).unwrap_or(1).saturating_mul(u64::from(events))
}

/// How strongly a limit adapts (9.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveParams {
    /// Lowest limit.
    pub min_limit: u64,
    /// Highest limit.
    pub max_limit: u64,
    /// The window of the limit.
    pub window: Duration,
    /// Windows between two increases.
    pub increase_windows: u32,
    /// Step up, percent of the highest limit.
    pub increase_percent: f64,
    /// Share of refusals that is tolerated, percent.
    pub tolerance_percent: f64,
    /// Step down per share of refusals, percent.
    pub decrease_percent: f64,
    /// Windows to wait after a decrease.
    pub decrease_wait_windows: u32,
}

/// Responses since the last ticks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// 429s since the last tick of increases.
    pub throttled_since_increase: u64,
    /// 429s since the last tick of decreases.
    pub throttled: u64,
    /// Responses since the last tick of decreases.
    pub total: u64,
}

impl Seen {
    /// Takes note of responses.
    pub fn observe(&mut self, throttled: u64, total: u64) {
        self.throttled_since_increase += throttled;
        self.throttled += throttled;
        self.total += total;
    }
}

/// A limit that shrinks when the destination answers 429 and grows back.
#[derive(Clone, Debug)]
pub struct Adaptive {
    factor: f64,
}

impl Default for Adaptive {
    fn default() -> Adaptive {
        Adaptive { factor: 1.0 }
    }
}

impl Adaptive {
    /// The tick of increases: up when nothing was refused since the last one.
    pub fn tick_increase(&mut self, params: &AdaptiveParams, throttled: u64) {
        if throttled == 0 {
            self.move_by(params.increase_percent / 100.0);
        }
    }

    /// The tick of decreases: down by the share of refusals when it is above the tolerance. Whether it went down.
    pub fn tick_decrease(&mut self, params: &AdaptiveParams, throttled: u64, total: u64) -> bool {
        let share = if total == 0 { 0.0 } else { throttled as f64 / total as f64 };
        let goes_down = share > params.tolerance_percent / 100.0;
        if goes_down {
            self.move_by(-share * params.decrease_percent / 100.0);
        }
        goes_down
    }

    /// The factor on the highest limit, 0 to 1.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The limit in force.
    pub fn limit(&self, params: &AdaptiveParams) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the highest limit")]
        let scaled = (params.max_limit as f64 * self.factor + 1e-9).floor() as u64;
        scaled.max(params.min_limit)
    }

    fn move_by(&mut self, step: f64) {
        // Rounded so that steps of a tenth add up to whole tenths.
        let moved = ((self.factor + step) * 1e9).round() / 1e9;
        self.factor = moved.clamp(0.0, 1.0);
    }
}

/// Jobs that a pass asks for when limits are in force (3.2, step 3): what they let through between two reads.
pub fn adapted_query_size(limits_per_second: &[f64], read_sleep: Duration, configured: usize, max: usize) -> usize {
    let sum: f64 = limits_per_second.iter().sum();
    if sum <= 0.0 {
        return configured;
    }
    let seconds = read_sleep.as_secs_f64().ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and bounded right after")]
    let jobs = (sum * seconds).min(1e9) as usize;
    jobs.min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn a_fresh_limiter_lets_one_more_than_the_limit_pass_then_one_per_interval() {
        let mut limiter = Gcra::new(Rate { limit: 10, window: Duration::from_secs(1) });
        assert_eq!(limiter.available(0), 11);
        for _ in 0..11 {
            assert!(limiter.take(1, 0).is_ok());
        }
        assert_eq!(limiter.take(1, 0), Err(Duration::from_millis(100)));
        assert!(limiter.take(1, SECOND / 10).is_ok());
        assert!(limiter.take(1, SECOND / 10).is_err());
        assert_eq!(limiter.available(SECOND / 10), 0);
        assert_eq!(limiter.available(SECOND * 9), 11);
    }

    #[test]
    fn a_changed_rate_starts_afresh_and_no_rate_never_refuses() {
        let mut throttler = Throttler::default();
        let one = Rate { limit: 1, window: Duration::from_secs(60) };
        assert!(throttler.take("", one, 2, 0).is_ok() && throttler.take("", one, 1, 0).is_err());
        assert!(throttler.take("", Rate { limit: 2, ..one }, 1, 0).is_ok());
        assert!(throttler.take("", Rate { limit: 0, ..one }, 1_000, 0).is_ok());
        assert!(throttler.take("", Rate { window: Duration::from_millis(500), ..one }, 1_000, 0).is_ok());
    }

    #[test]
    fn a_job_that_costs_more_than_the_limit_passes_when_nothing_else_did() {
        let mut limiter = Gcra::new(Rate { limit: 10, window: Duration::from_secs(1) });
        assert!(limiter.take(1_000, 0).is_ok());
        assert_eq!(limiter.take(1_000, 0), Err(Duration::from_millis(1_100)));
        assert!(limiter.take(1_000, SECOND * 11 / 10).is_ok());
    }

    #[test]
    fn costs_come_from_the_definition() {
        let Value::Object(definition) =
            serde_json::json!({"throttlingCost": {"eventType": {"default": 2, "track": 3, "page": 0}}})
        else {
            panic!("an object")
        };
        for (event_type, ignore, expected) in
            [("track", false, 12), ("identify", false, 8), ("page", false, 8), ("track", true, 1)]
        {
            assert_eq!(cost(&definition, event_type, 4, ignore), expected, "{event_type}");
        }
        assert_eq!(cost(&Map::new(), "track", 4, false), 4);
    }

    #[test]
    fn a_limit_shrinks_with_refusals_and_grows_back() {
        let params = AdaptiveParams {
            min_limit: 20,
            max_limit: 100,
            window: Duration::from_secs(1),
            increase_windows: 2,
            increase_percent: 10.0,
            tolerance_percent: 10.0,
            decrease_percent: 30.0,
            decrease_wait_windows: 1,
        };
        let mut adaptive = Adaptive::default();
        for _ in 0..4 {
            assert!(adaptive.tick_decrease(&params, 10, 10));
        }
        assert_eq!(adaptive.limit(&params), 20);
        adaptive.tick_increase(&params, 1);
        assert!(adaptive.factor() < 1e-6);
        for _ in 0..3 {
            adaptive.tick_increase(&params, 0);
        }
        assert_eq!(adaptive.limit(&params), 30);
    }

    #[test]
    fn a_pass_asks_for_what_the_limits_let_through() {
        let sleep = Duration::from_millis(1_500);
        for (limits, expected) in [(&[50.0][..], 100), (&[], 9_000), (&[0.0], 9_000), (&[8_000.0, 4_000.0], 10_000)] {
            assert_eq!(adapted_query_size(limits, sleep, 9_000, 10_000), expected, "{limits:?}");
        }
    }
}
