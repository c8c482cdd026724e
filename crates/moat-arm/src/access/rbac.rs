//! Role-based access: role definitions as a table, role assignments as documents, default deny.
//!
//! Rules: network-semantics 17.1 to 17.4. What a data plane asks for are data actions: no wildcard of the control
//! plane grants them.

use serde_json::{Value, json};

use crate::document;
use crate::id::ResourceId;
use crate::snapshot::Snapshot;

/// Type of the documents that grant roles.
pub const ROLE_ASSIGNMENTS: &str = "Microsoft.Authorization/roleAssignments";
/// Type of role definitions, built in or custom.
pub const ROLE_DEFINITIONS: &str = "Microsoft.Authorization/roleDefinitions";

/// A role that exists everywhere.
#[derive(Debug)]
pub struct BuiltInRole {
    /// The guid Azure gives it.
    pub guid: &'static str,
    /// Name as shown and filtered by.
    pub name: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// Patterns granted.
    pub actions: &'static [&'static str],
    /// Patterns taken away again from this role only (17.1: not a deny).
    pub not_actions: &'static [&'static str],
    /// Patterns granted on data (17.4).
    pub data_actions: &'static [&'static str],
}

/// Whether something is done to a resource or to the data in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Actions.
    Control,
    /// Data actions.
    Data,
}

/// Guid of Owner, the role of the environment's own principal.
pub const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
/// Guid of Storage Blob Data Owner, which the environment's own principal has too.
pub const STORAGE_BLOB_DATA_OWNER: &str = "b7e6dc6d-f1e8-4753-8033-0f276bb0955b";

