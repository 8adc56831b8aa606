//! Types of columns, found from values (warehouse.md 4.1).

use std::borrow::Cow;
use std::fmt;

use super::Dialect;
use super::datetime;
use super::value::Json;

/// Redshift keeps longer values in columns of another type. UTF-16 units.
const LONGEST_REDSHIFT_STRING: usize = 512;

/// The type of a column, as staging files name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Text, and arrays, which are written as JSON text.
    String,
    /// Long text (Redshift).
    Text,
    /// An integer of 64 bits.
    Int,
    /// The same, in schemas of warehouses that tell the two apart. No value has it.
    BigInt,
    /// A number.
    Float,
    /// `true` or `false`.
    Boolean,
    /// A point in time in UTC, to the millisecond.
    DateTime,
    /// JSON text in a column of the warehouse's own JSON type.
    Json,
}

const ALL: [ColumnType; 8] = [
    ColumnType::String,
    ColumnType::Text,
    ColumnType::Int,
    ColumnType::BigInt,
    ColumnType::Float,
    ColumnType::Boolean,
    ColumnType::DateTime,
    ColumnType::Json,
];

impl ColumnType {
    /// The name in staging files and schemas.
    pub fn as_str(self) -> &'static str {
        match self {
            ColumnType::String => "string",
            ColumnType::Text => "text",
            ColumnType::Int => "int",
            ColumnType::BigInt => "bigint",
            ColumnType::Float => "float",
            ColumnType::Boolean => "boolean",
            ColumnType::DateTime => "datetime",
            ColumnType::Json => "json",
        }
    }

    /// The type of this name.
    pub fn of_name(name: &str) -> Option<ColumnType> {
        ALL.into_iter().find(|column_type| column_type.as_str() == name)
    }

    /// The type of the column that holds the whole event (warehouse.md 2.8).
    pub(super) fn of_full_event(dialect: Dialect) -> ColumnType {
        match dialect {
            Dialect::Snowflake
            | Dialect::SnowpipeStreaming
            | Dialect::Postgres
            | Dialect::Mssql
            | Dialect::AzureSynapse => ColumnType::Json,
            Dialect::Redshift => ColumnType::Text,
            _ => ColumnType::String,
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type of a value, and the value as that type is written: points in time in their normal form.
pub(super) fn typed<'t>(dialect: Dialect, value: Json<'t>, is_json_path: bool) -> (ColumnType, Json<'t>) {
    match value {
        Json::Number(number) => {
            let is_integer = !number.is_f64() || number.as_f64().is_some_and(|value| value.fract() == 0.0);
            (if is_integer { ColumnType::Int } else { ColumnType::Float }, Json::Number(number))
        }
        Json::Bool(value) => (ColumnType::Boolean, Json::Bool(value)),
        Json::Text(text) => {
            let normal = match &text {
                Cow::Borrowed(text) => {
                    let text: &'t str = text;
                    datetime::normal_form(text)
                }
                Cow::Owned(text) => datetime::normal_form(text).map(|normal| Cow::Owned(normal.into_owned())),
            };
            match normal {
                Some(normal) => (ColumnType::DateTime, Json::Text(normal)),
                None => {
                    let is_long = || is_longer(&text, LONGEST_REDSHIFT_STRING);
                    (type_of_text(dialect, is_json_path, is_long), Json::Text(text))
                }
            }
        }
        container => {
            let is_long = || is_longer(&container.to_json(), LONGEST_REDSHIFT_STRING);
            (type_of_text(dialect, is_json_path, is_long), container)
        }
    }
}

fn type_of_text(dialect: Dialect, is_json_path: bool, is_long: impl Fn() -> bool) -> ColumnType {
    if is_json_path && dialect.has_json() {
        ColumnType::Json
    } else if dialect == Dialect::Redshift && is_long() {
        ColumnType::Text
    } else {
        ColumnType::String
    }
}

/// Whether the text has more UTF-16 units than this. Bytes are never fewer than units.
fn is_longer(text: &str, units: usize) -> bool {
    text.len() > units && text.encode_utf16().count() > units
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_of(dialect: Dialect, json: &str, is_json_path: bool) -> &'static str {
        typed(dialect, Json::parse(json).unwrap(), is_json_path).0.as_str()
    }

    #[test]
    fn names_of_types_read_back() {
        for column_type in ALL {
            assert_eq!(ColumnType::of_name(column_type.as_str()), Some(column_type));
        }
        assert_eq!(ColumnType::of_name("array(int)"), None);
    }

    #[test]
    fn values_have_one_type_in_every_warehouse() {
        for dialect in [Dialect::Postgres, Dialect::Redshift, Dialect::BigQuery, Dialect::ClickHouse] {
            for (json, expected) in [
                ("1", "int"),
                ("-7.0", "int"),
                ("1e21", "int"),
                ("1.5", "float"),
                ("true", "boolean"),
                ("\"2030-05-06\"", "datetime"),
                ("\"2030-05\"", "string"),
                ("\"1\"", "string"),
                ("[1,2]", "string"),
            ] {
                assert_eq!(type_of(dialect, json, false), expected, "{dialect:?} {json}");
            }
        }
    }

    #[test]
    fn points_in_time_take_their_normal_form() {
        for json in ["\"2030-05-06\"", "\"2030\\u002d05-06\"", "\"2030-05-06T00:00:00.000Z\""] {
            let (_, value) = typed(Dialect::Mssql, Json::parse(json).unwrap(), false);
            assert_eq!(value, Json::Text("2030-05-06T00:00:00.000Z".into()));
        }
    }

    #[test]
    fn redshift_keeps_long_values_apart() {
        let text = |units: usize| format!("\"{}\"", "\u{e9}".repeat(units));
        assert_eq!(type_of(Dialect::Redshift, &text(512), false), "string");
        assert_eq!(type_of(Dialect::Redshift, &text(513), false), "text");
        assert_eq!(type_of(Dialect::Postgres, &text(513), false), "string");
        let array = |length: usize| format!("[ \"{}\" ]", "x".repeat(length - 4));
        assert_eq!(type_of(Dialect::Redshift, &array(512), false), "string");
        assert_eq!(type_of(Dialect::Redshift, &array(513), false), "text");
        assert_eq!(type_of(Dialect::Redshift, &text(513), true), "json");
    }

    #[test]
    fn json_paths_have_a_type_only_where_the_warehouse_has_one() {
        assert_eq!(type_of(Dialect::Postgres, "\"{}\"", true), "json");
        assert_eq!(type_of(Dialect::SnowpipeStreaming, "\"{}\"", true), "json");
        assert_eq!(type_of(Dialect::BigQuery, "\"{}\"", true), "string");
    }
}
