//! The size of packets.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::net::IpAddr;
use std::process::{Command, Output};
use std::time::Duration;

use crate::house::{self, Host, Lan, Net, ping, ping_until, transfer};

const SOON: Duration = Duration::from_secs(5);

/// A ping that may not be cut: of IP packets of exactly `size` bytes.
fn ping_whole(from: &Host, to: IpAddr, size: usize) -> Output {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let (data, to) = ((size - headers).to_string(), to.to_string());
    from.run(move || {
        Command::new("ping")
            .args(["-n", "-c", "1", "-W", "5", "-M", "do", "-s", &data, &to])
            .output()
            .unwrap_or_else(|error| panic!("ping: {error} (Debian: apt install iputils-ping)"))
    })
}

fn send_udp(from: &Host, own: IpAddr, to: &Host, address: IpAddr, size: usize) {
    let (client, server) = (from.udp_bind((own, 0)).unwrap(), to.udp_bind((address, 0)).unwrap());
    let mut message = vec![0; size];
    house::fill_seeded(&mut message, &mut (size as u64));
    client.send_to(&message, server.local_addr().unwrap()).unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let mut received = vec![0; 65_536];
    let length =
        server.recv(&mut received).unwrap_or_else(|error| panic!("{size} bytes to {address}: {error}"));
    assert!(received[..length] == message, "{size} bytes to {address}");
}

fn wait_for_v6(lan: &Lan) {
    ping_until(lan.net.hub(), Lan::hub_address_v6().into(), SOON).unwrap();
    for i in 0..lan.spokes.len() {
        ping_until(lan.net.spoke(i), Lan::address_v6(i).into(), SOON).unwrap();
    }
}

#[test]
fn every_mtu_works_for_packets_of_that_size() {
    for mtu in [1280, 1500, 9000, 65_535] {
        let (mtu_text, subnet) = (mtu.to_string(), "fd00::/64");
        let options = [["--ip", "fd00::2"], ["--ip", "fd00::3"]];
        let options = [&options[0][..], &options[1][..]];
        let hub = ["--subnet", subnet, "--mtu", &mtu_text];
        let lan = Lan::with_options(Net::new(2).unwrap(), &hub, &options).unwrap();
        wait_for_v6(&lan);
        let hosts: [(&Host, [IpAddr; 2]); 3] = [
            (lan.net.hub(), [Lan::hub_address().into(), Lan::hub_address_v6().into()]),
            (lan.net.spoke(0), [Lan::address(0).into(), Lan::address_v6(0).into()]),
            (lan.net.spoke(1), [Lan::address(1).into(), Lan::address_v6(1).into()]),
        ];
        for (a, b) in [(0, 1), (1, 0), (1, 2)] {
            println!("MTU {mtu}, {a} to {b}");
            for family in 0..2 {
                let ((from, own), (to, address)) = (hosts[a], hosts[b]);
                let (own, address) = (own[family], address[family]);
                let output = ping_whole(from, address, mtu);
                assert!(output.status.success(), "{mtu} to {address}: {output:?}");
                let headers = if address.is_ipv4() { 28 } else { 48 };
                send_udp(from, own, to, address, mtu - headers);
                send_udp(from, own, to, address, 65_507);
                transfer(from, to, address, 1_000_000).unwrap().finish().unwrap();
                if mtu < 65_535 {
                    let output = ping_whole(from, address, mtu + 1);
                    assert!(!output.status.success(), "{output:?}");
                }
            }
        }
    }
}

#[test]
fn spokes_with_smaller_mtus_are_found_out() {
    const MTUS: [usize; 3] = [9000, 1400, 1280];
    let options = [
        ["--ip", "fd00::2", "--mtu", "9000"],
        ["--ip", "fd00::3", "--mtu", "1400"],
        ["--ip", "fd00::4", "--mtu", "1280"],
    ];
    let options: Vec<&[&str]> = options.iter().map(|options| &options[..]).collect();
    let hub = ["--subnet", "fd00::/64", "--mtu", "9000"];
    let lan = Lan::with_options(Net::new(3).unwrap(), &hub, &options).unwrap();
    wait_for_v6(&lan);
    for (i, mtu) in MTUS.into_iter().enumerate() {
        let mut command = Command::new("ip");
        command.args(["-o", "link", "show", "spoke0"]);
        let link = String::from_utf8(lan.net.spoke(i).output(command).unwrap().stdout).unwrap();
        assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
    }
    let hosts: Vec<(&Host, [IpAddr; 2], usize)> = (0..3)
        .map(|i| (lan.net.spoke(i), [Lan::address(i).into(), Lan::address_v6(i).into()], MTUS[i]))
        .chain([(lan.net.hub(), [Lan::hub_address().into(), Lan::hub_address_v6().into()], 9000)])
        .collect();
    for (a, &(from, _, own_mtu)) in hosts.iter().enumerate() {
        for (_, &(_, addresses, mtu)) in hosts.iter().enumerate().filter(|&(b, _)| a != b) {
            for address in addresses {
                if mtu < own_mtu {
                    // The first is answered with the size that fits, and the kernel learns it.
                    let output = ping_whole(from, address, own_mtu);
                    let text = String::from_utf8_lossy(&output.stdout).replace(' ', "");
                    let text = text + &String::from_utf8_lossy(&output.stderr);
                    assert!(
                        text.contains(&format!("mtu={mtu}")) && !output.status.success(),
                        "{own_mtu} to {address}: {output:?}"
                    );
                }
                let fits = mtu.min(own_mtu);
                let output = ping_whole(from, address, fits);
                assert!(output.status.success(), "{fits} to {address}: {output:?}");
            }
        }
    }
    // Now that all know, nothing gets lost: what is too big is cut by its sender.
    for (a, &(from, own, _)) in hosts.iter().enumerate() {
        for (_, &(to, addresses, _)) in hosts.iter().enumerate().filter(|&(b, _)| a != b) {
            for (own, address) in own.into_iter().zip(addresses) {
                ping(from, address, 20_000, SOON).unwrap();
                send_udp(from, own, to, address, 20_000);
                transfer(from, to, address, 1_000_000).unwrap().finish().unwrap();
            }
        }
    }
}

#[test]
fn an_mtu_that_cannot_be_is_refused() {
    let host = Host::new("host").unwrap();
    let binaries = house::Binaries::find().unwrap();
    for (program, options) in [
        (&binaries.hub, &["--subnet", "10.0.0.0/24", "--mtu"][..]),
        (&binaries.spoke, &["--hub", "192.0.2.1", "--mtu"]),
    ] {
        for mtu in ["0", "575", "65536"] {
            let mut command = Command::new(program);
            command.args(options).arg(mtu);
            let process = host.spawn("it", &command).unwrap();
            process.wait_for_line("576", SOON).unwrap();
            assert!(!process.wait_exit(SOON).unwrap().success());
        }
    }
}
