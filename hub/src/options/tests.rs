//! Command lines, and what is wrong with others.

use std::ffi::OsString;

use common::node::args::Line;

use super::*;

fn read(line: &str) -> Result<Options, String> {
    let parsed = PROGRAM.parse(line.split_whitespace().map(OsString::from))?;
    let Line::Run(flags) = parsed else { panic!("{line}") };
    Options::read(&Settings::of_command(&PROGRAM, flags))
}

fn subnets(options: &Options) -> String {
    let WhichLan::Own(subnets) = &options.lan else { panic!("{options:?}") };
    subnets.to_string()
}

#[test]
fn reads_the_lines_of_the_readme() {
    let options = read("--subnet 10.0.0.0/24").unwrap();
    assert_eq!(subnets(&options), "10.0.0.0/24");
    assert_eq!(
        (options.ways_in.listen.len(), options.mtu, options.device),
        (0, None, Some(Device { name: "hub0".to_owned(), exports: Vec::new() }))
    );
    assert_eq!((options.state.to_str(), options.user), (Some("/var/lib/hub"), None));
    let options = read("--subnet 10.0.0.0/24 --subnet fd00:1::/64 --route 0.0.0.0/0 --listen :443").unwrap();
    assert_eq!(subnets(&options), "10.0.0.0/24 and fd00:1::/64");
    assert_eq!((&options.ways_in.listen[..], options.routes.len()), (&[Listen::Port(443)][..], 1));
    assert_eq!(read("--subnet=10.0.0.0/24 --listen=5678").unwrap().ways_in.listen, []);
    for (places, kept) in [
        ("0.0.0.0:443 [::]:443", &["[::]:443"][..]),
        ("[::]:443 0.0.0.0:443 192.0.2.1:443 [::1]:443", &["[::]:443"]),
        ("127.0.0.1:443 [::1]:443 0.0.0.0:443", &["[::1]:443", "0.0.0.0:443"]),
        ("127.0.0.1:443 [::]:443 443 127.0.0.1:80", &["443", "127.0.0.1:80"]),
        ("127.0.0.1:443 127.0.0.2:443", &["127.0.0.1:443", "127.0.0.2:443"]),
    ] {
        let line = places.replace(' ', " --listen ");
        let options = read(&format!("--subnet 10.0.0.0/24 --listen {line}")).unwrap();
        let kept: Vec<Listen> = kept.iter().map(|place| values::listen(place).unwrap()).collect();
        assert_eq!(options.ways_in.listen, kept, "{places}");
    }
    assert!(!options.ways_in.icmp && read("--subnet=10.0.0.0/24 --icmp").unwrap().ways_in.icmp);
    let options = read(
        "--subnet 10.0.0.0/24 --listen 5678 --listen :443 --listen 443 --listen 192.0.2.1:80 --tls-cert a --tls-key b",
    )
    .unwrap();
    assert!(options.zone.is_none());
    let named = |line: &str| read(line).unwrap().zone.map(|zone| zone.to_string());
    assert_eq!(named("--subnet 10.0.0.0/24 --dns").as_deref(), Some("lan"));
    assert_eq!(
        named("--subnet 10.0.0.0/24 --dns --zone home.arpa.example").as_deref(),
        Some("home.arpa.example")
    );
    assert_eq!(options.ways_in.listen.len(), 3, "{:?}", options.ways_in.listen);
    assert_eq!(options.ways_in.tls.map(|tls| (tls.certificate, tls.key)), Some(("a".into(), "b".into())));
}

#[test]
fn metrics_are_served_on_one_private_address() {
    let read = |at: &str| read(&format!("--subnet 198.18.5.0/24 --metrics {at}"));
    for (at, address) in [
        ("9678", "127.0.0.1:9678"),
        (":9678", "127.0.0.1:9678"),
        ("[::1]:9678", "[::1]:9678"),
        ("192.168.1.5:9678", "192.168.1.5:9678"),
        ("100.64.0.9:9678", "100.64.0.9:9678"),
        ("[fd00::7]:9678", "[fd00::7]:9678"),
        // The hub's own on the LAN, whatever that is.
        ("198.18.5.1:9678", "198.18.5.1:9678"),
    ] {
        assert_eq!(read(at).unwrap().metrics, Some(address.parse().unwrap()), "{at}");
    }
    for at in ["*:9678", "0.0.0.0:9678", "[::]:9678"] {
        assert_eq!(
            read(at).unwrap_err(),
            format!(
                "--metrics {at}: metrics are not for all addresses: give one address of this machine or of a \
                 private network, such as 127.0.0.1:9678"
            )
        );
    }
    for at in ["203.0.113.5:9678", "[2001:db8::1]:9678", "198.18.6.1:9678"] {
        assert!(read(at).unwrap_err().contains("metrics are not for the internet"), "{at}");
    }
}

