//! Put Blob, blocks, appends, metadata, headers, delete.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use moat_store::blobs::{BLOCKS_MAX, Blob, BlockSource, CommitError, Kind, NewBlob};

use super::caller::{self, Caller, Need};
use super::conditions::Conditions;
use super::read::tagged;
use super::refusal::Refusal;
use super::{Known, body, xml};
use crate::http::reply::Reply;
use crate::server::Server;

/// Longest body of Put Blob.
const BLOB_BYTES_MAX: u64 = 5_000 * 1024 * 1024;
/// Longest block.
const BLOCK_BYTES_MAX: u64 = 4_000 * 1024 * 1024;
/// Longest piece that is appended.
const APPEND_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Longest id of a block, before it is encoded.
const BLOCK_ID_BYTES_MAX: usize = 64;

/// A signature that may create and not write may not replace either.
pub(super) fn only_creates(known: &Known) -> bool {
    match &known.caller {
        Caller::Signature(granted) => granted.allows("w", moat_model::storage::sas::Level::Blob).is_err(),
        _ => false,
    }
}

/// The check before a blob is written whole.
pub(super) fn replaces(
    known: &Known,
) -> Result<impl FnOnce(Option<&Blob>) -> Result<(), Refusal> + Send + use<>, Refusal> {
    let (conditions, only_new) = (Conditions::of(&known.call)?, only_creates(known));
    Ok(move |present: Option<&Blob>| {
        conditions.for_write(present)?;
        if only_new && present.is_some() { Err(Refusal::no_right()) } else { Ok(()) }
    })
}

pub(super) async fn put(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let key = known.key(caller::CREATE_BLOB)?;
    let kind = known.call.header("x-ms-blob-type").ok_or_else(|| Refusal::header("x-ms-blob-type"))?;
    if kind.eq_ignore_ascii_case("PageBlob") {
        return Err(Refusal::absent("page blobs"));
    }
    let kind = Kind::parse(kind).ok_or_else(|| Refusal::header("x-ms-blob-type"))?;
    let check = replaces(known)?;
    let mut new = NewBlob { properties: known.call.properties(true), metadata: known.call.metadata()? };
    if kind == Kind::Append && known.call.length()? != 0 {
        return Err(Refusal::header("content-length"));
    }
    // Before a long body is taken for nothing. It is asked again when it counts.
    early(server, known, &key).await?;
    let received = body::receive(server, &mut known.call, BLOB_BYTES_MAX, kind == Kind::Block).await?;
    if new.properties.content_md5.is_none() {
        new.properties.content_md5.clone_from(&received.md5);
    }
    let stored = server.blobs.put(key, kind, received.content, new, check).await;
    let blob = stored.map_err(|error| Refusal::store(server, "writing a blob", &error))??;
    Ok(written(Reply::empty(201), &blob, received.md5))
}

async fn early(server: &Server, known: &Known, key: &moat_store::blobs::Key) -> Result<(), Refusal> {
    let check = replaces(known)?;
    let (blobs, key) = (server.blobs.clone(), key.clone());
    let present = body::blocking(move || blobs.get(&key)).await;
    check(present.map_err(|error| Refusal::store(server, "reading a blob", &error))?.as_ref())
}

fn written(reply: Reply, blob: &Blob, md5: Option<String>) -> Reply {
    let reply = tagged(reply, blob).with("x-ms-request-server-encrypted", "true");
    match md5 {
        Some(md5) => reply.with("Content-MD5", md5),
        None => reply,
    }
}

fn block_id(text: &str) -> Option<&str> {
    let bytes = STANDARD.decode(text).ok()?;
    (1..=BLOCK_ID_BYTES_MAX).contains(&bytes.len()).then_some(text)
}

pub(super) async fn stage(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let key = known.key(caller::CREATE_BLOB)?;
    let id = known.call.param("blockid").and_then(block_id).ok_or_else(Refusal::block_id)?.to_owned();
    if known.call.length()? == 0 {
        return Err(Refusal::header("content-length"));
    }
    let received = body::receive(server, &mut known.call, BLOCK_BYTES_MAX, false).await?;
    let staged = server.blobs.stage(key, id, received.content).await;
    if !staged.map_err(|error| Refusal::store(server, "staging a block", &error))? {
        return Err(Refusal::too_many_staged());
    }
    let reply = Reply::empty(201).with("x-ms-request-server-encrypted", "true");
    Ok(match received.md5 {
        Some(md5) => reply.with("Content-MD5", md5),
        None => reply,
    })
}

