//! Issues tokens and judges the tokens that come back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use moat_arm::ApiError;
use moat_control::{Principal, RunScope};
use tokio::sync::watch;

use super::jwt::{Claims, KeyError, SigningKey};
use crate::environment::Environment;
use crate::random;

const KEY_FILE: &str = "token.key";

/// Life of a token. Azure's service principals get a day where continuous access evaluation is on.
pub const TOKEN_LIFE_SECONDS: i64 = 86_399;

/// Difference between clocks that is forgiven.
const CLOCK_SKEW_SECONDS: i64 = 300;

/// Tokens whose signature was checked once; more than the clients of one environment use at a time.
const VERIFIED_TOKENS_MAX: usize = 512;

/// For whom a token may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Azure Resource Manager, under both its names.
    Arm,
    /// The regional Machine Learning endpoints: what ARM takes, and their own.
    MachineLearning,
    /// Microsoft Graph.
    Graph,
    /// Blob storage.
    Storage,
    /// Whatever we issue tokens for: services that have nothing to give.
    Any,
}

impl Audience {
    fn accepts(self, audience: &str) -> bool {
        let names: &[&str] = match self {
            Self::Arm => &["https://management.azure.com", "https://management.core.windows.net"],
            Self::MachineLearning => {
                &["https://management.azure.com", "https://management.core.windows.net", "https://ml.azure.com"]
            }
            Self::Graph => &["https://graph.microsoft.com", "00000003-0000-0000-c000-000000000000"],
            Self::Storage => &["https://storage.azure.com"],
            Self::Any => RESOURCES,
        };
        // az asks for `https://management.core.windows.net/`, the SDKs leave the slash out.
        names.contains(&audience.trim_end_matches('/'))
    }
}

/// Resources that tokens are issued for, without trailing slash.
const RESOURCES: &[&str] = &[
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://ml.azure.com",
    "https://graph.microsoft.com",
    "https://storage.azure.com",
    "https://vault.azure.net",
    "https://batch.core.windows.net",
];

/// Whether tokens for `resource` are issued at all.
pub fn is_resource(resource: &str) -> bool {
    RESOURCES.contains(&resource.trim_end_matches('/'))
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No `Authorization: Bearer`.
    Missing,
    /// Not signed by us, or not a token.
    Forged,
    /// Past its time.
    Expired,
    /// Before its time.
    NotYetValid,
    /// For another service.
    Audience,
    /// Of another tenant or issuer.
    Tenant,
}

impl Denied {
    /// In ARM's envelope, 401. AZURE: codes as observed; the wording of some is not.
    pub fn to_error(self) -> ApiError {
        let (code, message) = match self {
            Self::Missing => ("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."),
            Self::Forged => ("InvalidAuthenticationToken", "The access token is invalid."),
            Self::Expired => ("ExpiredAuthenticationToken", "The access token expiry UTC time is in the past."),
            Self::NotYetValid => ("InvalidAuthenticationToken", "The access token is not yet valid."),
            Self::Audience => (
                "InvalidAuthenticationTokenAudience",
                "The access token has been obtained for wrong audience or resource. It should exactly match with one of the allowed audiences of this service.",
            ),
            Self::Tenant => (
                "InvalidAuthenticationTokenTenant",
                "The access token is from the wrong issuer. It must match the tenant associated with this subscription.",
            ),
        };
        ApiError::new(401, code, message)
    }
}

/// The token issuer of one environment.
pub struct Authority {
    tenant: String,
    issuer: String,
    /// `None` while the first start makes the key in the background.
    key: watch::Receiver<Option<Arc<SigningKey>>>,
    /// Claims by digest of the token, so that one token's signature is checked once.
    verified: Mutex<BTreeMap<[u8; 32], Arc<Claims>>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the signing key. At the first start one is made on a thread of its own, so that
    /// everything that needs no token works at once.
    pub(crate) fn open(environment: &Environment, state: &Path) -> Result<Self, KeyError> {
        let path = state.join(KEY_FILE);
        let (made, key) = watch::channel(SigningKey::load(&path)?.map(Arc::new));
        if key.borrow().is_none() {
            std::thread::Builder::new()
                .name("token-key".to_owned())
                .spawn(move || make_key(path, &made))
                .map_err(KeyError::File)?;
        }
        Ok(Self {
            tenant: environment.tenant.clone(),
            issuer: format!("https://sts.windows.net/{}/", environment.tenant),
            key,
            verified: Mutex::default(),
        })
    }

