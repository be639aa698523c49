//! An authority that issues TLS certificates, by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Binaries, Context, Failure, Net, Process, Result, start_hub};

/// An authority. Its files are in a directory that all hosts see, and vanish with it.
pub(crate) struct Authority {
    directory: PathBuf,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Valid {
    /// Now.
    Now,
    /// For one day, long ago.
    Over,
}

const CONFIG: &str = "\
[ca]
default_ca = own
[own]
database = index
serial = serial
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
";

impl Authority {
    pub(crate) fn new() -> Result<Authority> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("authority-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).context("make a directory for certificates")?;
        let authority = Authority { directory };
        for (file, text) in [("config", CONFIG), ("index", ""), ("serial", "01\n")] {
            fs::write(authority.path(file), text).context(file)?;
        }
        authority.openssl(
            "req -config config -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=test \
             -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem",
        )?;
        Ok(authority)
    }

    /// Makes a key and a certificate for these names (`DNS:…,IP:…`): the files `NAME.pem` and `NAME.key`. They take the
    /// place of older ones.
    pub(crate) fn issue(&self, name: &str, names: &str, valid: Valid) -> Result<()> {
        fs::write(
            self.path("extensions"),
            format!("subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n"),
        )
        .context("write extensions")?;
        self.openssl(&format!(
            "req -config config -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout new.key \
             -out request"
        ))?;
        let dates = match valid {
            Valid::Now => "-days 30",
            Valid::Over => "-startdate 20200101000000Z -enddate 20200102000000Z",
        };
        self.openssl(&format!(
            "ca -config config -batch -notext -in request -extfile extensions {dates} -out new.pem"
        ))?;
        for kind in ["key", "pem"] {
            fs::rename(self.path(&format!("new.{kind}")), self.path(&format!("{name}.{kind}")))
                .context("put a certificate in place")?;
        }
        Ok(())
    }

    /// Starts a hub with all ways on the ports 443 and 5678, and a certificate for these names.
    pub(crate) fn start_hub(
        &self,
        net: &Net,
        binaries: &Binaries,
        names: &str,
        valid: Valid,
    ) -> Result<Process> {
        self.issue("hub", names, valid)?;
        let (certificate, key) = (self.argument("hub.pem"), self.argument("hub.key"));
        let options = ["--listen", ":443", "--listen", "5678", "--tls-cert", &certificate, "--tls-key", &key];
        start_hub(net, binaries, &options)
    }

    /// One of its files: `ca.pem` is its own certificate.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// The same, as an argument.
    pub(crate) fn argument(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("openssl");
        command.args(arguments.split_ascii_whitespace()).current_dir(&self.directory);
        let output = command.output().context("start openssl (Debian: apt install openssl)")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!("openssl {arguments}: {}", said.trim())))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // A directory that stays behind is in the way of nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
