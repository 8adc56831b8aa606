//! Types of columns in Postgres.

/// The declared type of a column.
pub(super) fn declared(kind: &str) -> &'static str {
    match kind {
        "int" | "bigint" => "bigint",
        "float" => "numeric",
        "datetime" => "timestamptz",
        "boolean" => "boolean",
        "json" => "jsonb",
        _ => "text",
    }
}

/// The type that one of the catalog stands for.
pub(super) fn known(catalog: &str) -> Option<&'static str> {
    Some(match catalog {
        "integer" | "smallint" | "bigint" => "int",
        "double precision" | "numeric" | "real" => "float",
        "text" | "varchar" | "char" | "character varying" | "character" => "string",
        "timestamptz" | "timestamp with time zone" | "timestamp" | "timestamp without time zone" => "datetime",
        "boolean" => "boolean",
        "jsonb" => "json",
        _ => return None,
    })
}
