//! How the storage services know a caller by an account's key: SharedKey headers and shared access
//! signatures. Pure: texts, keys and the time go in, a verdict comes out.
//!
//! Reading order: [`AccountKey`], [`sas`] (who signs for others: job specifications, log addresses, pending
//! uploads), [`shared_key`].

pub mod names;
pub mod sas;
pub mod shared_key;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha512};

/// One of an account's two keys. Does not show in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountKey(Vec<u8>);

/// Length of the keys that are made here; Azure's are as long.
pub const KEY_BYTES: usize = 64;

impl AccountKey {
    /// The key that follows from a secret `seed` and the `purpose` it is for.
    pub fn derive(seed: &[u8], purpose: &str) -> Self {
        Self(hmac512(seed, purpose.as_bytes()))
    }

    /// From base64, as clients and documents hold it.
    pub fn parse(text: &str) -> Option<Self> {
        STANDARD.decode(text.trim()).ok().filter(|key| !key.is_empty()).map(Self)
    }

    /// As base64. Whoever has this has the account.
    pub fn reveal(&self) -> String {
        STANDARD.encode(&self.0)
    }

    /// HMAC-SHA256 of `text`, as base64.
    pub fn sign(&self, text: &str) -> String {
        STANDARD.encode(self.mac(text).finalize().into_bytes())
    }

    /// Whether `signature` is that of `text`. Takes the same time wherever they differ.
    pub fn verify(&self, text: &str, signature: &str) -> bool {
        STANDARD.decode(signature).is_ok_and(|given| self.mac(text).verify_slice(&given).is_ok())
    }

    fn mac(&self, text: &str) -> Hmac<Sha256> {
        let mut mac = match <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0) {
            Ok(mac) => mac,
            // HMAC takes keys of any length.
            Err(_) => unreachable!("HMAC takes keys of any length"),
        };
        mac.update(text.as_bytes());
        mac
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey(..)")
    }
}

fn hmac512(key: &[u8], text: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = <Hmac<Sha512> as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of any length")
    };
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// Percent-encodes everything but what RFC 3986 leaves alone; `keep` stays too.
pub fn percent_encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_their_own_and_hidden() {
        let (a, b) = (AccountKey::derive(b"seed", "one"), AccountKey::derive(b"seed", "two"));
        assert_ne!(a, b);
        assert_eq!(a.0.len(), KEY_BYTES);
        assert_eq!(AccountKey::parse(&a.reveal()), Some(a.clone()));
        assert!(!format!("{a:?}").contains(&a.reveal()));
        assert!(AccountKey::parse("").is_none() && AccountKey::parse("?").is_none());
    }

    #[test]
    fn signatures_are_those_of_the_standard() {
        // RFC 4231, test case 2.
        let key = AccountKey(b"Jefe".to_vec());
        let signature = key.sign("what do ya want for nothing?");
        assert_eq!(signature, "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=");
        assert!(key.verify("what do ya want for nothing?", &signature));
        assert!(!key.verify("what do ya want for nothing!", &signature) && !key.verify("", ""));
    }
}
