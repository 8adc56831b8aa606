//! Holds the house to its rules by reading its files: floors, owners of names, sizes. Links nothing of the library.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The floors from the top. A module may use those below its own floor, and itself.
const FLOORS: &[&[&str]] = &[
    &["cli"],
    &["node"],
    &["admin"],
    &["gateway", "processor", "router", "batch_router", "warehouse"],
    &["transform"],
    &["transformer"],
    &["object_storage"],
    &["stream"],
    &["destination"],
    &["backend_config"],
    &["jobsdb"],
    &["storage"],
    &["event"],
    &["settings"],
    &["clock"],
    &["telemetry"],
];

/// Longest file without a reason.
const MOST_LINES: usize = 700;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "manager"];

struct File {
    /// Relative to `src`, with `/`.
    path: String,
    /// The top module that it belongs to; empty for `lib.rs` and `main.rs`.
    module: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the sources can be listed") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn sources() -> Vec<File> {
    let src = root().join("src");
    let mut paths = Vec::new();
    collect(&src, &mut paths);
    paths.sort();
    assert!(paths.len() > 10, "the sources are not where they are looked for");
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a source is UTF-8");
            let relative = path.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
            let first = relative.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
            let module = if first == "lib" || first == "main" { String::new() } else { first };
            File { path: relative, module, text }
        })
        .collect()
}

/// The code with comments blanked, text literals kept or blanked too; line breaks stay where they are.
fn code(text: &str, keep_literals: bool) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    while at < characters.len() {
        let here = characters[at];
        let next = characters.get(at + 1).copied().unwrap_or(' ');
        if here == '/' && next == '/' {
            while at < characters.len() && characters[at] != '\n' {
                out.push(' ');
                at += 1;
            }
        } else if here == '/' && next == '*' {
            let mut depth = 0;
            while at < characters.len() {
                let pair = (characters[at], characters.get(at + 1).copied().unwrap_or(' '));
                if pair == ('/', '*') {
                    depth += 1;
                    out.push_str("  ");
                    at += 2;
                } else if pair == ('*', '/') {
                    depth -= 1;
                    out.push_str("  ");
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    out.push(blank(characters[at]));
                    at += 1;
                }
            }
        } else if let Some((opening, hashes)) = raw_literal(&characters, at) {
            let begun = at;
            at += opening;
            while at < characters.len() {
                if characters[at] == '"' && (1..=hashes).all(|n| characters.get(at + n) == Some(&'#')) {
                    at += 1 + hashes;
                    break;
                }
                at += 1;
            }
            for &c in &characters[begun..at.min(characters.len())] {
                out.push(if keep_literals { c } else { blank(c) });
            }
        } else if here == '"' {
            let begun = at;
            at += 1;
            while at < characters.len() && characters[at] != '"' {
                at += if characters[at] == '\\' { 2 } else { 1 };
            }
            at = (at + 1).min(characters.len());
            for &c in &characters[begun..at] {
                out.push(if keep_literals || c == '"' { c } else { blank(c) });
            }
        } else if here == '\'' && (next == '\\' || characters.get(at + 2) == Some(&'\'')) {
            // A character literal, not a lifetime.
            out.push(' ');
            at += 1;
            while at < characters.len() && characters[at] != '\'' {
                let step = if characters[at] == '\\' { 2 } else { 1 };
                out.push_str(&" ".repeat(step));
                at += step;
            }
            out.push(' ');
            at += 1;
        } else {
            out.push(here);
            at += 1;
        }
    }
    out
}

/// The length of the opening and the number of `#` of a raw literal that begins here.
fn raw_literal(characters: &[char], at: usize) -> Option<(usize, usize)> {
    let part_of_a_word = at > 0 && (characters[at - 1].is_alphanumeric() || characters[at - 1] == '_');
    let mut position = at;
    if characters.get(position) == Some(&'b') {
        position += 1;
    }
    if part_of_a_word || characters.get(position) != Some(&'r') {
        return None;
    }
    position += 1;
    let hashes = characters[position..].iter().take_while(|&&c| c == '#').count();
    (characters.get(position + hashes) == Some(&'"')).then_some((position + hashes + 1 - at, hashes))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands as a whole word: byte positions.
fn words(text: &str, word: &str) -> Vec<usize> {
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| {
            let before = text[..at].chars().next_back().is_some_and(is_word);
            let after = text[at + word.len()..].chars().next().is_some_and(is_word);
            !before && !after
        })
        .collect()
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The first segments of every `crate::...` path, also of `use crate::{a::x, b}`, with their lines.
fn crate_paths(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        let rest = &code[at + "crate".len()..];
        let Some(rest) = rest.trim_start().strip_prefix("::") else { continue };
        let rest = rest.trim_start();
        let line = line_of(code, at);
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item_begins = true;
            let mut name = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && is_word(c) && item_begins {
                    name.push(c);
                } else if !name.is_empty() {
                    found.push((std::mem::take(&mut name), line));
                    item_begins = false;
                }
                if depth == 0 {
                    break;
                }
                if depth == 1 && c == ',' {
                    item_begins = true;
                }
            }
        } else {
            let name: String = rest.chars().take_while(|&c| is_word(c)).collect();
            if !name.is_empty() {
                found.push((name, line));
            }
        }
    }
    found
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn fail_if_any(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}\n  {}", breaches.join("\n  "));
}

