//! One attempt: from a payload to the destination's answer, over HTTP or through a client of the type's own.

use std::time::Instant;

use bytes::Bytes;

use super::error_response::ErrorAt;
use super::events;
use super::outcome::Attempted;
use super::plan::Plan;
use super::shared::{ENDPOINTS, Shared};
use super::status_table::is_success;
use super::throttle::Gcra;
use super::unreachable::Allowance;
use super::wire::{self, Wire};
use super::worker::Held;
use crate::settings::EventUrls;
use crate::stream::Client;

/// What this node says itself of a job.
pub(super) fn refusal(code: i32, text: impl Into<String>, at: ErrorAt) -> Attempted {
    Attempted { code, text: text.into(), error_at: Some(at).filter(|_| !is_success(code)), ..Attempted::default() }
}

/// One attempt of a job whose payload is ready to be delivered.
pub(super) async fn attempt(shared: &Shared, plan: &Plan, held: &Held) -> Attempted {
    if held.facts.untransformed || !(plan.over_http || plan.client.is_some()) {
        shared.probe_dropped(held.is_probe);
        let kind = &held.job.partition.custom_val;
        let text = if held.facts.untransformed {
            format!("transformer for {kind} not available")
        } else {
            format!("client for {kind} not available")
        };
        return refusal(404, text, ErrorAt::Transformation);
    }
    deliver(shared, plan, &held.job.payload, held.is_probe).await
}

/// Delivers a payload. `is_probe` says that it finds out whether the destination can be reached again.
pub(super) async fn deliver(shared: &Shared, plan: &Plan, payload: &Bytes, is_probe: bool) -> Attempted {
    match &plan.client {
        // Apart, so that a job over HTTP does not carry the states of every stream's client.
        Some(client) => Box::pin(through(shared, plan, client, payload, is_probe)).await,
        None => over_http(shared, plan, payload, is_probe).await,
    }
}

/// Through a client that the destination has for itself (router.md 14).
async fn through(shared: &Shared, plan: &Plan, client: &Client, payload: &Bytes, is_probe: bool) -> Attempted {
    if plan.settings.disable_egress {
        shared.probe_dropped(is_probe);
        return refusal(200, "200: outgoing disabled", ErrorAt::Delivery);
    }
    wait_for_rate(shared, plan, "").await;
    let started = Instant::now();
    // In a place of its own: what some clients need to connect would make the task of every worker large.
    let sent = Box::pin(client.send(payload, plan.settings.http_timeout)).await;
    events::request_took(&plan.meters, started.elapsed());
    match sent {
        Ok(()) => {
            shared.note_reach(plan, is_probe, true, false);
            refusal(200, "", ErrorAt::Delivery)
        }
        Err(fault) => {
            shared.note_reach(plan, is_probe, fault.is_answer(), fault.is_unreachable());
            let text = fault.text(&plan.kind, &shared.id);
            Attempted { unreachable: fault.is_unreachable(), ..refusal(fault.code(), text, ErrorAt::Delivery) }
        }
    }
}

async fn over_http(shared: &Shared, plan: &Plan, payload: &Bytes, is_probe: bool) -> Attempted {
    let mut request = match wire::read(payload, &plan.identity) {
        Wire::Send(request) if !plan.settings.disable_egress => *request,
        Wire::Send(_) => {
            shared.probe_dropped(is_probe);
            return refusal(200, "200: outgoing disabled", ErrorAt::Delivery);
        }
        Wire::Nothing => {
            shared.probe_dropped(is_probe);
            return refusal(200, "", ErrorAt::Delivery);
        }
        Wire::Refused { code, text, at } => {
            shared.probe_dropped(is_probe);
            return refusal(code, text, at);
        }
    };
    let mut guarded = plan.settings.block_private_ips;
    if plan.settings.event_urls != EventUrls::Any && plan.origins.is_foreign(&request.url) {
        if plan.settings.event_urls == EventUrls::Off || request.had_user_info {
            shared.probe_dropped(is_probe);
            return refusal(403, "403: event URLs are not allowed", ErrorAt::Delivery);
        }
        plan.origins.strip(&mut request);
        guarded = true;
    }
    wait_for_rate(shared, plan, &request.endpoint_path).await;
    let started = Instant::now();
    let answer =
        shared.courier.send(request, &plan.way, guarded, &|headers| plan.origins.private_headers(headers)).await;
    events::request_took(&plan.meters, started.elapsed());
    shared.note_reach(plan, is_probe, answer.answered, answer.unreachable);
    Attempted {
        error_at: Some(ErrorAt::Delivery).filter(|_| !is_success(answer.code)),
        code: answer.code,
        text: answer.text,
        content_type: answer.content_type,
        unreachable: answer.unreachable,
        retry_after: answer.retry_after,
    }
}

/// Waits for the rate limit of the endpoint; the request is sent at the latest when the wait's own bound is over.
async fn wait_for_rate(shared: &Shared, plan: &Plan, endpoint_path: &str) {
    let rate = plan.endpoint_rate(endpoint_path);
    if !rate.is_active() {
        return;
    }
    let deadline = Instant::now() + plan.settings.delivery_throttler_timeout;
    loop {
        let wait = {
            let mut limiters = shared.endpoint_limiters.lock();
            if limiters.get(endpoint_path).is_none_or(|limiter: &Gcra| limiter.rate() != rate) {
                if limiters.len() >= ENDPOINTS {
                    return;
                }
                limiters.insert(endpoint_path.to_owned(), Gcra::new(rate));
            }
            let now_ns = shared.elapsed_ns();
            limiters.get_mut(endpoint_path).and_then(|limiter| limiter.take(1, now_ns).err())
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match wait {
            Some(wait) if !left.is_zero() => tokio::time::sleep(wait.min(left)).await,
            _ => return,
        }
    }
}

impl Shared {
    /// Whether the job may not be attempted now, because the destination cannot be reached. Later jobs of its key
    /// then go back as well, also when the destination answers again before their turn.
    pub(super) fn must_hold_back(&self, held: &Held) -> bool {
        let is_open = self.reach.lock().allowance(Instant::now()) == Allowance::Open;
        let holds_back = !is_open && !held.is_probe && held.aborts.is_none();
        if holds_back && held.ordered {
            self.barrier.lock().given_back(&held.order_key, held.job.id);
        }
        holds_back
    }

    /// A probe ended without an attempt.
    pub(super) fn probe_dropped(&self, is_probe: bool) {
        if is_probe {
            self.reach.lock().probe_dropped();
        }
    }

    /// Takes note of what an attempt says about the way to the destination.
    fn note_reach(&self, plan: &Plan, is_probe: bool, answered: bool, unreachable: bool) {
        let longest = plan.settings.unreachable_probe_max;
        let now = Instant::now();
        let mut reach = self.reach.lock();
        if answered {
            if reach.answered() {
                events::unreachable(&plan.labels, false);
            }
        } else if (unreachable || is_probe) && reach.reached_nobody(now, is_probe, longest) {
            events::unreachable(&plan.labels, true);
        }
    }
}