/// The built-in roles that are known here. Others are refused by name when assigned.
pub static BUILT_IN: &[BuiltInRole] = &[
    BuiltInRole {
        guid: OWNER,
        name: "Owner",
        description: "Full access to all resources, including the right to assign roles.",
        actions: &["*"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltInRole {
        guid: "b24988ac-6180-42a0-ab88-20f7382dd24c",
        name: "Contributor",
        description: "Full access to all resources, without the right to assign roles.",
        actions: &["*"],
        not_actions: &[
            "Microsoft.Authorization/*/Delete",
            "Microsoft.Authorization/*/Write",
            "Microsoft.Authorization/elevateAccess/Action",
            "Microsoft.Blueprint/blueprintAssignments/write",
            "Microsoft.Blueprint/blueprintAssignments/delete",
        ],
        data_actions: &[],
    },
    BuiltInRole {
        guid: "acdd72a7-3385-48ef-bd42-f606fba81ae7",
        name: "Reader",
        description: "Reads all resources and changes none.",
        actions: &["*/read"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltInRole {
        guid: "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
        name: "User Access Administrator",
        description: "Assigns roles.",
        actions: &["*/read", "Microsoft.Authorization/*"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltInRole {
        guid: "4d97b98b-1d4f-4787-a291-c67834d212e7",
        name: "Network Contributor",
        description: "Manages networks, without access to what is attached to them.",
        actions: &[
            "Microsoft.Authorization/*/read",
            "Microsoft.Network/*",
            "Microsoft.Resources/deployments/*",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
        ],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltInRole {
        guid: "f6c7c914-8db3-469d-8ca1-694a8f32e121",
        name: "AzureML Data Scientist",
        description: "Does everything within a workspace but make, change or delete computes and the workspace itself.",
        actions: &[
            "Microsoft.MachineLearningServices/workspaces/*/read",
            "Microsoft.MachineLearningServices/workspaces/*/action",
            "Microsoft.MachineLearningServices/workspaces/*/delete",
            "Microsoft.MachineLearningServices/workspaces/*/write",
        ],
        not_actions: &[
            "Microsoft.MachineLearningServices/workspaces/delete",
            "Microsoft.MachineLearningServices/workspaces/write",
            "Microsoft.MachineLearningServices/workspaces/computes/*/write",
            "Microsoft.MachineLearningServices/workspaces/computes/*/delete",
            "Microsoft.MachineLearningServices/workspaces/computes/listKeys/action",
            "Microsoft.MachineLearningServices/workspaces/listKeys/action",
        ],
        data_actions: &[],
    },
    BuiltInRole {
        guid: "e503ece1-11d0-4e8e-8e2c-7a6c3bf38815",
        name: "AzureML Compute Operator",
        description: "Makes, changes and deletes computes of a workspace.",
        actions: &[
            "Microsoft.MachineLearningServices/workspaces/computes/*",
            "Microsoft.MachineLearningServices/workspaces/notebooks/vm/*",
        ],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltInRole {
        guid: "17d1049b-9a84-46fb-8f53-869881c3d3ab",
        name: "Storage Account Contributor",
        description: "Manages storage accounts and their keys.",
        actions: &[
            "Microsoft.Authorization/*/read",
            "Microsoft.Network/virtualNetworks/subnets/joinViaServiceEndpoint/action",
            "Microsoft.Resources/deployments/*",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
            "Microsoft.Storage/storageAccounts/*",
        ],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltInRole {
        guid: STORAGE_BLOB_DATA_OWNER,
        name: "Storage Blob Data Owner",
        description: "Full access to containers and blobs.",
        actions: &[
            "Microsoft.Storage/storageAccounts/blobServices/containers/*",
            "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action",
        ],
        not_actions: &[],
        data_actions: &["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/*"],
    },
    BuiltInRole {
        guid: "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
        name: "Storage Blob Data Contributor",
        description: "Reads, writes and deletes containers and blobs.",
        actions: &[
            "Microsoft.Storage/storageAccounts/blobServices/containers/delete",
            "Microsoft.Storage/storageAccounts/blobServices/containers/read",
            "Microsoft.Storage/storageAccounts/blobServices/containers/write",
            "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action",
        ],
        not_actions: &[],
        data_actions: &[
            "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action",
            "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete",
            "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/move/action",
            "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read",
            "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write",
        ],
    },
    BuiltInRole {
        guid: "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
        name: "Storage Blob Data Reader",
        description: "Reads and lists containers and blobs.",
        actions: &[
            "Microsoft.Storage/storageAccounts/blobServices/containers/read",
            "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action",
        ],
        not_actions: &[],
        data_actions: &["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"],
    },
    BuiltInRole {
        guid: "db58b8e5-c6ad-4a2a-8342-4190687cbf4a",
        name: "Storage Blob Delegator",
        description: "Gets a key to sign user delegation signatures with.",
        actions: &["Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"],
        not_actions: &[],
        data_actions: &[],
    },
];

/// Whether `pattern` matches `action`: `*` stands for any text within or across segments, and case
/// does not matter (17.2).
pub fn matches(pattern: &str, action: &str) -> bool {
    let (p, a) = (pattern.as_bytes(), action.as_bytes());
    let (mut i, mut j) = (0, 0);
    // The last star seen and how much of the action it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while j < a.len() {
        if i < p.len() && p[i] == b'*' {
            star = Some((i, j));
            i += 1;
        } else if i < p.len() && p[i].eq_ignore_ascii_case(&a[j]) {
            i += 1;
            j += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            i = at + 1;
            j = taken + 1;
        } else {
            return false;
        }
    }
    p[i..].iter().all(|c| *c == b'*')
}

/// Whether a role with these patterns grants `action`.
fn grants<'a>(
    mut actions: impl Iterator<Item = &'a str>,
    mut not_actions: impl Iterator<Item = &'a str>,
    action: &str,
) -> bool {
    actions.any(|p| matches(p, action)) && !not_actions.any(|p| matches(p, action))
}

/// The built-in role that `definition` (an id or a bare guid) names.
pub fn built_in(definition: &str) -> Option<&'static BuiltInRole> {
    let guid = definition.rsplit('/').next().unwrap_or(definition);
    BUILT_IN.iter().find(|r| r.guid.eq_ignore_ascii_case(guid))
}

/// Custom definitions are documents; the guid alone identifies them.
fn custom<'a>(snapshot: &'a Snapshot, definition: &str) -> Option<&'a Value> {
    let id = ResourceId::parse(definition).ok()?;
    snapshot.get(&id).map(|d| &d.body)
}

/// Whether the role that `definition` names is built in or stored.
pub fn is_known(snapshot: &Snapshot, definition: &str) -> bool {
    built_in(definition).is_some() || custom(snapshot, definition).is_some()
}

fn role_grants(snapshot: &Snapshot, definition: &str, plane: Plane, action: &str) -> bool {
    if let Some(role) = built_in(definition) {
        return match plane {
            Plane::Control => grants(role.actions.iter().copied(), role.not_actions.iter().copied(), action),
            Plane::Data => grants(role.data_actions.iter().copied(), std::iter::empty(), action),
        };
    }
    let (granted, taken) = match plane {
        Plane::Control => ("actions", "notActions"),
        Plane::Data => ("dataActions", "notDataActions"),
    };
    let Some(body) = custom(snapshot, definition) else { return false };
    document::array_at(body, "properties.permissions").iter().any(|p| {
        grants(
            document::array_at(p, granted).iter().filter_map(Value::as_str),
            document::array_at(p, taken).iter().filter_map(Value::as_str),
            action,
        )
    })
}

/// Whether `principal` may perform `action` on `scope` (`None` is the tenant). Assignments on any
/// scope above count.
pub fn allows(snapshot: &Snapshot, principal: &str, action: &str, scope: Option<&ResourceId>) -> bool {
    allows_on(snapshot, principal, Plane::Control, action, scope)
}

/// [`allows`], on either plane.
pub fn allows_on(snapshot: &Snapshot, principal: &str, plane: Plane, action: &str, scope: Option<&ResourceId>) -> bool {
    let mut here = scope.cloned();
    loop {
        let prefix = format!(
            "{}/providers/microsoft.authorization/roleassignments/",
            here.as_ref().map(ResourceId::key).unwrap_or_default()
        );
        for assignment in snapshot.with_key_prefix(&prefix) {
            let of = document::str_at(&assignment.body, "properties.principalId").unwrap_or_default();
            let role = document::str_at(&assignment.body, "properties.roleDefinitionId").unwrap_or_default();
            if of.eq_ignore_ascii_case(principal) && role_grants(snapshot, role, plane, action) {
                return true;
            }
        }
        let Some(id) = here else { return false };
        here = id.parent();
    }
}

/// A built-in role as its definition document is answered at `subscription`.
pub fn definition_document(role: &BuiltInRole, subscription: Option<&str>) -> Value {
    let scope = subscription.map(|s| format!("/subscriptions/{s}")).unwrap_or_default();
    json!({
        "id": format!("{scope}/providers/{ROLE_DEFINITIONS}/{}", role.guid),
        "name": role.guid,
        "type": ROLE_DEFINITIONS,
        "properties": {
            "roleName": role.name,
            "type": "BuiltInRole",
            "description": role.description,
            "assignableScopes": ["/"],
            "permissions": [{
                "actions": role.actions, "notActions": role.not_actions,
                "dataActions": role.data_actions, "notDataActions": [],
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Batch;

    const S: &str = "/subscriptions/s";

    fn world(assignments: &[(&str, &str, &str)]) -> Snapshot {
        let mut batch = Batch::default();
        for (n, (scope, principal, role)) in assignments.iter().enumerate() {
            let id = ResourceId::parse(&format!("{scope}/providers/{ROLE_ASSIGNMENTS}/{n}")).expect("test id");
            batch.put(id, json!({"properties": {"principalId": principal, "roleDefinitionId": role}}));
        }
        let mut snapshot = Snapshot::default();
        snapshot.apply(&batch);
        snapshot
    }

    #[track_caller]
    fn check(assignments: &[(&str, &str, &str)], who: &str, action: &str, scope: &str, expected: bool) {
        let id = ResourceId::parse(scope).expect("test id");
        assert_eq!(allows(&world(assignments), who, action, Some(&id)), expected, "{who} {action} {scope}");
    }

    #[test]
    fn patterns_cross_segments_and_ignore_case() {
        for (pattern, action, expected) in [
            ("*", "A/b/read", true),
            ("*/read", "A/b/READ", true),
            ("*/read", "A/b/write", false),
            ("Microsoft.Network/*/read", "microsoft.network/virtualNetworks/subnets/read", true),
            ("Microsoft.Network/*", "Microsoft.NetworkX/y/read", false),
            ("Microsoft.Authorization/*/Write", "Microsoft.Authorization/roleAssignments/write", true),
            ("A/b/read", "A/b/read", true),
            ("A/b/read", "A/b/reads", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, action), expected, "{pattern} {action}");
        }
    }

    #[test]
    fn nobody_may_anything_until_it_is_granted() {
        check(&[], "me", "A/b/read", S, false);
        check(&[(S, "other", OWNER)], "me", "A/b/read", S, false);
        check(&[(S, "ME", OWNER)], "me", "A/b/read", S, true);
    }

    #[test]
    fn a_grant_reaches_down_and_not_up_or_sideways() {
        let g = "/subscriptions/s/resourceGroups/G";
        let at_group = [(g, "me", OWNER)];
        check(&at_group, "me", "A/b/write", "/subscriptions/s/resourcegroups/g/providers/A/b/c", true);
        check(&at_group, "me", "A/b/write", "/subscriptions/s/resourceGroups/G2/providers/A/b/c", false);
        check(&at_group, "me", "A/b/write", S, false);
        check(&[("", "me", OWNER)], "me", "A/b/write", g, true);
    }

    #[test]
    fn not_actions_are_no_deny() {
        let contributor = (S, "me", "b24988ac-6180-42a0-ab88-20f7382dd24c");
        let access = (S, "me", "/subscriptions/s/x/18d7d88d-d35e-4fb5-a5c3-7773c20a72d9");
        let assign = "Microsoft.Authorization/roleAssignments/write";
        check(&[contributor], "me", "Microsoft.Network/virtualNetworks/write", S, true);
        check(&[contributor], "me", assign, S, false);
        check(&[contributor, access], "me", assign, S, true);
    }

    #[test]
    fn custom_definitions_are_documents() {
        let definition = "/subscriptions/s/providers/Microsoft.Authorization/roleDefinitions/d1";
        let mut snapshot = world(&[(S, "node", definition)]);
        let mut batch = Batch::default();
        batch.put(
            ResourceId::parse(definition).expect("test id"),
            json!({"properties": {"permissions": [{"actions": ["A/b/read"], "notActions": []}]}}),
        );
        snapshot.apply(&batch);
        let scope = ResourceId::parse(S).expect("test id");
        assert!(allows(&snapshot, "node", "A/b/read", Some(&scope)));
        assert!(!allows(&snapshot, "node", "A/b/write", Some(&scope)));
    }

    #[test]
    fn data_is_granted_by_data_actions_only() {
        let read = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read";
        let scope = ResourceId::parse(S).expect("test id");
        let may =
            |role: &str, action: &str| allows_on(&world(&[(S, "me", role)]), "me", Plane::Data, action, Some(&scope));
        assert!(!may(OWNER, read), "no wildcard of the control plane reaches data");
        assert!(may(STORAGE_BLOB_DATA_OWNER, read));
        assert!(may("2a2b9908-6ea1-4ae2-8e65-a410df84e7d1", read));
        assert!(!may("2a2b9908-6ea1-4ae2-8e65-a410df84e7d1", &read.replace("/read", "/write")));
        let keys = "Microsoft.Storage/storageAccounts/listKeys/action";
        check(&[(S, "me", STORAGE_BLOB_DATA_OWNER)], "me", keys, S, false);
    }
}
