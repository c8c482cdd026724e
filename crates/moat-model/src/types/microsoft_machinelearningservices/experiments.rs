//! Experiments: the names that runs are gathered under. Documents of our own below the workspace, never seen by ARM
//! clients (Azure has no such type): the run history answers for them.
//!
//! An experiment exists as soon as one run names it, so a document is needed only for what a person adds: a
//! description, tags, an archive mark, or an experiment without runs. Its id is computed from its name.

use moat_arm::{ResourceId, Stored, document};
use serde_json::Value;
use uuid::Uuid;

use crate::resource_type::{Completion, ResourceType, Scope};

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.MachineLearningServices/workspaces/experiments",
    api_versions: super::API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    hidden: true,
    ..ResourceType::BLANK
};

/// The experiment of jobs that name none.
pub const DEFAULT: &str = "Default";

/// Longest name, in characters.
pub const NAME_CHARS_MAX: usize = 250;

/// The document of an experiment.
pub fn document_id(workspace: &ResourceId, name: &str) -> ResourceId {
    workspace.child("experiments", name)
}

/// The experiment that a job document names.
pub fn of_job(job: &Value) -> &str {
    document::str_at(job, "properties.experimentName").filter(|name| !name.is_empty()).unwrap_or(DEFAULT)
}

/// Id of an experiment: the same for every spelling of its name, different in a workspace that was made again.
pub fn experiment_id(workspace: &Stored, name: &str) -> String {
    let space = document::str_at(&workspace.body, "properties.workspaceId")
        .and_then(|id| Uuid::try_parse(id).ok())
        .unwrap_or(Uuid::NAMESPACE_URL);
    Uuid::new_v5(&space, name.to_lowercase().as_bytes()).hyphenated().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use serde_json::json;

    #[test]
    fn an_experiment_is_known_by_its_name_in_its_workspace() {
        let workspace = |id: &str| Stored {
            id: ResourceId::parse("/subscriptions/s/resourceGroups/g/providers/M/workspaces/w").unwrap(),
            body: json!({"properties": {"workspaceId": id}}),
            seq: 1,
            created_seq: 1,
        };
        let (one, two) =
            (workspace("11111111-0000-0000-0000-000000000000"), workspace("22222222-0000-0000-0000-000000000000"));
        assert_eq!(experiment_id(&one, "Train"), experiment_id(&one, "train"));
        assert_ne!(experiment_id(&one, "train"), experiment_id(&one, "test"));
        assert_ne!(experiment_id(&one, "train"), experiment_id(&two, "train"));
        assert_eq!(of_job(&json!({"properties": {"experimentName": ""}})), DEFAULT);
    }
}
