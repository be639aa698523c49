//! Values of settings: text in, value or a sentence that says what to write instead out. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::wire::invite::Secret;
use crate::wire::name::Name;

/// Longest name of a network device: IFNAMSIZ without its end.
const MAX_DEVICE: usize = 15;

/// Reads a value with its own `FromStr`.
///
/// # Errors
/// The type's own text.
pub fn any<T>(text: &str) -> Result<T, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// The name of a member: one that can be a host's.
///
/// # Errors
/// What a name is, or why it is none.
pub fn name(text: &str) -> Result<Name, String> {
    Name::typed(text).map_err(|bad| bad.to_string())
}

/// A number of bytes or the like.
///
/// # Errors
/// Where it is none.
pub fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// `ADDRESS/LENGTH`, of a network.
///
/// # Errors
/// Where the length is missing, or either is invalid.
pub fn subnet(text: &str) -> Result<IpNetwork, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => {
            Err(format!("the prefix length is missing: did you mean {address}/{}?", likely_length(address)))
        }
        Err(_) => prefix(text),
    }
}

/// `ADDRESS/LENGTH` or `ADDRESS/NETMASK`, or an address alone, which is that one host.
///
/// # Errors
/// Where either is invalid.
pub fn prefix(text: &str) -> Result<IpNetwork, String> {
    let Some((address, length)) = text.split_once('/') else {
        return ip(text).map(IpNetwork::from);
    };
    let ip = ip(address)?;
    let (family, bits) = if ip.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
    if let (IpAddr::V4(v4), Ok(mask)) = (ip, length.parse()) {
        return Ipv4Network::with_netmask(v4, mask)
            .map(IpNetwork::V4)
            .map_err(|_| format!("{mask} is no netmask: write {ip}/LENGTH, such as {ip}/24"));
    }
    match length.parse::<u8>() {
        Ok(length) if length <= bits => {
            IpNetwork::new(ip, length).map_err(|_| format!("/{length} is no length for {ip}"))
        }
        Ok(_) => Err(format!("/{length} is longer than {family}'s {bits} bits")),
        Err(_) => Err(format!("{length:?} is no length: write {ip}/{}", likely_length(ip))),
    }
}

/// Refuses prefixes of `option` with bits set behind their length.
///
/// # Errors
/// A sentence with the prefix that may have been meant.
pub fn refuse_host_bits(option: &str, prefixes: &[IpNetwork]) -> Result<(), String> {
    match prefixes.iter().find(|prefix| prefix.network() != prefix.ip()) {
        None => Ok(()),
        Some(bad) => {
            let (network, length) = (bad.network(), bad.prefix());
            Err(format!("{option} {bad} has bits set behind its prefix: did you mean {network}/{length}?"))
        }
    }
}

/// The length that a network with this address likely has.
fn likely_length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V6(_) => 64,
        IpAddr::V4(v4) => match v4.octets() {
            [_, 0, 0, 0] if v4.octets()[0] != 10 => 8,
            [172, _, 0, 0] => 16,
            _ => 24,
        },
    }
}

/// An address alone.
///
/// # Errors
/// Where it is none.
pub fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address: write one such as 10.0.0.2 or fd00:1::2"))
}

/// An address on the LAN, whose length is the hub's to tell.
///
/// # Errors
/// Where it is none, or a length follows.
pub fn member_ip(text: &str) -> Result<IpAddr, String> {
    match text.split_once('/') {
        Some((address, length)) => {
            let address = ip(address)?;
            Err(format!("give {address} alone; the hub knows the /{length}"))
        }
        None => ip(text),
    }
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// This port of all addresses.
    Port(u16),
    /// This port of this address.
    Address(SocketAddr),
}

impl Listen {
    /// Whether whoever listens here listens in the other place, too: the IPv6 address for all is for IPv4 as well.
    pub fn includes(&self, other: &Listen) -> bool {
        match (self, other) {
            (Listen::Port(port), Listen::Port(other)) => port == other,
            (Listen::Port(port), Listen::Address(other)) => *port == other.port(),
            (Listen::Address(_), Listen::Port(_)) => false,
            (Listen::Address(own), Listen::Address(other)) => {
                let is_for_all = own.ip().is_unspecified() && (own.is_ipv6() || other.is_ipv4());
                own == other || own.port() == other.port() && is_for_all
            }
        }
    }
}

