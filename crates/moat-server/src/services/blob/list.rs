//! List Blobs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moat_model::storage::percent_encode;
use moat_model::types::microsoft_storage::containers as documents;
use moat_store::blobs::{Blob, Entry, Kind, Listing};

use super::conditions::{etag, http_time};
use super::refusal::Refusal;
use super::{Known, body, caller, xml};
use crate::http::reply::Reply;
use crate::server::Server;

/// Entries in one part of a list.
const ENTRIES_MAX: usize = 5_000;
/// What may be asked for beside the blobs and has nothing to show here.
const INCLUDE_NOTHING: [&str; 7] =
    ["copy", "deleted", "tags", "versions", "deletedwithversions", "immutabilitypolicy", "legalhold"];

pub(super) async fn blobs(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let stored = known.container(caller::LIST_BLOBS)?;
    let container = documents::generation(&stored.body).unwrap_or_default().to_owned();
    let call = &known.call;
    let asked = match call.param("maxresults") {
        Some(text) => Some(text.parse::<usize>().ok().filter(|m| *m > 0).ok_or_else(|| Refusal::query("maxresults"))?),
        None => None,
    };
    let mut with_metadata = false;
    for part in call.param("include").unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
        match part.trim() {
            "metadata" => with_metadata = true,
            "snapshots" | "uncommittedblobs" => {
                return Err(Refusal::absent(if part == "snapshots" { "snapshots" } else { "list of staged blobs" }));
            }
            nothing if INCLUDE_NOTHING.contains(&nothing) => {}
            _ => return Err(Refusal::query("include")),
        }
    }
    let marker = call.param("marker").unwrap_or_default();
    let from = if marker.is_empty() { None } else { Some(unmark(marker).ok_or_else(|| Refusal::query("marker"))?) };
    let listing = Listing {
        container,
        prefix: call.param("prefix").unwrap_or_default().to_owned(),
        delimiter: call.param("delimiter").map(str::to_owned),
        from,
        max: asked.unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX),
    };
    let blobs = server.blobs.clone();
    let wanted = listing.clone();
    let page = body::blocking(move || blobs.list(&wanted))
        .await
        .map_err(|error| Refusal::store(server, "listing blobs", &error))?;

    let mut out = format!(
        "{}<EnumerationResults ServiceEndpoint=\"https://{}.blob.core.windows.net/\" ContainerName=\"{}\">",
        xml::HEAD,
        xml::text(known.account.id.name()),
        xml::text(known.call.container.as_deref().unwrap_or_default())
    );
    out.push_str(&xml::element("Prefix", &listing.prefix));
    out.push_str(&xml::element("Marker", marker));
    if let Some(max) = asked {
        out.push_str(&format!("<MaxResults>{max}</MaxResults>"));
    }
    if let Some(delimiter) = &listing.delimiter {
        out.push_str(&xml::element("Delimiter", delimiter));
    }
    out.push_str("<Blobs>");
    for entry in &page.entries {
        match entry {
            Entry::Prefix(prefix) => out.push_str(&format!("<BlobPrefix>{}</BlobPrefix>", name(prefix))),
            Entry::Blob(blob) => line(&mut out, blob, with_metadata),
        }
    }
    let next = page.next.map(|next| URL_SAFE_NO_PAD.encode(next)).unwrap_or_default();
    out.push_str(&format!("</Blobs>{}</EnumerationResults>", xml::element("NextMarker", &next)));
    Ok(Reply::bytes(200, "application/xml", out.into_bytes()))
}

fn unmark(marker: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(marker).ok()?).ok()
}

/// A name; one that no XML can hold is encoded and says so.
fn name(raw: &str) -> String {
    if raw.contains(['\u{fffe}', '\u{ffff}']) {
        return format!("<Name Encoded=\"true\">{}</Name>", percent_encode(raw, b"/"));
    }
    xml::element("Name", raw)
}

fn line(out: &mut String, blob: &Blob, with_metadata: bool) {
    out.push_str("<Blob>");
    out.push_str(&name(&blob.name));
    out.push_str("<Properties>");
    let properties = &blob.properties;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    for (name, value) in [
        ("Creation-Time", http_time(blob.created)),
        ("Last-Modified", http_time(blob.modified)),
        // Without quotes, unlike the header.
        ("Etag", etag(blob.etag).trim_matches('"').to_owned()),
        ("Content-Length", blob.size.to_string()),
        ("Content-Type", properties.content_type.clone().unwrap_or_else(|| super::read::CONTENT_TYPE.to_owned())),
        ("Content-Encoding", text(&properties.content_encoding)),
        ("Content-Language", text(&properties.content_language)),
        ("Content-CRC64", String::new()),
        ("Content-MD5", text(&properties.content_md5)),
        ("Cache-Control", text(&properties.cache_control)),
        ("Content-Disposition", text(&properties.content_disposition)),
        ("BlobType", blob.kind.as_str().to_owned()),
    ] {
        out.push_str(&xml::element(name, &value));
    }
    if blob.kind == Kind::Block {
        out.push_str("<AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred>");
    }
    out.push_str(
        "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>true</ServerEncrypted></Properties>",
    );
    if with_metadata {
        out.push_str("<Metadata>");
        blob.metadata.iter().for_each(|(name, value)| out.push_str(&xml::element(name, value)));
        out.push_str("</Metadata>");
    }
    out.push_str("</Blob>");
}
