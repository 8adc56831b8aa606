//! Data lakes: the load files are the tables, and what is known of them is in the node's own book (warehouse.md 12.8).

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::{Failure, Loaded, Provider, QueryRows, Schema, TableLoad, TableSchema, UsersLoad, UsersLoaded};

/// Files in folders.
pub(super) struct Lake;

impl Provider for Lake {
    fn ping(&self) -> BoxFuture<'_, Result<(), Failure>> {
        ready(Ok(())).boxed()
    }

    fn create_namespace(&self) -> BoxFuture<'_, Result<(), Failure>> {
        ready(Ok(())).boxed()
    }

    fn fetch_schema(&self) -> BoxFuture<'_, Result<Schema, Failure>> {
        ready(Ok(Schema::new())).boxed()
    }

    fn create_table<'a>(&'a self, _: &'a str, _: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>> {
        ready(Ok(())).boxed()
    }

    fn add_columns<'a>(&'a self, _: &'a str, _: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>> {
        ready(Ok(())).boxed()
    }

    fn drop_table<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        ready(Ok(())).boxed()
    }

    fn load<'a>(&'a self, _: &'a TableLoad) -> BoxFuture<'a, Result<Loaded, Failure>> {
        ready(Ok(Loaded::default())).boxed()
    }

    fn load_users<'a>(&'a self, _: &'a UsersLoad) -> BoxFuture<'a, UsersLoaded> {
        ready(UsersLoaded { identifies: Ok(Loaded::default()), users: Ok(Loaded::default()) }).boxed()
    }

    fn query<'a>(&'a self, _: &'a str, _: usize) -> BoxFuture<'a, Result<QueryRows, Failure>> {
        let message = "a data lake has no query engine; read its Parquet files with DuckDB, pyarrow or the like";
        ready(Err(Failure::refused(message))).boxed()
    }

    fn files_are_tables(&self) -> bool {
        true
    }
}
