//! How TLS certificates are checked, and what to do when a server's is refused.

use crate::plan::Tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

/// Why the plan's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with authorities cannot be used.
    #[error("read certificate authorities from `{}`: {reason}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The cryptography does not support the protocol.
    #[error("set up TLS: {0}")]
    Protocol(#[from] Error),
}

/// The configuration of all TLS connections of a run.
pub(crate) fn config(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let mut config = if tls.insecure {
        let unchecked = Arc::new(Unchecked(provider));
        builder.dangerous().with_custom_certificate_verifier(unchecked).with_no_client_auth()
    } else {
        builder.with_root_certificates(authorities(tls)?).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What went wrong while a connection was made secure, with a cure where one is known.
pub(crate) fn explain(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let cure = match (cause, error.kind()) {
        (Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)), _) => {
            "give the file of its authority in `ca_file`, or check nothing with `insecure`"
        }
        (Some(Error::InvalidCertificate(_)), _) => "`insecure` takes any certificate",
        (Some(Error::InvalidMessage(_)), _)
        | (None, ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
            "if the server does not speak TLS, write http://"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {cure}")
}

fn authorities(tls: &Tls) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &tls.ca_file {
        let refuse = |reason: String| TlsError::CaFile { path: path.clone(), reason };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| refuse(error.to_string()))?;
        if certificates.is_empty() {
            return Err(refuse("it holds no certificate in PEM form".into()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
        }
    }
    Ok(roots)
}

/// Takes every certificate, but checks that the server owns the one that it shows.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
