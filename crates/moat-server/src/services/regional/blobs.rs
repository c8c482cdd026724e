//! The workspace's storage account as the regional endpoint uses it: which files are there, and addresses at which a
//! client may read or write one of them for a while. Bytes never pass through here.

use moat_arm::{ApiError, ResourceId, Stored, document};
use moat_control::history::{Right, View};
use moat_model::storage::names;
use moat_model::storage::percent_encode;
use moat_model::storage::sas::{self, Grant, Target};
use moat_model::types::microsoft_storage::{containers, storage_accounts};
use moat_store::blobs::{Blob, Entry, Key, Listing};

use super::ask::{Ask, Fail};

/// Life of an address to read from. A client fetches at once, or polls and gets another one.
const READ_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// Life of an address to write to: a large file takes its time.
const WRITE_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(8);

/// Files in one answer; each is a line of some 500 bytes, with a signature.
const FILES_MAX: usize = 50_000;

/// A file that is there.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its whole name in the container.
    pub(super) name: String,
    /// Bytes.
    pub(super) size: u64,
    /// Changes with its content.
    pub(super) etag: String,
    /// When it was written.
    pub(super) modified: jiff::Timestamp,
}

impl From<Blob> for Found {
    fn from(blob: Blob) -> Self {
        Self { name: blob.name, size: blob.size, etag: format!("0x{:X}", blob.etag), modified: blob.modified }
    }
}

/// The storage account that the workspace names.
pub(super) fn account<'a>(view: &View<'a>) -> Result<&'a Stored, ApiError> {
    let named = document::str_at(&view.workspace.body, "properties.storageAccount").unwrap_or_default();
    let found = ResourceId::parse(named).ok().and_then(|id| view.snapshot.get(&id));
    found.map(AsRef::as_ref).ok_or_else(|| {
        ApiError::new(
            404,
            "StorageAccountNotFound",
            format!(
                "The storage account of workspace '{}' (`{named}`) does not exist; code, logs and artifacts live in it.",
                view.workspace.id.name()
            ),
        )
    })
}

/// Every file whose name begins with `prefix`, in the order of names. No container has no files.
pub(super) async fn list(ask: &Ask<'_>, right: Right, container: &str, prefix: &str) -> Result<Vec<Found>, Fail> {
    let Some(container) = generation(ask, right, container)? else { return Ok(Vec::new()) };
    let listing = Listing { container, prefix: prefix.to_owned(), delimiter: None, from: None, max: FILES_MAX };
    let page = ask.blobs(move |blobs| blobs.list(&listing)).await?;
    if page.next.is_some() {
        return Err(Fail::Api(ApiError::bad_request(
            "TooManyArtifacts",
            format!("There are more than {FILES_MAX} files below `{prefix}`. Ask for a folder below it."),
        )));
    }
    let found = |entry| match entry {
        Entry::Blob(blob) => Some(Found::from(*blob)),
        Entry::Prefix(_) => None,
    };
    Ok(page.entries.into_iter().filter_map(found).collect())
}

/// The file of exactly this name.
pub(super) async fn find(ask: &Ask<'_>, right: Right, container: &str, name: &str) -> Result<Option<Found>, Fail> {
    let Some(container) = generation(ask, right, container)? else { return Ok(None) };
    let key = Key { container, name: name.to_owned() };
    Ok(ask.blobs(move |blobs| blobs.get(&key)).await?.map(Found::from))
}

/// What the blobs of a container of the workspace's account are kept under.
fn generation(ask: &Ask<'_>, right: Right, container: &str) -> Result<Option<String>, Fail> {
    ask.read(right, |view| {
        let account = account(view)?;
        let found = containers::find(view.snapshot, &account.id, container);
        Ok(found.and_then(|d| containers::generation(&d.body)).map(str::to_owned))
    })
}

/// An address of one file, signed by the account's key for these permissions (`r`, `rcw`) and no other file.
pub(super) fn url(ask: &Ask<'_>, right: Right, container: &str, blob: &str, permissions: &str) -> Result<String, Fail> {
    ask.read(right, |view| sign(view, container, blob, permissions))
}

/// [`url`], for a caller whose rights were checked.
pub(super) fn sign(view: &View<'_>, container: &str, blob: &str, permissions: &str) -> Result<String, ApiError> {
    let account = account(view)?;
    if !names::is_blob(blob) {
        return Err(ApiError::bad_request(
            "InvalidArtifactPath",
            format!("`{}` cannot be the name of a blob.", blob.escape_debug()),
        ));
    }
    let key = storage_accounts::keys(&account.body).into_iter().next();
    let key = key.filter(|_| storage_accounts::allows_shared_key(&account.body)).ok_or_else(|| {
        ApiError::new(
            403,
            "StorageKeyAccessDisabled",
            format!(
                "The storage account '{}' does not allow shared keys (`allowSharedKeyAccess`), and addresses of artifacts are signed with one.",
                account.id.name()
            ),
        )
    })?;
    let name = account.id.name().to_lowercase();
    let life = if permissions == "r" { READ_LIFE } else { WRITE_LIFE };
    let query = sas::sign(
        &Grant {
            account: &name,
            container,
            target: Target::Blob(blob),
            permissions,
            start: None,
            expiry: view.ctx.now.saturating_add(life).unwrap_or(view.ctx.now),
        },
        &key,
    );
    Ok(format!("https://{name}.blob.core.windows.net/{container}/{}?{query}", percent_encode(blob, b"/")))
}
