//! One line of a staging file as a row of a load file (warehouse.md 9.3, 10.3, 10.4).
//!
//! Every column of the table in the upload's schema gets a cell. Values of another type than the column's are
//! converted; what does not fit leaves its cell empty and a row in `rudder_discards`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Cells, Format, Job};
use crate::destination::warehouse::{ColumnType, Conversion, Dialect, Json, Members, discard_reason};
use crate::warehouse::schema::{TableSchema, spelled};

/// Most bytes of the type and the value of one property of a merge rule.
const LONGEST_PROPERTY: usize = 512;

#[derive(Deserialize)]
struct Parts<'l> {
    #[serde(borrow)]
    data: &'l RawValue,
    #[serde(borrow)]
    metadata: Metadata<'l>,
}

#[derive(Deserialize)]
struct Metadata<'l> {
    #[serde(borrow)]
    table: Cow<'l, str>,
    #[serde(borrow)]
    columns: &'l RawValue,
}

/// A line, taken apart.
pub(super) struct Line<'l> {
    table: Cow<'l, str>,
    /// In order of names.
    data: Members<'l>,
    types: Members<'l>,
}

impl<'l> Line<'l> {
    /// `None` when the line is no row.
    pub(super) fn read(line: &'l str) -> Option<Line<'l>> {
        let parts: Parts<'l> = serde_json::from_str(line).ok()?;
        let sorted = |raw: &'l RawValue| match Json::parse(raw.get()).ok()? {
            Json::Object(mut members) => {
                // Of two members with one name the last counts; the sort keeps their order.
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                Some(members)
            }
            _ => None,
        };
        Some(Line { data: sorted(parts.data)?, types: sorted(parts.metadata.columns)?, table: parts.metadata.table })
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    fn member<'a>(members: &'a Members<'l>, name: &str) -> Option<&'a Json<'l>> {
        let end = members.partition_point(|(known, _)| **known <= *name);
        members.get(end.checked_sub(1)?).filter(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn value(&self, name: &str) -> Option<&Json<'l>> {
        Line::member(&self.data, name).filter(|value| **value != Json::Null)
    }

    fn type_of(&self, name: &str) -> Option<&str> {
        match Line::member(&self.types, name) {
            Some(Json::Text(kind)) => Some(kind),
            _ => None,
        }
    }
}

/// A value that its column did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Discard {
    pub(super) table: String,
    pub(super) row_id: String,
    pub(super) column: String,
    pub(super) value: String,
    pub(super) reason: String,
    pub(super) received_at: String,
}

/// A row and what it lost.
pub(super) struct Converted<'l> {
    pub(super) cells: Cells<'l>,
    pub(super) discards: Vec<Discard>,
}

/// Makes rows of lines.
pub(super) struct Rows {
    dialect: Dialect,
    format: Format,
    checks_constraints: bool,
    /// What the load fills in.
    uuid_ts: (String, String),
    loaded_at: (String, String),
    id: String,
    received_at: String,
    now: String,
    merge_rules: String,
}

impl Rows {
    pub(super) fn new(job: &Job) -> Rows {
        let at = job.loaded_at;
        let milliseconds = at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
        let (uuid_ts, loaded_at) = match job.format {
            Format::Json => {
                let micros = at.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string();
                let micros = micros.trim_end_matches('0').trim_end_matches('.');
                (at.strftime("%Y-%m-%d %H:%M:%S Z").to_string(), format!("{micros} Z"))
            }
            Format::Csv | Format::Parquet => (milliseconds.clone(), milliseconds.clone()),
        };
        let spelled = |name: &str| spelled(job.dialect, name);
        Rows {
            dialect: job.dialect,
            format: job.format,
            checks_constraints: job.checks_constraints && matches!(job.dialect, Dialect::Snowflake | Dialect::BigQuery),
            uuid_ts: (spelled("uuid_ts"), uuid_ts),
            loaded_at: (spelled("loaded_at"), loaded_at),
            id: spelled("id"),
            received_at: spelled("received_at"),
            now: milliseconds,
            merge_rules: spelled("rudder_identity_merge_rules"),
        }
    }

    /// What the load fills into a column.
    fn of_loading(&self, column: &str) -> Option<&str> {
        let (name, value) = &self.uuid_ts;
        if name == column {
            return Some(value);
        }
        let (name, value) = &self.loaded_at;
        (self.format == Format::Json && name == column).then_some(value)
    }