/// `PORT`, `:PORT`, `*:PORT` or `ADDR:PORT`.
///
/// # Errors
/// Where the port is missing or none, or the address is none.
pub fn listen(text: &str) -> Result<Listen, String> {
    const FORMS: &str = "write PORT, ADDRESS:PORT or [IPV6]:PORT";
    let bare = text.strip_prefix("*:").or(text.strip_prefix(':')).unwrap_or(text);
    if !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit()) {
        return match bare.parse() {
            Ok(port) if port != 0 => Ok(Listen::Port(port)),
            _ => Err(format!("the port {bare} is not 1 to 65535")),
        };
    }
    if let Ok(address) = text.parse() {
        return Ok(Listen::Address(address));
    }
    let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = unbracketed.parse::<IpAddr>() {
        return Err(format!("the port is missing: write {}", SocketAddr::new(address, 5678)));
    }
    if let Some((address, port)) = text.rsplit_once(':') {
        if let (Ok(v6), true) = (address.parse::<Ipv6Addr>(), port.parse::<u16>().is_ok()) {
            return Err(format!("an IPv6 address needs brackets: write [{v6}]:{port}"));
        }
        let address = address.trim_start_matches('[').trim_end_matches(']');
        if address.parse::<IpAddr>().is_ok() {
            return Err(format!("the port {port} is not 1 to 65535"));
        }
    }
    Err(format!("{text:?} is no address of this machine with a port: {FORMS}"))
}

/// The name of a network device that can be made.
///
/// # Errors
/// Where the kernel would not take it, or would take it for something else.
pub fn device(text: &str) -> Result<String, String> {
    let why = if text.is_empty() {
        "the device's name is missing".to_owned()
    } else if text.len() > MAX_DEVICE {
        format!("{text} is longer than the {MAX_DEVICE} letters of a device name")
    } else if matches!(text, "all" | "default" | "." | "..") {
        // The kernel keeps these for the settings of all devices: net.ipv4.conf.all.
        format!("{text} is not a device name")
    } else if let Some(bad) =
        text.chars().find(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control())
    {
        format!("{text:?} is not a device name: it must not contain {bad:?}")
    } else {
        return Ok(text.to_owned());
    };
    Err(why)
}

/// An invite, or where to read it.
#[derive(Clone, Debug)]
pub enum InviteSource {
    /// The secret itself.
    Secret(Secret),
    /// A file that holds it.
    File(PathBuf),
}

/// What `--invite` and `--invite-file` say.
///
/// # Errors
/// Where both are given.
pub fn invite_source(secret: Option<Secret>, file: Option<PathBuf>) -> Result<Option<InviteSource>, String> {
    match (secret, file) {
        (Some(_), Some(_)) => Err("give --invite or --invite-file, not both".to_owned()),
        (Some(secret), None) => Ok(Some(InviteSource::Secret(secret))),
        (None, file) => Ok(file.map(InviteSource::File)),
    }
}

