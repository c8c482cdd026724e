//! Errors as the blob service answers them: XML, and the code in a header too.

use std::borrow::Cow;

use moat_model::storage::sas;
use moat_store::blobs::BlobError;

use super::xml;
use crate::http::reply::Reply;
use crate::server::Server;

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: Cow<'static, str>,
    message: Cow<'static, str>,
    detail: String,
    headers: Vec<(&'static str, String)>,
}

/// Azure's codes with their status and text, where nothing but these is to be said.
macro_rules! refusals {
    ($($name:ident = $status:literal $code:literal $message:literal;)*) => {
        impl Refusal {
            $(pub(super) fn $name() -> Self { Self::new($status, $code, $message) })*
        }
    };
}

refusals! {
    account_not_found = 404 "ResourceNotFound" "The specified resource does not exist.";
    container_not_found = 404 "ContainerNotFound" "The specified container does not exist.";
    blob_not_found = 404 "BlobNotFound" "The specified blob does not exist.";
    container_exists = 409 "ContainerAlreadyExists" "The specified container already exists.";
    blob_exists = 409 "BlobAlreadyExists" "The specified blob already exists.";
    condition_not_met = 412 "ConditionNotMet" "The condition specified using HTTP conditional header(s) is not met.";
    not_modified = 304 "ConditionNotMet" "The condition specified using HTTP conditional header(s) is not met.";
    blob_type = 409 "InvalidBlobType" "The blob type is invalid for this operation.";
    block_id = 400 "InvalidBlockId" "The specified block ID is invalid. The block ID must be Base64-encoded.";
    block_list = 400 "InvalidBlockList" "The specified block list is invalid.";
    too_many_blocks = 409 "BlockCountExceedsLimit" "The committed block count cannot exceed the maximum limit of 50,000 blocks.";
    too_many_staged = 409 "BlockCountExceedsLimit" "The uncommitted block count cannot exceed the maximum limit of 100,000 blocks.";
    md5_mismatch = 400 "Md5Mismatch" "The MD5 value specified in the request did not match with the MD5 value calculated by the server.";
    crc64_mismatch = 400 "Crc64Mismatch" "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.";
    append_position = 412 "AppendPositionConditionNotMet" "The append position condition specified was not met.";
    max_size = 412 "MaxBlobSizeConditionNotMet" "The max blob size condition specified was not met.";
    length_required = 411 "MissingContentLengthHeader" "The content length header was not specified.";
    too_large = 413 "RequestBodyTooLarge" "The request body is too large and exceeds the maximum permissible limit.";
    cut_short = 400 "IncompleteBody" "The request body ended before the length that was announced, or did not come in time.";
    method = 405 "UnsupportedHttpVerb" "The resource doesn't support the specified Http Verb.";
    name = 400 "InvalidResourceName" "The specified resource name contains invalid characters.";
    uri = 400 "InvalidUri" "The requested URI does not represent any resource on the server.";
    xml = 400 "InvalidXmlDocument" "The specified XML is not syntactically valid.";
    no_right = 403 "AuthorizationPermissionMismatch" "This request is not authorized to perform this operation using this permission.";
    no_key_access = 403 "KeyBasedAuthenticationNotPermitted" "Key based authentication is not permitted on this storage account.";
    copy_source = 404 "CannotVerifyCopySource" "The specified resource does not exist.";
}

impl Refusal {
    pub(super) fn new(status: u16, code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code: code.into(), message: message.into(), detail: String::new(), headers: Vec::new() }
    }

    /// A header that is no header of ours, or says what cannot be.
    pub(super) fn header(name: &str) -> Self {
        Self::new(
            400,
            "InvalidHeaderValue",
            format!("The value for one of the HTTP headers is not in the correct format: {name}."),
        )
    }

    /// A query parameter, likewise.
    pub(super) fn query(name: &str) -> Self {
        Self::new(
            400,
            "InvalidQueryParameterValue",
            format!("Value for one of the query parameters specified in the request URI is invalid: {name}."),
        )
    }

    /// Azure has it, Moat does not. 501, since nobody repeats that.
    pub(super) fn absent(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("Moat's blob service has no {what}."))
    }

    pub(super) fn failed(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            ..Self::new(
                403,
                "AuthenticationFailed",
                "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.",
            )
        }
    }

    pub(super) fn range(size: u64) -> Self {
        Self::new(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
            .with("Content-Range", format!("bytes */{size}"))
    }

    pub(super) fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What our own part failed at; the chain goes to the log.
    pub(super) fn store(server: &Server, doing: &str, error: &BlobError) -> Self {
        match error {
            // Not 507 or 503: clients would repeat for minutes what a person has to mend.
            BlobError::Full | BlobError::ReadOnly => {
                tracing::error!(error = error as &dyn std::error::Error, doing, "a blob was not written");
                Self::new(409, "StateNotWritable", error.to_string())
            }
            BlobError::Stopped => Self::new(503, "ServerBusy", "The environment is stopping."),
            _ => {
                let _ = server.internal_error(doing, error);
                Self::new(500, "InternalError", "The server encountered an internal error. Its log says more.")
            }
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        let detail = if self.detail.is_empty() {
            String::new()
        } else {
            format!("<AuthenticationErrorDetail>{}</AuthenticationErrorDetail>", xml::text(&self.detail))
        };
        let body = format!(
            "{}<Error><Code>{}</Code><Message>{}</Message>{detail}</Error>",
            xml::HEAD,
            xml::text(&self.code),
            xml::text(&self.message)
        );
        let reply = match self.status {
            304 => Reply::empty(304),
            status => Reply::bytes(status, "application/xml", body.into_bytes()),
        };
        let reply = self.headers.into_iter().fold(reply, |reply, (name, value)| reply.with(name, value));
        reply.with("x-ms-error-code", self.code.into_owned())
    }
}

impl From<sas::Denied> for Refusal {
    fn from(denied: sas::Denied) -> Self {
        Self { detail: denied.detail, ..Self::new(403, denied.code, denied.message) }
    }
}
