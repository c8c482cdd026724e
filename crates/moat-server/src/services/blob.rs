//! Blob storage. Part 2 brings it; until then every account is empty and says so in its own XML,
//! so that clients fail at once and with a reason.

use moat_control::Method;

use crate::http::reply::Reply;
use crate::http::request::Call;

pub(super) fn answer(call: &Call) -> Reply {
    match call.method {
        Method::Get | Method::Head => error(404, "BlobNotFound", "The specified blob does not exist."),
        _ => error(501, "NotImplemented", "This environment does not store blobs yet."),
    }
}

fn error(status: u16, code: &'static str, message: &str) -> Reply {
    let body = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Reply::bytes(status, "application/xml", body.into_bytes())
        .with("x-ms-error-code", code)
        .with("x-ms-version", "2021-08-06")
}
