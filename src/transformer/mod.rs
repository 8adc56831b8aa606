//! The external transformer: a service of the user's own that transforms what this node cannot (processor.md 7.2, 9.2
//! to 9.4, router.md 5.3, gateway.md 10.4). There is none unless its URL is set.
//!
//! In: events as slices of JSON, with what the transformer is told of them. Out: what became of each, or why nothing
//! did. [`Client`] sends one bounded request; [`Remote`] asks for user and destination transformations and repeats
//! what may help; `body` writes requests and `answer` reads answers; [`features`](Remote::features) is what the
//! transformer says of itself; `routed` is the router's call.
//!
//! Promises: answers are bounded in size and time; a transformer that is away, slow or of another version never fails
//! an event unless the settings say so: the call is repeated, and the log says it.

mod answer;
mod body;
mod client;
mod events;
mod features;
mod remote;
mod repeat;
mod routed;
#[cfg(test)]
mod stub;
#[cfg(test)]
mod tests;

pub use answer::{Item, Place, read as read_answer};
pub use body::{DestinationText, UserText};
pub use client::{Answer, Call, Client, Fault};
pub use features::Features;
pub use remote::{Failed, Given, Remote, What};
pub use routed::{RoutedAnswer, RoutedJob};
