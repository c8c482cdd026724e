//! Who calls, and what they may: by an account's key, by a signature, or by a token and its role assignments.
//! Nobody comes without a name.

use jiff::Timestamp;
use moat_arm::access::rbac::{self, Plane};
use moat_arm::{ResourceId, Snapshot, Stored};
use moat_control::Principal;
use moat_model::storage::sas::{self, Granted, Keys, Level, Place};
use moat_model::storage::shared_key;
use moat_model::types::microsoft_storage::storage_accounts;

use super::refusal::Refusal;
use super::request::BlobCall;
use crate::server::Server;
use crate::token::{Audience, Denied};

/// How old a request that is signed with a key may be.
const REQUEST_AGE_SECONDS_MAX: i64 = 15 * 60;

/// Who calls.
pub(super) enum Caller {
    /// Knows a key of the account.
    Key,
    /// Has a signature.
    Signature(Granted),
    /// Has a token.
    Token(Principal),
}

/// What is to be done: the letters and the level of signatures, and the action of role assignments.
#[derive(Clone, Copy)]
pub(super) struct Need {
    level: Level,
    letters: &'static str,
    plane: Plane,
    action: &'static str,
}

macro_rules! needs {
    ($($name:ident = $level:ident $letters:literal $plane:ident $action:literal;)*) => {
        $(pub(super) const $name: Need = Need {
            level: Level::$level,
            letters: $letters,
            plane: Plane::$plane,
            action: concat!("Microsoft.Storage/storageAccounts/blobServices/", $action),
        };)*
    };
}

needs! {
    LIST_CONTAINERS = Service "l" Control "containers/read";
    READ_SERVICE = Service "r" Control "read";
    DELEGATE = Service "" Control "generateUserDelegationKey/action";
    CREATE_CONTAINER = Container "cw" Control "containers/write";
    WRITE_CONTAINER = Container "w" Control "containers/write";
    READ_CONTAINER = Container "rl" Control "containers/read";
    DELETE_CONTAINER = Container "d" Control "containers/delete";
    LIST_BLOBS = Listing "l" Data "containers/blobs/read";
    READ_BLOB = Blob "r" Data "containers/blobs/read";
    WRITE_BLOB = Blob "w" Data "containers/blobs/write";
    CREATE_BLOB = Blob "cw" Data "containers/blobs/write";
    APPEND_BLOB = Blob "aw" Data "containers/blobs/add/action";
    DELETE_BLOB = Blob "d" Data "containers/blobs/delete";
}

/// Who calls `account`.
pub(super) async fn identify(server: &Server, call: &BlobCall, account: &Stored) -> Result<Caller, Refusal> {
    let now = server.clock.now();
    if let Some(header) = call.header("authorization") {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("SharedKey") {
            return by_key(call, account, rest, now);
        }
        if scheme.eq_ignore_ascii_case("SharedKeyLite") {
            return Err(Refusal::failed("The scheme SharedKeyLite is not taken here; sign with SharedKey."));
        }
        return by_token(server, header, now).await;
    }
    if call.query.contains_key("sig") {
        let place = Place {
            account: account.id.name(),
            container: call.container.as_deref(),
            blob: call.blob.as_deref(),
            listing: listing(call),
        };
        return Ok(Caller::Signature(signed(account, &call.query, &place, call.peer.ip(), now)?));
    }
    Err(challenge(
        server,
        Refusal::new(
            401,
            "NoAuthenticationInformation",
            "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
        ),
    ))
}

/// The prefix of a listing; a directory's signature is held against it.
fn listing(call: &BlobCall) -> Option<&str> {
    let lists = call.blob.is_none() && call.query.get("comp").is_some_and(|comp| comp == "list");
    lists.then(|| call.query.get("prefix").map_or("", String::as_str))
}

/// What the signature in `query` grants at `place`.
pub(super) fn signed(
    account: &Stored,
    query: &std::collections::BTreeMap<String, String>,
    place: &Place<'_>,
    peer: std::net::IpAddr,
    now: Timestamp,
) -> Result<Granted, Refusal> {
    let delegated = query.contains_key("skoid");
    if !delegated && !storage_accounts::allows_shared_key(&account.body) {
        return Err(Refusal::no_key_access());
    }
    let Some(delegation) = storage_accounts::delegation_secret(&account.body) else {
        return Err(Refusal::failed("The account has no keys."));
    };
    let keys = storage_accounts::keys(&account.body);
    Ok(sas::verify(query, place, &Keys { account: &keys, delegation: &delegation }, peer, now)?)
}

