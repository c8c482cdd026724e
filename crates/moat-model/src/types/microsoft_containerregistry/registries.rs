//! `Microsoft.ContainerRegistry/registries`: names, tiers, and the admin user's passwords. What a registry answers to
//! nodes (manifests) is an emulated service; images are identities here and have no layers.

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use crate::resource_type::{Action, ActionResult, Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::storage::AccountKey;
use crate::types::microsoft_network::private_endpoints;
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.ContainerRegistry/registries",
    api_versions: &["2023-07-01", "2023-01-01-preview", "2022-12-01", "2019-05-01"],
    completion: Completion::Applied,
    name_problem,
    inherit: |_, write| {
        for member in ["sku", "properties.adminUserEnabled"] {
            shape::keep_if_absent(write, member);
        }
    },
    refusals: &[
        Refusal { id: "registry-name", requirements: &[], check: name },
        Refusal { id: "registry-sku", requirements: &[], check: sku },
    ],
    complete,
    render: |ctx, id, body| {
        shape::render_system_data(body);
        private_endpoints::render_connections(ctx, id, body);
    },
    actions: &[
        Action { name: "listCredentials", run: list_credentials },
        Action { name: "regenerateCredential", run: regenerate },
    ],
    ..ResourceType::BLANK
};

/// Names of the two passwords, as the service tells them and as they are kept.
const PASSWORDS: [(&str, &str); 2] = [("password", "moat.password"), ("password2", "moat.password2")];
const SKUS: [&str; 3] = ["Basic", "Standard", "Premium"];

/// The admin user and its passwords; `None` while it is off.
pub fn credentials(id: &ResourceId, body: &Value) -> Option<Value> {
    if document::bool_at(body, "properties.adminUserEnabled") != Some(true) {
        return None;
    }
    let passwords: Vec<Value> = PASSWORDS
        .iter()
        .map(|(name, path)| json!({"name": name, "value": document::at(body, path).cloned().unwrap_or_default()}))
        .collect();
    Some(json!({"username": id.name(), "passwords": passwords}))
}

fn name_problem(name: &str) -> Option<(&'static str, String)> {
    let ok = (5..=50).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric());
    (!ok).then(|| {
        (
            "Invalid",
            format!("The registry name '{name}' is invalid. Registry names may contain alpha numeric characters only and must be between 5 and 50 characters."),
        )
    })
}

fn name(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if let Some((_, message)) = name_problem(write.id.name()) {
        return Err(ApiError::bad_request("InvalidRegistryName", message));
    }
    let taken =
        ctx.snapshot.of_type(TYPE.name).any(|d| d.id != *write.id && d.id.name().eq_ignore_ascii_case(write.id.name()));
    if taken {
        return Err(ApiError::new(
            409,
            "AlreadyInUse",
            format!("The registry DNS name {}.azurecr.io is already in use.", write.id.name().to_lowercase()),
        ));
    }
    Ok(())
}

fn sku(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let sku = document::str_at(&write.body, "sku.name").unwrap_or_default();
    if SKUS.iter().any(|s| s.eq_ignore_ascii_case(sku)) {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request("InvalidSku", format!("The sku '{sku}' is not known. Use Basic, Standard or Premium."))
        .with_target("sku.name"))
}

fn fresh(ctx: &TypeCtx<'_>, id: &ResourceId, name: &str) -> Value {
    json!(AccountKey::derive(ctx.seed.as_bytes(), &format!("{name} of {}", id.key())).reveal())
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let now = shape::time(ctx.now);
    let created = write.before.and_then(|b| document::at(b, "properties.creationDate")).cloned();
    let sku = document::str_at(&write.body, "sku.name").unwrap_or_default().to_owned();
    let tier = SKUS.iter().find(|s| s.eq_ignore_ascii_case(&sku)).copied().unwrap_or("Basic");
    document::set(&mut write.body, "sku", json!({"name": tier, "tier": tier}));
    let server = format!("{}.azurecr.io", write.id.name().to_lowercase());
    document::set(&mut write.body, "properties.loginServer", json!(server));
    document::set(&mut write.body, "properties.creationDate", created.unwrap_or_else(|| json!(now)));
    for (member, value) in [
        ("adminUserEnabled", json!(false)),
        ("anonymousPullEnabled", json!(false)),
        ("publicNetworkAccess", json!("Enabled")),
        ("networkRuleBypassOptions", json!("AzureServices")),
        ("zoneRedundancy", json!("Disabled")),
        ("encryption", json!({"status": "disabled"})),
        ("dataEndpointEnabled", json!(false)),
        ("dataEndpointHostNames", json!([])),
        ("metadataSearch", json!("Disabled")),
        ("policies.quarantinePolicy", json!({"status": "disabled"})),
        ("policies.trustPolicy", json!({"type": "Notary", "status": "disabled"})),
        ("policies.retentionPolicy", json!({"days": 7, "lastUpdatedTime": now, "status": "disabled"})),
        ("policies.exportPolicy", json!({"status": "enabled"})),
        ("policies.azureADAuthenticationAsArmPolicy", json!({"status": "enabled"})),
        ("policies.softDeletePolicy", json!({"retentionDays": 7, "lastUpdatedTime": now, "status": "disabled"})),
    ] {
        document::set_default(&mut write.body, &format!("properties.{member}"), value);
    }
    // Only the premium tier has rules of who may come in.
    if tier == "Premium" {
        let open = json!({"defaultAction": "Allow", "ipRules": []});
        document::set_default(&mut write.body, "properties.networkRuleSet", open);
    }
    document::set_default(&mut write.body, "tags", json!({}));
    for (name, path) in PASSWORDS {
        if document::at(&write.body, path).is_none() {
            document::set(&mut write.body, path, fresh(ctx, write.id, name));
        }
    }
    shape::complete_identity(ctx, write);
    shape::note_author(ctx, write);
    Ok(())
}

