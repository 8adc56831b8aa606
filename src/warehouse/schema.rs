//! Schemas: what an upload brings and what a warehouse holds (warehouse.md 10.1, 10.2).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::destination::warehouse::{Dialect, columns_of_loading};

/// Columns of a table with the names of their types, in order of names.
pub type TableSchema = BTreeMap<String, String>;

/// Tables with their columns.
pub type Schema = BTreeMap<String, TableSchema>;

/// Columns of `rudder_discards` that every warehouse has.
const DISCARDS: [(&str, &str); 6] = [
    ("table_name", "string"),
    ("row_id", "string"),
    ("column_name", "string"),
    ("column_value", "string"),
    ("reason", "string"),
    ("received_at", "datetime"),
];

/// A name of the node's own as the warehouse spells it.
pub fn spelled(dialect: Dialect, name: &str) -> String {
    if dialect.is_upper_case() { name.to_ascii_uppercase() } else { name.to_owned() }
}

/// The table of values that did not fit.
pub fn discards_table(dialect: Dialect) -> String {
    spelled(dialect, "rudder_discards")
}

/// Adds what a staging file holds: the first type that is seen stays, but for `text`.
pub fn add_staged(schema: &mut Schema, staged: &Map<String, Value>) {
    for (table, columns) in staged {
        let known = schema.entry(table.clone()).or_default();
        for (column, kind) in columns.as_object().into_iter().flatten() {
            let Some(kind) = kind.as_str() else { continue };
            match known.get(column) {
                Some(before) if before == "text" || kind != "text" => {}
                _ => {
                    known.insert(column.clone(), kind.to_owned());
                }
            }
        }
    }
}

/// The schema of an upload: what was staged, in the types that the warehouse has, and what goes with it.
pub fn of_upload(mut staged: Schema, warehouse: &Schema, dialect: Dialect) -> Schema {
    for (table, columns) in &mut staged {
        let Some(held) = warehouse.get(table) else { continue };
        for (column, kind) in columns {
            match held.get(column) {
                Some(in_warehouse) if !(in_warehouse == "string" && kind == "text") => kind.clone_from(in_warehouse),
                _ => {}
            }
        }
    }
    join_users_and_identifies(&mut staged, warehouse, dialect);
    let of_loading = columns_of_loading(dialect).iter().map(|name| ((*name).to_owned(), "datetime".to_owned()));
    let discards = DISCARDS.map(|(name, kind)| (spelled(dialect, name), kind.to_owned()));
    staged.insert(discards_table(dialect), discards.into_iter().chain(of_loading).collect());
    staged
}

/// Users get every column of identifies, and both what the table of users has had before.
fn join_users_and_identifies(staged: &mut Schema, warehouse: &Schema, dialect: Dialect) {
    let (users, identifies) = (spelled(dialect, "users"), spelled(dialect, "identifies"));
    let (id, user_id) = (spelled(dialect, "id"), spelled(dialect, "user_id"));
    let (Some(mut of_users), Some(mut of_identifies)) = (staged.remove(&users), staged.remove(&identifies)) else {
        return;
    };
    of_users.extend(of_identifies.iter().map(|(name, kind)| (name.clone(), kind.clone())));
    let held = |table: &str| warehouse.get(table);
    for (name, kind) in held(&users).into_iter().flatten() {
        if *name != id && !held(&identifies).is_some_and(|held| held.contains_key(name)) {
            of_users.entry(name.clone()).or_insert_with(|| kind.clone());
            of_identifies.entry(name.clone()).or_insert_with(|| kind.clone());
        }
    }
    if let Some(kind) = of_identifies.get(&user_id) {
        of_users.insert(id, kind.clone());
    }
    of_users.remove(&user_id);
    staged.insert(users, of_users);
    staged.insert(identifies, of_identifies);
}

/// What a table needs before the rows of an upload fit in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableChange {
    /// The table is not there.
    pub is_new: bool,
    /// Columns that it needs: all of them when it is new.
    pub added: TableSchema,
    /// Columns of short texts that get long ones.
    pub widened: Vec<String>,
}

