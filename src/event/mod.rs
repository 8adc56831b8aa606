//! The canonical event: identity, timestamps, JSON access. No I/O.

pub mod fnv;
pub mod identity;
pub mod json;
pub mod time;
