//! The peers: other people's programs, set up for the same LAN, each the way its manual says.
//!
//! Keys are made for each run, in directories that only the hosts see, and are gone with them.

use std::fs;
use std::path::Path;

use crate::field::Field;
use crate::house::{Context, Failure, Host, Result};
use crate::systems::{Running, START, Way, command, inner_address};

/// OpenVPN over TCP: AES-256-GCM, the server passes packets from client to client. No certificate authority:
/// each side knows the other's fingerprint (openvpn(8), --peer-fingerprint).
pub(crate) fn openvpn(field: Field) -> Result<Running> {
    let server = fingerprint(&field.hub, "server")?;
    let clients: Vec<_> =
        field.ends.iter().enumerate().map(|(i, end)| fingerprint(end, &client(i))).collect::<Result<_>>()?;

    let private = field.hub.private();
    let directory = private.display();
    for i in 0..field.ends.len() {
        let address = inner_address(i);
        write(&field.hub, &private.join(client(i)), &format!("ifconfig-push {address} 255.255.255.0\n"))?;
    }
    let config = format!(
        "mode server\ntls-server\ndev tun\ntopology subnet\nproto tcp-server\nport 1194\n\
         ifconfig 10.0.0.1 255.255.255.0\npush \"topology subnet\"\nclient-to-client\n\
         client-config-dir {directory}\nccd-exclusive\n\
         cert {directory}/server.crt\nkey {directory}/server.key\ndh none\ndata-ciphers AES-256-GCM\n\
         keepalive 10 60\ntcp-nodelay\n\
         <peer-fingerprint>\n{}\n</peer-fingerprint>\n",
        clients.join("\n")
    );
    let hub = start_openvpn(&field.hub, &config)?;
    let mut ends = Vec::new();
    for (i, end) in field.ends.iter().enumerate() {
        let (name, directory) = (client(i), end.private().display());
        let config = format!(
            "client\ndev tun\nproto tcp-client\nremote {} 1194\nnobind\n\
             cert {directory}/{name}.crt\nkey {directory}/{name}.key\npeer-fingerprint {server}\n\
             data-ciphers AES-256-GCM\n",
            Field::hub_address(i)
        );
        ends.push(start_openvpn(end, &config)?);
    }
    Ok(Running { ends, hub: Some(hub), way: Way::Packets(inner_address), field })
}

fn client(i: usize) -> String {
    format!("client{i}")
}

/// Makes a key and a certificate that is its own authority, and returns its fingerprint.
fn fingerprint(host: &Host, name: &str) -> Result<String> {
    let directory = host.private().display();
    let mut request = command("openssl");
    request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    request.args(["-sha256", "-days", "30", "-subj", &format!("/CN={name}")]);
    request.args(["-keyout", &format!("{directory}/{name}.key"), "-out", &format!("{directory}/{name}.crt")]);
    host.output(request)?;
    let mut print = command("openssl");
    print.args(["x509", "-noout", "-fingerprint", "-sha256", "-in", &format!("{directory}/{name}.crt")]);
    let output = host.output(print)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, print) =
        text.trim().split_once('=').ok_or_else(|| Failure::new("openssl gave no fingerprint"))?;
    Ok(print.to_owned())
}

fn start_openvpn(host: &Host, config: &str) -> Result<crate::house::Process> {
    let path = host.private().join("openvpn.conf");
    write(host, &path, config)?;
    let mut openvpn = command("openvpn");
    openvpn.arg("--config").arg(&path);
    let process = host.spawn("openvpn", &openvpn)?;
    process.wait_for_line("Initialization Sequence Completed", START)?;
    Ok(process)
}

/// Writes a file of a host, for its owner alone.
fn write(host: &Host, path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = host.path(path);
    fs::write(&path, text).context(&path.display().to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).context(&path.display().to_string())
}
