//! Pintle: the customer event pipeline as one process with one data directory.
//!
//! The map of the house, top floor first. A module uses the floors below it, never those above;
//! `tests/house.rs` holds this to be true.
//!
//! The way of an event: [`gateway`] stores it durably in the `gw` queue, [`processor`] turns it into jobs
//! of the `rt` and `batch_rt` queues, [`router`] and [`batch_router`] deliver them. Every hand-over is one
//! atomic batch of [`jobsdb`].

/// The admin HTTP API: health, metrics, status.
pub mod admin;
/// The workspace configuration: model, file poller, last good copy, subscriptions.
pub mod backend_config;
/// Jobs of the `batch_rt` and `arc` queues become files in object storage.
pub mod batch_router;
/// The command line, one file per verb.
pub mod cli;
/// The only reader of the system time.
pub mod clock;
/// Destination transformations: one folder per integration.
pub mod destination;
/// The canonical event: ids, timestamps, JSON access. No I/O.
pub mod event;
/// HTTP in, durable job out.
pub mod gateway;
/// Queues of jobs, their statuses, datasets, and the atomic hand-over between queues.
pub mod jobsdb;
/// The composition root: builds every component from settings, starts, supervises and stops them in order.
pub mod node;
/// Object storages, the local directory among them, behind one plain interface: put, get, list, delete.
pub mod object_storage;
/// Events of the `gw` queue become jobs for their destinations; one file per pipeline stage.
pub mod processor;
/// Jobs of the `rt` queue become requests to destination APIs, in order per user.
pub mod router;
/// Settings from file, environment and flags; every key and default lives here, once.
pub mod settings;
/// RocksDB: the only module that names it.
pub mod storage;
/// Streams and key-value stores, each with a client of its own.
pub mod stream;
/// Metrics and logs.
pub mod telemetry;
/// User transformations: code that people write, in an embedded JavaScript engine.
pub mod transform;
/// The external transformer: its client, what it is asked and what it answers.
pub mod transformer;
/// Staging files become tables of warehouses.
pub mod warehouse;
