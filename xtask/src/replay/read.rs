//! Finds recordings below a path and reads each in its own format; says of each file that it
//! cannot read, why.

mod cassette;
mod example;
mod operations;
mod proxy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::operations::Operations;
use super::polls;
use super::recording::{Origin, Recording};

/// Longest file that is read; the longest recordings of Azure's own tests are shorter.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Everything found below some paths.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Sorted by name.
    pub(crate) recordings: Vec<Recording>,
    /// Files that are recordings but could not be read, with the reason.
    pub(crate) unreadable: BTreeMap<String, String>,
}

enum File {
    Recording(Recording),
    /// An interface description, or nothing that this command reads.
    NoRecording,
}

/// Reads all recordings below `paths`.
pub(crate) fn all(paths: &[PathBuf]) -> Result<Found> {
    let mut files = Vec::new();
    for path in paths {
        let path = path.canonicalize().with_context(|| format!("looking for {}", path.display()))?;
        let base = if path.is_dir() { path.clone() } else { path.parent().unwrap_or(&path).to_owned() };
        let mut below = Vec::new();
        walk(&path, &mut below)?;
        files.extend(below.into_iter().map(|f| (f.strip_prefix(&base).unwrap_or(&f).display().to_string(), f)));
    }
    files.sort();
    files.dedup_by(|a, b| a.1 == b.1);
    // Examples do not say what they are examples of; the descriptions beside them do.
    let mut json = BTreeMap::new();
    let mut found = Found::default();
    let mut operations = Operations::default();
    for (name, file) in files.iter().filter(|(_, f)| f.extension().is_some_and(|e| e == "json")) {
        match read_json(file) {
            Ok(value) => {
                operations.add(file, &value);
                json.insert(name.clone(), value);
            }
            Err(e) => {
                found.unreadable.insert(name.clone(), format!("{e:#}"));
            }
        }
    }
    for (name, file) in &files {
        if found.unreadable.contains_key(name) {
            continue;
        }
        match read(name, file, json.get(name), &operations) {
            Ok(File::Recording(recording)) => found.recordings.push(polls::collapse(recording)),
            Ok(File::NoRecording) => {}
            Err(e) => {
                found.unreadable.insert(name.clone(), format!("{e:#}"));
            }
        }
    }
    Ok(found)
}

fn walk(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).with_context(|| format!("listing {}", path.display()))?;
        for entry in entries {
            walk(&entry?.path(), files)?;
        }
    } else if path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml") {
        files.push(path.to_owned());
    }
    Ok(())
}

fn text(file: &Path) -> Result<String> {
    let length = std::fs::metadata(file)?.len();
    if length > FILE_BYTES_MAX {
        bail!("it has {length} bytes, more than the {FILE_BYTES_MAX} that are read");
    }
    std::fs::read_to_string(file).context("reading it as UTF-8")
}

fn read_json(file: &Path) -> Result<Value> {
    serde_json::from_str(text(file)?.trim_start_matches('\u{feff}')).context("reading JSON")
}

fn read(name: &str, file: &Path, json: Option<&Value>, operations: &Operations) -> Result<File> {
    let make =
        |origin, exchanges| File::Recording(Recording { name: name.to_owned(), origin, exchanges, repeated_polls: 0 });
    let Some(json) = json else {
        return Ok(match cassette::read_yaml(&text(file)?)? {
            Some(exchanges) => make(Origin::Cassette, exchanges),
            None => File::NoRecording,
        });
    };
    if json.get("Entries").is_some() {
        return Ok(make(Origin::Proxy, proxy::read(json)?));
    }
    if json.get("interactions").is_some() {
        return Ok(make(Origin::Cassette, cassette::read(json.clone())?));
    }
    if json.get("parameters").is_some() && json.get("responses").is_some() && json.get("paths").is_none() {
        return Ok(make(Origin::Example, vec![example::read(file, json, operations)?]));
    }
    Ok(File::NoRecording)
}
