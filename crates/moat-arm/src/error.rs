//! The one error that leaves over the wire: ARM's envelope, with Azure's codes.
//!
//! Codes and texts come from the catalogue of observed errors; a text that nobody observed says
//! so at its constructor (`// AZURE: wording not observed`).

use serde::Serialize;
use serde_json::{Value, json};

use crate::id::ResourceId;

/// An error in ARM's envelope: `{"error":{"code","message","target"?,"details":[]?}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiError {
    /// HTTP status. Never 408, 429 or 5xx for a permanent fault: clients would retry it.
    pub status: u16,
    /// Azure's code, for example `ResourceNotFound`.
    pub code: String,
    /// A sentence for a person.
    pub message: String,
    /// The property or resource at fault.
    pub target: Option<String>,
    /// Inner errors.
    pub details: Vec<ApiError>,
    /// What a service says beside the message: `{"type", "info"}` each. One that says
    /// something also shows what is empty.
    pub additional_info: Box<[Value]>,
}

impl ApiError {
    /// Any code; prefer a named constructor.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            target: None,
            details: Vec::new(),
            additional_info: Box::default(),
        }
    }

    /// Names what is at fault.
    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Adds an inner error.
    pub fn with_detail(mut self, detail: ApiError) -> Self {
        self.details.push(detail);
        self
    }

    /// 400 with any code.
    pub fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// 404 `ResourceNotFound`.
    pub fn not_found(id: &ResourceId) -> Self {
        // Types and names take turns, as in the id.
        let path = id.as_str().rsplit("/providers/").next().unwrap_or_default();
        Self::new(
            404,
            "ResourceNotFound",
            format!(
                "The Resource '{path}' under resource group '{}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
                id.resource_group().unwrap_or("<null>")
            ),
        )
    }

    /// 404 `ParentResourceNotFound`.
    pub fn parent_not_found(id: &ResourceId) -> Self {
        let parent = id.parent().map(|p| p.to_string()).unwrap_or_default();
        Self::new(
            404,
            "ParentResourceNotFound",
            format!(
                "Failed to perform 'write' on resource(s) of type '{}', because the parent resource '{parent}' could not be found.",
                id.resource_type()
            ),
        )
    }

    /// 404 `ResourceGroupNotFound`.
    pub fn group_not_found(name: &str) -> Self {
        Self::new(404, "ResourceGroupNotFound", format!("Resource group '{name}' could not be found."))
    }

    /// 400 `InvalidResourceReference`: `referrer` names `missing`, which is not there.
    pub fn invalid_reference(missing: &str, referrer: &ResourceId) -> Self {
        Self::new(
            400,
            "InvalidResourceReference",
            format!(
                "Resource {missing} referenced by resource {referrer} was not found. Please make sure that the referenced resource exists, and that both resources are in the same region."
            ),
        )
    }

    /// The body as sent.
    pub fn to_body(&self) -> Value {
        let mut inner = self.inner();
        // Providers list the inner errors of what they refuse also where there are none.
        if self.status == 400 && self.details.is_empty() {
            inner["details"] = json!([]);
        }
        json!({ "error": inner })
    }

    fn inner(&self) -> Value {
        self.shown(!self.additional_info.is_empty())
    }

    /// `whole`: also what is empty, as the services do that say something beside the message.
    fn shown(&self, whole: bool) -> Value {
        let mut v = json!({ "code": self.code, "message": self.message });
        if let Some(t) = &self.target {
            v["target"] = json!(t);
        }
        if whole || !self.details.is_empty() {
            v["details"] = self.details.iter().map(|d| if whole { d.shown(true) } else { d.inner() }).collect();
        }
        if whole {
            v["additionalInfo"] = self.additional_info.to_vec().into();
        }
        v
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}) {}", self.code, self.message)
    }
}
impl std::error::Error for ApiError {}