    /// The row of a line for the columns of its table.
    pub(super) fn convert<'l>(&self, line: &Line<'l>, columns: &TableSchema) -> Converted<'l> {
        let mut cells = Vec::with_capacity(columns.len());
        let mut discards = Vec::new();
        for (column, wanted) in columns {
            if let Some(filled) = self.of_loading(column) {
                cells.push(Some(Json::Text(filled.to_owned().into())));
                continue;
            }
            let (Some(value), Some(kind)) = (line.value(column), line.type_of(column)) else {
                cells.push(None);
                continue;
            };
            if let Some((property, filler)) = self.violation(line, column) {
                let reason = format!(
                    "The maximum length of the concatenated columns {} and {} should be less than 512",
                    spelled(self.dialect, &format!("merge_property_{property}_type")),
                    spelled(self.dialect, &format!("merge_property_{property}_value")),
                );
                discards.push(Discard {
                    table: line.table().to_owned(),
                    row_id: line.value(&self.id).map_or_else(|| filler.clone(), |id| text(id).into_owned()),
                    column: column.clone(),
                    value: text(value).into_owned(),
                    reason,
                    received_at: self.now.clone(),
                });
                cells.push(Some(Json::Text(filler.into())));
                continue;
            }
            match self.cell(value.clone(), kind, wanted) {
                Ok(cell) => cells.push(cell),
                Err((value, reason)) => {
                    cells.push(None);
                    let known = line.value(&self.id).zip(line.value(&self.received_at));
                    if let Some((id, received_at)) = known {
                        discards.push(Discard {
                            table: line.table().to_owned(),
                            row_id: text(id).into_owned(),
                            column: column.clone(),
                            value,
                            reason,
                            received_at: text(received_at).into_owned(),
                        });
                    }
                }
            }
        }
        Converted { cells, discards }
    }

    /// A value as its column takes it, or its text and why it does not.
    fn cell<'l>(&self, value: Json<'l>, kind: &str, wanted: &str) -> Result<Option<Json<'l>>, (String, String)> {
        let value = match (ColumnType::of_name(kind), value) {
            (Some(ColumnType::Int | ColumnType::BigInt), Json::Number(number)) => match whole(&number) {
                Some(whole) => Json::Number(whole.into()),
                None => {
                    let reason = format!("{number} does not fit into an integer of 64 bits");
                    return Err((number.to_string(), reason));
                }
            },
            (Some(ColumnType::Int | ColumnType::BigInt), _) => return Ok(None),
            (_, value) => value,
        };
        let value = if kind == wanted {
            value
        } else if let (Some(from), Some(to)) = (ColumnType::of_name(kind), ColumnType::of_name(wanted)) {
            let conversion = Conversion::of(from, to);
            match (conversion, value) {
                (Conversion::Discard, value) => return Err((text(&value).into_owned(), discard_reason(from, to))),
                (Conversion::Text, value) => Json::Text(text(&value).into_owned().into()),
                (conversion, value) => {
                    let shown = text(&value).into_owned();
                    match conversion.apply(value) {
                        Some(Json::Number(number)) if conversion == Conversion::Truncate && number.is_f64() => {
                            let reason = format!("{number} does not fit into an integer of 64 bits");
                            return Err((shown, reason));
                        }
                        Some(value) => value,
                        None => return Err((shown, discard_reason(from, to))),
                    }
                }
            }
        } else if wanted.starts_with("array(") || kind.starts_with("array(") {
            value
        } else {
            return Err((text(&value).into_owned(), format!("incompatible schema conversion from {wanted} to {kind}")));
        };
        Ok(Some(match value {
            Json::Bool(flag) if self.dialect == Dialect::ClickHouse && wanted == "boolean" => {
                Json::Number(u8::from(flag).into())
            }
            container @ (Json::Array(_) | Json::Object(_)) => Json::Text(container.to_json().into()),
            value => value,
        }))
    }

    /// Which property of a merge rule is too long in this column, and what is put in its place.
    fn violation(&self, line: &Line<'_>, column: &str) -> Option<(u8, String)> {
        if !self.checks_constraints || line.table() != self.merge_rules {
            return None;
        }
        [1_u8, 2].into_iter().find_map(|property| {
            let value = spelled(self.dialect, &format!("merge_property_{property}_value"));
            let kind = spelled(self.dialect, &format!("merge_property_{property}_type"));
            let length = |name: &str| line.value(name).map_or(0, |value| text(value).len());
            (column == value && length(&kind) + length(&value) > LONGEST_PROPERTY)
                .then(|| (property, format!("rudder-discards-{}", Uuid::new_v4())))
        })
    }

    /// A discard as a row of its table.
    pub(super) fn discard_cells(&self, discard: Discard, columns: &TableSchema) -> Cells<'static> {
        let Discard { table, row_id, column, value, reason, received_at } = discard;
        let mut named = [
            ("table_name", table),
            ("row_id", row_id),
            ("column_name", column),
            ("column_value", value),
            ("reason", reason),
            ("received_at", received_at),
        ]
        .map(|(name, value)| (spelled(self.dialect, name), Some(value)));
        let cell = |column: &String| {
            if let Some(filled) = self.of_loading(column) {
                return Some(Json::Text(filled.to_owned().into()));
            }
            let (_, value) = named.iter_mut().find(|(name, _)| name == column)?;
            value.take().map(|value| Json::Text(value.into()))
        };
        columns.keys().map(cell).collect()
    }
}

/// The number without what follows the decimal point, when 64 bits hold it.
fn whole(number: &serde_json::Number) -> Option<i64> {
    if let Some(whole) = number.as_i64() {
        return Some(whole);
    }
    if number.is_u64() {
        return None;
    }
    format!("{:.0}", number.as_f64()?.trunc()).parse().ok()
}

/// A value as text: containers as JSON, floats in the shortest form that reads back.
pub(super) fn text<'v>(value: &'v Json<'_>) -> Cow<'v, str> {
    match value {
        Json::Number(number) if number.is_f64() => match number.as_f64() {
            Some(float) => Cow::Owned(float_text(float)),
            None => Cow::Owned(number.to_string()),
        },
        other => other.to_text(),
    }
}

/// The shortest text that reads back, with an exponent from a million on and below a ten thousandth.
fn float_text(float: f64) -> String {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return float.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_users_of_the_reference_know_them() {
        for (float, expected) in [
            (123_456.7, "123456.7"),
            (1_234_567.5, "1.2345675e+06"),
            (0.0001, "0.0001"),
            (0.000_012_5, "1.25e-05"),
            (-2.5, "-2.5"),
            (1e21, "1e+21"),
            (1.5e-100, "1.5e-100"),
        ] {
            assert_eq!(float_text(float), expected);
        }
    }
}
