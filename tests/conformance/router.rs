//! Vectors of real-time delivery: pure calls of the rules that the router runs on, with a fake clock.
//!
//! Kinds of the batch router and of destinations are handed to suite files of their own.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::Url;
use serde_json::{Map, Value, json};

use pintle::destination::private_address::{AddressRules, REFUSED_CODE, REFUSED_TEXT};
use pintle::router::backoff;
use pintle::router::barrier::{Barrier, Ended, Params};
use pintle::router::drain::{Facts, Reason, Standing, reason};
use pintle::router::error_response::{ErrorAt, Previous};
use pintle::router::outcome::{Attempted, Before, judge, status_after_attempt, status_after_drain};
use pintle::router::pickup::{Candidate, Decision, Pass, PassRules, Step, next_step};
use pintle::router::response::stored_text;
use pintle::router::retry_limit::{LastAttempt, Limit, is_reached};
use pintle::router::status_table::{Verdict, is_success, is_terminal, verdict};
use pintle::router::throttle::{Adaptive, AdaptiveParams, Gcra, Rate, adapted_query_size, cost};
use pintle::router::wire::{Identity, Wire, read};
use pintle::router::worker_batch::{BatchJob, BatchRequest, FailedKeys, Fate, SKIPPED_CODE, SKIPPED_TEXT, fates, sort};
use pintle::router::worker_index;
use pintle::settings::{RouterTypeSettings, Settings};

use crate::report::CaseResult;

/// Passes after which a simulation that does not come to rest is given up.
const LONGEST_SIMULATION_S: i64 = 3_000_000;

type Outcome = Result<(), String>;

/// Runs the cases one by one.
pub fn run(cases: &[Value], _folder: &Path) -> Vec<CaseResult> {
    cases.iter().map(run_case).collect()
}

fn run_case(case: &Value) -> CaseResult {
    let id = case["id"].as_str().or_else(|| case["name"].as_str()).unwrap_or_default();
    let kind = case["kind"].as_str().unwrap_or_default();
    let (given, expect) = (&case["given"], &case["expect"]);
    let outcome = match kind {
        "status_table" => status_table(given, expect),
        "delivered_with_warning" => delivered_with_warning(given, expect),
        "backoff_schedule" => backoff_schedule(given, expect),
        "retry_limit" => retry_limit(given, expect),
        "stored_error_response" => stored_error_response(given, expect),
        "drain_status" => drain_status(given, expect),
        "drain_reason" => drain_reason(given, expect),
        "response_text" => response_text(given, expect),
        "barrier_steps" => barrier_steps(given, expect),
        "order_scenario" => order_scenario(given, expect),
        "worker_batch" => worker_batch(given, expect),
        "worker_index" => index(given, expect),
        "gcra" => gcra(given, expect),
        "throttle_cost" => throttle_cost(given, expect),
        "adaptive_factor" => adaptive_factor(given, expect),
        "adapted_query_size" => query_size(given, expect),
        "http_wire" => http_wire(given, expect),
        "http_wire_result" => http_wire_result(given, expect),
        "private_ip" => private_ip(given, expect),
        _ => match crate::router_batch::run_case(kind, case)
            .or_else(|| crate::router_destinations::run_case(kind, given, expect))
        {
            Some((true, _)) => Ok(()),
            Some((false, detail)) => Err(detail),
            None => Err(format!("kind {kind:?} is not built")),
        },
    };
    match outcome {
        Ok(()) => CaseResult { id: id.to_owned(), by: kind.to_owned(), passed: true, detail: String::new() },
        Err(detail) => CaseResult { id: id.to_owned(), by: kind.to_owned(), passed: false, detail },
    }
}

fn same(found: &Value, expected: &Value) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("expected {expected}, found {found}")) }
}

