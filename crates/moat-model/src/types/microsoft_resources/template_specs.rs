//! `Microsoft.Resources/templateSpecs` and their versions: templates that are kept under a name and deployed by it.
//!
//! Not here: linked templates of a version. They are refused, since a deployment does not follow them.

use moat_arm::{ApiError, document};
use serde_json::{Value, json};

use crate::resource_type::{Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

const API_VERSIONS: &[&str] = &["2022-02-01", "2021-05-01", "2021-03-01-preview", "2019-06-01-preview"];

/// A name for versions of one template.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Resources/templateSpecs",
    api_versions: API_VERSIONS,
    refusals: &[Refusal { id: "template-spec-name", requirements: &[], check: name }],
    ..KEPT
};

/// One version: the template itself.
pub static VERSIONS: ResourceType = ResourceType {
    name: "Microsoft.Resources/templateSpecs/versions",
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    refusals: &[
        Refusal { id: "template-spec-name", requirements: &[], check: name },
        Refusal { id: "template-spec-template", requirements: &[], check: template },
        Refusal { id: "template-spec-links", requirements: &[], check: links },
    ],
    ..KEPT
};

const KEPT: ResourceType = ResourceType {
    completion: Completion::Sync,
    complete: |ctx, write| {
        document::set_default(&mut write.body, "tags", json!({}));
        shape::note_author(ctx, write);
        Ok(())
    },
    render: |_, _, body| {
        shape::render_system_data(body);
        document::remove(body, "properties.provisioningState");
    },
    ..ResourceType::BLANK
};

/// The template of a version.
pub fn main_template(version: &Value) -> Option<&Value> {
    document::at(version, "properties.mainTemplate").filter(|t| t.is_object())
}

fn name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name();
    let ok = name.len() <= 90 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.()".contains(c));
    if ok {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "InvalidTemplateSpecName",
        format!(
            "'{name}' is no name of a template spec or version: up to 90 letters, digits, '-', '_', '.', '(' and ')'."
        ),
    ))
}

fn template(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    match main_template(&write.body) {
        Some(_) => Ok(()),
        // AZURE: wording not observed.
        None => Err(ApiError::bad_request(
            "InvalidTemplateSpecVersion",
            format!("The version '{}' has no template: 'properties.mainTemplate' is not an object.", write.id.name()),
        )),
    }
}

fn links(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if document::array_at(&write.body, "properties.linkedTemplates").is_empty() {
        return Ok(());
    }
    // AZURE: Azure keeps them beside the template and follows relative links.
    Err(ApiError::bad_request(
        "LinkedTemplatesNotSupported",
        format!(
            "The version '{}' has linked templates, which Moat does not follow. Put them into one.",
            write.id.name()
        ),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, World};

    #[test]
    fn a_version_is_a_template_that_is_whole() {
        let mut world = World::new(Edition::Current);
        let spec = format!("{GROUP}/providers/Microsoft.Resources/templateSpecs/net");
        let version = format!("{spec}/versions/1.0");
        world.put(&spec, json!({"location": "westus2", "properties": {}})).unwrap();
        let body = |properties: Value| json!({"location": "westus2", "properties": properties});
        insta::assert_snapshot!(world.put(&version, body(json!({}))).unwrap_err(), @"(InvalidTemplateSpecVersion) The version '1.0' has no template: 'properties.mainTemplate' is not an object.");
        let linked = json!({"mainTemplate": {}, "linkedTemplates": [{"path": "a.json", "template": {}}]});
        insta::assert_snapshot!(world.put(&version, body(linked)).unwrap_err().code, @"LinkedTemplatesNotSupported");
        let stored =
            world.put(&version, body(json!({"mainTemplate": {"resources": []}, "linkedTemplates": []}))).unwrap();
        assert_eq!(main_template(&stored), Some(&json!({"resources": []})));
    }
}
