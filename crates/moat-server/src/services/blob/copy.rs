//! Copy Blob and Put Blob From URL, within the environment. The copy is whole when it is answered.

use moat_arm::Stored;
use moat_model::storage::sas::Place;
use moat_model::types::microsoft_storage::{containers as documents, storage_accounts};
use moat_store::blobs::{Key, Kind, NewBlob, Reader};

use super::caller::{self, Caller};
use super::read::tagged;
use super::refusal::Refusal;
use super::{Known, body, request, write};
use crate::http::reply::Reply;
use crate::http::request::query;
use crate::random;
use crate::server::Server;

const HOST_SUFFIX: &str = ".blob.core.windows.net";

pub(super) async fn whole(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let key = known.key(caller::CREATE_BLOB)?;
    // With a kind of blob it is Put Blob From URL, which answers as a put.
    let as_put = known.call.header("x-ms-blob-type").is_some();
    if known.call.header("x-ms-blob-type").is_some_and(|kind| Kind::parse(kind) != Some(Kind::Block)) {
        return Err(Refusal::header("x-ms-blob-type"));
    }
    for name in [
        "x-ms-source-if-match",
        "x-ms-source-if-none-match",
        "x-ms-source-if-modified-since",
        "x-ms-source-if-unmodified-since",
        "x-ms-copy-source-authorization",
        "x-ms-source-content-md5",
    ] {
        if known.call.header(name).is_some() {
            return Err(Refusal::absent(&format!("copies with the header {name}")));
        }
    }
    let check = write::replaces(known)?;
    let reader = open(server, known).await?;
    let source = reader.blob.clone();
    let metadata = known.call.metadata()?;
    let new = NewBlob {
        properties: source.properties.clone(),
        metadata: if metadata.is_empty() { source.metadata.clone() } else { metadata },
    };
    let kind = if as_put { Kind::Block } else { source.kind };
    let copied = body::copy(server, reader).await?;
    let stored = server.blobs.put(key, kind, copied.content, new, check).await;
    let blob = stored.map_err(|error| Refusal::store(server, "writing a copy", &error))??;
    let reply = tagged(Reply::empty(if as_put { 201 } else { 202 }), &blob);
    Ok(if as_put {
        reply.with("x-ms-request-server-encrypted", "true")
    } else {
        reply.with("x-ms-copy-id", random::uuid().to_string()).with("x-ms-copy-status", "success")
    })
}

/// The source, if who asks may read it: by a signature of its own, or by the right to it that the caller has.
async fn open(server: &Server, known: &Known) -> Result<Reader, Refusal> {
    let url = known.call.header("x-ms-copy-source").unwrap_or_default();
    let rest = url.strip_prefix("https://").ok_or_else(|| Refusal::header("x-ms-copy-source"))?;
    let (host, path) = rest.split_once('/').ok_or_else(|| Refusal::header("x-ms-copy-source"))?;
    let account = host.strip_suffix(HOST_SUFFIX).and_then(|name| storage_accounts::find(&known.snapshot, name));
    // Other hosts are not asked: the server has no way out, and shall have none.
    let account = account.ok_or_else(Refusal::copy_source)?;
    let (raw_path, raw_query) = path.split_once('?').unwrap_or((path, ""));
    let (container, blob) = request::target(&format!("/{raw_path}"))?;
    let (Some(container), Some(blob)) = (container, blob) else { return Err(Refusal::copy_source()) };
    may_read(server, known, account, &container, &blob, raw_query)?;
    let document = documents::find(&known.snapshot, &account.id, &container).ok_or_else(Refusal::copy_source)?;
    let key = Key { container: documents::generation(&document.body).unwrap_or_default().to_owned(), name: blob };
    let blobs = server.blobs.clone();
    let opened = body::blocking(move || blobs.open_blob(&key, |blob| Ok::<_, Refusal>(0..blob.size))).await;
    opened.map_err(|error| Refusal::store(server, "reading a blob", &error))?.ok_or_else(Refusal::copy_source)?
}

fn may_read(
    server: &Server,
    known: &Known,
    account: &Stored,
    container: &str,
    blob: &str,
    raw_query: &str,
) -> Result<(), Refusal> {
    let scope = documents::id(&account.id, container);
    let query = query(raw_query);
    if query.contains_key("sig") {
        let place = Place { account: account.id.name(), container: Some(container), blob: Some(blob), listing: None };
        let granted = caller::signed(account, &query, &place, known.call.peer.ip(), server.clock.now())?;
        return Caller::Signature(granted).may(&known.snapshot, caller::READ_BLOB, &scope);
    }
    match &known.caller {
        Caller::Key if account.id == known.account.id => Ok(()),
        Caller::Token(_) => known.caller.may(&known.snapshot, caller::READ_BLOB, &scope),
        // A signature for the target says nothing about the source.
        Caller::Key | Caller::Signature(_) => Err(Refusal::copy_source()),
    }
}
