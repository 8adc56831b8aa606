//! What becomes of a value whose type is not that of its column in the warehouse (warehouse.md 10.3).
//!
//! A column keeps the type that it was created with. Values of other types are converted where that loses nothing that
//! users would miss; what does not fit is discarded: the cell stays empty and the row is loaded all the same.

use super::types::ColumnType;
use super::value::Json;

/// What happens to values of one type in columns of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// They are written as they are.
    Keep,
    /// They are written as text.
    Text,
    /// They are written as JSON: texts in quotes.
    Quote,
    /// What follows the decimal point is cut off.
    Truncate,
    /// They do not fit.
    Discard,
}

impl Conversion {
    /// What happens to values of type `from` in columns of type `to`.
    pub fn of(from: ColumnType, to: ColumnType) -> Conversion {
        use ColumnType::{BigInt, Boolean, DateTime, Float, Int, Json, String, Text};
        match (to, from) {
            (String | Text, String | Text | Json)
            | (Float, Float | Int | BigInt)
            | (Int | BigInt, Int | BigInt)
            | (Json, Json)
            | (Boolean, Boolean)
            | (DateTime, DateTime) => Conversion::Keep,
            (String | Text | Json, Int | BigInt | Float | Boolean) | (String | Text, DateTime) => Conversion::Text,
            (Json, String | Text | DateTime) => Conversion::Quote,
            (Int | BigInt, Float) => Conversion::Truncate,
            (Float | Int | BigInt, String | Text | Json | Boolean | DateTime)
            | (Boolean, String | Text | Json | Int | BigInt | Float | DateTime)
            | (DateTime, String | Text | Json | Int | BigInt | Float | Boolean) => Conversion::Discard,
        }
    }

    /// The value as its column takes it, `None` when it is discarded.
    pub fn apply(self, value: Json<'_>) -> Option<Json<'_>> {
        Some(match (self, value) {
            // Arrays stay arrays: they are written as JSON anyway.
            (Conversion::Keep, value) | (Conversion::Quote, value @ Json::Array(_)) => value,
            (Conversion::Text, value) => Json::Text(value.to_text().into_owned().into()),
            (Conversion::Quote, value) => Json::Text(value.to_json().into()),
            (Conversion::Truncate, Json::Number(number)) => match number.as_f64() {
                // Beyond the integers of 64 bits the value stays: no column of integers takes it.
                Some(float) if number.is_f64() => {
                    Json::Number(format!("{:.0}", float.trunc()).parse::<i64>().map_or(number, Into::into))
                }
                _ => Json::Number(number),
            },
            (Conversion::Truncate | Conversion::Discard, _) => return None,
        })
    }
}

/// Why a value was discarded, as `rudder_discards` says it.
pub fn discard_reason(from: ColumnType, to: ColumnType) -> String {
    format!("incompatible schema conversion from {to} to {from}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(json: &str, from: ColumnType, to: ColumnType) -> Option<String> {
        Conversion::of(from, to).apply(Json::parse(json).unwrap()).map(|value| value.to_json())
    }

    #[test]
    fn values_become_what_their_column_takes() {
        use ColumnType::{BigInt, Boolean, DateTime, Float, Int, Json, String, Text};
        let table = [
            ("\"a\"", String, String, Some("\"a\"")),
            ("\"a\"", Text, String, Some("\"a\"")),
            ("\"{}\"", Json, Text, Some("\"{}\"")),
            ("5", Int, String, Some("\"5\"")),
            ("1.5", Float, Text, Some("\"1.5\"")),
            ("true", Boolean, String, Some("\"true\"")),
            ("\"2030-01-01T00:00:00.000Z\"", DateTime, String, Some("\"2030-01-01T00:00:00.000Z\"")),
            ("\"1\"", String, Float, None),
            ("5", Int, Float, Some("5")),
            ("true", Boolean, Float, None),
            ("1.9", Float, Int, Some("1")),
            ("-1.9", Float, BigInt, Some("-1")),
            ("-0.5", Float, Int, Some("0")),
            ("5", Int, BigInt, Some("5")),
            ("\"5\"", String, Int, None),
            ("\"2030-01-01T00:00:00.000Z\"", DateTime, Int, None),
            ("\"a\"", String, Json, Some("\"\\\"a\\\"\"")),
            ("[1]", String, Json, Some("[1]")),
            ("5", Int, Json, Some("\"5\"")),
            ("false", Boolean, Json, Some("\"false\"")),
            ("\"2030-01-01T00:00:00.000Z\"", DateTime, Json, Some("\"\\\"2030-01-01T00:00:00.000Z\\\"\"")),
            ("1", Int, Boolean, None),
            ("true", Boolean, Boolean, Some("true")),
            ("\"a\"", String, DateTime, None),
            ("1", Int, DateTime, None),
        ];
        for (json, from, to, expected) in table {
            assert_eq!(converted(json, from, to).as_deref(), expected, "{json} from {from} to {to}");
        }
        assert_eq!(discard_reason(String, Int), "incompatible schema conversion from int to string");
    }
}
