//! Metrics, as Prometheus gets them from a running hub and spoke.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of IO")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::house::{Host, Lan, Net, ask_hub, ask_spoke, await_true, is_missing, ping, spawn_spoke, state};

const SOON: Duration = Duration::from_secs(10);

/// The samples of a text, by name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

#[track_caller]
fn value(text: &str, name: &str) -> f64 {
    *samples(text).get(name).unwrap_or_else(|| panic!("{name} is missing:\n{text}"))
}

fn of_hub(net: &Net) -> String {
    ask_hub(net, &["metrics"]).good()
}

/// What Prometheus' own checker says about a text.
fn assert_well_formed(text: &str) {
    if is_missing("promtool", "prometheus") {
        return;
    }
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut checker = command.spawn().unwrap();
    checker.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = checker.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}\n{text}", String::from_utf8_lossy(&said));
}

#[test]
fn counters_go_on_when_links_end() {
    let mut lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    for _ in 0..3 {
        ping(lan.net.spoke(0), Lan::hub_address().into(), 1_000, SOON).unwrap();
    }
    // Nobody has this address.
    ping(lan.net.spoke(0), "10.0.0.77".parse().unwrap(), 56, Duration::from_millis(300)).unwrap_err();
    let before = of_hub(&lan.net);
    assert_eq!(value(&before, "hub_members{state=\"online\"}"), 1.0);
    assert_eq!(value(&before, "hub_joins_total"), 1.0);
    assert_eq!(value(&before, "hub_handshakes_total{result=\"completed\"}"), 1.0);
    assert_eq!(value(&before, "hub_dropped_packets_total{reason=\"no-route\"}"), 1.0);
    assert!(value(&before, "hub_received_packets_total") >= 3.0, "{before}");
    assert!(value(&before, "hub_received_bytes_total") >= 3_000.0, "{before}");
    assert!(value(&before, "hub_sent_bytes_total") >= 3_000.0, "{before}");
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
        - value(&before, "process_start_time_seconds");
    assert!((0.0..120.0).contains(&age), "it started {age} s ago");

    lan.spokes[0].kill().unwrap();
    lan.hub.wait_for_line("left the LAN", SOON).unwrap();
    let after = of_hub(&lan.net);
    assert_eq!(value(&after, "hub_members{state=\"offline\"}"), 1.0);
    assert_eq!(value(&after, "hub_links_ended_total{reason=\"connection\"}"), 1.0);
    assert_eq!(value(&after, "hub_dropped_packets_total{reason=\"no-route\"}"), 1.0);
    for name in ["hub_received_packets_total", "hub_sent_packets_total", "process_start_time_seconds"] {
        assert!(value(&after, name) >= value(&before, name), "{name}: {before}{after}");
    }
    assert_eq!(samples(&before).len(), samples(&after).len(), "the series are the same");
    lan.restart_spoke(0).unwrap();
    assert_eq!(value(&of_hub(&lan.net), "hub_joins_total"), 2.0);
    assert_well_formed(&of_hub(&lan.net));
}

#[test]
fn refusals_and_failed_handshakes_are_counted_by_reason() {
    let lan = Lan::with(Net::new(2).unwrap(), 1).unwrap();
    ask_hub(&lan.net, &["lock"]).good();
    let stranger = spawn_spoke(&lan.net, &lan.binaries, 1, &["--invite", &"0".repeat(32)]).unwrap();
    stranger.wait_exit(SOON).unwrap();
    let waiting = spawn_spoke(&lan.net, &lan.binaries, 1, &[]).unwrap();
    waiting.wait_for_line("waits until", SOON).unwrap();
    drop(lan.net.spoke(1).tcp_connect((Net::hub_v4(), 5_678), SOON).unwrap());
    await_true("the connection is gone", SOON, || {
        value(&of_hub(&lan.net), "hub_handshakes_total{result=\"failed\"}") == 1.0
    });
    let text = of_hub(&lan.net);
    assert_eq!(value(&text, "hub_joins_refused_total{reason=\"bad-invite\"}"), 1.0);
    assert_eq!(value(&text, "hub_joins_refused_total{reason=\"locked\"}"), 0.0);
    assert_eq!(value(&text, "hub_pending_machines"), 1.0);
    assert_eq!(value(&text, "hub_locked"), 1.0);
    assert_eq!(value(&text, "hub_connections_total"), 4.0);
    assert_well_formed(&text);
}

