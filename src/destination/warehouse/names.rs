//! Names of tables and columns: from what users wrote to what a warehouse takes (warehouse.md 3.2 to 3.4).
//!
//! Two steps: the *transform* finds words, the *safe* name has the warehouse's case and length and is no reserved
//! word. Transformed names of columns and safe names are ASCII.

use super::Dialect;
use super::words::{push_runs, push_snake_case};

/// How names are made for one destination and one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    /// Whose rules hold.
    pub dialect: Dialect,
    /// Destination config `underscoreDivideNumbers`: numbers are words of their own.
    pub divides_numbers: bool,
    /// Event option `useBlendoCasing`: names keep their words together.
    pub keeps_words_together: bool,
    /// Event option `skipReservedKeywordsEscaping`: reserved words stay as they are.
    pub keeps_reserved_words: bool,
}

impl Naming {
    /// The transform of a column's name; empty when no character of it can be used.
    pub fn transform_column(self, name: &str) -> String {
        let mut out = if self.keeps_words_together { together(name) } else { self.snake_case(name) };
        cut(&mut out, self.dialect.cut_before_escaping());
        if self.keeps_words_together {
            out.make_ascii_lowercase();
        }
        out
    }

    /// The transform of an event's name, which becomes the value of the column `event`.
    pub fn transform_table(self, name: &str) -> String {
        if self.keeps_words_together { name.trim().to_lowercase() } else { self.snake_case(name) }
    }

    /// The safe name of a table or column whose transformed name this is.
    pub fn safe(self, mut name: String) -> String {
        cut(&mut name, self.dialect.cut_before_escaping());
        if self.dialect.is_upper_case() {
            name.make_ascii_uppercase();
        } else {
            name.make_ascii_lowercase();
        }
        if !self.keeps_reserved_words && self.dialect.is_reserved(&name) {
            name.insert(0, '_');
        }
        cut(&mut name, self.dialect.cut_after_escaping());
        name
    }

    /// The safe name of the table of an event; `None` when nothing is left of its name. Names of the tables that
    /// every source has are not given to events.
    pub fn safe_event_table(self, event: &str) -> Option<String> {
        let mut table = self.safe(self.transform_column(event));
        let is_always_taken = ["users", "identifies"].iter().any(|taken| table.eq_ignore_ascii_case(taken));
        let is_taken = ["tracks", "pages", "screens", "aliases", "groups", "accounts"]
            .iter()
            .any(|taken| table.eq_ignore_ascii_case(taken));
        if is_always_taken || is_taken && !self.keeps_reserved_words {
            table.insert(0, '_');
        }
        Some(table).filter(|table| !table.is_empty())
    }

    fn snake_case(self, name: &str) -> String {
        if is_snake_case(name) {
            return name.to_owned();
        }
        let mut runs = String::with_capacity(name.len());
        push_runs(&mut runs, name);
        let underscores = name.len() - name.trim_start_matches('_').len();
        let mut out = String::with_capacity(name.len() + 4);
        out.extend(std::iter::repeat_n('_', underscores));
        push_snake_case(&mut out, &runs, self.divides_numbers);
        if out.starts_with(|first: char| first.is_ascii_digit()) {
            out.insert(0, '_');
        }
        out
    }
}

/// The name with everything but letters, digits, `\` and `$` as `_`.
fn together(name: &str) -> String {
    let kept = |character: char| character.is_ascii_alphanumeric() || character == '\\' || character == '$';
    let mut out = String::with_capacity(name.len() + 1);
    if !name.starts_with(|first: char| first.is_ascii_alphabetic() || !kept(first)) {
        out.push('_');
    }
    out.extend(name.chars().map(|character| if kept(character) { character } else { '_' }));
    out
}

/// Whether the name is in snake case as it stands: words of small letters, each behind one underscore. Most are.
fn is_snake_case(name: &str) -> bool {
    let mut before = b'_';
    for byte in name.bytes() {
        if !byte.is_ascii_lowercase() && (byte != b'_' || before == b'_') {
            return false;
        }
        before = byte;
    }
    before != b'_'
}

