//! Which request an example belongs to: read from the interface descriptions found beside it.
//!
//! An example names only parameters. Its method and path come from, in this order,
//! 1. the description that refers to the file;
//! 2. one that refers to a file of the same name in another version of the same service, in a folder
//!    of the same name if there is such a file (`CodeVersion/get.json`);
//! 3. the one path of the same service that takes most of these parameters and every name among
//!    them, with the method that the file's name says; a list ends in no name. (Without this, the
//!    deletion of a lock would be read as the deletion of its resource group.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;

/// A method and a path with `{parameters}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operation {
    pub(super) method: String,
    pub(super) path: String,
    /// Where its parameters are sent, by name: `query`, `body`, `header`.
    pub(super) places: BTreeMap<String, String>,
}

impl Operation {
    fn parameters(&self) -> BTreeSet<String> {
        let slots = self.path.split('{').skip(1).filter_map(|p| p.split_once('}'));
        slots.map(|(name, _)| name.to_lowercase()).collect()
    }

    /// A parameter, in lower case, is sent beside the path.
    fn sends(&self, parameter: &str) -> bool {
        self.places.keys().any(|name| name.eq_ignore_ascii_case(parameter))
    }
}

/// All operations of the descriptions that were found.
#[derive(Debug, Default)]
pub(super) struct Operations {
    by_example: BTreeMap<PathBuf, Operation>,
    /// By service and file name in lower case.
    by_name: BTreeMap<(PathBuf, String), BTreeSet<Operation>>,
    by_service: BTreeMap<PathBuf, BTreeSet<Operation>>,
}

/// The folder that all versions of a service share: the one above `stable` or `preview`, below
/// `specification`, since snapshots of one repository may lie beside each other.
fn service(file: &Path) -> PathBuf {
    let above = file.ancestors().find(|a| a.file_name().is_some_and(|n| n == "stable" || n == "preview"));
    let folder = above.and_then(Path::parent).unwrap_or(file);
    let at = folder.components().position(|c| c.as_os_str() == "specification").unwrap_or(0);
    folder.components().skip(at).collect()
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// The name with that of the folder.
fn name_in_folder(file: &Path) -> String {
    let folder = file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().to_lowercase();
    format!("{folder}/{}", name(file))
}

impl Operations {
    /// Learns from `json` if it is a description.
    pub(super) fn add(&mut self, file: &Path, json: &Value) {
        let service = service(file);
        for (path, methods) in json["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if operation.get("responses").is_none() {
                    continue; // parameters that all methods share
                }
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let places = parameters
                    .filter_map(|p| Some((p["name"].as_str()?.to_owned(), p["in"].as_str()?.to_owned())))
                    .collect();
                let this = Operation { method: method.to_uppercase(), path: path.clone(), places };
                for (_, example) in operation["x-ms-examples"].as_object().into_iter().flatten() {
                    let Some(to) = example["$ref"].as_str() else { continue };
                    let target = file.parent().unwrap_or(file).join(to.trim_start_matches("./"));
                    for name in [name(&target), name_in_folder(&target)] {
                        self.by_name.entry((service.clone(), name)).or_default().insert(this.clone());
                    }
                    self.by_example.insert(target, this.clone());
                }
                self.by_service.entry(service.clone()).or_default().insert(this);
            }
        }
    }

    /// The operation of an example with these parameters.
    pub(super) fn of(&self, file: &Path, parameters: &Value) -> Result<Operation> {
        if let Some(known) = self.by_example.get(file) {
            return Ok(known.clone());
        }
        let given: BTreeSet<String> =
            parameters.as_object().into_iter().flatten().map(|(name, _)| name.to_lowercase()).collect();
        let service = service(file);
        let none = BTreeSet::new();
        for name in [name_in_folder(file), name(file)] {
            let same_name = self.by_name.get(&(service.clone(), name)).unwrap_or(&none);
            if let Some(one) = most_specific(same_name.iter().filter(|o| o.parameters().is_subset(&given))) {
                return Ok(one.clone());
            }
        }
        let Some(method) = method_in_name(file) else {
            bail!("no description says what it is an example of, and its name says no method");
        };
        let all = self.by_service.get(&service).unwrap_or(&none);
        let lists = name(file).starts_with("list");
        let fitting = all.iter().filter(|o| {
            let takes = o.parameters();
            let left_out = given.iter().any(|g| g.ends_with("name") && !takes.contains(g) && !o.sends(g));
            o.method == method && takes.is_subset(&given) && !left_out && !(lists && o.path.ends_with('}'))
        });
        match most_specific(fitting) {
            Some(one) => Ok(one.clone()),
            None => bail!("no description says what it is an example of, and no one path fits its parameters"),
        }
    }
}

/// The operation with most parameters in its path, unless there are several.
fn most_specific<'a>(candidates: impl Iterator<Item = &'a Operation>) -> Option<&'a Operation> {
    let all: Vec<_> = candidates.map(|o| (o.parameters().len(), o)).collect();
    let most = all.iter().map(|(n, _)| *n).max()?;
    let mut best: Vec<_> = all.into_iter().filter(|(n, _)| *n == most).map(|(_, o)| o).collect();
    // Descriptions of two versions may differ in what is sent beside the path only.
    best.dedup_by(|a, b| a.method == b.method && a.path.eq_ignore_ascii_case(&b.path));
    if let [one] = best[..] { Some(one) } else { None }
}

/// The method that a word of a file's name tells.
fn method_in_name(file: &Path) -> Option<&'static str> {
    let stem = file.file_stem()?.to_string_lossy().into_owned();
    let mut words = vec![String::new()];
    for c in stem.chars() {
        if c.is_uppercase() || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if let Some(last) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            last.extend(c.to_lowercase());
        }
    }
    words.iter().find_map(|word| match word.as_str() {
        "get" | "list" => Some("GET"),
        "create" | "put" | "sync" => Some("PUT"),
        "update" | "patch" => Some("PATCH"),
        "delete" => Some("DELETE"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn found(file: &str, parameters: &Value) -> String {
        let description = json!({"paths": {
            "/groups/{group}": {"delete": {"responses": {}}},
            "/groups/{group}/things": {"get": {"responses": {}}},
            "/groups/{group}/things/{thingName}": {
                "get": {"responses": {}, "x-ms-examples": {"x": {"$ref": "./examples/Thing/get.json"}}},
            },
        }});
        let mut operations = Operations::default();
        operations.add(Path::new("specification/s/stable/2024-01-01/s.json"), &description);
        let file = format!("specification/s/stable/2022-01-01/examples/{file}");
        operations
            .of(Path::new(&file), parameters)
            .map_or_else(|_| "unknown".to_owned(), |o| format!("{} {}", o.method, o.path))
    }

    #[test]
    fn an_example_is_of_the_operation_that_takes_all_its_names() {
        let thing = json!({"group": "g", "thingName": "t"});
        assert_eq!(found("Thing/get.json", &thing), "GET /groups/{group}/things/{thingName}");
        assert_eq!(found("GroupDelete.json", &json!({"group": "g"})), "DELETE /groups/{group}");
        // The deletion of something in a group is not that of the group.
        assert_eq!(found("LockDelete.json", &json!({"group": "g", "lockName": "l"})), "unknown");
        // A list ends in no name.
        assert_eq!(found("listKeysThing.json", &thing), "unknown");
    }
}