#[test]
fn members_and_rules_have_series_where_they_are_asked_for() {
    let lan = Lan::new(2).unwrap();
    fs::write(state(lan.net.hub(), "hub").join("rules"), "deny * -> * [udp/9]\nallow * -> *\n").unwrap();
    ask_hub(&lan.net, &["reload"]).good();
    ping(lan.net.spoke(0), Lan::address(1).into(), 56, SOON).unwrap();
    let text = of_hub(&lan.net);
    assert!(!text.contains("spoke0") && !text.contains("hub_rule_"), "{text}");
    assert_eq!(value(&text, "hub_access_rules"), 2.0);
    let all = ask_hub(&lan.net, &["metrics", "--members", "--rules"]).good();
    assert_eq!(value(&all, "hub_member_online{member=\"spoke0\"}"), 1.0);
    assert!(value(&all, "hub_member_received_bytes_total{member=\"spoke1\"}") >= 84.0, "{all}");
    assert!(value(&all, "hub_rule_packets_total{line=\"2\"}") >= 2.0, "{all}");
    assert_eq!(value(&all, "hub_rule_packets_total{line=\"1\"}"), 0.0);
    assert_well_formed(&all);
    // The manual speaks of no others.
    let spoke = ask_spoke(&lan.net, 0, &["metrics"]).good();
    let manual = include_str!("../docs/metrics.md");
    let words = manual.split(|char: char| !char.is_ascii_lowercase() && char != '_');
    let named = words.filter(|word| word.starts_with("hub_") || word.starts_with("spoke_"));
    for name in named.filter(|name| !name.ends_with('_')) {
        let head = format!("# TYPE {name} ");
        assert!(all.contains(&head) || spoke.contains(&head), "{name} is in the manual alone");
    }
    let json = ask_hub(&lan.net, &["metrics", "--json"]).good();
    assert!(json.lines().all(|line| line.starts_with("{\"name\":\"")), "{json}");
}

#[test]
fn a_spoke_says_whether_it_is_on_the_lan() {
    let lan = Lan::new(1).unwrap();
    let text = ask_spoke(&lan.net, 0, &["metrics"]).good();
    assert_eq!(value(&text, "spoke_on_lan{device=\"spoke0\"}"), 1.0);
    assert_well_formed(&text);
    lan.hub.kill().unwrap();
    lan.spokes[0].wait_for_line("lost the hub", SOON).unwrap();
    let text = ask_spoke(&lan.net, 0, &["metrics"]).good();
    assert_eq!(value(&text, "spoke_on_lan{device=\"spoke0\"}"), 0.0);
    assert!(!text.contains("spoke_sent_bytes_total"), "no link, no counts of one: {text}");
    ask_hub(&lan.net, &["metrics"]).fails("nothing runs");
    assert_well_formed(&text);
}

/// What a web server answers to this request.
fn fetch(from: &Host, at: (Ipv4Addr, u16), request: &str) -> String {
    let mut stream = from.tcp_connect(at, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn they_are_served_by_http_where_the_hub_is_told_so() {
    const GET: &str = "GET /metrics HTTP/1.1\r\nHost: hub\r\nUser-Agent: Prometheus/2.42.0\r\n\r\n";
    let net = Net::new(1).unwrap();
    let on_lan = (Lan::hub_address(), 9_678);
    let lan = Lan::with_options(net, &["--metrics", "10.0.0.1:9678"], &[&[]]).unwrap();
    lan.hub.wait_for_line("metrics at http://10.0.0.1:9678/metrics", SOON).unwrap();
    let answer = fetch(lan.net.spoke(0), on_lan, GET);
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert_well_formed(text);
    let names = |text| samples(text).into_keys().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(text), names(&of_hub(&lan.net)), "as `hub metrics` prints them");
    assert_eq!(value(text, "hub_members{state=\"online\"}"), 1.0);
    assert!(fetch(lan.net.spoke(0), on_lan, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404"));
    // Nowhere else.
    lan.net.spoke(0).tcp_connect((Net::hub_v4(), 9_678), SOON).unwrap_err();

    let before = lan.hub.descriptors().unwrap();
    // Those who hold connections open, and say nothing, keep nobody out, and the hub from nothing.
    let silent: Vec<_> = (0..20).map(|_| lan.net.spoke(0).tcp_connect(on_lan, SOON).unwrap()).collect();
    let mut slow = lan.net.spoke(0).tcp_connect(on_lan, SOON).unwrap();
    for byte in GET.bytes() {
        slow.write_all(&[byte]).unwrap();
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(fetch(lan.net.spoke(0), on_lan, GET).contains("hub_joins_total 1\n"));
    ping(lan.net.spoke(0), Lan::hub_address().into(), 56, SOON).unwrap();
    await_true("silent connections are closed", SOON, || lan.hub.descriptors().unwrap() == before);
    drop(silent);
}
