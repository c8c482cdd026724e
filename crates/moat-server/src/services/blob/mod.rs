//! Blob storage at `{account}.blob.core.windows.net`.
//!
//! Order of every call: which account, who calls (`caller.rs`), what may they, is the container there, and only then
//! is a body read (`body.rs`). Containers are documents and go through `decide` (`containers.rs`); blobs lie in
//! [`moat_store::blobs`] under the container's generation (`read.rs`, `write.rs`, `copy.rs`, `list.rs`).
//!
//! Absent: page blobs, leases, snapshots, versions, tags, tiers, batches. Each is refused by name.

mod body;
mod caller;
mod conditions;
mod containers;
mod copy;
mod list;
mod read;
mod refusal;
mod request;
mod service;
pub(crate) mod sweep;
mod write;
mod xml;

use http::Method;
use moat_arm::{Snapshot, Stored};
use moat_model::types::microsoft_storage::{containers as documents, storage_accounts};
use moat_store::blobs::Key;

use caller::{Caller, Need};
use refusal::Refusal;
use request::BlobCall;

use crate::http::reply::Reply;
use crate::http::request::Arriving;
use crate::server::Server;

/// Version that is answered to calls that name none.
const VERSION: &str = "2022-11-02";

/// A call whose account and caller are known.
struct Known {
    call: BlobCall,
    snapshot: Snapshot,
    account: std::sync::Arc<Stored>,
    caller: Caller,
}

/// Answers one call.
pub(crate) async fn answer(server: &Server, arriving: Arriving) -> Reply {
    let version =
        arriving.parts.headers.get("x-ms-version").and_then(|v| v.to_str().ok()).unwrap_or(VERSION).to_owned();
    let now = conditions::http_time(server.clock.now());
    let reply = match BlobCall::of(arriving) {
        Err(refusal) => refusal.into_reply().with("Connection", "close"),
        Ok(call) => known(server, call).await,
    };
    reply.with("x-ms-version", version).with("Date", now)
}

async fn known(server: &Server, mut call: BlobCall) -> Reply {
    let snapshot = server.store.snapshot();
    let Some(account) = storage_accounts::find(&snapshot, &call.account).and_then(|d| snapshot.get(&d.id)).cloned()
    else {
        // A token that is not ours is somebody's real one: say so, whatever it was sent to.
        let foreign = caller::foreign(server, &call).await.err();
        return end(&mut call, Err(foreign.unwrap_or_else(Refusal::account_not_found)), false).await;
    };
    // The account's network rules belong here: `call.origin` against `account`, before anybody is asked for a name.
    tracing::trace!(account = call.account, origin = ?call.origin, "blob call");
    match caller::identify(server, &call, &account).await {
        Err(refusal) => end(&mut call, Err(refusal), false).await,
        Ok(caller) => {
            let mut known = Known { call, snapshot, account, caller };
            let outcome = route(server, &mut known).await;
            end(&mut known.call, outcome, true).await
        }
    }
}

async fn end(call: &mut BlobCall, outcome: Result<Reply, Refusal>, known: bool) -> Reply {
    let reply = outcome.unwrap_or_else(Refusal::into_reply);
    if body::discard(call, known).await { reply } else { reply.with("Connection", "close") }
}