#[test]
fn a_module_uses_only_the_floors_below_it() {
    let mut breaches = Vec::new();
    for file in sources().iter().filter(|file| !file.module.is_empty()) {
        let Some(own) = floor_of(&file.module) else {
            breaches.push(format!(
                "src/{}: module `{}` has no floor; give it one in tests/house.rs",
                file.path, file.module
            ));
            continue;
        };
        for (used, line) in crate_paths(&code(&file.text, false)) {
            let allowed = used == file.module || floor_of(&used).is_none_or(|floor| floor > own);
            if !allowed {
                breaches.push(format!("src/{}:{line}: `{}` uses `crate::{used}`", file.path, file.module));
            }
        }
    }
    fail_if_any("modules use only what is below them (floors from the top: see FLOORS):", &breaches);
}

#[test]
fn every_module_of_the_library_is_in_the_map_with_a_line_of_doc() {
    let library = std::fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let mut breaches = Vec::new();
    let mut previous_is_doc = false;
    for line in library.lines() {
        if line.starts_with("pub mod ") && !previous_is_doc {
            breaches.push(line.to_owned());
        }
        previous_is_doc = line.starts_with("///");
    }
    fail_if_any("src/lib.rs says in one line what each module is:", &breaches);
}

#[test]
fn only_storage_names_rocksdb() {
    let mut breaches = Vec::new();
    for file in sources().iter().filter(|file| file.module != "storage") {
        let code = code(&file.text, false);
        for at in words(&code, "rocksdb").into_iter().chain(words(&code, "librocksdb_sys")) {
            breaches.push(format!("src/{}:{}", file.path, line_of(&code, at)));
        }
    }
    fail_if_any("RocksDB is named only under src/storage:", &breaches);
}

#[test]
fn only_clock_reads_the_system_time() {
    const READERS: &[&str] =
        &["SystemTime", "Timestamp::now", "Zoned::now", "UtcDateTime::now", "Utc::now", "Local::now"];
    let mut breaches = Vec::new();
    for file in sources().iter().filter(|file| file.module != "clock") {
        let code = code(&file.text, false);
        for reader in READERS {
            for at in words(&code, reader) {
                let names_a_reading = *reader != "SystemTime" || code[at..].starts_with("SystemTime::now");
                if names_a_reading {
                    breaches.push(format!("src/{}:{}: {reader}", file.path, line_of(&code, at)));
                }
            }
        }
    }
    fail_if_any("the system time is read only in src/clock.rs:", &breaches);
}

/// The names in `Key::new("...")` and `.also(&[...])` of the settings.
fn setting_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in sources().iter().filter(|file| file.module == "settings") {
        let code = code(&file.text, true);
        for opening in ["Key::new(", ".also(&["] {
            for (at, _) in code.match_indices(opening) {
                let rest = &code[at + opening.len()..];
                let end = if opening == "Key::new(" { rest.find(',') } else { rest.find(']') };
                let list = &rest[..end.unwrap_or(rest.len())];
                names.extend(list.split('"').skip(1).step_by(2).map(str::to_owned));
            }
        }
    }
    names
}

/// Whether the name cannot be an ordinary word: dotted, or in capitals with an underscore.
fn is_telling(name: &str) -> bool {
    let in_capitals = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    name.contains('.') || (in_capitals && name.contains('_'))
}

