//! The code of a transformation with everything that belongs to it (processor.md 7.3, 7.6).
//!
//! `Debug` shows names and sizes, never code or credentials.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

/// The name in stack traces of a transformation that has none.
const NAMELESS: &str = "base transformation";

/// How code is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contract {
    /// `codeVersion` 1: a module that exports `transformEvent` or `transformBatch`.
    Module,
    /// `codeVersion` 0: a script that defines `transform(events)`.
    Script,
}

/// A transformation, ready to run.
pub struct Code {
    name: String,
    contract: Contract,
    text: String,
    libraries: Vec<Library>,
    credentials: Vec<(String, String)>,
    version_id: String,
    key: u128,
}

/// A library that code may import.
#[derive(Clone, PartialEq, Eq)]
pub struct Library {
    /// What `import ... from` says.
    pub specifier: String,
    /// Its code.
    pub text: String,
}

/// Why events of a destination cannot be transformed at all (processor.md 7.3, 7.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP-like status.
    pub status: u16,
    /// What is wrong.
    pub error: String,
}

/// What transforms the events of a destination.
pub type Transformer = Result<Arc<Code>, Refusal>;

impl Code {
    /// Code under a contract, with the libraries and credentials (key, value) of its workspace. An empty name is
    /// replaced by the usual one.
    pub fn new(
        name: &str,
        version_id: &str,
        contract: Contract,
        text: String,
        libraries: Vec<Library>,
        credentials: Vec<(String, String)>,
    ) -> Code {
        let mut hash = Xxh3::new();
        for part in [version_id, &text].into_iter().chain(libraries.iter().map(|library| library.text.as_str())) {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        // A name ends at a NUL in the engine.
        let name = if name.is_empty() { NAMELESS.to_owned() } else { name.replace('\0', " ") };
        let key = hash.digest128();
        Code { name, contract, text, libraries, credentials, version_id: version_id.to_owned(), key }
    }

    /// The name that stack traces show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version id.
    pub fn version_id(&self) -> &str {
        &self.version_id
    }

    pub(super) fn contract(&self) -> Contract {
        self.contract
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn library(&self, specifier: &str) -> Option<&Library> {
        self.libraries.iter().find(|library| library.specifier == specifier)
    }

    pub(super) fn credential(&self, key: &str) -> Option<&str> {
        self.credentials.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Stands for this code: another one after any edit.
    pub(super) fn key(&self) -> u128 {
        self.key
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code")
            .field("name", &self.name)
            .field("version_id", &self.version_id)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("specifier", &self.specifier).finish_non_exhaustive()
    }
}

/// What kind of character a word ends at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Upper,
    Lower,
    Digit,
    Other,
}

fn kind(character: char) -> Kind {
    match character {
        _ if character.is_numeric() => Kind::Digit,
        _ if character.is_uppercase() => Kind::Upper,
        _ if character.is_alphabetic() => Kind::Lower,
        _ => Kind::Other,
    }
}

/// The specifier that a library's name makes: `My Lib 1` is imported as `myLib1`.
pub fn camel_case(name: &str) -> String {
    let characters: Vec<char> = name.chars().filter(|c| !matches!(c, '\'' | '\u{2019}')).collect();
    let mut camel = String::with_capacity(name.len());
    let mut before = Kind::Other;
    let mut following = characters.iter().skip(1);
    for character in &characters {
        let own = kind(*character);
        let next = following.next().map_or(Kind::Other, |next| kind(*next));
        let begins_a_word = match (before, own) {
            (_, Kind::Other) | (Kind::Upper, Kind::Lower) => false,
            // The last capital of a run begins the next word: `HTTPClient`.
            (Kind::Upper, Kind::Upper) => next == Kind::Lower,
            _ => before != own,
        };
        if begins_a_word && !camel.is_empty() {
            camel.extend(character.to_uppercase());
        } else if own != Kind::Other {
            camel.extend(character.to_lowercase());
        }
        before = own;
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_imported_by_its_name_in_camel_case() {
        let table = [
            ("Price Tools", "priceTools"),
            ("My Lib 1", "myLib1"),
            ("myLib", "myLib"),
            ("HTTPClient", "httpClient"),
            ("geo-lookup_v2", "geoLookupV2"),
            ("  spaced   out ", "spacedOut"),
            ("bob's tools", "bobsTools"),
            ("foo2bar", "foo2Bar"),
            ("", ""),
        ];
        for (name, expected) in table {
            assert_eq!(camel_case(name), expected, "{name}");
        }
    }

    #[test]
    fn an_edit_of_code_or_library_makes_another_key() {
        let code = |text: &str, library: &str| {
            let libraries = vec![Library { specifier: "a".to_owned(), text: library.to_owned() }];
            Code::new("", "v1", Contract::Module, text.to_owned(), libraries, Vec::new()).key()
        };
        assert_eq!(code("a", "b"), code("a", "b"));
        assert_ne!(code("a", "b"), code("a", "c"));
        assert_ne!(code("ab", ""), code("a", "b"));
    }
}
