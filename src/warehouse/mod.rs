//! Loading of warehouses: staging files become tables (warehouse.md 7 to 18, 22).
pub mod failure;
pub mod ledger;
pub mod load_files;
pub mod places;
pub mod records;
pub mod schedule;
pub mod schema;
pub mod state;
