//! Values that stand elsewhere, so that a secret need not be in a file that is shown, copied or committed
//! (appliance.md 3, gateway.md 11.7): `"file:/run/credentials/x"`, `"${NAME}"`, `"env.NAME"`.
//!
//! Only a whole value is a reference; text around it makes it plain text.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

/// The prefix of the peer's form, unless `BackendConfig.configEnvReplacer` says otherwise.
pub const VARIABLE_PREFIX: &str = "env.";

/// A file that is larger than this holds no secret.
const MOST_FILE_BYTES: u64 = 1 << 20;

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere<'a> {
    /// In the environment variable of this name.
    Variable(&'a str),
    /// In the file with this absolute path, without its trailing line end.
    File(&'a str),
}

/// Why a value that stands elsewhere cannot be had. Never holds a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElsewhereError {
    /// The variable is unset or empty.
    #[error(
        "environment variable {0} is not set; set it where the node is started, for example in /etc/default/pintle"
    )]
    Variable(String),
    /// The file cannot be read.
    #[error("file {path} cannot be read: {why}")]
    File {
        /// Its path.
        path: String,
        /// What failed.
        why: String,
    },
}

impl<'a> Elsewhere<'a> {
    /// The reference that the whole text is, if it is one. `prefix` is [`VARIABLE_PREFIX`] or another one.
    pub fn parse(text: &'a str, prefix: &str) -> Option<Elsewhere<'a>> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("file:") {
            return path.starts_with('/').then_some(Elsewhere::File(path));
        }
        let braced = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let prefixed = (!prefix.is_empty()).then(|| text.strip_prefix(prefix)).flatten();
        braced.or(prefixed).map(str::trim).filter(|name| is_variable_name(name)).map(Elsewhere::Variable)
    }

    /// The value; `variable` looks up the environment.
    ///
    /// # Errors
    /// What is missing, without any value in the text.
    pub fn resolve(self, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, ElsewhereError> {
        match self {
            Elsewhere::Variable(name) => variable(name)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| ElsewhereError::Variable(name.to_owned())),
            Elsewhere::File(path) => {
                read_secret(Path::new(path)).map_err(|why| ElsewhereError::File { path: path.to_owned(), why })
            }
        }
    }
}

impl fmt::Display for Elsewhere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Elsewhere::Variable(name) => write!(f, "environment variable {name}"),
            Elsewhere::File(path) => write!(f, "file {path}"),
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    name.bytes()
        .enumerate()
        .all(|(at, byte)| byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()))
        && !name.is_empty()
}

fn read_secret(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    // A pipe or a device could keep the reader waiting for ever.
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MOST_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_FILE_BYTES {
        return Err(format!("it is larger than {MOST_FILE_BYTES} bytes"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_value_is_a_reference() {
        for (text, expected) in [
            ("env.PG_PASSWORD", Some(Elsewhere::Variable("PG_PASSWORD"))),
            ("  env.PG_PASSWORD ", Some(Elsewhere::Variable("PG_PASSWORD"))),
            ("${PG_PASSWORD}", Some(Elsewhere::Variable("PG_PASSWORD"))),
            ("file:/run/credentials/pg", Some(Elsewhere::File("/run/credentials/pg"))),
            ("file:relative", None),
            ("env.", None),
            ("env.two words", None),
            ("x env.PG_PASSWORD", None),
            ("${PG_PASSWORD} and more", None),
            ("${1X}", None),
            ("", None),
        ] {
            assert_eq!(Elsewhere::parse(text, VARIABLE_PREFIX), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_gives_its_content_without_the_last_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for (content, value) in [("s3cret\n", "s3cret"), ("a\nb\r\n", "a\nb"), ("plain", "plain")] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Elsewhere::File(path.to_str().unwrap()).resolve(&|_| None).unwrap(), value);
        }
        assert!(Elsewhere::File("/nowhere/at/all").resolve(&|_| None).is_err());
        assert!(Elsewhere::File("/dev/zero").resolve(&|_| None).is_err());
    }

    #[test]
    fn an_unset_or_empty_variable_is_an_error_that_names_it() {
        let found = Elsewhere::Variable("X").resolve(&|name| (name == "X").then(|| "v".to_owned()));
        assert_eq!(found.unwrap(), "v");
        let empty = Elsewhere::Variable("X").resolve(&|_| Some(String::new())).unwrap_err();
        assert!(empty.to_string().contains('X'));
    }
}
