//! The TLS certificate that new connections are served with, and the files that it is in. IO.

use std::path::PathBuf;
use std::sync::Arc;

use common::transport::tls::ServerConfig;
use common::transport::tls::files::{self, FileError};

use crate::options::TlsFiles;

/// The certificate, if the hub has one.
pub(super) struct Certificate {
    files: Option<TlsFiles>,
    config: Option<Arc<ServerConfig>>,
}

impl Certificate {
    /// Reads the files, if there are some.
    ///
    /// # Errors
    /// Which file is of no use, and why.
    pub(super) fn open(files: Option<TlsFiles>) -> Result<Certificate, FileError> {
        let mut certificate = Certificate { files, config: None };
        certificate.reload()?;
        Ok(certificate)
    }

    /// Reads the files again. With an error, what was read before stays.
    ///
    /// # Errors
    /// Which file is of no use, and why.
    pub(super) fn reload(&mut self) -> Result<(), FileError> {
        if let Some(TlsFiles { certificate, key }) = &self.files {
            self.config = Some(files::server(certificate, key)?);
        }
        Ok(())
    }

    /// What a new connection is served with.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.clone()
    }

    /// The file of the certificate.
    pub(super) fn file(&self) -> Option<PathBuf> {
        Some(self.files.as_ref()?.certificate.clone())
    }
}
