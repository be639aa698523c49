//! Has systemd-resolved ask a name server of ours for its zone, by `resolvectl`. IO: it starts that program.
//!
//! A command does this, not the program that carries packets: that one can start no other program, and resolved lets only
//! root change where it asks. What is set lasts as long as the device.
#![expect(clippy::disallowed_methods, reason = "an IO file: it starts a program")]

use std::process::Command;

use ipnetwork::IpNetwork;

use super::zone::Zone;

/// Registers the name server of the addresses `own`, each with its subnet, for `zone` and the addresses of the subnets, on
/// this device. Returns a sentence that says so.
///
/// # Errors
/// A sentence: resolved is not there, or refuses.
pub fn register(device: &str, own: &[IpNetwork], zone: &Zone) -> Result<String, String> {
    let servers: Vec<String> = own.iter().map(|own| own.ip().to_string()).collect();
    let domains: Vec<String> =
        [zone.to_string()].into_iter().chain(own.iter().flat_map(|own| reverse(*own))).collect();
    resolvectl("dns", device, &servers)?;
    // A tilde: it is asked about these names, and names without a dot are not completed by them.
    resolvectl("domain", device, &domains.iter().map(|domain| format!("~{domain}")).collect::<Vec<_>>())?;
    Ok(format!(
        "systemd-resolved asks {} for names in {zone}, as long as {device} is there",
        servers.join(" and ")
    ))
}

fn resolvectl(what: &str, device: &str, values: &[String]) -> Result<(), String> {
    let output = Command::new("resolvectl")
        .args([what, device])
        .args(values)
        .output()
        .map_err(|error| format!("cannot run resolvectl ({error}): is systemd-resolved installed?"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("resolvectl {what} {device}: {}", said.trim()))
}

/// The reverse domains that hold a subnet's addresses: the labels are octets, and half octets of IPv6.
fn reverse(subnet: IpNetwork) -> Vec<String> {
    let (bits, digits, length) = match subnet {
        IpNetwork::V4(subnet) => (8, subnet.network().octets().to_vec(), subnet.prefix()),
        IpNetwork::V6(subnet) => {
            let octets = subnet.network().octets();
            (4, octets.iter().flat_map(|octet| [octet >> 4, octet & 15]).collect(), subnet.prefix())
        }
    };
    // The last octet or half octet stands for a host: a smaller subnet has the domain of all of them.
    let length = usize::from(length).min((digits.len() - 1) * bits);
    let whole = length.div_ceil(bits);
    let free = whole * bits - length;
    let name = |last: usize| {
        let mut labels = digits[..whole].to_vec();
        if let Some(label) = labels.last_mut() {
            *label |= u8::try_from(last).unwrap_or_default();
        }
        let shown = |label: &u8| if bits == 8 { label.to_string() } else { format!("{label:x}") };
        let labels: Vec<String> = labels.iter().rev().map(shown).collect();
        format!("{}.{}", labels.join("."), if bits == 8 { "in-addr.arpa" } else { "ip6.arpa" })
    };
    (0..1usize << free).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_domains_hold_a_subnet_and_no_more_than_labels_allow() {
        for (subnet, expected) in [
            ("10.0.0.2/24", &["0.0.10.in-addr.arpa"][..]),
            ("10.0.0.2/28", &["0.0.10.in-addr.arpa"]),
            ("10.44.0.2/16", &["44.10.in-addr.arpa"]),
            ("10.0.3.2/23", &["2.0.10.in-addr.arpa", "3.0.10.in-addr.arpa"]),
            ("10.0.0.2/7", &["10.in-addr.arpa", "11.in-addr.arpa"]),
            ("fd00:1::2/64", &["0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"]),
            ("fd00::2/15", &["0.0.d.f.ip6.arpa", "1.0.d.f.ip6.arpa"]),
        ] {
            assert_eq!(reverse(subnet.parse().unwrap()), expected, "{subnet}");
        }
        let smallest = reverse("fd00::1/128".parse().unwrap());
        assert_eq!(smallest.len(), 1);
        assert_eq!(smallest[0].matches('.').count(), 32);
    }
}
