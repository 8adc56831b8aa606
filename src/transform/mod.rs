//! User transformations: code that people write, run on events before a destination gets them (processor.md 7).
//!
//! In: a [`Batch`], the events of one source for one destination with the [`Code`] that transforms them. Out: a
//! [`Reply`], for every event what became of it. The engine is QuickJS, on threads of its own: [`Engine`] hands
//! batches to them, `sandbox` is one thread's runtime, `run` one batch in a fresh context, `host` and `sandbox.js`
//! what code finds there, `fetch` its way to the network.
//!
//! Promises (security.md 5): code reaches nothing but the globals of processor.md 7.5; a batch ends in time, whatever
//! its code does; nothing of one batch is seen by another; code that breaks its runtime costs that runtime only. A
//! thread that code holds inside a native loop is given up and replaced.
//!
//! What cannot run here may go to an external transformer (`crate::transformer`), which the processor asks.

mod batch;
mod code;
mod engine;
mod error_text;
mod events;
mod fetch;
mod host;
mod imports;
mod keys;
mod run;
mod sandbox;
mod served;
mod transformer;
mod watch;

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod written_by_users_tests;

pub use batch::{Batch, Event, Origin, Reply, Transformed, Verdict};
pub use code::{Code, Contract, Library, Refusal, Transformer, camel_case};
pub use engine::Engine;
pub use served::CodeListener;
pub use transformer::{is_javascript, of_destination};
