//! Shared access signatures: a query string by which an account's key grants part of the account for a time.
//!
//! [`sign`] makes those of one container, one directory or one blob; [`verify`] judges any that comes back, also
//! account signatures and those by a user's delegation key. What is signed is rebuilt from the request itself, so a
//! signature that is moved to another blob, container or account does not fit any more. Stored access policies
//! (`si`) are not kept here and are refused by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use super::{AccountKey, names, percent_encode};

/// Version of the texts that [`sign`] signs.
pub const VERSION: &str = "2022-11-02";

/// Oldest version whose texts are known.
const OLDEST_VERSION: &str = "2015-04-05";
/// From this one on, the kind of resource and the snapshot are signed.
const RESOURCE_SIGNED_SINCE: &str = "2018-11-09";
/// From this one on, the encryption scope is signed.
const SCOPE_SIGNED_SINCE: &str = "2020-12-06";
/// From this one on, whom a delegated signature is for is signed.
const DELEGATED_USER_SIGNED_SINCE: &str = "2025-07-05";
/// Deepest directory.
const DIRECTORY_DEPTH_MAX: usize = 63;
/// Difference between clocks that is forgiven at the start of a signature's time.
const CLOCK_SKEW_SECONDS: i64 = 300;

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Every blob of the container.
    Container,
    /// Every blob below this path, given without slashes at its ends.
    ///
    /// AZURE: signatures of directories exist for accounts with a hierarchical namespace only; here for all, since
    /// the narrowest scope that fits is the best one.
    Directory(&'a str),
    /// One blob.
    Blob(&'a str),
}

/// A signature to make.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// Account name.
    pub account: &'a str,
    /// Container name.
    pub container: &'a str,
    /// Which blobs.
    pub target: Target<'a>,
    /// Letters of the permissions, in Azure's order: `racwdxyltmeopi`.
    pub permissions: &'a str,
    /// From when; at once if not given.
    pub start: Option<Timestamp>,
    /// Until when.
    pub expiry: Timestamp,
}

/// The query string (without `?`) of a signature.
pub fn sign(grant: &Grant<'_>, key: &AccountKey) -> String {
    let time = |t: Timestamp| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (kind, path) = match grant.target {
        Target::Container => ("c", String::new()),
        Target::Directory(path) => ("d", format!("/{path}")),
        Target::Blob(path) => ("b", format!("/{path}")),
    };
    let mut query = BTreeMap::new();
    let mut set = |name: &str, value: String| query.insert(name.to_owned(), value);
    set("sv", VERSION.to_owned());
    if let Some(start) = grant.start {
        set("st", time(start));
    }
    set("se", time(grant.expiry));
    set("sr", kind.to_owned());
    set("sp", grant.permissions.to_owned());
    set("spr", "https".to_owned());
    if let Target::Directory(path) = grant.target {
        set("sdd", path.split('/').count().to_string());
    }
    let resource = format!("/blob/{}/{}{path}", grant.account, grant.container);
    sign_service(query, &resource, key)
}

/// Signs `query` for the canonical `resource` and writes it out.
pub(crate) fn sign_service(mut query: BTreeMap<String, String>, resource: &str, key: &AccountKey) -> String {
    let signature = key.sign(&service_text(&query, resource, false));
    query.insert("sig".to_owned(), signature);
    written(&query)
}

/// Signs `query` for a whole account and writes it out.
pub(crate) fn sign_account(mut query: BTreeMap<String, String>, account: &str, key: &AccountKey) -> String {
    let signature = key.sign(&account_text(&query, account));
    query.insert("sig".to_owned(), signature);
    written(&query)
}

fn written(query: &BTreeMap<String, String>) -> String {
    let parts: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", percent_encode(value, b""))).collect();
    parts.join("&")
}

/// Where a request goes, as far as signatures speak of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// Account name.
    pub account: &'a str,
    /// Container name, if the path has one.
    pub container: Option<&'a str>,
    /// Blob name, if the path has one.
    pub blob: Option<&'a str>,
    /// Prefix of a listing of blobs.
    pub listing: Option<&'a str>,
}

/// What of an account is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The service itself: its properties, its containers.
    Service,
    /// A container as such: making, removing, its metadata.
    Container,
    /// The blobs of a container, listed.
    Listing,
    /// One blob.
    Blob,
}

/// How far a signature reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    /// Whole account; letters of `srt`.
    Account(String),
    /// Blobs and listings of the place it was verified for.
    Container,
    /// One blob.
    Blob,
}

/// A signature that fits the request it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    permissions: String,
    reach: Reach,
    /// Object id of the user whose delegation key signed; the user's own rights bound the signature's.
    pub delegated_by: Option<String>,
    /// Response headers that the signature sets: name and value.
    pub headers: Vec<(&'static str, String)>,
}