    /// The key; waits for the first start's key to be made.
    pub(crate) async fn key(&self) -> Result<Arc<SigningKey>, KeyError> {
        let mut key = self.key.clone();
        let made = key.wait_for(Option::is_some).await.map_err(|_| KeyError::Key)?;
        made.clone().ok_or(KeyError::Key)
    }

    /// A token for `principal`, good for `audience` from `now`.
    pub async fn issue(&self, principal: &Principal, audience: &str, now: Timestamp) -> Result<String, KeyError> {
        let claims = self.claims(principal, audience, now);
        self.key().await?.sign(&claims)
    }

    /// What [`Authority::issue`] signs.
    pub fn claims(&self, principal: &Principal, audience: &str, now: Timestamp) -> Claims {
        let now = now.as_second();
        Claims {
            aud: audience.to_owned(),
            iss: self.issuer.clone(),
            iat: now,
            nbf: now,
            exp: now + TOKEN_LIFE_SECONDS,
            appid: principal.app_id.clone(),
            appidacr: "1".to_owned(),
            idp: self.issuer.clone(),
            idtyp: "app".to_owned(),
            oid: principal.object_id.clone(),
            sub: principal.object_id.clone(),
            tid: self.tenant.clone(),
            uti: random::uuid().simple().to_string(),
            ver: "1.0".to_owned(),
            app_displayname: principal.name.clone(),
            moat_run: principal.run.as_ref().map(|scope| scope.run.clone()),
            moat_workspace: principal.run.as_ref().map(|scope| scope.workspace.clone()),
            moat_attempt: principal.run.as_ref().map(|scope| scope.attempt),
        }
    }

    /// Judges the value of an `Authorization` header.
    pub async fn authenticate(
        &self,
        authorization: Option<&str>,
        audience: Audience,
        now: Timestamp,
    ) -> Result<Principal, Denied> {
        let (scheme, token) = authorization.and_then(|a| a.trim().split_once(' ')).ok_or(Denied::Missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Missing);
        }
        let claims = self.signed(token.trim()).await.ok_or(Denied::Forged)?;
        let now = now.as_second();
        if claims.exp <= now {
            return Err(Denied::Expired);
        }
        if claims.nbf > now + CLOCK_SKEW_SECONDS {
            return Err(Denied::NotYetValid);
        }
        if claims.iss != self.issuer || claims.tid != self.tenant {
            return Err(Denied::Tenant);
        }
        if !audience.accepts(&claims.aud) {
            return Err(Denied::Audience);
        }
        let run = match (&claims.moat_run, &claims.moat_workspace, claims.moat_attempt) {
            (Some(run), Some(workspace), Some(attempt)) => {
                Some(RunScope { workspace: workspace.clone(), run: run.clone(), attempt })
            }
            (None, None, None) => None,
            // Half a scope would be a wider one.
            _ => return Err(Denied::Forged),
        };
        Ok(Principal {
            object_id: claims.oid.clone(),
            app_id: claims.appid.clone(),
            name: claims.app_displayname.clone(),
            run,
        })
    }

    async fn signed(&self, token: &str) -> Option<Arc<Claims>> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let digest = <[u8; 32]>::try_from(digest.as_ref()).ok()?;
        // Every access replaces the whole map's view, so a poisoned lock hides nothing half-done.
        let known = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = known().get(&digest) {
            return Some(claims.clone());
        }
        let claims = Arc::new(self.key().await.ok()?.verify(token)?);
        let mut known = known();
        if known.len() >= VERIFIED_TOKENS_MAX {
            known.clear();
        }
        known.insert(digest, claims.clone());
        Some(claims)
    }
}

fn make_key(path: PathBuf, made: &watch::Sender<Option<Arc<SigningKey>>>) {
    match SigningKey::create(&path) {
        Ok(key) => drop(made.send_replace(Some(Arc::new(key)))),
        // The sender goes with this thread; whoever waits for a key learns that there is none.
        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "no token key could be made"),
    }
}
