//! Fuzzing on stable Rust: whatever the bytes are, there is a clear answer and the process lives.
//!
//! Each target runs every input of `tests/fuzz/corpus/<target>` and then new ones for a few seconds, or for as long
//! as `PINTLE_FUZZ_SECS` says. Inputs are made by rules of proptest and by damage to those of the corpus. An input
//! that finds something is written to the corpus as `found-<hash>`, so that it is run first from then on.
//!
//! `ingest` attacks a real node over HTTP: bodies, splitting into events, gzip, heads, pixels, webhooks, and with
//! them the processor with its transformation. `pieces` attacks readers of files and answers in this process.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test"
)]

#[path = "../kit/mod.rs"]
#[allow(dead_code, unused_imports, reason = "fuzzing needs few of the tools of the kit")]
mod kit;

mod drive;
mod ingest;
mod inputs;
mod pieces;
