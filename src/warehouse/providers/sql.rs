//! Statements that more than one SQL warehouse understands, as pure functions (warehouse.md 11.2, 11.4).
//!
//! Identifiers are always quoted: names come from events (security.md 7).

use crate::warehouse::schema::TableSchema;

/// An identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\"").replace('\0', ""))
}

/// A text literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''").replace('\0', ""))
}

/// Names of columns, each quoted, with commas.
pub(super) fn column_list(columns: &TableSchema) -> String {
    columns.keys().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// Columns of a table by which a row is found again.
pub(super) fn merge_key(table: &str) -> &'static [&'static str] {
    match table {
        "rudder_discards" => &["row_id", "table_name", "column_name"],
        _ => &["id"],
    }
}

/// Removes the rows of the target that a staged row replaces; `None` when the rows have no key.
pub(super) fn delete_matching(target: &str, staging: &str, table: &str, columns: &TableSchema) -> Option<String> {
    let key = merge_key(table);
    if !key.iter().all(|column| columns.contains_key(*column)) {
        return None;
    }
    if let [only] = key {
        let column = quoted(only);
        return Some(format!("DELETE FROM {target} WHERE {column} IN (SELECT {column} FROM {staging})"));
    }
    let same = key.iter().map(|column| format!("_source.{0} = {target}.{0}", quoted(column)));
    let same = same.collect::<Vec<_>>().join(" AND ");
    Some(format!("DELETE FROM {target} WHERE EXISTS (SELECT 1 FROM {staging} AS _source WHERE {same})"))
}

/// Inserts, of the staged rows with one key, the one that was received last.
pub(super) fn insert_latest(target: &str, staging: &str, table: &str, columns: &TableSchema) -> String {
    let list = |of: &dyn Fn(&String) -> String| {
        columns.iter().flat_map(|name| [", ".to_owned(), of(name)]).collect::<String>()
    };
    let known = list(&|name| quoted(name));
    let from_identifies = list(&|name| {
        if identifies.contains_key(name) { quoted(name) } else { format!("NULL AS {}", quoted(name)) }
    });
    let order = if users.contains_key("received_at") { " ORDER BY _newer.\"received_at\" DESC" } else { "" };
    let newest = list(&|name| {
        let name = quoted(name);
        format!(
            "(SELECT _newer.{name} FROM {union} AS _newer WHERE _newer.\"id\" = _each.\"id\" AND _newer.{name} IS NOT \
             NULL{order} LIMIT 1) AS {name}"
        )
    });
    vec![
        format!(
            "CREATE TEMPORARY TABLE {union} AS SELECT \"id\"{known} FROM {table} WHERE \"id\" IN (SELECT {user_id} \
             FROM {staged} WHERE \"user_id\" IS NOT NULL) UNION ALL SELECT {user_id} AS \"id\"{from_identifies} FROM \
             {staged} WHERE \"user_id\" IS NOT NULL"
        ),
        format!("CREATE INDEX {} ON {union} (\"id\")", quoted(&format!("{}_id", union.trim_matches('"')))),
        format!(
            "CREATE TEMPORARY TABLE {latest} AS SELECT _each.\"id\"{newest} FROM (SELECT DISTINCT \"id\" FROM \
             {union}) AS _each"
        ),
        format!("DELETE FROM {table} WHERE \"id\" IN (SELECT \"id\" FROM {latest})"),
        format!("INSERT INTO {table} (\"id\"{known}) SELECT \"id\"{known} FROM {latest}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_events_stay_names() {
        assert_eq!(quoted("a\"; DROP TABLE x --"), "\"a\"\"; DROP TABLE x --\"");
        assert_eq!(literal("it's"), "'it''s'");
    }

    #[test]
    fn rows_are_replaced_by_their_key() {
        let columns = |names: &[&str]| -> TableSchema {
            names.iter().map(|name| ((*name).to_owned(), "string".to_owned())).collect()
        };
        let tracks = columns(&["id", "received_at", "a"]);
        assert_eq!(
            delete_matching("\"n\".\"tracks\"", "\"s\"", "tracks", &tracks).unwrap(),
            "DELETE FROM \"n\".\"tracks\" WHERE \"id\" IN (SELECT \"id\" FROM \"s\")"
        );
        assert_eq!(
            insert_latest("\"t\"", "\"s\"", "tracks", &tracks),
            "INSERT INTO \"t\" (\"a\", \"id\", \"received_at\") SELECT \"a\", \"id\", \"received_at\" FROM (SELECT \
             \"a\", \"id\", \"received_at\", ROW_NUMBER() OVER (PARTITION BY \"id\" ORDER BY \"received_at\" DESC) AS \
             \"_rudder_staging_row_number\" FROM \"s\") AS _latest WHERE \"_rudder_staging_row_number\" = 1"
        );
        let discards = columns(&["row_id", "table_name", "column_name"]);
        assert_eq!(
            delete_matching("\"d\"", "\"s\"", "rudder_discards", &discards).unwrap(),
            "DELETE FROM \"d\" WHERE EXISTS (SELECT 1 FROM \"s\" AS _source WHERE _source.\"row_id\" = \"d\".\"row_id\" \
             AND _source.\"table_name\" = \"d\".\"table_name\" AND _source.\"column_name\" = \"d\".\"column_name\")"
        );
        assert_eq!(delete_matching("\"d\"", "\"s\"", "tracks", &discards), None);
        assert_eq!(
            insert_latest("\"t\"", "\"s\"", "tracks", &columns(&["a"])),
            "INSERT INTO \"t\" (\"a\") SELECT \"a\" FROM \"s\""
        );
    }
}