fn admin(id: &ResourceId, body: &Value) -> Result<Value, ApiError> {
    credentials(id, body).ok_or_else(|| {
        ApiError::bad_request(
            "UnAuthorizedForCredentialOperations",
            format!(
                "Cannot perform credential operations for {id} as admin user is disabled. Kindly enable admin user as per docs: https://docs.microsoft.com/en-us/azure/container-registry/container-registry-authentication#admin-account"
            ),
        )
    })
}

fn list_credentials(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    let stored = ctx.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?;
    Ok(ActionResult { body: admin(id, &stored.body)?, long_running: false, batch: Batch::default() })
}

fn regenerate(ctx: &TypeCtx<'_>, id: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    let mut body = ctx.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?.body.clone();
    let wanted = document::str_at(asked, "name").unwrap_or_default();
    let Some((name, path)) = PASSWORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)) else {
        return Err(ApiError::bad_request(
            "InvalidPasswordName",
            format!("The password '{wanted}' is neither 'password' nor 'password2'."),
        ));
    };
    document::set(&mut body, path, fresh(ctx, id, name));
    let answer = admin(id, &body)?;
    let mut batch = Batch::default();
    batch.put(id.clone(), body);
    Ok(ActionResult { body: answer, long_running: false, batch })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, World};

    fn id(name: &str) -> String {
        format!("{GROUP}/providers/Microsoft.ContainerRegistry/registries/{name}")
    }

    #[test]
    fn passwords_are_told_only_while_the_admin_user_is_on() {
        let mut world = World::new(Edition::Current);
        let off = world.put(&id("MoatReg"), json!({"sku": {"name": "basic"}})).unwrap();
        assert_eq!(off["properties"]["loginServer"], "moatreg.azurecr.io");
        assert_eq!(off["sku"]["tier"], "Basic");
        insta::assert_snapshot!(world.post(&id("MoatReg"), "listCredentials", Value::Null).unwrap_err(), @"(UnAuthorizedForCredentialOperations) Cannot perform credential operations for /subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/MoatReg as admin user is disabled. Kindly enable admin user as per docs: https://docs.microsoft.com/en-us/azure/container-registry/container-registry-authentication#admin-account");
        let mut on = off.clone();
        document::set(&mut on, "properties.adminUserEnabled", json!(true));
        world.put(&id("MoatReg"), on).unwrap();
        let before = world.post(&id("MoatReg"), "listCredentials", Value::Null).unwrap();
        let after = world.post(&id("MoatReg"), "regenerateCredential", json!({"name": "password2"})).unwrap();
        assert_eq!(before["passwords"][0], after["passwords"][0]);
        assert_ne!(before["passwords"][1], after["passwords"][1]);
    }

    #[test]
    fn names_and_tiers_are_checked() {
        let mut world = World::new(Edition::Current);
        let mut refused =
            |name: &str, sku: &str| world.put(&id(name), json!({"sku": {"name": sku}})).unwrap_err().to_string();
        insta::assert_snapshot!([refused("a-b-c-d", "Basic"), refused("moatreg", "Gold")].join("\n"), @r"
(InvalidRegistryName) The registry name 'a-b-c-d' is invalid. Registry names may contain alpha numeric characters only and must be between 5 and 50 characters.
(InvalidSku) The sku 'Gold' is not known. Use Basic, Standard or Premium.
");
    }
}
