//! Certificates and keys, from the system and from files. IO.
#![expect(clippy::disallowed_methods, reason = "an IO file: it reads certificates and keys")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};

/// Why a file is of no use. Its text says which, and what to do.
#[derive(Debug)]
pub enum FileError {
    /// It cannot be read.
    Read(PathBuf, std::io::Error),
    /// It is no PEM, or holds none of what is needed.
    Lacks(PathBuf, &'static str),
    /// The key needs a passphrase, which nobody types when a service starts.
    Encrypted(PathBuf),
    /// The key is not that of the certificate, or of a kind that is not supported.
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        why: rustls::Error,
    },
    /// The system has no certificates that it trusts.
    NoRoots(String),
    /// The library does not do what it should.
    Tls(rustls::Error),
}

impl std::error::Error for FileError {}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            FileError::Lacks(path, what) => write!(f, "{} holds no {what} in PEM", path.display()),
            FileError::Encrypted(path) => write!(
                f,
                "{0} holds a key with a passphrase: take it off with openssl pkey -in {0} -out FILE, and give FILE",
                path.display()
            ),
            FileError::Unusable { certificate, key, why: rustls::Error::InconsistentKeys(_) } => write!(
                f,
                "{} holds another key than that of the certificate in {}",
                key.display(),
                certificate.display()
            ),
            FileError::Unusable { certificate, key, why } => write!(
                f,
                "cannot use the certificate in {} with the key in {} ({why}): keys are ECDSA, Ed25519, or RSA of 2048 \
                 bits or more",
                certificate.display(),
                key.display()
            ),
            FileError::NoRoots(why) => write!(
                f,
                "this system has no certificates to trust ({why}): install ca-certificates, or give --tls-ca"
            ),
            FileError::Tls(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

/// What a client trusts: the authorities in a file, or those of the system. `protocol` is what it offers to speak
/// inside (ALPN), if anything.
pub fn client(authorities: Option<&Path>, protocol: Option<&str>) -> Result<Arc<ClientConfig>, FileError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|_| FileError::Lacks(path.to_owned(), "certificate that can be used"))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                let why = found.errors.first().map_or("none found".to_owned(), ToString::to_string);
                return Err(FileError::NoRoots(why));
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(FileError::Tls)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocol.into_iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A server's certificate, with those of its issuers behind it, and its key. To renew them, this is called again.
pub fn server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, FileError> {
    let chain = certificates(certificate)?;
    let private = private_key(key)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder: ConfigBuilder<ServerConfig, WantsVerifier> =
        builder.with_safe_default_protocol_versions().map_err(FileError::Tls)?;
    let config = builder.with_no_client_auth().with_single_cert(chain, private);
    config.map(Arc::new).map_err(|why| FileError::Unusable {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        why,
    })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let is_encrypted = |text: String| text.contains("ENCRYPTED");
        if std::fs::read_to_string(path).is_ok_and(is_encrypted) {
            return FileError::Encrypted(path.to_owned());
        }
        file_error(path, "private key", error)
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if all.is_empty() => Err(FileError::Lacks(path.to_owned(), "certificate")),
        Ok(all) => Ok(all),
        Err(error) => Err(file_error(path, "certificate", error)),
    }
}

fn file_error(path: &Path, what: &'static str, error: pem::Error) -> FileError {
    if let pem::Error::Io(error) = error {
        return FileError::Read(path.to_owned(), error);
    }
    FileError::Lacks(path.to_owned(), what)
}
