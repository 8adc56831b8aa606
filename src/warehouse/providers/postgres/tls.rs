//! `sslMode` of Postgres: `disable`, `require` (encrypted, whoever answers), `verify-ca` (the certificate must come
//! from the given authority, whatever its name).

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use super::config_text;
use crate::warehouse::failure::Failure;

/// How the connection is protected.
pub(super) enum Encryption {
    None,
    Tls(Box<MakeRustlsConnect>),
}

impl Encryption {
    /// Reads the destination's configuration.
    pub(super) fn of(config: &Map<String, Value>) -> Result<Encryption, Failure> {
        let mode = config_text(config, "sslMode");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let wrong = |what: &str, error: &dyn std::fmt::Display| {
            Failure::refused(format!("{what} of the destination cannot be used: {error}"))
        };
        let inner = match mode.as_str() {
            "" | "disable" => return Ok(Encryption::None),
            "require" => None,
            "verify-ca" => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(&config_text(config, "serverCA"))? {
                    roots.add(certificate).map_err(|error| wrong("serverCA", &error))?;
                }
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                Some(verifier.build().map_err(|error| wrong("serverCA", &error))?)
            }
            other => {
                return Err(Failure::refused(format!(
                    "sslMode {other:?} of the destination is not one of disable, require, verify-ca"
                )));
            }
        };
        let verifier = Arc::new(AnyName { inner, provider: Arc::clone(&provider) });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("sslMode", &error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let (key, certificate) = (config_text(config, "clientKey"), config_text(config, "clientCert"));
        let client = if key.is_empty() || certificate.is_empty() {
            builder.with_no_client_auth()
        } else {
            let key =
                PrivateKeyDer::from_pem_slice(rebuilt(&key).as_bytes()).map_err(|error| wrong("clientKey", &error))?;
            builder
                .with_client_auth_cert(certificates(&certificate)?, key)
                .map_err(|error| wrong("clientCert", &error))?
        };
        Ok(Encryption::Tls(Box::new(MakeRustlsConnect::new(client))))
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_slice_iter(rebuilt(pem).as_bytes()).collect::<Result<Vec<_>, _>>();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Failure::refused("a certificate of the destination is missing; give it as PEM text")),
        Err(error) => Err(Failure::refused(format!("a certificate of the destination is no PEM text: {error}"))),
    }
}

/// PEM text whose line breaks became blanks in a form.
fn rebuilt(pem: &str) -> String {
    if pem.contains('\n') {
        return pem.to_owned();
    }
    let mut out = String::with_capacity(pem.len() + 8);
    for (place, part) in pem.split("-----").enumerate() {
        // Between the dashes: nothing, a marker, the body, a marker, and so on.
        if place % 4 == 1 || place % 4 == 3 {
            out.push_str("-----");
            out.push_str(part);
            out.push_str("-----\n");
        } else {
            for line in part.split_whitespace() {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// Takes certificates for any name; without an authority, any certificate.
#[derive(Debug)]
struct AnyName {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, after the chain and its times.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_that_became_blanks_come_back() {
        let pem = "-----BEGIN CERTIFICATE-----\nabc\ndef\n-----END CERTIFICATE-----\n";
        assert_eq!(rebuilt(&pem.trim().replace('\n', " ")), pem);
        assert_eq!(rebuilt(pem), pem);
    }
}
