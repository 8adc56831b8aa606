//! The folders beside the workspace file: `transformations/`, `libraries/`, `tracking-plans/` (gateway.md 11.1,
//! processor.md 5.1, 7.3).
//!
//! [`Texts`] is what lies in them, by relative path: the form that is kept in the store. [`CodeFiles`] is what it
//! means. A file that cannot be used is left out with a reason and harms nothing else; one that could be used
//! before its last edit keeps serving as it was.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::code::{Library, TrackingPlan, TransformationCode};
use super::decode::Problem;
use super::file::Mark;

/// Contents by path relative to the folder of the workspace file, such as `transformations/v1.js`.
pub(super) type Texts = BTreeMap<String, String>;

/// The folders, with the most bytes of one file in them (security.md 2.2).
const FOLDERS: [(&str, u64); 3] = [(TRANSFORMATIONS, 1 << 20), (LIBRARIES, 1 << 20), (PLANS, 4 << 20)];
const TRANSFORMATIONS: &str = "transformations";
const LIBRARIES: &str = "libraries";
const PLANS: &str = "tracking-plans";

/// Most bytes of all files together: they are held in memory and stored in one record.
const MOST_BYTES_IN_ALL: usize = 64 << 20;

/// Signs of change of every file in the folders.
pub(super) type Marks = BTreeMap<String, Mark>;

/// The marks of all files that would be read. Blocks.
pub(super) fn marks(beside: &Path) -> Marks {
    let mut marks = Marks::new();
    for (folder, _) in FOLDERS {
        for name in names(&beside.join(folder)).unwrap_or_default() {
            let path = format!("{folder}/{name}");
            if let Some(mark) = Mark::of(&beside.join(&path)) {
                marks.insert(path, mark);
            }
        }
    }
    marks
}

/// Reads the folders; a missing one is empty. A file that cannot be used is taken from `before`, if it was there.
/// Blocks.
pub(super) fn read(beside: &Path, before: &Texts) -> (Texts, Vec<Problem>) {
    let mut texts = Texts::new();
    let mut problems = Vec::new();
    let mut bytes_left = MOST_BYTES_IN_ALL;
    for (folder, most_bytes) in FOLDERS {
        let names = names(&beside.join(folder)).unwrap_or_else(|error| {
            problems.push(of_file(folder, format!("cannot be listed: {error}"), "check its owner and mode"));
            Vec::new()
        });
        for name in names {
            let path = format!("{folder}/{name}");
            let usable =
                read_one(&beside.join(&path), most_bytes).and_then(|text| check_form(&path, &text).map(|()| text));
            let text = match usable {
                Ok(text) => text,
                Err(why) => {
                    let Some(text) = before.get(&path) else {
                        problems.push(of_file(&path, why, "without it, what needs it is off"));
                        continue;
                    };
                    problems.push(of_file(&path, why, "its last usable content stays in force"));
                    text.clone()
                }
            };
            match bytes_left.checked_sub(text.len()) {
                Some(left) => bytes_left = left,
                None => {
                    let why = format!("is beyond {MOST_BYTES_IN_ALL} bytes of code and plans in all");
                    problems.push(of_file(&path, why, "remove what is not used"));
                    continue;
                }
            }
            texts.insert(path, text);
        }
    }
    (texts, problems)
}

/// Whether the text is what its name promises: an object for `.json`, anything for code.
fn check_form(path: &str, text: &str) -> Result<(), String> {
    if Path::new(path).extension().is_none_or(|extension| extension != "json") {
        return Ok(());
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(_)) => Ok(()),
        Ok(_) => Err("is not a JSON object".to_owned()),
        // The parser's message holds no more of the text than one character.
        Err(error) => Err(format!("is not valid JSON: {error}")),
    }
}

/// Names of the files in a folder that are ours to read, sorted; hidden files and copies of editors are not.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let is_ours = Path::new(&name)
            .extension()
            .is_some_and(|extension| ["js", "json", "py"].iter().any(|ours| extension == *ours));
        if is_ours && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn read_one(path: &Path, most_bytes: u64) -> Result<String, String> {
    let failed = |error: io::Error| format!("cannot be read: {error}");
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let found = std::fs::symlink_metadata(path).map_err(failed)?;
    // It may lead to a file that is nobody's code.
    if found.is_symlink() {
        return Err("is a link, and links are not followed".to_owned());
    }
    if !found.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(most_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most_bytes {
        return Err(format!("is larger than {most_bytes} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

fn of_file(path: &str, message: impl Into<String>, hint: &str) -> Problem {
    Problem { path: path.to_owned(), ..Problem::whole(message, hint) }
}

/// The code of a file, and the language that it is in.
pub(super) struct TransformationFile {
    pub(super) code: Arc<TransformationCode>,
    pub(super) language: String,
}

/// What the files mean.
#[derive(Default)]
pub(super) struct CodeFiles {
    /// By version id.
    pub(super) transformations: BTreeMap<String, TransformationFile>,
    /// By version id.
    pub(super) libraries: BTreeMap<String, Arc<Library>>,
    /// By id and version.
    pub(super) plans: BTreeMap<(String, i64), Arc<TrackingPlan>>,
    /// Names that say nothing.
    pub(super) problems: Vec<Problem>,
}

impl CodeFiles {
    /// What the texts mean. They were held against their form when they were read.
    pub(super) fn of(texts: &Texts) -> CodeFiles {
        let mut files = CodeFiles::default();
        for (path, text) in texts {
            let Some((folder, name)) = path.split_once('/') else { continue };
            let Some((stem, extension)) = name.rsplit_once('.') else { continue };
            match (folder, extension) {
                (TRANSFORMATIONS, "js" | "py") => {
                    let about = about(texts, folder, stem);
                    let code = TransformationCode::new(
                        stem,
                        text_of(&about, "name"),
                        text_of(&about, "codeVersion"),
                        text.clone(),
                    );
                    let language = match text_of(&about, "language") {
                        "" if extension == "py" => "pythonfaas",
                        "" => "javascript",
                        named => named,
                    };
                    let file = TransformationFile { code: Arc::new(code), language: language.to_owned() };
                    files.transformations.insert(stem.to_owned(), file);
                }
                (LIBRARIES, "js" | "py") => {
                    let about = about(texts, folder, stem);
                    let (name, import_name) = (text_of(&about, "name"), text_of(&about, "importName"));
                    let library = Library::new(stem, name, import_name, text.clone());
                    files.libraries.insert(stem.to_owned(), Arc::new(library));
                }
                (PLANS, "json") => {
                    let key = stem.rsplit_once('@').and_then(|(id, version)| Some((id, version.parse::<i64>().ok()?)));
                    let Some((id, version)) = key else {
                        let hint = "name it after its plan, as in tp_1@3.json";
                        files.problems.push(of_file(path, "has no plan id and version in its name", hint));
                        continue;
                    };
                    let plan = TrackingPlan::new(id, version, object(text));
                    files.plans.insert((id.to_owned(), version), Arc::new(plan));
                }
                _ => {}
            }
        }
        files
    }
}

/// The `.json` beside a file of code.
fn about(texts: &Texts, folder: &str, stem: &str) -> Map<String, Value> {
    texts.get(&format!("{folder}/{stem}.json")).map(|text| object(text)).unwrap_or_default()
}

fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

fn text_of<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}
