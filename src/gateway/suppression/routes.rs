//! `/internal/v1/suppressions`: POST takes a list of changes, GET tells what holds for a user (gateway.md 9.2).

use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::{ANY_SOURCE, Entry, Item, apply, parts};
use crate::event::identity;
use crate::gateway::answer::{self, Answer, Refusal};
use crate::gateway::body::RequestBody;
use crate::gateway::credentials::query_parameters;
use crate::gateway::ingest::{self, Client};
use crate::gateway::server::Shared;
use crate::jobsdb::{Durability, JobsDbError, Namespace, Tx};

/// Most sources that an answer names.
const MOST_SOURCES: usize = 1000;

#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

/// Takes a list. The answer comes when it is durable.
pub(in crate::gateway) async fn change(
    shared: &Shared,
    client: &Client<'_>,
    body: &mut RequestBody<Incoming>,
) -> Answer {
    match store(shared, client, body).await {
        Ok(()) => answer::ok(),
        Err(refusal) => refusal.answer(),
    }
}

async fn store(shared: &Shared, client: &Client<'_>, body: &mut RequestBody<Incoming>) -> Result<(), Refusal> {
    let settings = shared.live.load();
    let held = ingest::read(shared, &settings.gateway, client, body).await?;
    let list: List = serde_json::from_slice(&held.bytes).map_err(|_| Refusal::InvalidJson)?;
    let only = only_workspace(shared);
    let of_item = |item: &Item| if item.workspace_id.is_empty() { only.clone() } else { item.workspace_id.clone() };
    let mut tx = Tx::new(Durability::Durable);
    if !apply(&shared.suppressions, &list.items, of_item, &shared.clock, &mut tx) {
        return Err(Refusal::InvalidJson);
    }
    if tx.is_empty() {
        return Ok(());
    }
    ingest::commit(shared, client.connection, tx, (), Instant::now() + settings.gateway.write_timeout).await
}

/// Tells whether a user is suppressed.
pub(in crate::gateway) async fn tell(shared: &Shared, client: &Client<'_>) -> Answer {
    let parameter = |wanted: &str| {
        let query = client.parts.uri.query().unwrap_or_default();
        query_parameters(query).find(|(name, _)| name == wanted).map(|(_, value)| value).unwrap_or_default()
    };
    let user = identity::clean(&parameter("userId")).into_owned();
    let workspace =
        Some(parameter("workspaceId")).filter(|id| !id.is_empty()).unwrap_or_else(|| only_workspace(shared));
    if user.is_empty() || workspace.is_empty() || user.contains('\0') || workspace.contains('\0') {
        return Refusal::InvalidJson.answer();
    }
    let jobs = shared.jobs.clone();
    let found = tokio::task::spawn_blocking(move || {
        let mut entries: Vec<(String, Entry)> = Vec::new();
        let prefix = super::key(&workspace, &user, "");
        jobs.visit(Namespace::Suppressions, &prefix, |key, value| {
            if let Some((_, _, source)) = parts(key) {
                entries.push((source.to_owned(), serde_json::from_slice(value).unwrap_or_default()));
            }
            if entries.len() < MOST_SOURCES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok::<_, JobsDbError>(entries)
    });
    let Ok(Ok(entries)) = found.await else {
        return Refusal::Unavailable.answer();
    };
    // An entry for all sources makes the others superfluous.
    let of_all = entries.iter().filter(|(source, _)| source == ANY_SOURCE).count() > 0;
    let counted = || entries.iter().filter(|(source, _)| !of_all || source == ANY_SOURCE);
    let document = json!({
        "suppressed": !entries.is_empty(),
        "sourceIds": counted().map(|(source, _)| source).collect::<Vec<_>>(),
        "createdAt": counted().map(|(_, entry)| entry.created_at.as_str()).min().unwrap_or_default(),
    });
    answer::with_body(StatusCode::OK, answer::JSON, Bytes::from(document.to_string()))
}

/// The workspace that is meant when none is named: the only one.
fn only_workspace(shared: &Shared) -> String {
    let directory = shared.directory();
    let mut ids = directory.snapshot.workspaces.keys();
    match (ids.next(), ids.next()) {
        (Some(only), None) => only.clone(),
        _ => String::new(),
    }
}
