//! Whom a client trusts: the authority that its destination's configuration names, else those of the system.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::fault::Fault;

fn unusable(why: impl std::fmt::Display) -> Fault {
    Fault::Configuration(format!("the CA certificate cannot be used: {why}"))
}

/// Whether a text holds certificates in PEM form.
///
/// # Errors
/// [`Fault::Configuration`] when it holds none or one that cannot be read.
pub fn read_certificates(pem: &str) -> Result<(), Fault> {
    roots_of(pem).map(drop)
}

fn roots_of(pem: &str) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unusable(format!("it is no PEM: {error}")))?;
        roots.add(certificate).map_err(unusable)?;
    }
    if roots.is_empty() { Err(unusable("there is no certificate in it")) } else { Ok(roots) }
}

/// How a client with this authority talks TLS; `None` = with the authorities of the system. Reads files then.
///
/// # Errors
/// [`Fault::Configuration`] for a certificate that cannot be read, [`Fault::Unreachable`] when the system has none.
pub(super) fn client_config(ca_certificate: Option<&str>) -> Result<ClientConfig, Fault> {
    let roots = match ca_certificate {
        Some(pem) => roots_of(pem)?,
        None => {
            let roots = system_authorities();
            if roots.is_empty() {
                let text = "the system knows no certificate authority; install ca-certificates or set caCertificate";
                return Err(Fault::Unreachable(text.to_owned()));
            }
            roots
        }
    };
    trusting(roots).map_err(unusable)
}

/// The authorities of the system, possibly none. Reads files.
pub fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // What the system holds beside usable certificates is none of our business.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// How a client that trusts these authorities talks TLS.
///
/// # Errors
/// The provider of the ciphers has none of the protocol's versions.
pub fn trusting(roots: RootCertStore) -> Result<ClientConfig, tokio_rustls::rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}
