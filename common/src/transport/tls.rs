//! TLS around a tunnel, without a socket: sealed bytes in, sealed bytes out. Pure but for rustls's own clock and
//! randomness.
//!
//! TLS is there to pass what lets only TLS pass. Certificates are checked as a browser does it, but the trust is
//! that of the Noise keys inside.

pub mod files;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, CertificateError, ClientConnection, Connection, InvalidMessage, ServerConnection,
};
pub use rustls::{ClientConfig, ServerConfig};

/// Why there is no TLS, or no more. Its text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// The host cannot stand in a certificate.
    BadHost,
    /// The other end speaks something else.
    NotTls,
    /// The certificate's time is over.
    Expired,
    /// The certificate's time has not begun.
    NotYet,
    /// The certificate is for other names; those.
    WrongName(Vec<String>),
    /// Nobody that is trusted here has issued the certificate.
    UnknownIssuer,
    /// The certificate is that of an authority, not of a server.
    AuthorityAsServer,
    /// The certificate is wrong in another way.
    BadCertificate(String),
    /// The other end ended it with this alert.
    Alert(AlertDescription),
    /// The other end closed it in order.
    Closed,
    /// Anything else.
    Broken(String),
}

impl std::error::Error for TlsError {}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::BadHost => f.write_str("TLS needs a host name or an address without a zone"),
            TlsError::NotTls => f.write_str("it does not speak TLS on this port: check the port, or leave TLS out"),
            TlsError::Expired => f.write_str(
                "its TLS certificate has expired: have it renewed, and check the clock of this machine",
            ),
            TlsError::NotYet => {
                f.write_str("its TLS certificate is not valid yet: check the clock of this machine")
            }
            TlsError::WrongName(names) => {
                f.write_str("its TLS certificate is for another host")?;
                if !names.is_empty() {
                    write!(f, " ({})", names.join(", "))?;
                }
                f.write_str(": give the hub by the name in the certificate")
            }
            TlsError::UnknownIssuer => f.write_str(
                "nobody that this system trusts has issued its TLS certificate: give the issuer's with --tls-ca, or \
                 something in between reads along",
            ),
            TlsError::AuthorityAsServer => f.write_str(
                "its TLS certificate is that of an authority (CA:TRUE): make one for the server, with CA:FALSE",
            ),
            TlsError::BadCertificate(why) => write!(f, "its TLS certificate is not valid: {why}"),
            TlsError::Alert(AlertDescription::UnknownCA) => {
                f.write_str("it does not know the issuer of the TLS certificate (alert UnknownCA)")
            }
            TlsError::Alert(alert) => write!(f, "it ended the TLS handshake or connection: alert {alert:?}"),
            TlsError::Closed => f.write_str("it closed the TLS connection"),
            TlsError::Broken(why) => write!(f, "TLS failed: {why}"),
        }
    }
}

impl From<rustls::Error> for TlsError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library has many more, which need no advice of their own"
    )]
    fn from(error: rustls::Error) -> TlsError {
        use rustls::Error;
        match error {
            Error::InvalidCertificate(certificate) => certificate_error(certificate),
            Error::AlertReceived(alert) => TlsError::Alert(alert),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => TlsError::NotTls,
            error => TlsError::Broken(error.to_string()),
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "as above")]
fn certificate_error(error: CertificateError) -> TlsError {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsError::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsError::NotYet,
        CertificateError::NotValidForName => TlsError::WrongName(Vec::new()),
        CertificateError::NotValidForNameContext { presented, .. } => {
            TlsError::WrongName(presented.iter().take(MAX_NAMES).map(|name| printable(name)).collect())
        }
        // A bad signature is that of another issuer of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsError::UnknownIssuer,
        error => {
            let why = error.to_string();
            if why.contains("CaUsedAsEndEntity") {
                TlsError::AuthorityAsServer
            } else {
                TlsError::BadCertificate(printable(&why))
            }
        }
    }
}

/// Names that are shown of a certificate.
const MAX_NAMES: usize = 4;
/// Characters that are shown of a text from outside.
const MAX_SHOWN: usize = 200;

fn printable(text: &str) -> String {
    let shown = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(MAX_SHOWN).map(shown).collect()
}

/// One end of a TLS connection.
pub struct Tls(Box<Connection>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("is_open", &self.is_open()).finish()
    }
}

impl Tls {
    /// The client's end, towards a server of this name or address; its first words go to `out`.
    pub fn client(config: Arc<ClientConfig>, host: &str, out: &mut Vec<u8>) -> Result<Tls, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadHost)?;
        let mut connection = ClientConnection::new(config, name)?;
        connection.set_buffer_limit(None);
        let mut tls = Tls(Box::new(connection.into()));
        tls.flush(out);
        Ok(tls)
    }

    /// The server's end.
    pub fn server(config: Arc<ServerConfig>) -> Result<Tls, TlsError> {
        let mut connection = ServerConnection::new(config)?;
        connection.set_buffer_limit(None);
        Ok(Tls(Box::new(connection.into())))
    }

    /// Whether the handshake is over, and bytes may flow.
    pub fn is_open(&self) -> bool {
        !self.0.is_handshaking()
    }

    /// Takes sealed bytes: opened ones go to `plain`, what is to be answered to `out`. With an error, `out` may hold
    /// the last words.
    pub fn receive(
        &mut self,
        mut sealed: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        let received = self.open(&mut sealed, plain);
        self.flush(out);
        received
    }

    fn open(&mut self, sealed: &mut &[u8], plain: &mut Vec<u8>) -> Result<(), TlsError> {
        while !sealed.is_empty() {
            self.0.read_tls(sealed).map_err(broken)?;
            let state = self.0.process_new_packets()?;
            let (start, len) = (plain.len(), state.plaintext_bytes_to_read());
            plain.resize(start + len, 0);
            self.0.reader().read_exact(&mut plain[start..]).map_err(broken)?;
            if state.peer_has_closed() {
                return Err(TlsError::Closed);
            }
        }
        Ok(())
    }

    /// Seals bytes; not before it is open.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        debug_assert!(self.is_open());
        self.0.writer().write_all(plain).map_err(broken)?;
        self.flush(out);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        // A vector takes everything.
        while self.0.wants_write() && self.0.write_tls(out).is_ok_and(|len| len > 0) {}
    }
}

fn broken(error: std::io::Error) -> TlsError {
    TlsError::Broken(error.to_string())
}
