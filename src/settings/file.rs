//! The settings file: TOML to texts by dotted name, each with its line.

use std::io::Read as _;
use std::path::Path;

use toml::de::{DeTable, DeValue};

/// A settings file larger than this is not one.
const MOST_BYTES: u64 = 1 << 20;

/// One value of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileValue {
    /// Dotted name as written.
    pub(super) name: String,
    /// One text, or the elements of an array.
    pub(super) texts: Vec<String>,
    /// Line of its key, from 1.
    pub(super) line: usize,
}

/// What is wrong with the file, and on which line if it is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileProblem {
    /// The key, or empty for the file as a whole.
    pub(super) key: String,
    /// What is wrong.
    pub(super) problem: String,
    /// Line, from 1.
    pub(super) line: Option<usize>,
}

/// Reads the file's text; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, FileProblem> {
    let whole = |problem: String| FileProblem { key: String::new(), problem, line: None };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(whole(format!("cannot be opened: {error}; check its owner and mode"))),
    };
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| whole(format!("cannot be read: {error}")))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_BYTES {
        return Err(whole(format!("is larger than {MOST_BYTES} bytes, which no settings file is")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| whole("is not UTF-8 text; save it as UTF-8".to_owned()))
}

/// Turns the text into values, in the order of their names; every problem is told.
pub(super) fn parse(text: &str) -> Result<Vec<FileValue>, Vec<FileProblem>> {
    let table = DeTable::parse(text).map_err(|error| {
        vec![FileProblem {
            key: String::new(),
            problem: format!("is not valid TOML: {}", error.message().lines().next().unwrap_or("syntax error")),
            line: error.span().map(|span| line_of(text, span.start)),
        }]
    })?;
    let mut walk = Walk { text, values: Vec::new(), problems: Vec::new() };
    walk.table("", table.get_ref());
    if walk.problems.is_empty() { Ok(walk.values) } else { Err(walk.problems) }
}

struct Walk<'a> {
    text: &'a str,
    values: Vec<FileValue>,
    problems: Vec<FileProblem>,
}

impl Walk<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            let line = line_of(self.text, key.span().start);
            if let DeValue::Table(inner) = value.get_ref() {
                self.table(&name, inner);
                continue;
            }
            let texts = match value.get_ref() {
                DeValue::Array(elements) => elements.iter().map(|element| scalar(element.get_ref())).collect(),
                other => scalar(other).map(|text| vec![text]),
            };
            match texts {
                Some(texts) => self.values.push(FileValue { name, texts, line }),
                None => self.problems.push(FileProblem {
                    key: name,
                    problem: format!(
                        "takes text, a number, true or false, or a list of those, not {}",
                        value.get_ref().type_str()
                    ),
                    line: Some(line),
                }),
            }
        }
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_dotted_keys_become_dotted_names_with_their_lines() {
        let text = "dataDir = \"/d\"\n\n[Gateway]\nwebPort = 8_080\nlisten = [\"a:1\", \"b:2\"]\nwebhook.maxRetry = 0x10\n[Router.WEBHOOK]\nforceHTTP1 = true\nx = 0.5\n";
        let mut values = parse(text).unwrap();
        values.sort_by_key(|value| value.line);
        let found: Vec<_> = values.iter().map(|v| (v.name.as_str(), v.texts.join("|"), v.line)).collect();
        assert_eq!(
            found,
            [
                ("dataDir", "/d".to_owned(), 1),
                ("Gateway.webPort", "8080".to_owned(), 4),
                ("Gateway.listen", "a:1|b:2".to_owned(), 5),
                ("Gateway.webhook.maxRetry", "16".to_owned(), 6),
                ("Router.WEBHOOK.forceHTTP1", "true".to_owned(), 8),
                ("Router.WEBHOOK.x", "0.5".to_owned(), 9),
            ]
        );
    }

    #[test]
    fn a_syntax_error_and_a_value_of_no_use_are_told_with_their_line() {
        let problems = parse("a = 1\nb = = 2\n").unwrap_err();
        assert_eq!(problems[0].line, Some(2));
        let problems = parse("a = 1\nwhen = 2020-01-01\nlist = [{x = 1}]\n").unwrap_err();
        assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [Some(3), Some(2)]);
    }
}
