//! Live events for who watches (processor.md 15): a page of what passed since the last one, or a wait for it.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::Deps;
use super::routes::{Answer, error, json_answer};
use crate::telemetry::{LivePage, LiveRecord};

/// Longest wait for records.
const LONGEST: Duration = Duration::from_secs(20);

/// Which records are meant; empty parts do not matter.
#[derive(Default)]
struct Filter {
    source: String,
    destination: String,
    kind: String,
    user: String,
    status: String,
}

impl Filter {
    fn takes(&self, record: &LiveRecord) -> bool {
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        fits(&self.source, &record.source_id)
            && fits(&self.destination, &record.destination_id)
            && fits(&self.kind, &record.event_type)
            && fits(&self.user, &record.user_id)
            && (fits(&self.status, &record.job_state) || fits(&self.status, &record.error_code))
    }
}

/// Records behind the number `after`, or from now on.
pub(super) async fn page(deps: &Deps, query: Option<&str>) -> Answer {
    let mut filter = Filter::default();
    let mut after = None;
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let value = value.into_owned();
        match &*name {
            "source" => filter.source = value,
            "destination" => filter.destination = value,
            "type" => filter.kind = value,
            "user" => filter.user = value,
            "status" => filter.status = value,
            "after" => match value.parse::<u64>() {
                Ok(number) => after = Some(number),
                Err(_) => return error(StatusCode::BAD_REQUEST, "after must be a number", "", "after"),
            },
            _ => return error(StatusCode::BAD_REQUEST, "there is no such parameter", "", &name),
        }
    }
    let Some(viewer) = deps.live.view() else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "too many watch live events", "end another `pintle tail`", "");
    };
    let LivePage { records, next, lost } = match after {
        Some(after) => viewer.behind(after, LONGEST).await,
        None => LivePage { next: viewer.newest(), ..LivePage::default() },
    };
    let wanted: Vec<(u64, Arc<LiveRecord>)> = records.into_iter().filter(|(_, record)| filter.takes(record)).collect();
    let items: Vec<Value> = wanted
        .iter()
        .map(|(number, record)| {
            let mut item = serde_json::to_value(&**record).unwrap_or_default();
            if let Some(members) = item.as_object_mut() {
                members.insert("number".to_owned(), json!(number));
            }
            item
        })
        .collect();
    json_answer(StatusCode::OK, &json!({ "items": items, "next": next, "lost": lost }))
}
