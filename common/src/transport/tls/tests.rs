//! Both ends of TLS in memory, with certificates that openssl makes.
#![expect(clippy::disallowed_methods, reason = "the certificates are in files")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::*;

/// A directory with the certificates and keys of one test; it vanishes with the value.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// For a test of this name.
    pub(crate) fn new(test: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("tls-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    /// The files of a certificate that has itself as issuer, and of its key.
    pub(crate) fn certificate(&self, name: &str, names: &str, constraints: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (self.0.join(format!("{name}.pem")), self.0.join(format!("{name}.key")));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args([
                "-days",
                "30",
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                &format!("subjectAltName={names}"),
            ])
            .args(["-addext", &format!("basicConstraints=critical,{constraints}")])
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("this test needs openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        (certificate, key)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Carries what each end says to the other until both are silent, in pieces of `split` bytes.
fn shake_hands(client: &mut Tls, first: Vec<u8>, server: &mut Tls, split: usize) -> Result<(), TlsError> {
    let (mut to_server, mut to_client, mut plain) = (first, Vec::new(), Vec::new());
    while !(to_server.is_empty() && to_client.is_empty()) {
        for piece in std::mem::take(&mut to_server).chunks(split) {
            server.receive(piece, &mut plain, &mut to_client)?;
        }
        for piece in std::mem::take(&mut to_client).chunks(split) {
            client.receive(piece, &mut plain, &mut to_server)?;
        }
    }
    assert!(plain.is_empty());
    Ok(())
}

fn connect(ca: &Path, files: &(PathBuf, PathBuf), host: &str, split: usize) -> Result<(Tls, Tls), TlsError> {
    connect_at(files::client(Some(ca), None).unwrap(), files, host, split)
}

fn connect_at(
    config: Arc<ClientConfig>,
    (certificate, key): &(PathBuf, PathBuf),
    host: &str,
    split: usize,
) -> Result<(Tls, Tls), TlsError> {
    let mut server = Tls::server(files::server(certificate, key).unwrap())?;
    let mut first = Vec::new();
    let mut client = Tls::client(config, host, &mut first)?;
    shake_hands(&mut client, first, &mut server, split)?;
    Ok((client, server))
}

#[test]
fn carries_bytes_both_ways_however_they_are_split() {
    let directory = Directory::new("carries");
    let files = directory.certificate("hub", "DNS:hub.example.org,IP:192.0.2.1", "CA:FALSE");
    let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
    for (host, split) in [("hub.example.org", 1), ("192.0.2.1", 1_000), ("hub.example.org", usize::MAX)] {
        let (mut client, mut server) = connect(&files.0, &files, host, split).unwrap();
        assert!(client.is_open() && server.is_open());
        for is_from_client in [true, false] {
            let (from, to) =
                if is_from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let (mut sealed, mut plain, mut out) = (Vec::new(), Vec::new(), Vec::new());
            from.send(&bytes, &mut sealed).unwrap();
            for piece in sealed.chunks(split) {
                to.receive(piece, &mut plain, &mut out).unwrap();
            }
            assert!(plain == bytes, "split at {split}");
            assert!(out.is_empty());
        }
    }
}

#[test]
fn a_certificate_that_will_not_do_is_told_of_in_one_sentence() {
    let directory = Directory::new("refused");
    let ours = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let other = directory.certificate("other", "DNS:hub.example.org", "CA:FALSE");
    let elsewhere = Directory::new("elsewhere");
    let (older, _) = elsewhere.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let authority = directory.certificate("authority", "DNS:hub.example.org", "CA:TRUE");
    let error = |ca, files, host| connect(ca, files, host, usize::MAX).map(|_| ()).unwrap_err();

    let wrong_name = error(&ours.0, &ours, "other.example.org");
    assert!(matches!(&wrong_name, TlsError::WrongName(names) if names.len() == 1), "{wrong_name:?}");
    assert!(wrong_name.to_string().contains("hub.example.org"), "{wrong_name}");
    assert_eq!(error(&ours.0, &ours, "192.0.2.1"), {
        let TlsError::WrongName(names) = wrong_name else { unreachable!() };
        TlsError::WrongName(names)
    });
    assert_eq!(error(&other.0, &ours, "hub.example.org"), TlsError::UnknownIssuer);
    assert_eq!(
        error(&older, &ours, "hub.example.org"),
        TlsError::UnknownIssuer,
        "the issuer had another key"
    );
    assert_eq!(error(&authority.0, &authority, "hub.example.org"), TlsError::AuthorityAsServer);
    assert_eq!(error(&ours.0, &ours, "fe80::1%eth0"), TlsError::BadHost);
}

#[derive(Debug)]
struct At(UnixTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

#[test]
fn a_certificate_out_of_its_time_is_told_of() {
    let directory = Directory::new("time");
    let files = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let now = UnixTime::now().as_secs();
    let day = 24 * 60 * 60;
    for (seconds, expected) in
        [(now, None), (now + 31 * day, Some(TlsError::Expired)), (now - 2 * day, Some(TlsError::NotYet))]
    {
        let mut config = files::client(Some(&files.0), None).unwrap();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        Arc::get_mut(&mut config).unwrap().time_provider = Arc::new(At(time));
        let outcome = connect_at(config, &files, "hub.example.org", usize::MAX).map(|_| ());
        assert_eq!(outcome.err(), expected);
    }
}

#[test]
fn what_is_not_tls_is_known() {
    let directory = Directory::new("other");
    let files = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    for bytes in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.9\r\n", &crate::wire::hello::hello()]
    {
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let config = files::client(Some(&files.0), None).unwrap();
        let mut client = Tls::client(config, "hub.example.org", &mut out).unwrap();
        assert_eq!(client.receive(bytes, &mut plain, &mut out), Err(TlsError::NotTls), "{bytes:?}");
        let mut server = Tls::server(files::server(&files.0, &files.1).unwrap()).unwrap();
        assert!(server.receive(bytes, &mut plain, &mut out).is_err());
        assert!(plain.is_empty());
    }
}

#[test]
fn the_server_hears_that_its_certificate_is_not_trusted() {
    let directory = Directory::new("alert");
    let files = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let other = directory.certificate("other", "DNS:hub.example.org", "CA:FALSE");
    let mut server = Tls::server(files::server(&files.0, &files.1).unwrap()).unwrap();
    let (mut to_server, mut to_client, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let config = files::client(Some(&other.0), None).unwrap();
    let mut client = Tls::client(config, "hub.example.org", &mut to_server).unwrap();
    server.receive(&std::mem::take(&mut to_server), &mut plain, &mut to_client).unwrap();
    assert_eq!(client.receive(&to_client, &mut plain, &mut to_server), Err(TlsError::UnknownIssuer));
    let error = server.receive(&to_server, &mut plain, &mut to_client).unwrap_err();
    assert_eq!(error, TlsError::Alert(AlertDescription::UnknownCA));
}

#[test]
fn files_that_will_not_do_are_named() {
    let directory = Directory::new("files");
    let (certificate, key) = directory.certificate("hub", "DNS:hub.example.org", "CA:FALSE");
    let (_, other_key) = directory.certificate("other", "DNS:hub.example.org", "CA:FALSE");
    std::fs::write(directory.path("empty"), "").unwrap();
    let says = |certificate: &Path, key: &Path| files::server(certificate, key).unwrap_err().to_string();
    let lacks = |text: &str, path: &Path, what: &str| {
        assert_eq!(text, format!("{} holds no {what} in PEM", path.display()));
    };
    lacks(&says(&directory.path("empty"), &key), &directory.path("empty"), "certificate");
    lacks(&says(&key, &key), &key, "certificate");
    lacks(&says(&certificate, &certificate), &certificate, "private key");
    let other = says(&certificate, &other_key);
    let expected = format!("{} holds another key than that of the certificate in ", other_key.display());
    assert!(other.starts_with(&expected), "{other}");
    // A passphrase in either form of PEM (RFC 7468, RFC 1421).
    for head in ["BEGIN ENCRYPTED PRIVATE KEY-----", "BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"] {
        let end = &head[5..head.find("-----").unwrap()];
        let text = format!("-----{head}\nMIH0MF8GCSqG\n-----END{end}-----\n");
        std::fs::write(directory.path("locked"), text).unwrap();
        let locked = says(&certificate, &directory.path("locked"));
        assert!(
            locked.contains("locked holds a key with a passphrase: take it off with openssl pkey"),
            "{locked}"
        );
    }
    std::fs::write(directory.path("odd"), "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")
        .unwrap();
    let odd = says(&certificate, &directory.path("odd"));
    assert!(odd.contains("keys are ECDSA, Ed25519, or RSA of 2048 bits"), "{odd}");
    assert!(says(&directory.path("none"), &key).starts_with("cannot read "));
    let client = files::client(Some(&directory.path("empty")), None).unwrap_err().to_string();
    lacks(&client, &directory.path("empty"), "certificate");
}
