//! Code snapshots of azureml-core: which blobs make up the folder that a ScriptRun was submitted with. Documents of
//! our own below the workspace; the files themselves lie in blob storage.

use std::collections::BTreeMap;

use moat_arm::{ResourceId, Snapshot, document};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::resource_type::{Completion, ResourceType, Scope};

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.MachineLearningServices/workspaces/snapshots",
    api_versions: super::API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    hidden: true,
    ..ResourceType::BLANK
};

/// The blob container, in the workspace's storage account.
pub const CONTAINER: &str = "snapshots";
/// Files in one snapshot; azureml-core itself stops at 2,000.
pub const FILES_MAX: usize = 2_000;
/// Longest path of one file.
pub const PATH_BYTES_MAX: usize = 1_024;

/// What a snapshot is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Contents {
    /// Path in the folder to name of the blob in [`CONTAINER`].
    pub files: BTreeMap<String, String>,
    /// The tree with hashes as the client sent it: it compares the next folder with it.
    pub tree: Value,
    /// What git said about the folder.
    pub git: Value,
    /// The snapshot it was made from.
    pub parent: Option<String>,
}

impl Contents {
    /// As a document.
    pub fn to_body(&self) -> Value {
        // Maps, texts and values always have a JSON form.
        json!({"properties": serde_json::to_value(self).unwrap_or_default()})
    }
}

/// The document of a snapshot.
pub fn document_id(workspace: &ResourceId, id: &str) -> ResourceId {
    workspace.child("snapshots", id)
}

/// The snapshot with this id, if there is one.
pub fn find(snapshot: &Snapshot, workspace: &ResourceId, id: &str) -> Option<Contents> {
    let stored = snapshot.get(&document_id(workspace, id))?;
    serde_json::from_value(document::at(&stored.body, "properties")?.clone()).ok()
}

/// Whether a path stays in the folder it is unpacked to: relative, no `..`, no empty part, nothing that a program
/// of another system would read as a separator.
pub fn is_safe_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_BYTES_MAX
        && !path.contains(['\\', '\0'])
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_their_folder() {
        for good in ["t.py", "a/b c/d.py", "ü.py", ".hidden", "a/..b"] {
            assert!(is_safe_path(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\\..\\b", "a\0", "./a", "a\nb"] {
            assert!(!is_safe_path(bad), "{bad}");
        }
    }

    #[test]
    fn contents_survive_their_document() {
        let contents = Contents { files: [("t.py".to_owned(), "x/t.py".to_owned())].into(), ..Contents::default() };
        let body = contents.to_body();
        let read: Contents = serde_json::from_value(body["properties"].clone()).unwrap_or_default();
        assert_eq!(read, contents);
    }
}