impl Granted {
    /// Whether any of the permission `letters` is granted at `level`.
    pub fn allows(&self, letters: &str, level: Level) -> Result<(), Denied> {
        let reaches = match &self.reach {
            Reach::Account(kinds) => kinds.contains(match level {
                Level::Service => 's',
                Level::Container | Level::Listing => 'c',
                Level::Blob => 'o',
            }),
            Reach::Container => matches!(level, Level::Listing | Level::Blob),
            Reach::Blob => level == Level::Blob,
        };
        if !reaches {
            return Err(Denied::new(
                "AuthorizationResourceTypeMismatch",
                "This request is not authorized to perform this operation using this resource type.",
            ));
        }
        if !self.permissions.chars().any(|c| letters.contains(c)) {
            return Err(Denied::new(
                "AuthorizationPermissionMismatch",
                "This request is not authorized to perform this operation using this permission.",
            ));
        }
        Ok(())
    }
}

/// Why a signature is refused; always 403.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Azure's code.
    pub code: &'static str,
    /// A sentence for a person.
    pub message: &'static str,
    /// `AuthenticationErrorDetail`; empty for none. Never holds what was signed: that is for who has the key.
    pub detail: String,
}

impl Denied {
    fn new(code: &'static str, message: &'static str) -> Self {
        Self { code, message, detail: String::new() }
    }

    fn failed(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            ..Self::new(
                "AuthenticationFailed",
                "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.",
            )
        }
    }
}

/// Keys that may have signed.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// The account's keys; empty where the account does not allow them.
    pub account: &'a [AccountKey],
    /// The secret that [`delegation_key`]s come from.
    pub delegation: &'a AccountKey,
}

/// Judges the signature in `query` (decoded, names in lower case) for a request to `place` from `peer`.
pub fn verify(
    query: &BTreeMap<String, String>,
    place: &Place<'_>,
    keys: &Keys<'_>,
    peer: IpAddr,
    now: Timestamp,
) -> Result<Granted, Denied> {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let (signature, version) = (get("sig"), get("sv"));
    if version < OLDEST_VERSION || !is_date(version) {
        return Err(Denied::failed("sv is not a version of shared access signatures that is known here."));
    }
    if !get("si").is_empty() {
        return Err(Denied::failed(
            "si names a stored access policy. This environment keeps none; sign permissions and expiry instead.",
        ));
    }
    let account_wide = query.contains_key("srt") || query.contains_key("ss");
    let delegated_by = (!get("skoid").is_empty()).then(|| get("skoid").to_owned());
    let (text, reach) = if account_wide {
        (account_text(query, place.account), Reach::Account(get("srt").to_owned()))
    } else {
        let (resource, reach) = resource(query, place)?;
        (service_text(query, &resource, delegated_by.is_some()), reach)
    };
    let fits = match &delegated_by {
        Some(_) if account_wide => false,
        Some(user) => {
            let key = Delegation {
                user,
                tenant: get("sktid"),
                start: get("skt"),
                expiry: get("ske"),
                service: get("sks"),
                version: get("skv"),
            };
            delegation_key(keys.delegation, place.account, &key).verify(&text, signature)
        }
        None => keys.account.iter().any(|key| key.verify(&text, signature)),
    };
    if !fits {
        return Err(Denied::failed("Signature did not match."));
    }
    in_time("Signature", get("st"), get("se"), now)?;
    if delegated_by.is_some() {
        in_time("User delegation key", get("skt"), get("ske"), now)?;
        if get("sks") != "b" {
            return Err(Denied::failed("The user delegation key is for another service."));
        }
        if ["saoid", "suoid", "sduoid", "skdutid"].iter().any(|name| !get(name).is_empty()) {
            return Err(Denied::failed(
                "Signatures that name a further user (saoid, suoid, sduoid) are not taken here.",
            ));
        }
    }
    if account_wide && !get("ss").contains('b') {
        return Err(Denied::new(
            "AuthorizationServiceMismatch",
            "This request is not authorized to perform this operation using this service.",
        ));
    }
    if !matches!(get("spr"), "" | "https" | "https,http") {
        return Err(Denied::failed("spr is neither `https` nor `https,http`."));
    }
    from_address(get("sip"), peer)?;
    let overrides = [
        ("rscc", "cache-control"),
        ("rscd", "content-disposition"),
        ("rsce", "content-encoding"),
        ("rscl", "content-language"),
        ("rsct", "content-type"),
    ];
    // Account signatures do not sign them.
    let headers = overrides
        .into_iter()
        .filter(|(name, _)| !account_wide && !get(name).is_empty())
        .map(|(name, header)| (header, get(name).to_owned()))
        .collect();
    Ok(Granted { permissions: get("sp").to_owned(), reach, delegated_by, headers })
}

