//! The list of suppressed users that a control plane keeps (gateway.md 9.2): asked for news at intervals, page by
//! page. A page and the token behind it are stored together, so a page is neither lost nor asked for again.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::{Item, TOKEN, apply};
use crate::gateway::events;
use crate::gateway::server::Shared;
use crate::jobsdb::{Durability, Namespace, Tx};
use crate::settings::SuppressionFeed;

/// Requests for one page before it has to wait for the next interval.
const TRIES: u32 = 4;
/// Pause after the first failed request; it grows by half.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Most bytes of a page.
const MOST_BYTES: usize = 64 << 20;

/// One page.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    items: Vec<Item>,
    #[serde(default)]
    token: String,
}

/// Why there is no news.
#[derive(Debug, thiserror::Error)]
pub(in crate::gateway) enum FeedError {
    #[error("cannot ask for suppressed users: {0}; check SUPPRESS_USER_BACKEND_URL and the network")]
    Wire(String),
    #[error("the answer with suppressed users has status {0}; check the workspace token")]
    Status(u16),
    #[error("the page with suppressed users cannot be used: {0}")]
    Page(String),
    #[error("the page with suppressed users cannot be stored: {0}")]
    Store(String),
}

/// Asks for news at intervals, for ever; the first time after one interval.
pub(in crate::gateway) async fn run(shared: &Shared) {
    let client = reqwest::Client::builder().redirect(same_origin()).referer(false).build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            events::suppression_feed_failed(&FeedError::Wire(error.without_url().to_string()));
            return std::future::pending().await;
        }
    };
    loop {
        let settings = shared.live.load();
        let Some(feed) = settings.admission.suppression_feed.clone() else {
            return std::future::pending().await;
        };
        tokio::time::sleep(feed.poll_interval).await;
        let workspaces: Vec<String> = shared.directory().snapshot.workspaces.keys().cloned().collect();
        for workspace in workspaces {
            match follow(shared, &client, &feed, &workspace).await {
                Ok(()) => events::suppression_feed_read(),
                Err(error) => events::suppression_feed_failed(&error),
            }
        }
    }
}

/// A redirect must not carry the token elsewhere.
fn same_origin() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first().map(Url::origin);
        if first != Some(attempt.url().origin()) {
            attempt.error("it leads to another origin")
        } else if attempt.previous().len() > 5 {
            attempt.error("it leads in circles")
        } else {
            attempt.follow()
        }
    })
}

/// Takes every page that is there.
async fn follow(
    shared: &Shared,
    client: &reqwest::Client,
    feed: &SuppressionFeed,
    workspace: &str,
) -> Result<(), FeedError> {
    let store = |error: String| FeedError::Store(error);
    let token_key = [TOKEN, workspace.as_bytes()].concat();
    let (jobs, key) = (shared.jobs.clone(), token_key.clone());
    let read = tokio::task::spawn_blocking(move || jobs.get(Namespace::Suppressions, &key));
    let stored = read.await.map_err(|failure| store(failure.to_string()))?.map_err(|error| store(error.to_string()))?;
    let mut token = String::from_utf8(stored.unwrap_or_default()).unwrap_or_default();
    loop {
        let page = page(client, feed, workspace, &token).await?;
        let is_full = page.items.len() >= feed.page_size;
        let mut tx = Tx::new(Durability::Durable);
        let of_item = |item: &Item| {
            if item.workspace_id.is_empty() { workspace.to_owned() } else { item.workspace_id.clone() }
        };
        if !apply(&shared.suppressions, &page.items, of_item, &shared.clock, &mut tx) {
            return Err(FeedError::Page("an item has no usable ids".to_owned()));
        }
        tx.put(Namespace::Suppressions, token_key.clone(), page.token.clone().into_bytes());
        if !page.items.is_empty() || page.token != token {
            shared.jobs.commit(tx).await.map_err(|error| store(error.to_string()))?;
        }
        // A page that leads to itself would be asked for without end.
        if !is_full || page.token == token {
            return Ok(());
        }
        token = page.token;
    }
}

async fn page(
    client: &reqwest::Client,
    feed: &SuppressionFeed,
    workspace: &str,
    token: &str,
) -> Result<Page, FeedError> {
    let mut url = Url::parse(&feed.url).map_err(|error| FeedError::Wire(error.to_string()))?;
    url.path_segments_mut()
        .map_err(|()| FeedError::Wire("SUPPRESS_USER_BACKEND_URL takes no path".to_owned()))?
        .pop_if_empty()
        .extend(["dataplane", "workspaces", workspace, "regulations", "suppressions"]);
    url.query_pairs_mut().append_pair("pageSize", &feed.page_size.to_string()).append_pair("pageToken", token);
    let mut pause = FIRST_PAUSE;
    let mut tries = 1;
    loop {
        match tokio::time::timeout(feed.timeout, ask(client, feed, url.clone())).await {
            Ok(Ok(page)) => return Ok(page),
            Ok(Err(error)) if tries == TRIES => return Err(error),
            Err(_) if tries == TRIES => return Err(FeedError::Wire("no answer in time".to_owned())),
            Ok(Err(_)) | Err(_) => {}
        }
        tries += 1;
        tokio::time::sleep(pause).await;
        pause += pause / 2;
    }
}

async fn ask(client: &reqwest::Client, feed: &SuppressionFeed, url: Url) -> Result<Page, FeedError> {
    let wire = |error: reqwest::Error| FeedError::Wire(error.without_url().to_string());
    let mut response = client.get(url).basic_auth(&feed.token, Some("")).send().await.map_err(wire)?;
    if !response.status().is_success() {
        return Err(FeedError::Status(response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(wire)? {
        if body.len() + piece.len() > MOST_BYTES {
            return Err(FeedError::Page("it is larger than 64 MiB".to_owned()));
        }
        body.extend_from_slice(&piece);
    }
    let page: Page = serde_json::from_slice(&body).map_err(|error| FeedError::Page(error.to_string()))?;
    if page.token.is_empty() { Err(FeedError::Page("it has no token".to_owned())) } else { Ok(page) }
}
