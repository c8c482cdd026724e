//! Whom an agent believes: services whose certificate is of the environment's own authority, nobody else.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// A configuration that trusts just the certificates in `ca_pem`.
pub(crate) fn client_config(ca_pem: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|e| format!("the CA certificate cannot be read: {e}"))?;
        roots.add(certificate).map_err(|e| format!("the CA certificate is refused: {e}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