/// The secret in a file for `--invite-file`: alone, or in the whole line that `hub invite` printed.
///
/// # Errors
/// Where there is none.
pub fn invite_in_file(text: &str) -> Result<Secret, String> {
    let mut words = text.split_whitespace();
    let first = words.next().ok_or("the file is empty: write what `hub invite` printed into it")?;
    let behind_flag = || {
        let mut words = text.split_whitespace();
        words.find(|&word| word == "--invite")?;
        words.next()
    };
    let secret = if words.next().is_none() { Some(first) } else { behind_flag() };
    let secret = secret.ok_or("there is no --invite in the file: write what `hub invite` printed into it")?;
    any(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_says_what_is_wrong_with_it() {
        for (text, said) in [
            ("10.0.0.0/33", "/33 is longer than IPv4's 32 bits"),
            ("fd00::/129", "/129 is longer than IPv6's 128 bits"),
            ("10.0.0.0/999", "\"999\" is no length: write 10.0.0.0/24"),
            ("10.0.0.0", "the prefix length is missing: did you mean 10.0.0.0/24?"),
            ("172.16.0.0", "the prefix length is missing: did you mean 172.16.0.0/16?"),
            ("fd00:1::", "the prefix length is missing: did you mean fd00:1::/64?"),
            ("10.0.0.0/x", "\"x\" is no length: write 10.0.0.0/24"),
            ("ten/24", "\"ten\" is no address: write one such as 10.0.0.2 or fd00:1::2"),
            ("10.0.0.0/255.0.255.0", "255.0.255.0 is no netmask: write 10.0.0.0/LENGTH, such as 10.0.0.0/24"),
        ] {
            assert_eq!(subnet(text).unwrap_err(), said, "{text}");
        }
        for (text, read) in
            [("10.0.0.0/24", "10.0.0.0/24"), ("10.0.0.0/255.255.0.0", "10.0.0.0/16"), ("::/0", "::/0")]
        {
            assert_eq!(subnet(text).unwrap().to_string(), read);
        }
        assert_eq!(prefix("192.168.5.7").unwrap().to_string(), "192.168.5.7/32");
    }

    #[test]
    fn a_members_address_has_no_length() {
        assert_eq!(member_ip("10.0.0.2/24").unwrap_err(), "give 10.0.0.2 alone; the hub knows the /24");
        assert_eq!(member_ip("10.0.0.2"), Ok("10.0.0.2".parse().unwrap()));
        assert!(member_ip("ten/24").unwrap_err().starts_with("\"ten\" is no address"));
    }

    #[test]
    fn listens_on_a_port_alone_or_an_address() {
        for text in ["5678", ":5678", "*:5678"] {
            assert_eq!(listen(text), Ok(Listen::Port(5_678)));
        }
        for text in ["0.0.0.0:443", "[::]:443", "[fe80::1%2]:443"] {
            assert_eq!(listen(text), Ok(Listen::Address(text.parse().unwrap())));
        }
        for (text, said) in [
            ("0", "the port 0 is not 1 to 65535"),
            ("70000", "the port 70000 is not 1 to 65535"),
            ("0.0.0.0:70000", "the port 70000 is not 1 to 65535"),
            ("[::]:70000", "the port 70000 is not 1 to 65535"),
            ("0.0.0.0", "the port is missing: write 0.0.0.0:5678"),
            ("::1", "the port is missing: write [::1]:5678"),
            ("[::1]", "the port is missing: write [::1]:5678"),
            ("2001:db8:0:0:0:0:0:1:443", "an IPv6 address needs brackets: write [2001:db8::1]:443"),
            (
                "nowhere",
                "\"nowhere\" is no address of this machine with a port: write PORT, ADDRESS:PORT or [IPV6]:PORT",
            ),
        ] {
            assert_eq!(listen(text).unwrap_err(), said, "{text}");
        }
    }

    #[test]
    fn a_device_has_a_name_that_the_kernel_takes() {
        for (text, said) in [
            ("all", "all is not a device name"),
            ("default", "default is not a device name"),
            ("..", ".. is not a device name"),
            ("", "the device's name is missing"),
            (
                "a-name-that-is-too-long",
                "a-name-that-is-too-long is longer than the 15 letters of a device name",
            ),
            ("a/b", "\"a/b\" is not a device name: it must not contain '/'"),
            ("a b", "\"a b\" is not a device name: it must not contain ' '"),
        ] {
            assert_eq!(device(text).unwrap_err(), said);
        }
        assert_eq!(device("hub0").as_deref(), Ok("hub0"));
    }

    #[test]
    fn an_invite_is_found_in_its_file() {
        let secret = "29d10b3762fd5266a92d936735a0c6a0";
        for text in [format!("{secret}\n"), format!("spoke --hub h:5678 --hub-key k --invite {secret}\n")] {
            assert_eq!(invite_in_file(&text).map(|secret| secret.to_hex()).as_deref(), Ok(secret), "{text}");
        }
        for bad in ["", "\n", "two words", "spoke --invite", "short"] {
            assert!(invite_in_file(bad).is_err(), "{bad:?}");
        }
    }
}
