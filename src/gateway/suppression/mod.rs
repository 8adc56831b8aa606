//! Users whose events are not taken (gateway.md 9.2): entries in the store, and in memory a filter of fixed size that
//! says of nearly every user that there is none.
//!
//! In: entries of operators (`routes`) and of a list that somebody else keeps (`feed`). Out: which users of a request
//! are suppressed. Promises: an entry is durable before it is acknowledged and in force at once; memory does not grow
//! with the number of entries; a node without entries pays one load an event.
//!
//! Records of namespace `04`: key `workspace 00 user 00 source`, the source `*` for all of them, value
//! `{"createdAt": ".."}`; and `00 token 00 workspace`: where the list goes on. A key part never holds a NUL.

pub(super) mod feed;
mod filter;
pub(super) mod routes;

use std::collections::HashSet;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use self::filter::Filter;
use crate::clock::Clock;
use crate::event::identity;
use crate::jobsdb::{JobsDb, JobsDbError, Namespace, Tx};

/// The source of an entry for all sources.
const ANY_SOURCE: &str = "*";
/// What keys begin with that are no entries.
const TOKEN: &[u8] = b"\0token\0";

/// The suppressed users.
pub(super) struct Suppressions {
    filter: Filter,
    /// Whether events are looked at, by the settings.
    enabled: bool,
}

/// What a request knows of its users.
#[derive(Clone, Copy, Default)]
pub(super) enum Screen<'a> {
    /// Nobody is suppressed.
    #[default]
    Open,
    /// Some are; the filter tells who may be.
    Filtered(&'a Suppressions, &'a str),
    /// These are, and nobody else.
    Known(&'a HashSet<String>),
}

/// What a screen says of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passes,
    /// The store has to be asked.
    MayBeSuppressed,
    Suppressed,
}

impl Screen<'_> {
    /// `user` is the cleaned id.
    pub(super) fn verdict(&self, user: &str) -> Verdict {
        match self {
            _ if user.is_empty() => Verdict::Passes,
            Screen::Filtered(suppressions, workspace) if suppressions.filter.may_hold(workspace, user) => {
                Verdict::MayBeSuppressed
            }
            Screen::Known(users) if users.contains(user) => Verdict::Suppressed,
            Screen::Open | Screen::Filtered(..) | Screen::Known(_) => Verdict::Passes,
        }
    }
}

impl Suppressions {
    pub(super) fn new(enabled: bool) -> Suppressions {
        Suppressions { filter: Filter::default(), enabled }
    }

    /// Fills the filter from the store. Blocks on it.
    pub(super) fn load(&self, jobs: &JobsDb) -> Result<(), JobsDbError> {
        jobs.visit(Namespace::Suppressions, b"", |key, _| {
            if let Some((workspace, user, _)) = parts(key) {
                self.filter.add(workspace, user);
            }
            ControlFlow::Continue(())
        })
    }

    /// How users of this workspace are looked at.
    pub(super) fn screen<'a>(&'a self, workspace: &'a str) -> Screen<'a> {
        if self.enabled && !self.filter.is_empty() { Screen::Filtered(self, workspace) } else { Screen::Open }
    }

    /// Who of these users is suppressed for the source.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn confirm(
        jobs: &JobsDb,
        workspace: &str,
        source: &str,
        users: Vec<String>,
    ) -> Result<HashSet<String>, JobsDbError> {
        let (jobs, workspace, source) = (jobs.clone(), workspace.to_owned(), source.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let mut suppressed = HashSet::new();
            for user in users {
                let holds = |source: &str| {
                    jobs.get(Namespace::Suppressions, &key(&workspace, &user, source)).map(|found| found.is_some())
                };
                if !suppressed.contains(&user) && (holds(ANY_SOURCE)? || holds(&source)?) {
                    suppressed.insert(user);
                }
            }
            Ok(suppressed)
        });
        asked.await.unwrap_or_else(|failure| Err(JobsDbError::Unavailable(failure.to_string())))
    }
}

/// One line of a list of suppressed users.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    #[serde(default)]
    workspace_id: String,
    user_id: String,
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    source_ids: Option<Vec<String>>,
}

/// What is stored for an entry.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    created_at: String,
}

/// Adds the changes of a list to a transaction; what it adds is in force when it is committed. False when an item
/// cannot be: its ids are empty or hold what no cleaned id holds.
pub(super) fn apply(
    suppressions: &Suppressions,
    items: &[Item],
    workspace: impl Fn(&Item) -> String,
    clock: &Clock,
    tx: &mut Tx,
) -> bool {
    let now = format!("{:.3}", clock.now());
    items.iter().all(|item| {
        let (workspace, user) = (workspace(item), identity::clean(&item.user_id).into_owned());
        let sources = match item.source_ids.as_deref() {
            None | Some([]) => vec![ANY_SOURCE],
            Some(ids) => ids.iter().map(String::as_str).collect(),
        };
        let is_possible = |part: &str| !part.is_empty() && !part.contains('\0');
        if !is_possible(&workspace) || !is_possible(&user) || !sources.iter().all(|source| is_possible(source)) {
            return false;
        }
        for source in sources {
            let key = key(&workspace, &user, source);
            if item.canceled {
                tx.delete(Namespace::Suppressions, key);
                continue;
            }
            let created_at = item.created_at.clone().unwrap_or_else(|| now.clone());
            let Ok(value) = serde_json::to_vec(&Entry { created_at }) else {
                return false;
            };
            // Before the commit, so that there is no moment without it.
            suppressions.filter.add(&workspace, &user);
            tx.put(Namespace::Suppressions, key, value);
        }
        true
    })
}

fn key(workspace: &str, user: &str, source: &str) -> Vec<u8> {
    [workspace.as_bytes(), user.as_bytes(), source.as_bytes()].join(&0)
}

/// Workspace, user and source of an entry's key.
fn parts(key: &[u8]) -> Option<(&str, &str, &str)> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '\0');
    let (workspace, user, source) = (parts.next()?, parts.next()?, parts.next()?);
    Some((workspace, user, source)).filter(|_| !workspace.is_empty())
}