async fn route(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let (restype, comp) =
        (known.call.param("restype").unwrap_or_default(), known.call.param("comp").unwrap_or_default());
    let (restype, comp) = (restype.to_ascii_lowercase(), comp.to_ascii_lowercase());
    if let Some(name) = ["snapshot", "versionid"].into_iter().find(|name| known.call.param(name).is_some()) {
        return Err(Refusal::absent(if name == "snapshot" { "snapshots" } else { "versions" }));
    }
    let method = known.call.method.clone();
    let place = (known.call.container.is_some(), known.call.blob.is_some());
    if place == (true, true) {
        return blob(server, known, &method, &comp).await;
    }
    if restype == "account" && comp == "properties" && matches!(method, Method::GET | Method::HEAD) {
        return service::account(known);
    }
    if place == (true, false) {
        if restype != "container" {
            // The root container: `/{blob}`.
            return Err(if restype.is_empty() { Refusal::blob_not_found() } else { Refusal::query("restype") });
        }
        return match (&method, comp.as_str()) {
            (&Method::PUT, "") => containers::create(server, known).await,
            (&Method::DELETE, "") => containers::delete(server, known).await,
            (&Method::GET | &Method::HEAD, "" | "metadata") => containers::show(known),
            (&Method::PUT, "metadata") => containers::set_metadata(server, known).await,
            (&Method::GET | &Method::HEAD, "acl") => containers::access(known),
            (&Method::GET, "list") => list::blobs(server, known).await,
            (_, "" | "metadata" | "list") => Err(Refusal::method()),
            (_, "lease") => Err(Refusal::absent("leases")),
            (_, "acl") => Err(Refusal::absent("access policies; sign with permissions and expiry instead")),
            (_, "undelete") => Err(Refusal::absent("soft delete")),
            (_, "batch") => Err(Refusal::absent("batches")),
            _ => Err(Refusal::query("comp")),
        };
    }
    match (&method, restype.as_str(), comp.as_str()) {
        (&Method::GET, "", "list") => service::list_containers(known),
        (&Method::GET, "service", "properties") => service::properties(known),
        (&Method::POST, "service", "userdelegationkey") => service::delegation_key(server, known).await,
        (&Method::PUT, "service", "properties") => Err(Refusal::absent("settings of the service over this way")),
        (_, "service", "stats") => Err(Refusal::absent("second region")),
        (_, _, "batch") => Err(Refusal::absent("batches")),
        _ => Err(Refusal::query("comp")),
    }
}

async fn blob(server: &Server, known: &mut Known, method: &Method, comp: &str) -> Result<Reply, Refusal> {
    let source = known.call.header("x-ms-copy-source").is_some();
    match (method, comp) {
        (&Method::GET | &Method::HEAD, "") => read::get(server, known).await,
        (&Method::GET | &Method::HEAD, "metadata") => read::metadata(server, known).await,
        (&Method::GET, "blocklist") => read::blocks(server, known).await,
        (&Method::PUT, "") if source => copy::whole(server, known).await,
        (&Method::PUT, "") => write::put(server, known).await,
        (&Method::PUT, "block") if source => Err(Refusal::absent("Put Block From URL; copy the whole blob instead")),
        (&Method::PUT, "block") => write::stage(server, known).await,
        (&Method::PUT, "blocklist") => write::commit(server, known).await,
        (&Method::PUT, "appendblock") if source => Err(Refusal::absent("Append Block From URL")),
        (&Method::PUT, "appendblock") => write::append(server, known).await,
        (&Method::PUT, "metadata") => write::set_metadata(server, known).await,
        (&Method::PUT, "properties") => write::set_properties(server, known).await,
        (&Method::DELETE, "") => write::delete(server, known).await,
        (_, "lease") => Err(Refusal::absent("leases")),
        (_, "snapshot") => Err(Refusal::absent("snapshots")),
        (_, "page" | "pagelist" | "incrementalcopy") => Err(Refusal::absent("page blobs")),
        (_, "tags") => Err(Refusal::absent("index tags")),
        (_, "tier") => Err(Refusal::absent("tiers of single blobs")),
        (_, "copy") => Err(Refusal::absent("copies that take time; there is none to abort")),
        (_, "query" | "undelete" | "expiry" | "seal" | "immutabilitypolicies" | "legalhold") => {
            Err(Refusal::absent("such operation"))
        }
        (_, "" | "metadata" | "blocklist" | "block" | "appendblock" | "properties") => Err(Refusal::method()),
        _ => Err(Refusal::query("comp")),
    }
}

impl Known {
    /// The document of the container that is called, if the caller may do there what is needed. Whoever may not
    /// does not learn whether it is there.
    fn container(&self, need: Need) -> Result<&Stored, Refusal> {
        let name = self.call.container.as_deref().unwrap_or_default();
        let id = documents::id(&self.account.id, name);
        self.caller.may(&self.snapshot, need, &id)?;
        documents::find(&self.snapshot, &self.account.id, name).ok_or_else(Refusal::container_not_found)
    }

    /// The blob that is called, likewise.
    fn key(&self, need: Need) -> Result<Key, Refusal> {
        let container = documents::generation(&self.container(need)?.body).unwrap_or_default().to_owned();
        Ok(Key { container, name: self.call.blob.clone().unwrap_or_default() })
    }
}
