//! The table, the ratios and the CSV file.

use std::fmt::Write as _;

use crate::figures::{Column, Figure};
use crate::systems::{Kind, SYSTEMS};

/// Where and when.
pub(crate) struct Setting {
    /// Such as "AMD EPYC, 2 cores, Linux 6.18".
    pub(crate) machine: String,
    /// Such as "2026-01-31".
    pub(crate) date: String,
}

/// All values, a row for each figure and a column for each system.
pub(crate) fn table(columns: &[Column]) -> String {
    const FIRST: usize = 31;
    const UNIT: usize = 14;
    let mut text = format!("{:FIRST$}{:UNIT$}", "", "");
    for column in columns {
        let _ = write!(text, "{:>19}", column.system.title);
    }
    text.push('\n');
    for figure in Figure::ALL {
        if columns.iter().all(|column| column.value(figure).is_none()) {
            continue;
        }
        let _ = write!(text, "{:FIRST$}{:UNIT$}", figure.title(), figure.unit());
        for column in columns {
            let _ = write!(text, "{:>19}", column.value(figure).map_or("-".to_owned(), number));
        }
        text.push('\n');
    }
    text
}

/// Our values as multiples of others'.
pub(crate) fn ratios(columns: &[Column]) -> String {
    let Some(ours) = columns.iter().find(|column| column.system.kind == Kind::Ours) else {
        return String::new();
    };
    let mut text = format!(
        "{:45}{:>14}{:>16}{:>10}{:>10}\n",
        "hub & spoke, as a multiple of", "OpenVPN TCP", "best peer", "relay", "kernel"
    );
    for figure in Figure::ALL {
        let Some(value) = ours.value(figure) else { continue };
        let of = |name| Some(value / named(columns, name)?.value(figure)?);
        let ratios = [
            of("openvpn"),
            best_peer(columns, figure).map(|(_, best)| value / best),
            of("relay"),
            of("kernel"),
        ];
        if ratios.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "{:45}", figure.title());
        for (ratio, width) in ratios.into_iter().zip([14, 16, 10, 10]) {
            let _ = write!(text, "{:>width$}", ratio.map_or("-".to_owned(), number));
        }
        text.push('\n');
    }
    text
}

/// One line for each goal: what it is, what was reached, and whether that is enough.
pub(crate) fn goals(columns: &[Column]) -> String {
    let mut text = String::new();
    let Some(ours) = columns.iter().find(|column| column.system.kind == Kind::Ours) else { return text };
    let mut goal = |what: &str, reached: Option<f64>, limit: f64, at_least: bool| {
        let Some(reached) = reached else { return };
        let met = if at_least { reached >= limit } else { reached <= limit };
        let (sign, verdict) = (if at_least { "≥" } else { "≤" }, if met { "reached" } else { "MISSED" });
        let _ = writeln!(text, "{verdict}  {:>7}  {sign} {limit:<5}  {what}", number(reached));
    };
    let own = |figure| ours.value(figure);
    let of = |figure, name| Some(own(figure)? / named(columns, name)?.value(figure)?);
    let of_best = |figure| Some(own(figure)? / best_peer(columns, figure)?.1);
    let of_best_tcp = |figure| {
        let best = best(columns, figure, |kind| kind == Kind::TcpPeer)?.1;
        Some(own(figure)? / best)
    };
    goal("one TCP flow, × OpenVPN TCP", of(Figure::OneFlow, "openvpn"), 16.0, true);
    goal("one TCP flow, × the best peer", of_best(Figure::OneFlow), 10.0, true);
    goal("one TCP flow, × the bare relay", of(Figure::OneFlow, "relay"), 0.35, true);
    goal("CPU of the hub, s per GB", own(Figure::CpuHub), 0.9, false);
    goal("64-byte UDP delivered, × kernel forwarding", of(Figure::SmallPackets, "kernel"), 0.9, true);
    goal("64-byte UDP delivered, × the best TCP peer", of_best_tcp(Figure::SmallPackets), 3.0, true);
    goal("idle round trip, × the best TCP peer", of_best_tcp(Figure::IdleTrip), 1.0, false);
    goal("round trip under load, ms", own(Figure::LoadedTrip), 2.0, false);
    goal("round trip under load at 20 Mbit/s, × the bare path", of(Figure::NarrowTrip, "kernel"), 1.5, false);
    goal("throughput at 20 Mbit/s, × the bare path", of(Figure::NarrowFlow, "kernel"), 0.93, true);
    goal("one of four spokes stopped: the others' throughput", own(Figure::StoppedShare), 0.9, true);
    goal("one of four spokes stopped: the hub's memory, MiB", own(Figure::StoppedGrowth), 4.0, false);
    text
}

/// One value a line.
pub(crate) fn csv(columns: &[Column], setting: &Setting) -> String {
    let mut text = String::from("date,machine,system,figure,unit,value\n");
    for column in columns {
        for figure in Figure::ALL {
            if let Some(value) = column.value(figure) {
                let (system, title, unit) =
                    (column.system.name, figure.title().trim_start_matches("- "), figure.unit());
                let _ = writeln!(
                    text,
                    "{},\"{}\",{system},\"{title}\",{unit},{value:.4}",
                    setting.date, setting.machine
                );
            }
        }
    }
    text
}

/// Three significant digits.
pub(crate) fn number(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else if value >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.digits$}")
}

/// The peer that is best at a figure, and its value.
fn best_peer(columns: &[Column], figure: Figure) -> Option<(&Column, f64)> {
    best(columns, figure, |kind| matches!(kind, Kind::TcpPeer | Kind::UdpPeer))
}

fn best(columns: &[Column], figure: Figure, is_peer: impl Fn(Kind) -> bool) -> Option<(&Column, f64)> {
    let peers = columns.iter().filter(|column| is_peer(column.system.kind));
    let values = peers.filter_map(|column| Some((column, column.value(figure)?)));
    let sign = if figure.more_is_better() { -1.0 } else { 1.0 };
    values.min_by(|(_, one), (_, two)| (sign * one).total_cmp(&(sign * two)))
}

fn named<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    debug_assert!(SYSTEMS.iter().any(|system| system.name == name));
    columns.iter().find(|column| column.system.name == name)
}
