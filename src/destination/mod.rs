//! Destination transformations: what one event becomes for one destination (destinations.md).
//!
//! In: a [`Message`], the event as slices of its stored text, and the destination's configuration, compiled
//! once into a [`Plan`]. Out: [`Output`]s, each the payload of one job for the router or the batch router, or
//! a [`Refusal`] with the status and text that users know.
//!
//! Promises: the message is never parsed into a tree unless a rule needs it; no I/O; no clock; an output
//! depends on nothing but the message, the envelope and the configuration. Apart from that, [`resolve`] finds the
//! addresses of destinations for whoever delivers to them, [`private_address`] says which of them may be
//! reached, and [`peer`] that a connection ended at one of those.
//!
//! One file or folder per integration. [`plan`] says which types are native. [`warehouse`] turns events into rows.

mod calls;
mod dotted_path;
mod dynamic_config;
mod event_choice;
mod flatten;
mod http;
pub mod judged_names;
mod kafka;
mod message;
pub mod peer;
mod plan;
pub mod private_address;
mod redis;
mod refusal;
pub mod resolve;
mod routed;
mod streams;
pub mod warehouse;
mod webhook;

pub use message::{Message, Unreadable, may_hold_key, push_json_string};
pub use plan::{Output, Plan, is_batch, is_mapped, is_native, is_warehouse, without_filtered_config};
pub use refusal::{Kind, Refusal};
pub use routed::{Routed, is_transformed_by_router};
