//! The routes of what went wrong: dead letters, and the figures of the stages.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::Value;

use super::dead::{self, Change, DeadError, Filter};
use super::routes::{Answer, broken, error, json_answer, json_body};
use super::server::Caller;
use super::{Deps, events};
use crate::processor::accounting::{self, Stage};

/// Longest time that a report covers.
const LONGEST_SECONDS: i64 = 31 * 86_400;

/// Lists dead letters.
pub(super) async fn list(deps: &Deps, request: Request<Incoming>) -> Answer {
    let filter = match filter(request).await {
        Ok(filter) => filter,
        Err(answer) => return answer,
    };
    let deps = deps.clone();
    match tokio::task::spawn_blocking(move || dead::list(&deps, &filter)).await {
        Ok(Ok(letters)) => json_answer(StatusCode::OK, &letters),
        Ok(Err(failure)) => refused(&failure),
        Err(failure) => broken(&failure.to_string()),
    }
}

/// One dead letter with its payload.
pub(super) async fn show(deps: &Deps, id: &str) -> Answer {
    let Ok(id) = id.parse() else {
        return error(StatusCode::BAD_REQUEST, "the id of a dead letter is a number", "", id);
    };
    let deps = deps.clone();
    match tokio::task::spawn_blocking(move || dead::show(&deps, id)).await {
        Ok(Ok(letter)) => json_answer(StatusCode::OK, &letter),
        Ok(Err(failure)) => refused(&failure),
        Err(failure) => broken(&failure.to_string()),
    }
}

/// Replays or drops dead letters.
pub(super) async fn change(deps: &Deps, caller: &Caller, verb: &str, request: Request<Incoming>) -> Answer {
    let filter = match filter(request).await {
        Ok(filter) => filter,
        Err(answer) => return answer,
    };
    let (change, name) = if verb == "replay" { (Change::Replay, "dead_replay") } else { (Change::Drop, "dead_drop") };
    let deps = deps.clone();
    match tokio::task::spawn_blocking(move || dead::change(&deps, &filter, change)).await {
        Ok(Ok(done)) => {
            events::changed(&caller.who, name, &format!("{} dead letters", done.changed));
            json_answer(StatusCode::OK, &done)
        }
        Ok(Err(failure)) => refused(&failure),
        Err(failure) => broken(&failure.to_string()),
    }
}

/// What became of events, stage by stage.
pub(super) async fn report(deps: &Deps, query: Option<&str>) -> Answer {
    let mut filter = accounting::Filter::default();
    let mut seconds = 3_600;
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "source" => filter.source_id = value.into_owned(),
            "destination" => filter.destination_id = value.into_owned(),
            "events" => filter.by_event = value == "true",
            "stage" => {
                filter.stage = Stage::named(&value);
                if filter.stage.is_none() {
                    return error(StatusCode::BAD_REQUEST, "there is no such stage", "", &value);
                }
            }
            "seconds" => match value.parse::<i64>() {
                Ok(given) if (1..=LONGEST_SECONDS).contains(&given) => seconds = given,
                _ => return error(StatusCode::BAD_REQUEST, "seconds must be from 1 to 31 days", "", "seconds"),
            },
            _ => return error(StatusCode::BAD_REQUEST, "there is no such parameter", "", &name),
        }
    }
    let (jobs, now_ms) = (deps.jobs.clone(), deps.clock.now_ms());
    let from_ms = now_ms.saturating_sub(seconds.saturating_mul(1_000));
    match tokio::task::spawn_blocking(move || accounting::read(&jobs, from_ms, now_ms, &filter)).await {
        Ok(Ok(report)) => json_answer(StatusCode::OK, &report),
        Ok(Err(failure)) => error(StatusCode::SERVICE_UNAVAILABLE, &failure.to_string(), "", ""),
        Err(failure) => broken(&failure.to_string()),
    }
}

async fn filter(request: Request<Incoming>) -> Result<Filter, Answer> {
    let body: Value = json_body(request).await?;
    serde_json::from_value(body)
        .map_err(|problem| error(StatusCode::BAD_REQUEST, &format!("the filter is not understood: {problem}"), "", ""))
}

fn refused(failure: &DeadError) -> Answer {
    error(failure.status(), &failure.to_string(), "", "")
}