#[test]
fn says_which_setting_is_wrong_and_what_to_write() {
    for (line, said) in [
        ("", "give the LAN's subnet, such as --subnet 10.0.0.0/24"),
        ("--subnet 10.0.0.0/33", "--subnet 10.0.0.0/33: /33 is longer than IPv4's 32 bits"),
        ("--subnet 10.0.0.0", "--subnet 10.0.0.0: the prefix length is missing: did you mean 10.0.0.0/24?"),
        ("--subnet 10.0.0.0/24 --tun all", "--tun all: all is not a device name"),
        ("--subnet 10.0.0.0/24 --mtu big", "--mtu big: \"big\" is not a number"),
        ("--subnet 10.0.0.0/24 --listen 0", "--listen 0: the port 0 is not 1 to 65535"),
        (
            "--subnet 10.0.0.0/24 --route 10.1.0.1/16",
            "--route 10.1.0.1/16 has bits set behind its prefix: did you mean 10.1.0.0/16?",
        ),
        ("--subnet 10.0.0.0/24 --tls-cert c", "--tls-cert needs the certificate's key, too: --tls-key FILE"),
        ("--subnet 10.0.0.0/24 --zone lan", "--zone needs --dns"),
        (
            "--subnet 10.0.0.0/24 --dns --zone local",
            "--zone local: local belongs to multicast DNS (RFC 6762): use another, such as lan",
        ),
        ("--subnet 10.0.0.0/24 --no-tun --tun x", "--tun needs the device that --no-tun leaves out"),
        ("--subnet 10.0.0.0/24 --no-tun --dns", "--dns needs the device that --no-tun leaves out"),
        ("--lanes 1", "hub has no --lanes: see hub --help"),
        (
            "--subnet 10.0.0.0/24 --host 10.0.0.1",
            "--host 10.0.0.1:5678: that address is one of the LAN 10.0.0.0/24, which is reached through the hub alone: \
             say where the hub is reached from outside",
        ),
        ("--join a --subnet 10.0.0.0/24", "the LAN to --join says which --subnet it has: leave that out"),
        ("--join a --hub-key x", "--hub-key x: a key is 44 characters of base64"),
        (
            "--join a --host auto://b",
            "--host auto://b: say one way by which all reach it: HOST, tls://HOST, wss://HOST or icmp://HOST",
        ),
        (
            "--join a --host https://b/lan",
            "--host https://b/lan: \"https://b/lan\" is no hub: write wss://b/lan",
        ),
        (
            "--subnet 10.0.0.0/24 --proxy https://ann:secret@proxy",
            "--proxy …: this is no proxy: TLS to a proxy is not supported; most of them speak HTTP on the same port; \
             write http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ in front of HOST if it wants them",
        ),
    ] {
        assert_eq!(read(line).unwrap_err(), said, "{line}");
    }
    let many = |count: usize| {
        let routes: String = (0..count).map(|at| format!(" --route 10.1.{at}.0/24")).collect();
        read(&format!("--subnet 10.0.0.0/24{routes}"))
    };
    assert_eq!(many(64).unwrap().routes.len(), 64);
    assert_eq!(many(65).unwrap_err(), "at most 64 networks can be offered with --route");
}

#[test]
fn a_hub_that_joins_is_reached_by_the_port_that_it_listens_on() {
    for (line, hub, host, port) in [
        ("--join a", "a:5678", None, 5678),
        ("--join a:80 --host b --listen 443", "a:80", Some("b:443"), 443),
        ("--join tls://a --host wss://b/lan --listen 80", "tls://a:443", Some("wss://b:443/lan"), 80),
        ("--join [fd00::1]:80 --host b:99 --listen 192.0.2.1:443", "[fd00::1]:80", Some("b:99"), 443),
    ] {
        let WhichLan::Joined(joining) = read(line).unwrap().lan else { panic!("{line}") };
        assert_eq!(joining.hub.to_string(), hub, "{line}");
        assert_eq!(joining.host.map(|host| host.to_string()).as_deref(), host, "{line}");
        assert_eq!(joining.port, port, "{line}");
    }
}

#[test]
fn every_command_has_its_help() {
    let help = PROGRAM.help(None);
    for command in PROGRAM.commands {
        assert!(help.contains(&format!("\n  {:<10} {}\n", command.name, command.help)), "{help}");
        assert!(PROGRAM.help(Some(command)).contains("--state DIR"));
    }
}

#[test]
fn an_invite_without_a_hub_to_join_is_refused() {
    for option in ["--invite 29d10b3762fd5266a92d936735a0c6a0", "--invite-file f", "--hub-key k"] {
        for subnet in ["--subnet 10.0.0.0/24 ", ""] {
            let said = read(&format!("{subnet}{option}")).unwrap_err();
            let name = option.split(' ').next().unwrap();
            let head =
                format!("{name} is for a hub that joins another one's LAN, and --join HOST is missing");
            assert!(said.starts_with(&head), "{said}");
        }
    }
}

#[test]
fn an_endpoint_is_a_url() {
    for good in
        ["http://127.0.0.1:2379", "https://[::1]:2379/", "HTTP://etcd.example.org", "http://proxy/etcd"]
    {
        assert_eq!(endpoint(good).as_deref(), Ok(good));
    }
    for (bad, why) in [
        ("127.0.0.1:2379", "write http://127.0.0.1:2379 or https://127.0.0.1:2379"),
        ("ftp://x", "write http://x or https://x"),
        ("http://127.0.0.1:99999", "the port is not 1 to 65535; write http://HOST:PORT"),
        ("http://", "the host is missing; write http://HOST:PORT"),
        ("", "write http://"),
    ] {
        let said = endpoint(bad).unwrap_err();
        assert!(said.contains("is no endpoint of etcd: ") && said.contains(why), "{bad}: {said}");
    }
}
