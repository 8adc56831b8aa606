//! The schema, dataset or database of a connection (warehouse.md 6).
//!
//! Its words are found by a rule of its own: numbers are always words.

use super::Dialect;
use super::reserved::is_reserved_namespace;
use super::words::push_runs;

/// Most characters of a namespace.
const LONGEST: usize = 127;

/// The database of ClickHouse when the configuration names none.
const CLICKHOUSE_DATABASE: &str = "rudder";

/// What the namespace of a connection is chosen from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'c> {
    /// Destination config `database`, when it is a string.
    pub database: Option<&'c str>,
    /// Destination config `namespace`.
    pub namespace: Option<&'c str>,
    /// Setting `customDatasetPrefix` of the warehouse; empty for none.
    pub prefix: &'c str,
    /// The namespace that the connection had before, so that a renamed source keeps its tables.
    pub recorded: Option<&'c str>,
    /// The source's name.
    pub source_name: &'c str,
    /// Setting `skipNamespaceSnakeCasing` of the warehouse.
    pub keeps_words_together: bool,
}

impl Choice<'_> {
    /// The namespace.
    pub fn namespace(&self, dialect: Dialect) -> String {
        if dialect == Dialect::ClickHouse {
            return self.database.unwrap_or(CLICKHOUSE_DATABASE).to_owned();
        }
        let safe = |name: &str| safe_namespace(dialect, name, self.keeps_words_together);
        if let Some(namespace) = self.namespace.filter(|namespace| !namespace.trim().is_empty()) {
            return safe(namespace);
        }
        if !self.prefix.is_empty() {
            return safe(&format!("{}_{}", self.prefix, self.source_name));
        }
        match self.recorded {
            Some(recorded) => recorded.to_owned(),
            None => safe(self.source_name),
        }
    }
}

/// A name as a warehouse takes it for a namespace, in its case.
pub fn safe_namespace(dialect: Dialect, name: &str, keeps_words_together: bool) -> String {
    let mut runs = String::with_capacity(name.len());
    push_runs(&mut runs, name);
    let mut safe = if keeps_words_together { runs } else { snake_case(&runs) };
    if safe.starts_with(|first: char| first.is_ascii_digit()) {
        safe.insert(0, '_');
    }
    if safe.is_empty() {
        "stringempty".clone_into(&mut safe);
    }
    if is_reserved_namespace(dialect, &safe.to_ascii_lowercase()) {
        safe.insert(0, '_');
    }
    safe.truncate(LONGEST);
    if dialect.is_upper_case() {
        safe.make_ascii_uppercase();
    }
    safe
}

/// Lower case, with `_` wherever case or kind of a character changes. The text is ASCII.
fn snake_case(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len() + 8);
    for (at, here) in bytes.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before)).copied().unwrap_or(b'_');
        let after = bytes.get(at + 1).copied().unwrap_or(b'_');
        let begins_word = (before.is_ascii_lowercase() || before.is_ascii_digit()) && here.is_ascii_uppercase()
            || before.is_ascii_digit() && here.is_ascii_lowercase()
            || before.is_ascii_alphabetic() && here.is_ascii_digit()
            || before.is_ascii_uppercase() && here.is_ascii_uppercase() && after.is_ascii_lowercase();
        if begins_word {
            out.push('_');
        }
        out.push(char::from(here.to_ascii_lowercase()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_namespaces() {
        let table = [
            ("Web Shop", Dialect::Postgres, "web_shop"),
            ("webShop2Test", Dialect::Postgres, "web_shop_2_test"),
            ("HTTPIntake", Dialect::Snowflake, "HTTP_INTAKE"),
            ("4ever", Dialect::Mssql, "_4_ever"),
            ("\u{e9}", Dialect::BigQuery, "stringempty"),
            ("", Dialect::BigQuery, "stringempty"),
            ("timestamp", Dialect::Redshift, "_timestamp"),
            ("Order", Dialect::Snowflake, "_ORDER"),
        ];
        for (name, dialect, expected) in table {
            assert_eq!(safe_namespace(dialect, name, false), expected, "{name}");
        }
        assert_eq!(safe_namespace(Dialect::Postgres, "webShop 2", true), "webShop_2");
        assert_eq!(safe_namespace(Dialect::Postgres, "Order", true), "_Order");
        assert_eq!(safe_namespace(Dialect::Postgres, &"n".repeat(200), false).len(), 127);
    }

    #[test]
    fn the_first_that_is_known_is_chosen() {
        let source = Choice { source_name: "Web Shop", ..Choice::default() };
        assert_eq!(source.namespace(Dialect::Postgres), "web_shop");
        let recorded = Choice { recorded: Some("old_shop"), ..source };
        assert_eq!(recorded.namespace(Dialect::Postgres), "old_shop");
        let prefixed = Choice { prefix: "eu", ..recorded };
        assert_eq!(prefixed.namespace(Dialect::Postgres), "eu_web_shop");
        let named = Choice { namespace: Some("My Data"), ..prefixed };
        assert_eq!(named.namespace(Dialect::Postgres), "my_data");
        assert_eq!(Choice { namespace: Some(" "), ..source }.namespace(Dialect::Postgres), "web_shop");
        assert_eq!(named.namespace(Dialect::ClickHouse), "rudder");
        assert_eq!(Choice { database: Some("Mine"), ..named }.namespace(Dialect::ClickHouse), "Mine");
    }
}
