//! The whole node, end to end: the built binary, real HTTP, real SDKs, crashes, a full disk.
//!
//! One module per behaviour, built from `tests/kit`. Nothing here links the library: what is tested is what a user
//! starts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::let_underscore_must_use,
    reason = "a test"
)]

#[path = "../kit/mod.rs"]
mod kit;

mod abuse_body;
mod abuse_delivery;
mod abuse_http1;
mod abuse_json;
mod abuse_names;
mod admission;
mod alerts;
mod api;
mod aws;
mod backup;
mod bad_input;
mod brokers;
mod configuration;
mod crash;
mod data_directory;
mod disk_full;
mod end_to_end;
mod google;
mod hosted;
mod http_destination;
mod isolation;
mod job_runs;
mod listener;
mod object_storage;
mod order;
mod redis;
mod remote;
mod restart;
mod rules;
mod sdk;
mod staging;
mod tail;
mod trace;
mod transformations;
mod webhook;