impl TableChange {
    /// What the warehouse needs for these columns of an upload.
    pub fn of(wanted: &TableSchema, held: Option<&TableSchema>) -> TableChange {
        let Some(held) = held.filter(|held| !held.is_empty()) else {
            return TableChange { is_new: true, added: wanted.clone(), widened: Vec::new() };
        };
        let mut change = TableChange::default();
        for (column, kind) in wanted {
            match held.get(column) {
                None => {
                    change.added.insert(column.clone(), kind.clone());
                }
                Some(in_warehouse) if in_warehouse == "string" && kind == "text" => change.widened.push(column.clone()),
                Some(_) => {}
            }
        }
        change
    }

    /// Whether nothing is to be done.
    pub fn is_none(&self) -> bool {
        !self.is_new && self.added.is_empty() && self.widened.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(value: Value) -> Schema {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_first_type_stays_but_for_text() {
        let mut merged = Schema::new();
        for staged in [
            json!({ "t": { "a": "int", "b": "string", "c": "text" } }),
            json!({ "t": { "a": "float", "b": "text", "c": "string", "d": "boolean" }, "u": {} }),
        ] {
            add_staged(&mut merged, staged.as_object().unwrap());
        }
        assert_eq!(merged, schema(json!({ "t": { "a": "int", "b": "text", "c": "text", "d": "boolean" }, "u": {} })));
    }

    #[test]
    fn the_type_of_the_warehouse_wins_for_ever() {
        let staged = schema(json!({ "t": { "a": "int", "b": "text", "c": "datetime" } }));
        let held = schema(json!({ "t": { "a": "string", "b": "string", "z": "int" } }));
        let upload = of_upload(staged, &held, Dialect::Redshift);
        assert_eq!(upload["t"], schema(json!({ "t": { "a": "string", "b": "text", "c": "datetime" } }))["t"]);
        let discards: Vec<&str> = upload["rudder_discards"].keys().map(String::as_str).collect();
        let expected = ["column_name", "column_value", "reason", "received_at", "row_id", "table_name", "uuid_ts"];
        assert_eq!(discards, expected);
        assert!(of_upload(Schema::new(), &held, Dialect::BigQuery)["rudder_discards"].contains_key("loaded_at"));
        assert!(of_upload(Schema::new(), &held, Dialect::Snowflake)["RUDDER_DISCARDS"].contains_key("UUID_TS"));
    }

    #[test]
    fn users_have_the_columns_of_identifies() {
        let staged = schema(json!({
            "users": { "id": "string", "a": "int" },
            "identifies": { "id": "string", "user_id": "int", "a": "int", "b": "boolean" }
        }));
        let held = schema(json!({ "users": { "id": "string", "old": "float", "b": "boolean" },
            "identifies": { "b": "boolean" } }));
        let upload = of_upload(staged, &held, Dialect::Postgres);
        let expected = json!({
            "users": { "id": "int", "a": "int", "b": "boolean", "old": "float" },
            "identifies": { "id": "string", "user_id": "int", "a": "int", "b": "boolean", "old": "float" }
        });
        assert_eq!(upload["users"], schema(expected.clone())["users"]);
        assert_eq!(upload["identifies"], schema(expected)["identifies"]);
    }

    #[test]
    fn a_table_is_made_or_gets_what_it_lacks() {
        let wanted = schema(json!({ "t": { "a": "int", "b": "text" } })).remove("t").unwrap();
        let held = schema(json!({ "t": { "b": "string", "z": "int" } })).remove("t").unwrap();
        let change = TableChange::of(&wanted, Some(&held));
        assert_eq!((change.is_new, change.added.len(), change.widened.as_slice()), (false, 1, &["b".to_owned()][..]));
        let change = TableChange::of(&wanted, None);
        assert!(change.is_new && change.added == wanted);
        assert!(TableChange::of(&wanted, Some(&wanted)).is_none());
    }
}
