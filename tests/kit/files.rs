//! Reads the gzip JSON-lines files that a node writes below a folder.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// Every line of every finished `*.gz` file below the folder, files in order of their paths.
///
/// Panics on a file that is not gzip or a line that is not JSON: a reader must never meet a torn file.
fn json_lines_below(folder: &Path) -> Vec<Value> {
    let mut paths = Vec::new();
    collect(folder, &mut paths);
    paths.sort();
    let mut lines = Vec::new();
    for path in paths {
        // A file may be removed by its age between the listing and the reading.
        let Ok(file) = std::fs::File::open(&path) else { continue };
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(file)
            .read_to_string(&mut text)
            .unwrap_or_else(|error| panic!("{} is not a whole gzip file: {error}", path.display()));
        assert!(text.is_empty() || text.ends_with('\n'), "{}: the last line has no end", path.display());
        for line in text.lines() {
            lines
                .push(serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", path.display())));
        }
    }
    lines
}

/// The events in the files below the folder: the line itself, or its `payload` in the archive of the gateway.
pub fn messages_below(folder: &Path) -> Vec<Value> {
    json_lines_below(folder)
        .into_iter()
        .map(|mut line| {
            let is_archive = line.get("type").is_none() && line.get("payload").is_some();
            match if is_archive { line["payload"].take() } else { line } {
                Value::String(text) => serde_json::from_str(&text).expect("a payload is JSON"),
                event => event,
            }
        })
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "gz") {
            paths.push(path);
        }
    }
}