#[test]
fn only_settings_names_configuration_keys() {
    let names: Vec<String> = setting_names().into_iter().filter(|name| is_telling(name)).collect();
    assert!(names.len() > 10, "the catalogue is not where it is looked for: {names:?}");
    let mut breaches = Vec::new();
    // Tests may name keys: they set them as a user would.
    let is_test = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    for file in sources().iter().filter(|file| file.module != "settings" && !is_test(&file.path)) {
        let code = code(&file.text, true);
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        for name in &names {
            for (at, _) in code.match_indices(&format!("\"{name}\"")) {
                breaches.push(format!("src/{}:{}: \"{name}\"", file.path, line_of(code, at)));
            }
        }
    }
    fail_if_any("configuration keys are named only under src/settings:", &breaches);
}

#[test]
fn the_shipped_settings_file_names_only_keys_that_exist() {
    let names: BTreeSet<String> = setting_names().into_iter().map(|name| name.to_ascii_lowercase()).collect();
    let text = std::fs::read_to_string(root().join("packaging/pintle.toml")).expect("packaging/pintle.toml");
    // Every default is there as a comment without a blank after the mark; prose has one.
    let settings: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let table: toml::Table = toml::from_str(&settings).expect("the settings file is TOML, also with every line active");
    let mut unknown = Vec::new();
    let mut known = 0;
    for (section, value) in &table {
        let keys: Vec<String> = match value {
            toml::Value::Table(keys) => keys.keys().map(|key| format!("{section}.{key}")).collect(),
            _ => vec![section.clone()],
        };
        for key in keys {
            known += 1;
            if !names.contains(&key.to_ascii_lowercase()) {
                unknown.push(key);
            }
        }
    }
    assert!(known > 10, "the defaults are read from the file");
    fail_if_any("packaging/pintle.toml names keys that the settings do not have:", &unknown);
}

#[test]
fn a_file_is_named_for_its_idea() {
    let mut breaches = Vec::new();
    for file in sources() {
        for part in file.path.trim_end_matches(".rs").split('/') {
            let last_word = part.rsplit('_').next().unwrap_or_default();
            if EMPTY_NAMES.contains(&part) || EMPTY_NAMES.contains(&last_word) {
                breaches.push(format!("src/{}", file.path));
            }
        }
    }
    fail_if_any("no file or folder is called utils, helpers, common, misc or manager:", &breaches);
}

#[test]
fn a_file_is_short_or_says_why_not() {
    let mut breaches = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        let has_reason = file
            .text
            .lines()
            .any(|line| line.trim_start().strip_prefix("// long:").is_some_and(|why| why.trim().len() > 10));
        if lines > MOST_LINES && !has_reason {
            breaches.push(format!("src/{}: {lines} lines", file.path));
        }
    }
    fail_if_any(
        &format!("a file over {MOST_LINES} lines says why in a line `// long: ...`, or is split by idea:"),
        &breaches,
    );
}

#[test]
fn a_file_says_first_what_it_is() {
    let mut breaches = Vec::new();
    for file in sources() {
        let is_tests = file.path.ends_with("tests.rs");
        if !is_tests && !file.text.trim_start().starts_with("//!") {
            breaches.push(format!("src/{}", file.path));
        }
    }
    fail_if_any("a file begins with its module doc:", &breaches);
}

#[test]
fn only_telemetry_and_events_files_name_metrics() {
    const MACROS: &[&str] =
        &["counter!", "gauge!", "histogram!", "describe_counter!", "describe_gauge!", "describe_histogram!"];
    let mut breaches = Vec::new();
    for file in sources() {
        if file.module == "telemetry" || file.path.ends_with("/events.rs") {
            continue;
        }
        let code = code(&file.text, false);
        for name in MACROS {
            for (at, _) in code.match_indices(name) {
                if !code[..at].chars().next_back().is_some_and(is_word) {
                    breaches.push(format!("src/{}:{}: {name}", file.path, line_of(&code, at)));
                }
            }
        }
    }
    fail_if_any("metrics are named only in telemetry and in each component's events.rs:", &breaches);
}

#[test]
fn the_reader_of_this_test_sees_what_it_should() {
    let text = r##"
        // crate::cli in a comment, "rocksdb" too
        /* crate::node /* nested */ still */
        use crate::{settings, jobsdb::{Queue, api::Fetch}, event};
        let quoted = "crate::admin \" rocksdb";
        let raw = r#"crate::router"#;
        let quote = '"'; let lifetime: &'static str = crate::clock::x();
    "##;
    let names: BTreeMap<String, usize> = crate_paths(&code(text, false)).into_iter().collect();
    assert_eq!(names.keys().map(String::as_str).collect::<Vec<_>>(), ["clock", "event", "jobsdb", "settings"]);
    assert!(words(&code(text, false), "rocksdb").is_empty());
    assert!(code(text, true).contains("crate::admin"));
}