pub(super) async fn commit(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let key = known.key(caller::CREATE_BLOB)?;
    let check = replaces(known)?;
    let new = NewBlob { properties: known.call.properties(false), metadata: known.call.metadata()? };
    let document = body::text(&mut known.call).await?;
    let mut list = Vec::new();
    for (name, id) in xml::leaves(&document).ok_or_else(Refusal::xml)? {
        let source = match name {
            "Latest" => BlockSource::Latest,
            "Committed" => BlockSource::Committed,
            "Uncommitted" => BlockSource::Uncommitted,
            // An empty list is an element without elements.
            "BlockList" => continue,
            _ => return Err(Refusal::xml()),
        };
        list.push((source, block_id(&id).ok_or_else(Refusal::block_list)?.to_owned()));
    }
    if list.len() > BLOCKS_MAX {
        return Err(Refusal::too_many_blocks());
    }
    let stored = server.blobs.commit(key, list, new, check).await;
    match stored.map_err(|error| Refusal::store(server, "committing blocks", &error))? {
        Ok(blob) => Ok(written(Reply::empty(201), &blob, None)),
        Err(CommitError::NoBlock) => Err(Refusal::block_list()),
        Err(CommitError::Refused(refusal)) => Err(refusal),
    }
}

pub(super) async fn append(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let key = known.key(caller::APPEND_BLOB)?;
    let conditions = Conditions::of(&known.call)?;
    let position = known.call.number("x-ms-blob-condition-appendpos")?;
    let max = known.call.number("x-ms-blob-condition-maxsize")?;
    let length = known.call.length()?;
    if length == 0 {
        return Err(Refusal::header("content-length"));
    }
    let received = body::receive(server, &mut known.call, APPEND_BYTES_MAX, false).await?;
    let check = move |blob: &Blob| {
        if blob.kind != Kind::Append {
            return Err(Refusal::blob_type());
        }
        conditions.for_write(Some(blob))?;
        if position.is_some_and(|position| position != blob.size) {
            return Err(Refusal::append_position());
        }
        if max.is_some_and(|max| blob.size + length > max) {
            return Err(Refusal::max_size());
        }
        if blob.appends >= BLOCKS_MAX as u64 {
            return Err(Refusal::too_many_blocks());
        }
        Ok(())
    };
    let appended = server.blobs.append(key, received.content, check).await;
    let appended = appended.map_err(|error| Refusal::store(server, "appending to a blob", &error))?;
    let (blob, at) = appended.ok_or_else(Refusal::blob_not_found)??;
    Ok(written(Reply::empty(201), &blob, received.md5)
        .with("x-ms-blob-append-offset", at.to_string())
        .with("x-ms-blob-committed-block-count", blob.appends.to_string()))
}

async fn edit(
    server: &Server,
    known: &Known,
    need: Need,
    change: impl FnOnce(&mut Blob) + Send + 'static,
) -> Result<Blob, Refusal> {
    let key = known.key(need)?;
    let conditions = Conditions::of(&known.call)?;
    let edited = server.blobs.edit(key, move |blob| {
        conditions.for_write(Some(blob))?;
        change(blob);
        Ok::<_, Refusal>(())
    });
    let edited = edited.await.map_err(|error| Refusal::store(server, "changing a blob", &error))?;
    edited.ok_or_else(Refusal::blob_not_found)?
}

pub(super) async fn set_metadata(server: &Server, known: &Known) -> Result<Reply, Refusal> {
    let metadata = known.call.metadata()?;
    let blob = edit(server, known, caller::WRITE_BLOB, move |blob| blob.metadata = metadata).await?;
    Ok(written(Reply::empty(200), &blob, None))
}

pub(super) async fn set_properties(server: &Server, known: &Known) -> Result<Reply, Refusal> {
    let properties = known.call.properties(false);
    let blob = edit(server, known, caller::WRITE_BLOB, move |blob| blob.properties = properties).await?;
    Ok(tagged(Reply::empty(200), &blob))
}

pub(super) async fn delete(server: &Server, known: &Known) -> Result<Reply, Refusal> {
    let key = known.key(caller::DELETE_BLOB)?;
    let conditions = Conditions::of(&known.call)?;
    let deleted = server.blobs.delete(key, move |blob| conditions.for_write(Some(blob))).await;
    deleted
        .map_err(|error| Refusal::store(server, "deleting a blob", &error))?
        .ok_or_else(Refusal::blob_not_found)??;
    Ok(Reply::empty(202).with("x-ms-delete-type-permanent", "true"))
}
