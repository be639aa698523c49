//! A name server for tests.

use std::net::{IpAddr, SocketAddr};
use std::thread;

use super::Host;

/// A name server on `host` that knows one name, in lower case, by its addresses; it ends with the process.
pub(crate) fn serve_names(
    host: &Host,
    at: impl Into<SocketAddr>,
    name: &'static str,
    addresses: Vec<IpAddr>,
) {
    let socket = host.udp_bind(at).expect("the address is the host's");
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&question[..len], name, &addresses) {
                // Who asked may have gone.
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

/// RFC 1035, section 4.1: the question, and the addresses of its type behind it, if it is for this name.
fn answer(question: &[u8], name: &str, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let mut labels: Vec<u8> =
        name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    labels.push(0);
    let asked = question.get(12..)?;
    let kind = asked.get(labels.len()..labels.len() + 4)?;
    let is_known = asked.to_ascii_lowercase().starts_with(&labels);
    let data = |address: &IpAddr| match (address, kind[1]) {
        (IpAddr::V4(v4), 1) => Some(v4.octets().to_vec()),
        (IpAddr::V6(v6), 28) => Some(v6.octets().to_vec()),
        _ => None,
    };
    let data: Vec<_> = addresses.iter().filter(|_| is_known).filter_map(data).collect();
    let mut answer = question[..12 + labels.len() + 4].to_vec();
    answer[2..12].copy_from_slice(&[
        0x81,
        if is_known { 0x80 } else { 0x83 },
        0,
        1,
        0,
        data.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    for data in data {
        answer.extend([0xc0, 12, 0, kind[1], 0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
        answer.extend(data);
    }
    Some(answer)
}