fn by_key(call: &BlobCall, account: &Stored, given: &str, now: Timestamp) -> Result<Caller, Refusal> {
    let (name, signature) =
        given.trim().split_once(':').ok_or_else(|| Refusal::failed("SharedKey needs `account:signature`."))?;
    if name != account.id.name() {
        return Err(Refusal::failed("The account of the signature is not the account of the request."));
    }
    if !storage_accounts::allows_shared_key(&account.body) {
        return Err(Refusal::no_key_access());
    }
    let date = call.header("x-ms-date").or_else(|| call.header("date"));
    let date = date.and_then(|text| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok());
    if date.is_none_or(|date| (now.as_second() - date.as_second()).abs() > REQUEST_AGE_SECONDS_MAX) {
        return Err(Refusal::failed("The date of the request is missing, or too far from the present time."));
    }
    let headers = call.headers();
    let request = shared_key::Signed {
        verb: call.method.as_str(),
        path: &call.raw_path,
        query: &call.raw_query,
        headers: &headers,
    };
    if shared_key::verify(name, &request, signature, &storage_accounts::keys(&account.body)) {
        Ok(Caller::Key)
    } else {
        Err(Refusal::failed("The MAC signature found in the HTTP request is not the same as any computed signature."))
    }
}

/// Refuses a token that is not good for storage of this environment; no token is none.
pub(super) async fn foreign(server: &Server, call: &BlobCall) -> Result<(), Refusal> {
    let bearer = |header: &&str| header.trim().get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer "));
    match call.header("authorization").filter(bearer) {
        Some(header) => by_token(server, header, server.clock.now()).await.map(|_| ()),
        None => Ok(()),
    }
}

async fn by_token(server: &Server, header: &str, now: Timestamp) -> Result<Caller, Refusal> {
    match server.authority.authenticate(Some(header), Audience::Storage, now).await {
        // A run's token is good for its own records only; the node gets signatures for its blobs.
        Ok(principal) if principal.run.is_some() => Err(Refusal::no_right()),
        Ok(principal) => Ok(Caller::Token(principal)),
        Err(denied) => {
            let text = match denied {
                Denied::Missing => {
                    "Server failed to authenticate the request. The scheme of the authorization header is not known."
                }
                Denied::Forged => "Server failed to authenticate the request. The access token is invalid.",
                Denied::Expired => "Server failed to authenticate the request. The access token has expired.",
                Denied::NotYetValid => "Server failed to authenticate the request. The access token is not yet valid.",
                Denied::Audience => {
                    "Server failed to authenticate the request. The access token is for another audience; ask for https://storage.azure.com."
                }
                Denied::Tenant => "Server failed to authenticate the request. The access token is of another issuer.",
            };
            Err(challenge(server, Refusal::new(401, "InvalidAuthenticationInfo", text)))
        }
    }
}

fn challenge(server: &Server, refusal: Refusal) -> Refusal {
    let tenant = &server.environment.tenant;
    refusal.with(
        "WWW-Authenticate",
        format!(
            "Bearer authorization_uri=https://login.microsoftonline.com/{tenant}/oauth2/authorize resource_id=https://storage.azure.com"
        ),
    )
}

impl Caller {
    /// Whether the caller may do what `need` says at `scope`.
    pub(super) fn may(&self, snapshot: &Snapshot, need: Need, scope: &ResourceId) -> Result<(), Refusal> {
        let by_role = |object_id: &str| {
            let allowed = rbac::allows_on(snapshot, object_id, need.plane, need.action, Some(scope));
            // The right to write is also the right to add.
            let more = need.action == APPEND_BLOB.action
                && rbac::allows_on(snapshot, object_id, need.plane, WRITE_BLOB.action, Some(scope));
            if allowed || more { Ok(()) } else { Err(Refusal::no_right()) }
        };
        match self {
            Self::Key => Ok(()),
            Self::Token(principal) => by_role(&principal.object_id),
            Self::Signature(granted) => {
                granted.allows(need.letters, need.level)?;
                granted.delegated_by.as_deref().map_or(Ok(()), by_role)
            }
        }
    }

    /// As whom changes of documents are recorded.
    pub(super) fn principal(&self, account: &ResourceId) -> Principal {
        let named = |kind: &str| Principal {
            object_id: format!("{kind}:{}", account.name()),
            name: format!("{kind} of {}", account.name()),
            ..Principal::default()
        };
        match self {
            Self::Key => named("account-key"),
            Self::Signature(_) => named("signature"),
            Self::Token(principal) => principal.clone(),
        }
    }
}
