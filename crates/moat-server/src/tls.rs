//! TLS: one certificate authority an environment, leaves minted on demand by server name.
//!
//! INVARIANT: the CA's key never leaves its file (0600) and this process, and no trust store is
//! touched. The CA certificate is constrained to the emulated names, so even a stolen key cannot
//! speak for anyone else.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::clock::Clock;
use crate::secrets;
use crate::services::table;

const KEY_FILE: &str = "ca.key";
pub(crate) const CERTIFICATE_FILE: &str = "ca.pem";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Life of the CA certificate; an environment is thrown away long before.
const CA_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Life of a leaf; must stay at or below 30 days.
const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// A leaf with less than this left is minted anew.
const LEAF_LEFT_MIN: Duration = Duration::from_secs(24 * 3600);
/// Leaves kept; storage account names are the only unbounded set.
const LEAVES_MAX: usize = 1_024;

/// Why TLS cannot work.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key or certificate file.
    #[error("reading or writing the certificate authority")]
    File(#[source] io::Error),
    /// What is in the files does not fit, or signing failed.
    #[error("the certificate authority is damaged")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused.
    #[error("setting up TLS")]
    Rustls(#[from] rustls::Error),
}

/// The environment's certificate authority.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// One key for all leaves of this process; it is never written.
    leaf_key: KeyPair,
    leaves: RwLock<BTreeMap<String, Leaf>>,
    clock: Clock,
}

#[derive(Clone)]
struct Leaf {
    key: Arc<CertifiedKey>,
    not_after: Timestamp,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Reads the authority, making it at the first start.
    pub(crate) fn open(state: &Path, environment: &str, clock: Clock) -> Result<Self, TlsError> {
        let (key_path, certificate_path) = (state.join(KEY_FILE), state.join(CERTIFICATE_FILE));
        let old_key = secrets::read_if_there(&key_path).map_err(TlsError::File)?;
        let (key, certificate) = match old_key {
            Some(pem) => {
                let key = KeyPair::from_pem(&String::from_utf8_lossy(&pem))?;
                (key, secrets::read_if_there(&certificate_path).map_err(TlsError::File)?)
            }
            // A certificate without its key is worth nothing: a new key gets a new certificate.
            None => {
                let key = KeyPair::generate()?;
                secrets::write_private(&key_path, key.serialize_pem().as_bytes()).map_err(TlsError::File)?;
                (key, None)
            }
        };
        let pem = match certificate {
            Some(pem) => String::from_utf8_lossy(&pem).into_owned(),
            None => {
                let pem = authority(environment, clock.now()).self_signed(&key)?.pem();
                secrets::write_private(&certificate_path, pem.as_bytes()).map_err(TlsError::File)?;
                pem
            }
        };
        let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
        Ok(Self { issuer, pem, leaf_key: KeyPair::generate()?, leaves: RwLock::default(), clock })
    }

    /// The CA certificate, PEM: what clients are told to trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for `name`, minted now or some days ago.
    fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, TlsError> {
        let now = self.clock.now();
        let fresh = |leaf: &Leaf| leaf.not_after > now + LEAF_LEFT_MIN;
        if let Some(leaf) = self.leaves.read().unwrap_or_else(PoisonError::into_inner).get(name)
            && fresh(leaf)
        {
            return Ok(leaf.key.clone());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        if name == table::LOCALHOST {
            params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        }
        valid(&mut params, now - Duration::from_secs(3600), now + LEAF_LIFE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // rcgen writes a subject key identifier only for authorities unless told that this is none.
        params.is_ca = IsCa::ExplicitNoCa;
        let certificate = params.signed_by(&self.leaf_key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
        let leaf = Leaf {
            key: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing)),
            not_after: now + LEAF_LIFE,
        };
        let mut leaves = self.leaves.write().unwrap_or_else(PoisonError::into_inner);
        if leaves.len() >= LEAVES_MAX {
            leaves.clear();
        }
        leaves.insert(name.to_owned(), leaf.clone());
        Ok(leaf.key)
    }
}

/// Picks the certificate by the name the client asks for; names we do not emulate get none.
#[derive(Debug)]
struct ByName(Arc<CertificateAuthority>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Clients that connect to an IP address send no name.
        let name = hello.server_name().unwrap_or(table::LOCALHOST).to_ascii_lowercase();
        if name != table::LOCALHOST && table::find(&name).is_none() {
            return None;
        }
        match self.0.leaf(&name) {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, name, "no certificate could be minted");
                None
            }
        }
    }
}

/// The TLS settings of every listener.
pub(crate) fn server_config(authority: Arc<CertificateAuthority>) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName(authority)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn authority(environment: &str, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Moat environment {environment} (not Microsoft)"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, now - DAY, now + CA_LIFE);
    let names = table::DOMAINS.iter().copied().chain([table::LOCALHOST]);
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: names
            .map(|name| GeneralSubtree::DnsName(name.to_owned()))
            .chain([GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv4Addr::LOCALHOST.into(), 32))])
            .collect(),
        excluded_subtrees: Vec::new(),
    });
    params
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Moat");
    // X.520 allows a common name 64 characters; the subject alternative name is what counts.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name
}

fn valid(params: &mut CertificateParams, from: Timestamp, to: Timestamp) {
    // rcgen's time type is not re-exported; counting from a date it makes needs no name for it.
    let at = |time: Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
    };
    (params.not_before, params.not_after) = (at(from), at(to));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn leaves_are_kept_while_fresh_and_never_live_long() {
        assert!(LEAF_LIFE <= 30 * DAY && LEAF_LEFT_MIN < LEAF_LIFE);
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(1_800_000_000));
        let shared = now.clone();
        let clock = Clock::from_fn(move || Timestamp::from_second(shared.load(Ordering::Relaxed)).unwrap());
        let authority = CertificateAuthority::open(dir.path(), "test", clock.clone()).unwrap();
        let leaf = || authority.leaf("management.azure.com").unwrap();
        let first = leaf();
        assert!(Arc::ptr_eq(&first, &leaf()));
        assert!(!Arc::ptr_eq(&first, &authority.leaf("aka.ms").unwrap()));
        now.fetch_add(6 * 24 * 3600 - 1, Ordering::Relaxed);
        assert!(Arc::ptr_eq(&first, &leaf()), "a day and more is left");
        now.fetch_add(1, Ordering::Relaxed);
        assert!(!Arc::ptr_eq(&first, &leaf()), "minted anew before it ends");

        let pem = authority.pem().to_owned();
        drop(authority);
        assert_eq!(CertificateAuthority::open(dir.path(), "test", clock.clone()).unwrap().pem(), pem);
        std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        assert_ne!(
            CertificateAuthority::open(dir.path(), "test", clock).unwrap().pem(),
            pem,
            "a new key, a new certificate"
        );
    }
}