/// Cuts to so many characters.
fn cut(name: &mut String, most: Option<usize>) {
    // No name has more characters than bytes.
    let Some(most) = most.filter(|most| name.len() > *most) else { return };
    if let Some((at, _)) = name.char_indices().nth(most) {
        name.truncate(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(dialect: Dialect) -> Naming {
        Naming { dialect, divides_numbers: false, keeps_words_together: false, keeps_reserved_words: false }
    }

    fn column(naming: Naming, name: &str) -> String {
        naming.safe(naming.transform_column(name))
    }

    #[test]
    fn columns_are_in_snake_case_and_the_case_of_the_warehouse() {
        let table = [
            ("cartValue", "cart_value", "CART_VALUE"),
            ("  total (EUR) ", "total_eur", "TOTAL_EUR"),
            ("__hidden", "__hidden", "__HIDDEN"),
            ("_ hidden", "_hidden", "_HIDDEN"),
            ("3rdParty", "_3rd_party", "_3RD_PARTY"),
            ("\u{e9}\u{e8}", "", ""),
            ("Select", "_select", "_SELECT"),
        ];
        for (name, postgres, snowflake) in table {
            assert_eq!(column(naming(Dialect::Postgres), name), postgres, "{name}");
            assert_eq!(column(naming(Dialect::Snowflake), name), snowflake, "{name}");
        }
    }

    #[test]
    fn names_that_need_no_transform_are_seen_as_such() {
        for (name, expected) in [
            ("a", true),
            ("cart_value", true),
            ("", false),
            ("_a", false),
            ("a_", false),
            ("a__b", false),
            ("a1", false),
        ] {
            assert_eq!(is_snake_case(name), expected, "{name}");
        }
        for name in ["a", "cart_value", "one_two_three"] {
            let mut out = String::new();
            push_snake_case(&mut out, name, false);
            assert_eq!(out, name);
        }
    }

    #[test]
    fn names_are_cut_to_what_the_warehouse_takes() {
        let long = "n".repeat(200);
        for (dialect, length) in
            [(Dialect::Postgres, 63), (Dialect::Mssql, 127), (Dialect::Snowflake, 127), (Dialect::S3Datalake, 200)]
        {
            assert_eq!(column(naming(dialect), &long).len(), length, "{dialect:?}");
        }
    }

    #[test]
    fn reserved_words_stay_when_the_event_says_so() {
        let keeps = Naming { keeps_reserved_words: true, ..naming(Dialect::BigQuery) };
        assert_eq!(column(keeps, "select"), "select");
        assert_eq!(column(naming(Dialect::BigQuery), "select"), "_select");
        assert_eq!(column(naming(Dialect::ClickHouse), "select"), "select");
    }

    #[test]
    fn words_stay_together_when_the_event_says_so() {
        let together = Naming { keeps_words_together: true, ..naming(Dialect::Redshift) };
        for (name, expected) in [
            ("cartValue", "cartvalue"),
            ("cart value", "cart_value"),
            (" cart", "_cart"),
            ("1st", "_1st"),
            ("$plan", "_$plan"),
            ("a\\b$c", "a\\b$c"),
            ("caf\u{e9}", "caf_"),
            ("", "_"),
        ] {
            assert_eq!(together.transform_column(name), expected, "{name}");
        }
        assert_eq!(together.transform_table(" Order \u{c9}t\u{e9} "), "order \u{e9}t\u{e9}");
    }

    #[test]
    fn events_do_not_take_the_tables_of_every_source() {
        let escaping = naming(Dialect::Snowflake);
        let keeps = Naming { keeps_reserved_words: true, ..escaping };
        for (event, expected, when_kept) in [
            ("cart viewed", "CART_VIEWED", "CART_VIEWED"),
            ("users", "_USERS", "_USERS"),
            ("Identifies", "_IDENTIFIES", "_IDENTIFIES"),
            ("pages", "_PAGES", "PAGES"),
            ("Accounts", "_ACCOUNTS", "ACCOUNTS"),
        ] {
            assert_eq!(escaping.safe_event_table(event).as_deref(), Some(expected));
            assert_eq!(keeps.safe_event_table(event).as_deref(), Some(when_kept));
        }
        assert_eq!(escaping.safe_event_table("\u{e9}"), None);
    }
}
