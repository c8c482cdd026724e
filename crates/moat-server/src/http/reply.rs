//! What is sent back.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http_body_util::{Either, Full};
use moat_arm::ApiError;
use serde_json::Value;

use super::pieces::Pieces;

/// An answer, before it becomes HTTP.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    headers: Vec<(Cow<'static, str>, String)>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    None,
    Json(Value),
    Bytes(&'static str, Vec<u8>),
    Stream(Pieces),
}

/// The body of a response: whole, or in pieces as they are read.
pub(crate) type HttpBody = Either<Full<Bytes>, Pieces>;

impl Reply {
    /// No body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::None }
    }

    /// A JSON body.
    pub fn json(status: u16, body: &Value) -> Self {
        Self { body: Body::Json(body.clone()), ..Self::empty(status) }
    }

    /// Any body.
    pub fn bytes(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { body: Body::Bytes(content_type, body), ..Self::empty(status) }
    }

    /// A body that comes in pieces. Who makes it sets `Content-Length` and `Content-Type`.
    pub(crate) fn stream(status: u16, body: Pieces) -> Self {
        Self { body: Body::Stream(body), ..Self::empty(status) }
    }

    /// An error in ARM's envelope.
    pub fn error(error: ApiError) -> Self {
        Self::json(error.status, &error.to_body())
    }

    /// What `decide` answered.
    pub fn decided(status: u16, headers: Vec<(&'static str, String)>, body: Option<Value>) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (Cow::from(name), value)).collect();
        Self { status, headers, body: body.map_or(Body::None, Body::Json) }
    }

    /// Adds a header.
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a header unless it is there.
    pub fn with_default(self, name: &'static str, value: &str) -> Self {
        if self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) { self } else { self.with(name, value) }
    }

    /// The JSON body, if it has one.
    pub fn as_json(&self) -> Option<&Value> {
        if let Body::Json(body) = &self.body { Some(body) } else { None }
    }

    /// Changes the JSON body, if it has one.
    pub fn edit_json(&mut self, edit: impl FnOnce(&mut Value)) {
        if let Body::Json(body) = &mut self.body {
            edit(body);
        }
    }

    /// As HTTP.
    pub(crate) fn into_response(self) -> http::Response<HttpBody> {
        let whole = |bytes: Vec<u8>| Either::Left(Full::new(Bytes::from(bytes)));
        let (content_type, body) = match self.body {
            Body::None => (None, whole(Vec::new())),
            Body::Json(value) => {
                // Straight to bytes: `to_string` goes through the formatter, one call a token. A `Value`
                // has text for keys and no failing parts, so there is always a text of it.
                (Some("application/json; charset=utf-8"), whole(serde_json::to_vec(&value).unwrap_or_default()))
            }
            Body::Bytes(content_type, bytes) => (Some(content_type), whole(bytes)),
            Body::Stream(body) => (None, Either::Right(body)),
        };
        let mut response = http::Response::new(body);
        *response.status_mut() =
            http::StatusCode::from_u16(self.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if let Some(content_type) = content_type {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        for (name, value) in self.headers {
            // A value with line breaks is dropped, never sent: it could only be an attack.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_ref()), HeaderValue::from_str(&value)) {
                headers.insert(name, value);
            }
        }
        response
    }
}