/// What a service signature speaks of, told from the request: its blob, its container, or its directory.
fn resource(query: &BTreeMap<String, String>, place: &Place<'_>) -> Result<(String, Reach), Denied> {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let mismatch = || Denied::failed("The signature is for another kind of resource than the request.");
    let container = place.container.ok_or_else(mismatch)?;
    let of_container = format!("/blob/{}/{container}", place.account);
    match get("sr") {
        "c" => Ok((of_container, Reach::Container)),
        "b" => Ok((format!("{of_container}/{}", place.blob.ok_or_else(mismatch)?), Reach::Blob)),
        "d" => {
            let depth = get("sdd").parse().ok().filter(|depth| (1..=DIRECTORY_DEPTH_MAX).contains(depth));
            let depth: usize = depth.ok_or_else(|| Denied::failed("sdd is not the depth of a directory."))?;
            let path = place.blob.or(place.listing).ok_or_else(mismatch)?;
            let directory = names::directory(path, depth).ok_or_else(|| {
                Denied::failed("The request does not lie in the directory that the signature is for.")
            })?;
            Ok((format!("{of_container}/{directory}"), Reach::Container))
        }
        "bs" | "bv" => Err(Denied::failed("This environment keeps neither snapshots nor versions.")),
        _ => Err(Denied::failed("sr is not mentioned or is invalid.")),
    }
}

fn service_text(query: &BTreeMap<String, String>, resource: &str, delegated: bool) -> String {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let version = get("sv");
    let mut lines = vec![get("sp"), get("st"), get("se"), resource];
    if delegated {
        lines.extend(["skoid", "sktid", "skt", "ske", "sks", "skv"].map(get));
        if version >= "2020-02-10" {
            lines.extend(["saoid", "suoid", "scid"].map(get));
        }
        if version >= DELEGATED_USER_SIGNED_SINCE {
            lines.extend(["skdutid", "sduoid"].map(get));
        }
    } else {
        lines.push(get("si"));
    }
    lines.extend(["sip", "spr", "sv"].map(get));
    if version >= RESOURCE_SIGNED_SINCE {
        lines.extend([get("sr"), get("snapshot")]);
    }
    if version >= SCOPE_SIGNED_SINCE {
        lines.push(get("ses"));
    }
    lines.extend(["rscc", "rscd", "rsce", "rscl", "rsct"].map(get));
    lines.join("\n")
}

fn account_text(query: &BTreeMap<String, String>, account: &str) -> String {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let mut lines = vec![account];
    lines.extend(["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"].map(get));
    if get("sv") >= SCOPE_SIGNED_SINCE {
        lines.push(get("ses"));
    }
    lines.push("");
    lines.join("\n")
}

/// What a user's delegation key was asked for; clients put it into every signature they make with it.
#[derive(Debug, Clone, Copy)]
pub struct Delegation<'a> {
    /// Object id of the user.
    pub user: &'a str,
    /// Tenant of the user.
    pub tenant: &'a str,
    /// From when, as written.
    pub start: &'a str,
    /// Until when, as written.
    pub expiry: &'a str,
    /// `b`.
    pub service: &'a str,
    /// Version it was asked with.
    pub version: &'a str,
}

/// The key that a user may sign with. It follows from what was asked and a secret of the account, so nothing has
/// to be kept, and a signature that claims another user or a longer time was made with another key.
pub fn delegation_key(secret: &AccountKey, account: &str, asked: &Delegation<'_>) -> AccountKey {
    let Delegation { user, tenant, start, expiry, service, version } = asked;
    let text = [account, user, tenant, start, expiry, service, version].join("\n");
    AccountKey(super::hmac512(&secret.0, text.as_bytes()))
}

/// A time as signatures and delegation keys write it: to the day, the minute, the second or beyond.
pub fn time(text: &str) -> Option<Timestamp> {
    match text.len() {
        10 => format!("{text}T00:00:00Z").parse().ok(),
        17 => format!("{}:00Z", text.strip_suffix('Z')?).parse().ok(),
        _ => text.parse().ok(),
    }
}

fn in_time(what: &str, start: &str, expiry: &str, now: Timestamp) -> Result<(), Denied> {
    let malformed = |name: &str| Denied::failed(format!("{what} has a {name} time that is no time."));
    let from = if start.is_empty() { None } else { Some(time(start).ok_or_else(|| malformed("start"))?) };
    let until = time(expiry).ok_or_else(|| malformed("expiry"))?;
    let early = from.is_some_and(|from| from.as_second() > now.as_second() + CLOCK_SKEW_SECONDS);
    if early || until <= now {
        return Err(Denied::failed(format!(
            "{what} not valid in the specified time frame: Start [{start}] - Expiry [{expiry}] - Current [{}]",
            now.strftime("%Y-%m-%dT%H:%M:%SZ")
        )));
    }
    Ok(())
}

fn from_address(allowed: &str, peer: IpAddr) -> Result<(), Denied> {
    if allowed.is_empty() {
        return Ok(());
    }
    let (first, last) = allowed.split_once('-').unwrap_or((allowed, allowed));
    let parsed = first.parse::<IpAddr>().and_then(|first| Ok((first, last.parse::<IpAddr>()?)));
    match parsed {
        Ok((first, last)) if (first..=last).contains(&peer) => Ok(()),
        _ => Err(Denied::new(
            "AuthorizationSourceIPMismatch",
            "This request is not authorized to perform this operation using this source IP.",
        )),
    }
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10
        && bytes.iter().enumerate().all(|(i, b)| if matches!(i, 4 | 7) { *b == b'-' } else { b.is_ascii_digit() })
}

#[cfg(test)]
#[path = "sas_tests.rs"]
mod tests;
