//! The peers: other people's programs, set up for the same LAN, each the way its manual says.
//!
//! Keys are made for each run, in directories that only the hosts see, and are gone with them.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::field::Field;
use crate::house::{Context, Failure, Host, Process, Result, wait_for_port};
use crate::systems::{Running, START, Way, command, inner_address};

/// OpenVPN over TCP.
pub(crate) fn openvpn(field: Field) -> Result<Running> {
    openvpn_by(field, ["tcp-server\ntcp-nodelay", "tcp-client"])
}

/// OpenVPN: AES-256-GCM, the server passes packets from client to client. No certificate authority: each side knows the
/// other's fingerprint (openvpn(8), --peer-fingerprint). `protocols`: the server's and the clients'.
pub(crate) fn openvpn_by(field: Field, protocols: [&str; 2]) -> Result<Running> {
    let [of_it, of_clients] = protocols;
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
        "mode server\ntls-server\ndev tun\ntopology subnet\nproto {of_it}\nport 1194\n\
         ifconfig 10.0.0.1 255.255.255.0\npush \"topology subnet\"\nclient-to-client\n\
         client-config-dir {directory}\nccd-exclusive\n\
         cert {directory}/server.crt\nkey {directory}/server.key\ndh none\ndata-ciphers AES-256-GCM\n\
         keepalive 10 60\n\
         <peer-fingerprint>\n{}\n</peer-fingerprint>\n",
        clients.join("\n")
    );
    let hub = start_openvpn(&field.hub, &config)?;
    let mut ends = Vec::new();
    for (i, end) in field.ends.iter().enumerate() {
        let (name, directory) = (client(i), end.private().display());
        let config = format!(
            "client\ndev tun\nproto {of_clients}\nremote {} 1194\nnobind\n\
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

fn start_openvpn(host: &Host, config: &str) -> Result<Process> {
    let path = host.private().join("openvpn.conf");
    write(host, &path, config)?;
    let mut openvpn = command("openvpn");
    openvpn.arg("--config").arg(&path);
    let process = host.spawn("openvpn", &openvpn)?;
    process.wait_for_line("Initialization Sequence Completed", START)?;
    Ok(process)
}

/// tinc, over TCP alone: the two ends know the hub, and reach each other through it.
pub(crate) fn tinc(field: Field) -> Result<Running> {
    let names: Vec<_> = (0..field.ends.len()).map(|i| format!("end{i}")).collect();
    let hub_card = prepare_tinc(&field.hub, "hub", "", "10.0.0.1")?;
    let mut cards = vec![("hub", hub_card)];
    for (i, end) in field.ends.iter().enumerate() {
        let address = inner_address(i).to_string();
        cards.push((&names[i], prepare_tinc(end, &names[i], "ConnectTo = hub\n", &address)?));
    }
    let hub = start_tinc(&field.hub, &cards, None, "10.0.0.1".to_owned())?;
    let mut ends = Vec::new();
    for (i, end) in field.ends.iter().enumerate() {
        ends.push(start_tinc(end, &cards, Some(Field::hub_address(i)), inner_address(i).to_string())?);
    }
    Ok(Running { ends, hub: Some(hub), way: Way::Packets(inner_address), field })
}

/// Makes a node's configuration and key, and returns what the others must know of it.
fn prepare_tinc(host: &Host, name: &str, connect: &str, address: &str) -> Result<String> {
    let directory = host.private();
    let config = format!("Name = {name}\nTCPOnly = yes\nIndirectData = yes\nInterface = tinc0\n{connect}");
    write(host, &directory.join("tinc.conf"), &config)?;
    let hosts = host.path(directory.join("hosts"));
    fs::create_dir_all(&hosts).context("make a directory for tinc")?;
    let card = directory.join("hosts").join(name);
    write(host, &card, &format!("Subnet = {address}/32\n"))?;
    let mut keys = command("tincd");
    // Without a terminal it asks no questions, and appends the public key to the file of this name.
    keys.arg("-c").arg(directory).arg("-K2048");
    host.output(keys)?;
    fs::read_to_string(host.path(&card)).context("read a tinc key")
}

fn start_tinc(
    host: &Host,
    cards: &[(&str, String)],
    hub: Option<Ipv4Addr>,
    address: String,
) -> Result<Process> {
    let directory = host.private();
    for (name, card) in cards {
        let at = hub.filter(|_| *name == "hub").map_or(String::new(), |hub| format!("Address = {hub}\n"));
        write(host, &directory.join("hosts").join(name), &format!("{at}{card}"))?;
    }
    let mut tincd = command("tincd");
    tincd.arg("-c").arg(directory).arg("-D").arg("--pidfile").arg(directory.join("tinc.pid"));
    let process = host.spawn("tincd", &tincd)?;
    process.wait_for_line("Ready", START)?;
    host.ip(&format!("addr add {address}/24 dev tinc0\nlink set tinc0 up"))?;
    Ok(process)
}

/// VTun over TCP without encryption or compression: a device for each end, between which the hub's kernel
/// forwards. The devices are made and up beforehand: vtund ends when a packet comes before they are.
pub(crate) fn vtun(field: Field) -> Result<Running> {
    field.hub.forward();
    let mut config = String::from("options { port 5000; }\n");
    for i in 0..field.ends.len() {
        let address = inner_address(i);
        field.hub.ip(&format!(
            "tuntap add dev tun{i} mode tun\naddr add 10.0.0.1 peer {address} dev tun{i}\nlink set tun{i} up"
        ))?;
        config += &vtun_session(i, i);
    }
    let hub = start_vtun(&field.hub, &config, &["-s"])?;
    hub.wait_for_line("VTUN server", START)?;
    let mut ends = Vec::new();
    for (i, end) in field.ends.iter().enumerate() {
        end.ip(&format!(
            "tuntap add dev tun0 mode tun\naddr add {}/24 dev tun0\nlink set tun0 up",
            inner_address(i)
        ))?;
        let config = format!("options {{ port 5000; }}\n{}", vtun_session(i, 0));
        let server = Field::hub_address(i).to_string();
        ends.push(start_vtun(end, &config, &[&format!("end{i}"), &server])?);
    }
    Ok(Running { ends, hub: Some(hub), way: Way::Packets(inner_address), field })
}

fn vtun_session(end: usize, device: usize) -> String {
    format!(
        "end{end} {{ passwd none; type tun; device tun{device}; proto tcp; encrypt no; compress no; speed 0; }}\n"
    )
}

fn start_vtun(host: &Host, config: &str, arguments: &[&str]) -> Result<Process> {
    own_run_directory(host)?;
    let path = host.private().join("vtund.conf");
    write(host, &path, config)?;
    let mut vtund = command("vtund");
    vtund.arg("-n").arg("-f").arg(&path).args(arguments);
    host.spawn("vtund", &vtund)
}

/// WireGuard in user space, over UDP: the hub's kernel forwards from one peer to the other.
pub(crate) fn wireguard(field: Field) -> Result<Running> {
    field.hub.forward();
    let (hub_private, hub_public) = wireguard_keys(&field.hub)?;
    let keys = field.ends.iter().map(wireguard_keys).collect::<Result<Vec<_>>>()?;
    let mut config = format!("[Interface]\nPrivateKey = {hub_private}\nListenPort = 51820\n");
    for (i, (_, public)) in keys.iter().enumerate() {
        config += &format!("[Peer]\nPublicKey = {public}\nAllowedIPs = {}/32\n", inner_address(i));
    }
    let hub = start_wireguard(&field.hub, &config, Ipv4Addr::new(10, 0, 0, 1))?;
    let mut ends = Vec::new();
    for (i, (end, (private, _))) in field.ends.iter().zip(&keys).enumerate() {
        // The hub knows an end's endpoint once it has heard it: keepalives speak first.
        let config = format!(
            "[Interface]\nPrivateKey = {private}\n[Peer]\nPublicKey = {hub_public}\n\
             AllowedIPs = 10.0.0.0/24\nEndpoint = {}:51820\nPersistentKeepalive = 25\n",
            Field::hub_address(i)
        );
        ends.push(start_wireguard(end, &config, inner_address(i))?);
    }
    Ok(Running { ends, hub: Some(hub), way: Way::Packets(inner_address), field })
}

/// A private key and its public one.
fn wireguard_keys(host: &Host) -> Result<(String, String)> {
    let mut make = Command::new("sh");
    make.args(["-c", "umask 077; private=$(wg genkey) && echo $private && echo $private | wg pubkey"]);
    let output = host.output(make)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (private, public) =
        text.trim().split_once('\n').ok_or_else(|| Failure::new("wg gave no pair of keys"))?;
    Ok((private.to_owned(), public.to_owned()))
}

fn start_wireguard(host: &Host, config: &str, address: Ipv4Addr) -> Result<Process> {
    own_run_directory(host)?;
    let path = host.private().join("wg.conf");
    write(host, &path, config)?;
    let mut wireguard = command("wireguard-go");
    wireguard.env("LOG_LEVEL", "verbose").args(["-f", "wg0"]);
    let process = host.spawn("wireguard-go", &wireguard)?;
    process.wait_for_line("UAPI listener started", START)?;
    let mut configure = command("wg");
    configure.args(["setconf", "wg0"]).arg(&path);
    host.output(configure)?;
    host.ip(&format!("addr add {address}/24 dev wg0\nlink set wg0 up"))?;
    Ok(process)
}

/// SoftEther over TCP: a virtual switch in the server, TLS, and two connections for each client, which is what clients
/// have by default, and quicker on one machine than one or four.
pub(crate) fn softether(field: Field) -> Result<Running> {
    softether_by(field, 2)
}

/// The same with so many connections for each client.
pub(crate) fn softether_by(field: Field, connections: u8) -> Result<Running> {
    let hub = start_softether(&field.hub, "vpnserver", SOFTETHER_SERVER)?;
    let users = "HubCreate lan /PASSWORD:\nHub lan\nUserCreate spoke /GROUP:none /REALNAME:none /NOTE:none\n\
                 UserPasswordSet spoke /PASSWORD:secret\n";
    softether_command(&field.hub, &["localhost:5555", "/SERVER"], users)?;
    let mut ends = Vec::new();
    for (i, end) in field.ends.iter().enumerate() {
        ends.push(start_softether(end, "vpnclient", SOFTETHER_CLIENT)?);
        let server = Field::hub_address(i);
        let account = format!(
            "NicCreate lan\nAccountCreate lan /SERVER:{server}:5555 /HUB:lan /USERNAME:spoke /NICNAME:lan\n\
             AccountPasswordSet lan /PASSWORD:secret /TYPE:standard\n\
             AccountDetailSet lan /MAXTCP:{connections} /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:yes \
             /NOQOS:yes /NOUDPACCEL:yes\nAccountConnect lan\n"
        );
        softether_command(end, &["localhost", "/CLIENT"], &account)?;
        end.ip(&format!("addr add {}/24 dev vpn_lan\nlink set vpn_lan up", inner_address(i)))?;
    }
    Ok(Running { ends, hub: Some(hub), way: Way::Packets(inner_address), field })
}

/// The TCP ports at which they take commands.
const SOFTETHER_SERVER: u16 = 5555;
const SOFTETHER_CLIENT: u16 = 9931;

/// Starts one of its services, with directories of the host's own, and waits until it takes commands.
fn start_softether(host: &Host, program: &str, tcp_port: u16) -> Result<Process> {
    own_run_directory(host)?;
    host.run(|| {
        mount(Some("tmpfs"), "/var/log", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        ["/run/softether", "/var/log/softether", "/var/lib/softether"].iter().try_for_each(fs::create_dir_all)
    })
    .context("make directories for SoftEther")?;
    let mut service = command(program);
    service.arg("execsvc");
    let process = host.spawn(program, &service)?;
    wait_for_port(host, (Ipv4Addr::LOCALHOST, tcp_port), START)?;
    Ok(process)
}

fn softether_command(host: &Host, to: &[&str], commands: &str) -> Result<()> {
    let path = host.private().join("vpncmd.txt");
    write(host, &path, commands)?;
    let mut vpncmd = command("vpncmd");
    vpncmd.args(to).arg(format!("/IN:{}", path.display()));
    host.output(vpncmd).map(drop)
}

/// Gives a host a /run of its own: some programs keep locks and sockets there under a fixed name.
fn own_run_directory(host: &Host) -> Result<()> {
    host.run(|| {
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        fs::create_dir_all("/run/lock/vtund")
    })
    .context("mount a /run of the host's own")
}

/// Writes a file of a host, for its owner alone.
fn write(host: &Host, path: &Path, text: &str) -> Result<()> {
    let path = host.path(path);
    fs::write(&path, text).context(&path.display().to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).context(&path.display().to_string())
}
