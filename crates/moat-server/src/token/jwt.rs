//! JSON web tokens, the one kind Moat makes: RS256 with one key.
//!
//! By hand on `aws-lc-rs` and not by a general JWT library: there is nothing to negotiate, so
//! `alg: none`, HMAC with the public key, `jku` and friends have no code path that could accept
//! them. The header must name exactly `RS256` and our key.

use std::io;
use std::path::Path;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::secrets;

/// Longest token looked at; ours are about 1 KiB.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("reading or writing the token key")]
    File(#[source] io::Error),
    /// What is in the file is not an RSA key, or none could be made.
    #[error("the token key cannot be made or is damaged")]
    Key,
}

/// What a token says; the claims that Azure's clients read (PROTOCOL 2.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom.
    pub aud: String,
    /// By whom.
    pub iss: String,
    /// Issued at, seconds since 1970.
    pub iat: i64,
    /// Not before.
    pub nbf: i64,
    /// Expires.
    pub exp: i64,
    /// Application id.
    pub appid: String,
    /// How the application proved itself: `1` secret, `2` certificate or platform.
    pub appidacr: String,
    /// Identity provider.
    pub idp: String,
    /// `app`: no user.
    pub idtyp: String,
    /// Object id.
    pub oid: String,
    /// Subject: the object id again.
    pub sub: String,
    /// Tenant.
    pub tid: String,
    /// Unique token id.
    pub uti: String,
    /// Token format version.
    pub ver: String,
    /// Display name of the application.
    pub app_displayname: String,
    /// Name of the run whose token this is; with [`Claims::moat_workspace`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moat_run: Option<String>,
    /// ARM id of that run's workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moat_workspace: Option<String>,
    /// Which attempt of that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moat_attempt: Option<u32>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// The key that signs every token of an environment.
pub struct SigningKey {
    pair: RsaKeyPair,
    public: ParsedPublicKey,
    kid: String,
    header: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads the key, if there is one.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, KeyError> {
        let Some(der) = secrets::read_if_there(path).map_err(KeyError::File)? else { return Ok(None) };
        Self::from_pair(RsaKeyPair::from_pkcs8(&der).map_err(|_| KeyError::Key)?).map(Some)
    }

    /// Makes a 2048-bit key and writes it before it is used. Takes a noticeable part of a second.
    pub(crate) fn create(path: &Path) -> Result<Self, KeyError> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Key)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Key)?;
        secrets::write_private(path, der.as_ref()).map_err(KeyError::File)?;
        Self::from_pair(pair)
    }

    fn from_pair(pair: RsaKeyPair) -> Result<Self, KeyError> {
        let der = pair.public_key().as_ref();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let kid = URL_SAFE_NO_PAD.encode(&digest.as_ref()[..20]);
        let public = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).map_err(|_| KeyError::Key)?;
        let header = URL_SAFE_NO_PAD.encode(json!({"typ": "JWT", "alg": "RS256", "x5t": kid, "kid": kid}).to_string());
        Ok(Self { pair, public, kid, header })
    }

    /// Signs.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let claims = serde_json::to_vec(claims).map_err(|_| KeyError::Key)?;
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|_| KeyError::Key)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The claims, if this key signed them. Times, audience and tenant are the caller's to judge.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != "RS256" || header.kid != self.kid {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.public.verify_sig(signed.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The public half as a JSON web key, as `discovery/v2.0/keys` lists it.
    pub fn jwk(&self) -> Value {
        let (n, e) = rsa_numbers(self.pair.public_key().as_ref()).unwrap_or_default();
        json!({
            "kty": "RSA", "use": "sig", "kid": self.kid, "x5t": self.kid,
            "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e),
        })
    }
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017 A.1.1): a sequence of two integers.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
        let (&[found, first], rest) = der.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
            _ => return None,
        };
        (found == tag).then(|| rest.split_at_checked(length)).flatten()
    }
    let (sequence, _) = element(der, 0x30)?;
    let (n, rest) = element(sequence, 0x02)?;
    let (e, _) = element(rest, 0x02)?;
    // A leading zero only keeps the number positive.
    Some((n.strip_prefix(&[0]).unwrap_or(n), e.strip_prefix(&[0]).unwrap_or(e)))
}