/// Every member that is expected is there; others do not matter.
fn covers(found: &Value, expected: &Value) -> Outcome {
    for (name, value) in expected.as_object().into_iter().flatten() {
        same(&found[name], value).map_err(|difference| format!("{name}: {difference}"))?;
    }
    Ok(())
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    list(value, name).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

fn count(value: &Value, name: &str) -> usize {
    usize::try_from(number(value, name)).unwrap()
}

fn seconds(value: &Value, name: &str) -> Duration {
    Duration::from_secs_f64(value[name].as_f64().unwrap_or_default())
}

fn code_of(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap_or_default()).unwrap()
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

fn bytes_of(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

fn defaults() -> RouterTypeSettings {
    Settings::defaults().router.of_type("WEBHOOK")
}

fn status_table(given: &Value, expect: &Value) -> Outcome {
    let rows = list(given, "codes").iter().map(|code| {
        let code = code_of(code);
        json!({"code": code, "success": is_success(code), "terminal": is_terminal(code), "state": verdict(code).name()})
    });
    same(&rows.collect(), expect)
}

fn delivered_with_warning(given: &Value, expect: &Value) -> Outcome {
    let keeps = given["definition_supports"] == true || given["workspace_listed"] == true;
    let judged = judge(code_of(&given["code"]), keeps);
    covers(&json!({"state": judged.verdict.name(), "stored_error_code": judged.code}), expect)
}

fn backoff_schedule(given: &Value, expect: &Value) -> Outcome {
    let delays = list(given, "attempts").iter().map(|attempt| {
        let attempt = u32::try_from(attempt.as_i64().unwrap_or_default().max(0)).unwrap();
        backoff::delay(attempt, seconds(given, "min_s"), seconds(given, "max_s")).as_secs()
    });
    same(&json!({"delays_s": delays.collect::<Vec<_>>()}), expect)
}

fn retry_limit(given: &Value, expect: &Value) -> Outcome {
    let now_ms = time(&given["now"]).as_millisecond();
    for row in list(expect, "rows") {
        let in_run = !text(row, "source_job_run_id").is_empty();
        let (window, attempts) = if in_run {
            (seconds(given, "sources_window_s"), number(given, "sources_max_failed"))
        } else {
            (seconds(given, "retry_time_window_s"), number(given, "max_failed"))
        };
        let limit = Limit { window, attempts: u32::try_from(attempts).unwrap() };
        let last = LastAttempt {
            error_code: text(row, "error_code"),
            attempt: u32::try_from(number(row, "attempt")).unwrap(),
            first_attempted_ms: row["first_attempted_ago_s"].as_i64().map(|ago| now_ms - ago * 1_000),
            unreachable: row["unreachable"] == true,
        };
        let reached = is_reached(&last, limit, now_ms, given["unreachable_counts"] == true);
        same(&json!(reached), &row["reached"]).map_err(|difference| format!("{row}: {difference}"))?;
    }
    Ok(())
}

fn stored_error_response(given: &Value, expect: &Value) -> Outcome {
    let code = code_of(&given["code"]);
    let error_at = match text(given, "error_at") {
        "delivery" | "" => ErrorAt::Delivery,
        _ => ErrorAt::Transformation,
    };
    let settings = RouterTypeSettings {
        save_destination_response: given["save_destination_response"] == true,
        report_jobsdb_payload: given["report_jobsdb_payload"] != false,
        store_delivered_with_warning_payload: given["store_delivered_with_warning_payload"] == true,
        ..defaults()
    };
    let attempted = Attempted {
        code,
        text: stored_text(text(given, "content_type"), text(given, "body").as_bytes()),
        content_type: text(given, "content_type").to_owned(),
        error_at: Some(error_at).filter(|_| !is_success(code)),
        unreachable: given["unreachable"] == true,
        retry_after: None,
    };
    let judged = judge(code, given["definition_supports"] == true || given["workspace_listed"] == true);
    let previous = given["previous_error_response"].to_string();
    let attempt = u32::try_from(number(given, "attempt_before")).unwrap();
    let before = Before { attempt, error_response: previous.as_bytes() };
    let run = text(given, "source_job_run_id");
    let status = status_after_attempt(&attempted, &judged, &before, run, &settings, time(&given["now"]));
    let found = json!({
        "state": judged.verdict.name(),
        "attempt": status.attempt,
        "error_code": status.error_code,
        "error_response": serde_json::from_slice::<Value>(&status.error_response).unwrap(),
    });
    covers(&found, expect)
}

const REASONS: [Reason; 6] = [
    Reason::Expired,
    Reason::UnknownDestination,
    Reason::Disabled,
    Reason::ToAbort,
    Reason::CancelledRun,
    Reason::RetryLimit,
];

fn drain_status(given: &Value, expect: &Value) -> Outcome {
    let wanted = text(given, "reason");
    let why = REASONS.into_iter().find(|known| known.text() == wanted).ok_or(format!("unknown reason {wanted:?}"))?;
    let previous = given["previous_error_response"].to_string();
    let attempt = u32::try_from(number(given, "attempt_before")).unwrap();
    let status = status_after_drain(&Before { attempt, error_response: previous.as_bytes() }, why, 0);
    let found = json!({
        "state": "aborted",
        "attempt": status.attempt,
        "error_code": status.error_code,
        "error_response": serde_json::from_slice::<Value>(&status.error_response).unwrap(),
    });
    covers(&found, expect)
}

fn drain_reason(given: &Value, expect: &Value) -> Outcome {
    let (to_abort, runs) = (texts(given, "to_abort_destination_ids"), texts(given, "job_run_ids"));
    let reasons = list(given, "jobs").iter().map(|job| {
        let id = text(job, "destination");
        let run = text(job, "run");
        let facts = Facts {
            age: Some(seconds(job, "age_s")),
            retention: seconds(given, "retention_s"),
            standing: match &given["destinations"][id] {
                Value::Null => Standing::Unknown,
                destination if destination["enabled"] == true => Standing::Enabled,
                _ => Standing::Disabled,
            },
            to_abort: to_abort.iter().any(|listed| listed == id),
            run_cancelled: !run.is_empty() && runs.iter().any(|listed| listed == run),
        };
        reason(&facts).map(Reason::text)
    });
    same(&json!({"reasons": reasons.collect::<Vec<_>>()}), expect)
}

fn response_text(given: &Value, expect: &Value) -> Outcome {
    let is_dropped = is_success(code_of(&given["code"])) && given["save_destination_response"] != true;
    for (case, expected) in list(given, "cases").iter().zip(list(expect, "stored")) {
        let body = match case["body"].as_str() {
            Some(body) => body.as_bytes().to_vec(),
            None => vec![b'a'; count(case, "len")],
        };
        let stored = if is_dropped { String::new() } else { stored_text(text(case, "content_type"), &body) };
        let is_letters = stored.bytes().all(|byte| byte == b'a');
        let found = json!({"text": stored, "letters": if is_letters { json!(stored.len()) } else { Value::Null }});
        covers(&found, expected).map_err(|difference| format!("{case}: {difference}"))?;
    }
    Ok(())
}

fn barrier_params(params: &Value) -> Params {
    let or = |name: &str, default: u64| params[name].as_u64().unwrap_or(default);
    Params {
        key_threshold: usize::try_from(or("key_threshold", 200)).unwrap(),
        disabled: Duration::from_secs(or("disabled_s", 1_200)),
        half_enabled: Duration::from_secs(or("half_enabled_s", 600)),
        drain_limit: usize::try_from(or("drain_limit", 1)).unwrap(),
    }
}

fn barrier_steps(given: &Value, expect: &Value) -> Outcome {
    let mut barrier = Barrier::new(barrier_params(&given["params"]));
    let mut now_ms = 0;
    for (at, step) in list(expect, "steps").iter().enumerate() {
        let (key, job) = (text(step, "key"), number(step, "job"));
        let found = match text(step, "op") {
            "enter" => {
                let entry = barrier.enter(key, job, now_ms);
                json!({"accepted": entry.accepted, "failed_job": entry.failed_job})
            }
            "wait" => {
                let (wait, failed_job) = barrier.must_wait(key, job);
                json!({"wait": wait, "failed_job": failed_job})
            }
            "leave" => {
                barrier.leave(key, job);
                json!({})
            }
            "changed" => {
                match text(step, "state") {
                    "failed" => barrier.failed(key, job, now_ms),
                    "succeeded" | "filtered" => barrier.ended(key, job, Ended::Handled),
                    "aborted" => barrier.ended(key, job, Ended::Aborted),
                    "waiting" => barrier.ended(key, job, Ended::Waiting),
                    other => return Err(format!("unknown state {other:?}")),
                }
                json!({})
            }
            "sync" => json!({"applied": barrier.sync()}),
            "size" => json!({"size": barrier.size()}),
            "disabled" => json!({"disabled": barrier.is_disabled(key, now_ms)}),
            "advance" => {
                now_ms += i64::try_from(seconds(step, "seconds").as_millis()).unwrap();
                json!({})
            }
            other => return Err(format!("unknown step {other:?}")),
        };
        let mut expected = step.as_object().cloned().unwrap_or_default();
        expected.retain(|name, _| !matches!(name.as_str(), "op" | "key" | "job" | "state" | "seconds" | "note"));
        covers(&found, &Value::Object(expected)).map_err(|difference| format!("step {at} {step}: {difference}"))?;
    }
    Ok(())
}

/// A job of a simulation.
struct SimJob {
    id: u64,
    user: String,
    key: String,
    run: String,
    attempt: u32,
    retry_ms: i64,
    error_code: String,
    error_response: Vec<u8>,
    failed: bool,
    end: Option<Verdict>,
}

fn order_scenario(given: &Value, expect: &Value) -> Outcome {
    let settings = RouterTypeSettings {
        min_retry_backoff: seconds(given, "min_backoff_s"),
        max_retry_backoff: seconds(given, "max_backoff_s"),
        retry_time_window: seconds(given, "retry_time_window_s"),
        max_failed_count: u32::try_from(number(given, "max_failed")).unwrap(),
        guarantee_user_order: given["ordering"] != false,
        ..defaults()
    };
    let limit = Limit { window: settings.retry_time_window, attempts: settings.max_failed_count };
    let mut barrier = Barrier::new(barrier_params(given));
    let mut jobs: Vec<SimJob> = list(given, "jobs")
        .iter()
        .map(|job| SimJob {
            id: number(job, "id"),
            user: text(job, "user").to_owned(),
            key: format!("ws:dst:{}", text(job, "user")),
            run: text(job, "source_job_run_id").to_owned(),
            attempt: 0,
            retry_ms: 0,
            error_code: String::new(),
            error_response: b"{}".to_vec(),
            failed: false,
            end: None,
        })
        .collect();
    jobs.sort_by_key(|job| job.id);
    let mut attempts: Vec<(i64, u64, Value)> = Vec::new();
    let start_ms = 1_700_000_000_000;
    for t in 0..LONGEST_SIMULATION_S {
        if jobs.iter().all(|job| job.end.is_some()) {
            break;
        }
        let now_ms = start_ms + t * 1_000;
        barrier.sync();
        let rules = PassRules { guarantees_order: settings.guarantee_user_order, throttling_ends_pass: true };
        let mut pass = Pass::new(rules, 0);
        let mut slots = vec![1_000; settings.workers];
        let mut reserved = Vec::new();
        for (at, job) in jobs.iter().enumerate().filter(|(_, job)| job.end.is_none()) {
            let previous = Previous::read(&job.error_response);
            let last = LastAttempt {
                error_code: &job.error_code,
                attempt: job.attempt,
                first_attempted_ms: previous.first_attempted_ms(),
                unreachable: false,
            };
            let aborts = job.failed && is_reached(&last, limit, now_ms, false);
            let candidate = Candidate {
                id: job.id,
                order_key: &job.key,
                backoff_until_ms: job.failed.then_some(job.retry_ms),
                aborts,
                order_is_off: false,
            };
            if let Decision::Reserve { ordered, .. } =
                pass.decide(&candidate, &mut slots, &mut barrier, &mut || Ok(()), now_ms)
            {
                reserved.push((at, ordered, aborts));
            }
        }
        for (at, ordered, aborts) in reserved {
            let job = &mut jobs[at];
            match next_step(&mut barrier, &job.key, job.id, ordered, aborts) {
                Step::Wait => barrier.ended(&job.key, job.id, Ended::Waiting),
                Step::GiveUp => {
                    attempts.push((t, job.id, json!("drain")));
                    job.end = Some(Verdict::Aborted);
                    if ordered {
                        barrier.ended(&job.key, job.id, Ended::Aborted);
                    }
                }
                Step::Attempt => attempt(job, given, &settings, ordered, &mut barrier, (t, now_ms), &mut attempts),
            }
        }
    }
    let users: HashMap<u64, String> = jobs.iter().map(|job| (job.id, job.user.clone())).collect();
    let found = attempts.iter().map(|(t, job, code)| json!({"t": t, "job": job, "code": code})).collect();
    same(&sorted_by_user(found, &users), &sorted_by_user(list(expect, "attempts").to_vec(), &users))?;
    let by_id = |value: &dyn Fn(&SimJob) -> Value| -> Value {
        jobs.iter().map(|job| (job.id.to_string(), value(job))).collect::<Map<_, _>>().into()
    };
    let found = json!({
        "final": by_id(&|job| job.end.map_or(json!("failed"), |end| json!(end.name()))),
        "attempt_num": by_id(&|job| json!(job.attempt)),
    });
    for name in ["final", "attempt_num"] {
        covers(&found[name], &expect[name]).map_err(|difference| format!("{name}: {difference}"))?;
    }
    Ok(())
}

fn attempt(
    job: &mut SimJob,
    given: &Value,
    settings: &RouterTypeSettings,
    ordered: bool,
    barrier: &mut Barrier,
    (t, now_ms): (i64, i64),
    attempts: &mut Vec<(i64, u64, Value)>,
) {
    let codes = given["destination_codes_by_attempt"][job.id.to_string()].as_array().cloned().unwrap_or_default();
    let nth = usize::try_from(job.attempt).unwrap();
    let code = code_of(codes.get(nth).or(codes.last()).unwrap_or(&json!(200)));
    attempts.push((t, job.id, json!(code)));
    let judged = judge(code, false);
    let attempted =
        Attempted { code, error_at: Some(ErrorAt::Delivery).filter(|_| !is_success(code)), ..Attempted::default() };
    let before = Before { attempt: job.attempt, error_response: &job.error_response };
    let now = Timestamp::from_millisecond(now_ms).unwrap();
    let status = status_after_attempt(&attempted, &judged, &before, &job.run, settings, now);
    job.attempt = status.attempt;
    job.retry_ms = status.retry_ms;
    job.error_code = status.error_code;
    job.error_response = status.error_response;
    job.failed = judged.verdict == Verdict::Failed;
    job.end = Some(judged.verdict).filter(|verdict| *verdict != Verdict::Failed);
    match judged.verdict {
        _ if !ordered => {}
        Verdict::Failed => barrier.failed(&job.key, job.id, now_ms),
        Verdict::Succeeded | Verdict::Filtered => barrier.ended(&job.key, job.id, Ended::Handled),
        Verdict::Aborted => barrier.ended(&job.key, job.id, Ended::Aborted),
    }
}

/// Attempts of one moment, by user: those of different users may swap.
fn sorted_by_user(mut attempts: Vec<Value>, users: &HashMap<u64, String>) -> Value {
    attempts.sort_by_key(|attempt| {
        (attempt["t"].as_i64().unwrap_or_default(), users.get(&number(attempt, "job")).cloned().unwrap_or_default())
    });
    Value::Array(attempts)
}

fn worker_batch(given: &Value, expect: &Value) -> Outcome {
    let mut codes: HashMap<u64, i32> = HashMap::new();
    let mut requests = Vec::new();
    for group in list(given, "destination_jobs") {
        let jobs: Vec<BatchJob> = list(group, "jobs")
            .iter()
            .map(|job| BatchJob {
                id: number(job, "id"),
                key: text(job, "user").to_owned(),
                ordered: given["ordering"] != false && job["ordered"] != false,
            })
            .collect();
        codes.extend(jobs.iter().map(|job| (job.id, code_of(&group["code"]))));
        requests.push(BatchRequest { jobs });
    }
    sort(&mut requests);
    let mut failed = FailedKeys::default();
    let mut sent: Vec<Vec<u64>> = Vec::new();
    let mut results = Vec::new();
    let mut bodies: HashMap<u64, &str> = HashMap::new();
    for request in &requests {
        let is_held_back = failed.hold_back(request);
        let code = if is_held_back { SKIPPED_CODE } else { codes[&request.jobs[0].id] };
        if is_held_back {
            let body = if given["enable_batching"] == true { "" } else { SKIPPED_TEXT };
            bodies.extend(request.jobs.iter().map(|job| (job.id, body)));
        } else {
            sent.push(request.jobs.iter().map(|job| job.id).collect());
        }
        failed.ended(request, code);
        results.extend(request.jobs.iter().map(|job| (job.id, job.key.clone(), code)));
    }
    if !expect["sent_groups"].is_null() {
        same(&json!(sent), &expect["sent_groups"])?;
    }
    let by_id: BTreeMap<u64, i32> = results.iter().map(|(id, _, code)| (*id, *code)).collect();
    let found: HashMap<u64, Value> = fates(&results)
        .into_iter()
        .map(|(id, fate)| {
            let code = by_id[&id];
            let value = match fate {
                Fate::Waits { behind } => json!({"id": id, "state": "waiting", "blocking_id": behind}),
                Fate::ByCode => {
                    let body = bodies.get(&id).copied().unwrap_or_default();
                    json!({"id": id, "state": verdict(code).name(), "error_code": code.to_string(), "response": body})
                }
            };
            (id, value)
        })
        .collect();
    for expected in list(expect, "result") {
        let id = number(expected, "id");
        covers(&found[&id], expected).map_err(|difference| format!("job {id}: {difference}"))?;
    }
    Ok(())
}

fn index(given: &Value, expect: &Value) -> Outcome {
    let workers = count(given, "workers");
    let found: Vec<usize> = texts(given, "keys").iter().map(|key| worker_index::of(key, workers)).collect();
    same(&json!({"index": found}), expect)
}

fn gcra(given: &Value, expect: &Value) -> Outcome {
    let mut limiter = Gcra::new(Rate { limit: number(given, "limit"), window: seconds(given, "window_s") });
    let allowed = list(given, "requests").iter().map(|request| {
        let now_ns = (request["t"].as_f64().unwrap_or_default() * 1e9).round() as i128;
        limiter.take(request["cost"].as_u64().unwrap_or(1), now_ns).is_ok()
    });
    covers(&json!({"allowed": allowed.collect::<Vec<_>>()}), expect)
}

fn throttle_cost(given: &Value, expect: &Value) -> Outcome {
    let definition = given["definition"].as_object().cloned().unwrap_or_default();
    let ignores = given["ignore_costs"] == true || given["per_event_type"] == true;
    let events = u32::try_from(number(given, "event_count")).unwrap();
    let found: Vec<u64> =
        texts(given, "event_types").iter().map(|kind| cost(&definition, kind, events, ignores)).collect();
    same(&json!({"costs": found}), expect)
}

fn adaptive_factor(given: &Value, expect: &Value) -> Outcome {
    let percent = |name: &str, default: f64| given[name].as_f64().unwrap_or(default);
    let params = AdaptiveParams {
        min_limit: number(given, "min_limit"),
        max_limit: number(given, "max_limit"),
        window: Duration::from_secs(1),
        increase_windows: 2,
        increase_percent: percent("increase_percent", 10.0),
        tolerance_percent: percent("tolerance_percent", 10.0),
        decrease_percent: percent("decrease_percent", 30.0),
        decrease_wait_windows: 1,
    };
    let mut adaptive = Adaptive::default();
    for (tick, expected) in list(given, "ticks").iter().zip(list(expect, "after")) {
        let throttled = number(tick, "throttled");
        match text(tick, "tick") {
            "inc" => adaptive.tick_increase(&params, throttled),
            "dec" => {
                adaptive.tick_decrease(&params, throttled, number(tick, "total"));
            }
            other => return Err(format!("unknown tick {other:?}")),
        }
        let factor = expected["factor"].as_f64().unwrap_or_default();
        if (adaptive.factor() - factor).abs() > 1e-6 {
            return Err(format!("{tick}: expected factor {factor}, found {}", adaptive.factor()));
        }
        same(&json!(adaptive.limit(&params)), &expected["limit"])
            .map_err(|difference| format!("{tick}: {difference}"))?;
    }
    Ok(())
}

fn query_size(given: &Value, expect: &Value) -> Outcome {
    let sleep = Duration::from_millis(number(given, "read_sleep_ms"));
    let sizes = list(given, "cases").iter().map(|case| {
        let limits: Vec<f64> = list(case, "limits_per_s").iter().filter_map(Value::as_f64).collect();
        adapted_query_size(&limits, sleep, count(given, "configured"), count(given, "max"))
    });
    same(&json!({"sizes": sizes.collect::<Vec<_>>()}), expect)
}

fn identity(given: &Value) -> Identity {
    let settings = defaults();
    Identity {
        user_agent: given["user_agent"].as_str().unwrap_or(&settings.user_agent).to_owned(),
        instance_id: given["instance_id"].as_str().map(str::to_owned),
    }
}

fn http_wire(given: &Value, expect: &Value) -> Outcome {
    let request = match read(&bytes_of(&given["request"]), &identity(given)) {
        Wire::Send(request) => *request,
        other => return Err(format!("nothing is sent: {other:?}")),
    };
    same(&json!(request.method.as_str()), &expect["method"])?;
    let expected_url = Url::parse(text(expect, "url")).map_err(|error| error.to_string())?;
    if request.url != expected_url {
        return Err(format!("expected {expected_url}, found {}", request.url));
    }
    let is_compared =
        |name: &str| !matches!(name, "host" | "content-length" | "connection") && !name.starts_with("accept");
    let found: BTreeMap<String, Value> = request
        .headers
        .iter()
        .filter(|(name, _)| is_compared(name.as_str()))
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let expected: BTreeMap<String, Value> = expect["headers"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| is_compared(name))
        .collect();
    same(&json!(found), &json!(expected))?;
    let mut body = request.body.map(|body| body.to_vec()).unwrap_or_default();
    if request.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        let mut unzipped = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut unzipped)
            .map_err(|error| error.to_string())?;
        body = unzipped;
    }
    for (name, expected) in expect.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("body")) {
        if name == "body_json" {
            let found: Value =
                serde_json::from_slice(&body).map_err(|error| format!("the body is no JSON: {error}"))?;
            same(&found, expected)?;
        } else {
            same(&json!(String::from_utf8_lossy(&body)), &json!(expected.as_str().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn http_wire_result(given: &Value, expect: &Value) -> Outcome {
    for (case, expected) in list(given, "cases").iter().zip(list(expect, "results")) {
        let found = match read(&bytes_of(case), &identity(given)) {
            Wire::Nothing => json!({"code": 200, "text": ""}),
            Wire::Refused { code, text, .. } => json!({"code": code, "text": text}),
            Wire::Send(request) => return Err(format!("{case}: a request is sent to {}", request.url)),
        };
        covers(&found, expected).map_err(|difference| format!("{case}: {difference}"))?;
    }
    Ok(())
}

fn private_ip(given: &Value, expect: &Value) -> Outcome {
    let configured = match given["ranges"].as_array() {
        Some(_) => texts(given, "ranges"),
        None => defaults().private_ip_ranges,
    };
    // The addresses of a cloud's metadata are refused by another rule, whatever blocking says.
    let rules = AddressRules {
        refused: if given["block"] == true { AddressRules::private(&configured) } else { Vec::new() },
        allows_metadata: true,
        own: Vec::new(),
    };
    let blocked: Vec<bool> = list(given, "resolved")
        .iter()
        .map(|addresses| {
            let addresses: Vec<_> = addresses
                .as_array()
                .into_iter()
                .flatten()
                .map(|address| address.as_str().unwrap().parse().unwrap())
                .collect();
            !rules.allow_all(&addresses)
        })
        .collect();
    let found =
        json!({"blocked": blocked, "code": REFUSED_CODE, "text": REFUSED_TEXT, "state": verdict(REFUSED_CODE).name()});
    covers(&found, expect)
}
