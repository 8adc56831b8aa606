//! Vectors of the batch router: object keys, files of a cut, results, breaker, restarts after a crash.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use pintle::batch_router::breaker::{Breaker, Pace};
use pintle::batch_router::cut::{cuts, files};
use pintle::batch_router::manifest::{Decision, ObjectState, decide};
use pintle::batch_router::object_key::{DateLayout, KeyParts, Listing, day_in_zone, folder_key, object_key};
use pintle::batch_router::result::{Previous, RetryLimit, Verdict, resolve};
use pintle::jobsdb::JobState;

/// Runs the case; `None` for kinds that belong to others.
pub fn run_case(kind: &str, case: &Value) -> Option<(bool, String)> {
    let (given, expect) = (&case["given"], &case["expect"]);
    let outcome = match kind {
        "object_key" => key(given, expect),
        "brt_split" => split(given, expect),
        "brt_result" => results(given, expect),
        "brt_breaker" => breaker(given, expect),
        "upload_crash" => crashes(given, expect),
        _ => return None,
    };
    Some(match outcome {
        Ok(()) => (true, String::new()),
        Err(difference) => (false, difference),
    })
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn same(found: &Value, expected: &Value) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("expected {expected}, found {found}")) }
}

fn key(given: &Value, expect: &Value) -> Result<(), String> {
    let now: jiff::Timestamp = text(given, "now").parse().map_err(|error| format!("now: {error}"))?;
    let (provider, prefix, folder, source_id) =
        (text(given, "provider"), text(given, "prefix"), text(given, "folder"), text(given, "source_id"));
    let zone = ["customTimezone", "timezone"].map(|name| text(given, name)).into_iter().find(|zone| !zone.is_empty());
    let existing: Vec<String> = given["existing_objects"]
        .as_array()
        .map(|keys| keys.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let listing = if given["listing"].is_string() { Listing::Failed } else { Listing::Keys(&existing) };
    let layout = DateLayout::chosen(text(given, "datePrefixOverride"))
        .unwrap_or_else(|| DateLayout::of_listing(&folder_key(provider, prefix, folder, source_id), listing));
    let found = object_key(&KeyParts {
        provider,
        prefix,
        folder,
        source_id,
        custom_date_prefix: text(given, "customDatePrefix"),
        date: day_in_zone(now.as_millisecond(), zone.unwrap_or_default()).0,
        layout,
        started_s: now.as_second(),
        uuid: Uuid::parse_str(text(given, "uuid")).map_err(|error| format!("uuid: {error}"))?,
    });
    same(&json!(found), &expect["key"])
}

fn split(given: &Value, expect: &Value) -> Result<(), String> {
    let max_events = given["max_events"].as_u64().and_then(|max| usize::try_from(max).ok()).ok_or("no max_events")?;
    let jobs = given["jobs"].as_array().cloned().ok_or("no jobs")?;
    let mut found = Vec::new();
    for cut in cuts(jobs, max_events) {
        for ((source, destination), jobs) in
            files(cut, |job| (text(job, "source").to_owned(), text(job, "destination").to_owned()))
        {
            let ids: Vec<&Value> = jobs.iter().map(|job| &job["id"]).collect();
            found.push(json!({ "source": source, "destination": destination, "jobs": ids }));
        }
    }
    // The order of files inside one cut is free.
    let mut expected = expect["files"].as_array().cloned().ok_or("no files")?;
    found.sort_by_key(Value::to_string);
    expected.sort_by_key(Value::to_string);
    same(&json!(found), &json!(expected))
}

fn results(given: &Value, expect: &Value) -> Result<(), String> {
    let now_ms = 1_700_000_000_000;
    let cases = given["cases"].as_array().ok_or("no cases")?;
    let expected = expect["results"].as_array().ok_or("no results")?;
    if cases.len() != expected.len() {
        return Err("as many results as cases are expected".to_owned());
    }
    for (case, expected) in cases.iter().zip(expected) {
        let run = ["source_job_run_id", "job_run_id"].iter().any(|name| !text(case, name).is_empty());
        let limit = if run {
            RetryLimit { attempts: 3, window: Duration::from_secs(60) }
        } else {
            RetryLimit { attempts: 128, window: Duration::from_secs(180 * 60) }
        };
        let previous = Previous {
            attempt: case["prev_attempt"].as_u64().and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(0),
            first_attempted_ms: case["first_attempted_ago_s"].as_i64().map(|ago| now_ms - ago * 1_000),
            unreachable: case["prev_unreachable"].as_bool().unwrap_or(false),
        };
        let verdict = match case["error"].as_str() {
            None if case["egress_disabled"].as_bool() == Some(true) => Verdict::EgressDisabled,
            None => Verdict::Uploaded,
            Some(error) => match error.strip_prefix("service provider not supported: ") {
                Some(provider) => Verdict::Unsupported(provider),
                None => Verdict::Failed { error, unreachable: case["unreachable"].as_bool().unwrap_or(false) },
            },
        };
        let resolved = resolve(verdict, previous, limit, now_ms);
        let state = match resolved.state {
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Aborted => "aborted",
            other => return Err(format!("unexpected state {other:?}")),
        };
        let mut response = resolved.response;
        if expected["response"].get("firstAttemptedAt").is_none() && response.remove("firstAttemptedAt").is_none() {
            return Err("the response carries no firstAttemptedAt".to_owned());
        }
        let found = json!({
            "state": state, "attempt": resolved.attempt, "error_code": resolved.error_code, "response": response,
        });
        same(&found, expected)?;
    }
    Ok(())
}

fn breaker(given: &Value, expect: &Value) -> Result<(), String> {
    let threshold = given["consecutive_failures"].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("no threshold")?;
    let open_for = Duration::from_secs(given["open_s"].as_u64().ok_or("no open_s")?);
    let start = Instant::now();
    let mut breaker = Breaker::default();
    let mut open = Vec::new();
    for event in given["events"].as_array().ok_or("no events")? {
        breaker.record(event == "ok", start);
        open.push(breaker.pace(threshold, open_for, start) != Pace::Closed);
    }
    same(&json!(open), &expect["open_after_each"])?;
    if let Some(after_s) = expect["trial_allowed_after_s"].as_u64() {
        let after_ms = after_s.saturating_mul(1_000);
        let before = breaker.pace(threshold, open_for, start + Duration::from_millis(after_ms.saturating_sub(1)));
        let after = breaker.pace(threshold, open_for, start + Duration::from_millis(after_ms));
        if matches!(before, Pace::Trial) || after != Pace::Trial {
            return Err(format!("a trial is allowed at another time than after {after_s} s"));
        }
    }
    Ok(())
}

fn crashes(given: &Value, expect: &Value) -> Result<(), String> {
    let mut found = Vec::new();
    for case in given["cases"].as_array().ok_or("no cases")? {
        let object = match text(case, "object") {
            "present, recorded length" => ObjectState::AsRecorded,
            "absent" => ObjectState::Absent,
            "store unreachable" => ObjectState::Unknown,
            other if other.starts_with("present") => ObjectState::Different,
            other => return Err(format!("unknown object state {other:?}")),
        };
        // Without a manifest nobody knows of an earlier upload: the jobs are like any others.
        let decision = if case["manifest"].as_bool() == Some(true) {
            let file_exists = case["local_file"].as_bool().unwrap_or(false);
            let age = Duration::from_secs(case["manifest_age_s"].as_u64().unwrap_or(0));
            decide(object, file_exists, age, Duration::from_secs(24 * 3_600))
        } else {
            Decision::RunAgain
        };
        let (jobs, uploads) = match decision {
            Decision::Succeeded => ("succeeded", 0),
            Decision::UploadSameFile | Decision::RunAgain | Decision::GiveUp => ("uploaded again", 1),
            Decision::Hold => ("held until the store answers", 0),
        };
        found.push(json!({ "jobs": jobs, "uploads_after_restart": uploads }));
    }
    same(&json!(found), &expect["results"])
}
