//! Rows: columns with their types and values, and the JSON that staging files hold (warehouse.md 1).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Dialect;
use super::types::{ColumnType, typed};
use super::value::Json;
use crate::event::json::push_string;

/// A column of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell<'t> {
    /// The type of the value.
    pub column_type: ColumnType,
    /// `None` where only the type is known: the value is filled in when the row is loaded.
    pub value: Option<Json<'t>>,
}

/// The columns of one row by name, in order of names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns<'t>(BTreeMap<Arc<str>, Cell<'t>>);

impl<'t> Columns<'t> {
    /// Puts a value in a column, in place of any other.
    pub(super) fn put(&mut self, name: Arc<str>, column_type: ColumnType, value: Json<'t>) {
        self.0.insert(name, Cell { column_type, value: Some(value) });
    }

    /// Puts the value of a rule in a column. Blank values and containers leave the column absent, whatever was there.
    pub(super) fn put_by_rule(&mut self, dialect: Dialect, name: Arc<str>, value: Option<Json<'t>>) {
        match value.filter(|value| !value.is_blank() && !value.is_container()) {
            Some(value) => {
                let (column_type, value) = typed(dialect, value, false);
                self.put(name, column_type, value);
            }
            None => {
                self.0.remove(&name);
            }
        }
    }

    /// Names a column whose value is filled in when the row is loaded, unless the event has one of that name.
    pub(super) fn declare(&mut self, name: &str, column_type: ColumnType) {
        if !self.0.contains_key(name) {
            self.0.insert(Arc::from(name), Cell { column_type, value: None });
        }
    }

    /// Lays other columns over these.
    pub(super) fn overlay(&mut self, others: Columns<'t>) {
        self.0.extend(others.0);
    }

    /// The value of a column.
    pub fn value(&self, name: &str) -> Option<&Json<'t>> {
        self.0.get(name).and_then(|cell| cell.value.as_ref())
    }

    /// How many columns there are, those without a value included.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Names and cells, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Cell<'t>)> {
        self.0.iter().map(|(name, cell)| (&**name, cell))
    }
}

/// The ids that a merge rule joins, for whoever leaves out rules that were written before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedIds {
    /// The value of the first property.
    pub one: String,
    /// The value of the second one, where the event has it.
    pub two: Option<String>,
}

/// One row of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'t> {
    /// The table's name as the warehouse takes it.
    pub table: String,
    /// The columns.
    pub columns: Columns<'t>,
    /// When the event was received, as it was written.
    pub received_at: Cow<'t, str>,
    /// Set when the row is a rule of identity resolution.
    pub merged_ids: Option<MergedIds>,
}

impl Row<'_> {
    /// The row as one line of a staging file, without the end of line: `{"data":..,"metadata":..,"userId":""}`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + 64 * self.columns.count());
        out.extend_from_slice(b"{\"data\":{");
        let mut separator: &[u8] = b"";
        for (name, cell) in self.columns.iter() {
            let Some(value) = &cell.value else { continue };
            out.extend_from_slice(separator);
            push_name(&mut out, name);
            out.push(b':');
            value.write(&mut out);
            separator = b",";
        }
        out.extend_from_slice(b"},\"metadata\":{\"table\":");
        push_string(&mut out, &self.table);
        out.extend_from_slice(b",\"columns\":{");
        separator = b"";
        for (name, cell) in self.columns.iter() {
            out.extend_from_slice(separator);
            push_name(&mut out, name);
            out.push(b':');
            push_string(&mut out, cell.column_type.as_str());
            separator = b",";
        }
        out.extend_from_slice(b"},\"receivedAt\":");
        push_string(&mut out, &self.received_at);
        if let Some(ids) = &self.merged_ids {
            out.extend_from_slice(b",\"isMergeRule\":true,\"mergePropOne\":");
            push_string(&mut out, &ids.one);
            if let Some(two) = &ids.two {
                out.extend_from_slice(b",\"mergePropTwo\":");
                push_string(&mut out, two);
            }
        }
        out.extend_from_slice(b"},\"userId\":\"\"}");
        out
    }
}

/// Appends a name as a JSON string. Nearly all are of letters, digits and `_`, which need no look at each byte.
fn push_name(out: &mut Vec<u8>, name: &str) {
    if memchr::memchr2(b'"', b'\\', name.as_bytes()).is_some() {
        return push_string(out, name);
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line_of_a_staging_file() {
        let mut columns = Columns::default();
        columns.put("b".into(), ColumnType::Int, Json::Number(1.into()));
        columns.put("a\"".into(), ColumnType::String, Json::Text("x\ny".into()));
        columns.declare("uuid_ts", ColumnType::DateTime);
        columns.declare("b", ColumnType::DateTime);
        let row = Row {
            table: "t".to_owned(),
            columns,
            received_at: "r".into(),
            merged_ids: Some(MergedIds { one: "1".to_owned(), two: None }),
        };
        let expected = concat!(
            r#"{"data":{"a\"":"x\ny","b":1},"metadata":{"table":"t","columns":{"a\"":"string","b":"int","#,
            r#""uuid_ts":"datetime"},"receivedAt":"r","isMergeRule":true,"mergePropOne":"1"},"userId":""}"#
        );
        assert_eq!(String::from_utf8(row.to_json()).unwrap(), expected);
    }

    #[test]
    fn a_rule_without_a_value_takes_away_what_was_there() {
        for json in ["null", "\"\"", "[]", "{}", "[1]"] {
            let mut columns = Columns::default();
            columns.put("user_id".into(), ColumnType::Int, Json::Number(1.into()));
            columns.put_by_rule(Dialect::Postgres, "user_id".into(), Some(Json::parse(json).unwrap()));
            assert_eq!(columns.count(), 0, "{json}");
        }
        let mut columns = Columns::default();
        columns.put_by_rule(Dialect::Postgres, "sent_at".into(), Some(Json::Text("2030-05-06".into())));
        assert_eq!(columns.value("sent_at"), Some(&Json::Text("2030-05-06T00:00:00.000Z".into())));
    }
}
