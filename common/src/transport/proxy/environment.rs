//! The proxy that the environment names, read as curl reads it. Pure: the variables come in as a function.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ProxyUrl;

/// The proxy for a host, and the variable that names it; an error says which variable is wrong.
///
/// `https_proxy` comes first, then `all_proxy`, each in small letters before capitals; an empty one is none.
/// `http_proxy` is for plain HTTP, which a tunnel is not.
pub fn from_environment(
    host: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<(&'static str, ProxyUrl)>, String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let Some((name, text)) = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        .into_iter()
        .find_map(|name| set(name).map(|text| (name, text)))
    else {
        return Ok(None);
    };
    let exempt = set("no_proxy").or_else(|| set("NO_PROXY")).unwrap_or_default();
    if is_exempt(host, &exempt) {
        return Ok(None);
    }
    match text.parse() {
        Ok(url) => Ok(Some((name, url))),
        Err(why) => Err(format!("{name} in the environment: {why}")),
    }
}

/// Whether the list of `no_proxy` names this host: `*` alone names all; a name also names what is below it, with or
/// without a dot in front; an address names itself, and a prefix what it holds.
pub fn is_exempt(host: &str, list: &str) -> bool {
    if list.trim() == "*" {
        return true;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let words = list.split([',', ' ', '\t']).filter(|word| !word.is_empty());
    match host.parse::<IpAddr>() {
        Ok(address) => words.into_iter().any(|word| holds(word, address)),
        Err(_) => words.into_iter().any(|word| names(word, host)),
    }
}

fn holds(word: &str, address: IpAddr) -> bool {
    let word = word.trim_start_matches('[').trim_end_matches(']');
    word.parse::<IpNetwork>().is_ok_and(|network| network.contains(address))
}

fn names(word: &str, host: &str) -> bool {
    let word = word.strip_suffix('.').unwrap_or(word);
    let word = word.strip_prefix('.').unwrap_or(word);
    let Some(start) = host.len().checked_sub(word.len()) else { return false };
    let is_tail = host.get(start..).is_some_and(|tail| tail.eq_ignore_ascii_case(word));
    !word.is_empty() && is_tail && (start == 0 || host.as_bytes()[start - 1] == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exempts_what_curl_exempts() {
        for (host, list, is) in [
            ("hub.example.org", "", false),
            ("hub.example.org", "*", true),
            ("hub.example.org", "a,*", false),
            ("hub.example.org", "example.org", true),
            ("hub.example.org", ".example.org", true),
            ("hub.example.org", "EXAMPLE.ORG.", true),
            ("hub.example.org.", "example.org", true),
            ("example.org", ".example.org", true),
            ("notexample.org", "example.org", false),
            ("hub.example.org", "other.org, hub.example.org", true),
            ("hub.example.org", "a b example.org", true),
            ("hub.example.org", ",,. ,", false),
            ("hüb", "üb", false),
            ("hüb", "\u{308}b", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.0/24", true),
            ("192.0.2.1", "192.0.3.0/24", false),
            ("192.0.2.1", "2.1", false),
            ("192.0.2.1", "192.0.2.0/33", false),
            ("2001:db8::1", "2001:db8::/32", true),
            ("2001:db8::1", "[2001:db8::1]", true),
            ("2001:db8::1", "192.0.2.0/24", false),
        ] {
            assert_eq!(is_exempt(host, list), is, "{host} in {list:?}");
        }
    }

    #[test]
    fn takes_the_first_variable_that_is_set() {
        let found = |set: &[(&str, &str)]| {
            let value =
                |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            from_environment("hub.example.org", value)
                .map(|found| found.map(|(name, url)| format!("{name} {url}")))
        };
        let is = |set, expected: &str| assert_eq!(found(set), Ok(Some(expected.to_owned())));
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("http_proxy", "p:1")]), Ok(None));
        is(&[("all_proxy", "p:1"), ("HTTPS_PROXY", "p:2")], "HTTPS_PROXY http://p:2");
        is(&[("https_proxy", "p:3"), ("HTTPS_PROXY", "p:2")], "https_proxy http://p:3");
        is(&[("https_proxy", ""), ("ALL_PROXY", "socks5://p")], "ALL_PROXY socks5://p:1080");
        assert_eq!(found(&[("https_proxy", "p:1"), ("no_proxy", "example.org")]), Ok(None));
        assert_eq!(found(&[("https_proxy", "p:1"), ("NO_PROXY", "*")]), Ok(None));
        is(&[("https_proxy", "p:1"), ("no_proxy", "x"), ("NO_PROXY", "*")], "https_proxy http://p:1");
        let wrong = found(&[("https_proxy", "ftp://u:secret@p")]).unwrap_err();
        assert!(
            wrong.starts_with("https_proxy in the environment: ") && !wrong.contains("secret"),
            "{wrong}"
        );
        // What is exempt needs no proxy that can be read.
        assert_eq!(found(&[("https_proxy", "ftp://p"), ("no_proxy", "*")]), Ok(None));
    }
}
