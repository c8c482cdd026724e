//! Container registries as a node sees them before it would pull: the manifest of an image (OCI distribution 4.4).
//!
//! An image is an identity here and no file system (docs/adr/0005), so every image of a registry that exists has a
//! manifest, and none has a layer. What counts is that the node has to reach the registry, by the address of its own
//! service tag. `mcr.microsoft.com` is everybody's; a name below `azurecr.io` exists if its registry's document does.

use moat_control::Method;
use serde_json::{Value, json};

use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::server::Server;

const REGISTRIES: &str = "Microsoft.ContainerRegistry/registries";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Digest and length of `{}`, the empty value that stands for what an image does not have.
const EMPTY_DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
const REPOSITORY_CHARS_MAX: usize = 255;
const REFERENCE_CHARS_MAX: usize = 128;

pub(super) fn answer(server: &Server, call: &Call) -> Reply {
    if !matches!(call.method, Method::Get | Method::Head) {
        return refused(405, "UNSUPPORTED", "This registry is only read.");
    }
    if let Some(name) = call.host.strip_suffix(".azurecr.io") {
        let snapshot = server.store.snapshot();
        if !snapshot.of_type(REGISTRIES).any(|d| d.id.name().eq_ignore_ascii_case(name)) {
            return refused(404, "NAME_UNKNOWN", "There is no container registry of this name.");
        }
    }
    let Some(rest) = call.path.strip_prefix("/v2/") else {
        return refused(404, "UNSUPPORTED", "This is a registry of the distribution specification, below /v2/.");
    };
    if rest.is_empty() {
        return Reply::json(200, &json!({}));
    }
    let Some((repository, reference)) = rest.split_once("/manifests/").filter(|(n, r)| is_name(n) && is_reference(r))
    else {
        return refused(404, "BLOB_UNKNOWN", "Images have manifests here, and no layers.");
    };
    let manifest = manifest(&call.host, repository).to_string();
    let digest = digest(&manifest);
    if reference.contains(':') && reference != digest {
        return refused(404, "MANIFEST_UNKNOWN", "There is no manifest of this digest.");
    }
    Reply::bytes(200, MANIFEST_TYPE, manifest.into_bytes()).with("Docker-Content-Digest", digest)
}

fn is_name(repository: &str) -> bool {
    let component = |c: &str| {
        c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
            && c.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    repository.len() <= REPOSITORY_CHARS_MAX && repository.split('/').all(component)
}

fn is_reference(reference: &str) -> bool {
    !reference.is_empty()
        && reference.len() <= REFERENCE_CHARS_MAX
        && reference.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b))
}

fn manifest(host: &str, repository: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": EMPTY_DIGEST, "size": 2 },
        "layers": [],
        "annotations": { "org.opencontainers.image.ref.name": format!("{host}/{repository}") },
    })
}

fn digest(manifest: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, manifest.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn refused(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({ "errors": [{ "code": code, "message": message, "detail": null }] }))
}
