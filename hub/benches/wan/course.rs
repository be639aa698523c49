//! A flow from the far end over time: its window and its round trip, beside those of the connection that carries it. Pure:
//! rows of the trace in, SVG out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

// All in pixels.
const MARGIN: f64 = 48.0;
const WIDTH: f64 = 720.0;
const PANEL: f64 = 150.0;
const HEAD: f64 = 30.0;

const INNER: (&str, &str) = ("the flow in the LAN", "#d9480f");
const OUTER: (&str, &str) = ("the connection to the hub", "#7b93b0");

/// Seconds, congestion window in segments, and smoothed round trip in milliseconds.
type Point = (f64, [f64; 2]);
/// The flows of one turn, by whether they are in the LAN and where they begin: bytes acknowledged, and points.
type Flows<'a> = BTreeMap<(bool, &'a str), (f64, Vec<Point>)>;

/// Draws each turn that is in the trace.
pub(crate) fn svg(trace: &str) -> String {
    let (mut body, mut top) = (String::new(), 0.0);
    for (turn, [inner, outer]) in turns(trace) {
        let _ = writeln!(
            body,
            "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"600\">line, system, turn: {turn}</text>",
            top + HEAD
        );
        let mut x = MARGIN + 260.0;
        for (name, colour) in [INNER, OUTER] {
            let _ = writeln!(body, "<text x=\"{x}\" y=\"{}\" fill=\"{colour}\">{name}</text>", top + HEAD);
            x += 170.0;
        }
        top += HEAD + 10.0;
        for (value, title) in ["congestion window, segments", "round trip, ms"].into_iter().enumerate() {
            panel(&mut body, title, value, [&inner, &outer], top);
            top += PANEL + HEAD;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{top}\" viewBox=\"0 0 {0} {top}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#1f2933\">\n\
         <rect width=\"{0}\" height=\"{top}\" fill=\"#ffffff\"/>\n{body}</svg>\n",
        WIDTH + 2.0 * MARGIN
    )
}

fn panel(svg: &mut String, title: &str, value: usize, flows: [&[Point]; 2], top: f64) {
    let points = || flows.into_iter().flatten();
    let end = points().map(|point| point.0).fold(1.0, f64::max);
    let most = points().map(|point| point.1[value]).fold(1.0, f64::max);
    let (bottom, right) = (top + PANEL, MARGIN + WIDTH);
    let _ = writeln!(
        svg,
        "<path d=\"M{MARGIN} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#c5ccd3\"/>\
         <text x=\"{}\" y=\"{}\">{title}</text>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most:.0}</text>\
         <text x=\"{right}\" y=\"{}\" text-anchor=\"end\">{end:.0} s</text>",
        MARGIN + 6.0,
        top + 12.0,
        MARGIN - 4.0,
        top + 10.0,
        bottom + 14.0
    );
    for (points, (_, colour)) in flows.into_iter().zip([INNER, OUTER]) {
        let place = |(seconds, values): &Point| {
            let (x, y) = (MARGIN + seconds / end * WIDTH, bottom - values[value] / most * PANEL);
            format!("{x:.1},{y:.1}")
        };
        let line: Vec<String> = points.iter().map(place).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            line.join(" ")
        );
    }
}

/// For each turn the flow of the far end, and the connection that carried most of it.
fn turns(trace: &str) -> BTreeMap<String, [Vec<Point>; 2]> {
    let mut rows = trace.lines();
    let names: Vec<&str> = rows.next().unwrap_or_default().split(',').collect();
    let mut flows: BTreeMap<String, Flows<'_>> = BTreeMap::new();
    for row in rows {
        let fields: BTreeMap<&str, &str> = names.iter().copied().zip(row.split(',')).collect();
        let text = |name| fields.get(name).copied().unwrap_or_default();
        let number = |name| text(name).split('/').next().unwrap_or_default().parse::<f64>().ok();
        let (from, to) = (text("from"), text("to"));
        let is_inner = from.contains("10.0.0.");
        if text("host") != "end0" || !(is_inner || to.ends_with(":5678")) {
            continue;
        }
        let (Some(seconds), Some(window), Some(round_trip)) =
            (number("seconds"), number("cwnd"), number("rtt"))
        else {
            continue;
        };
        let turn = [text("line"), text("system"), text("turn")].join(", ");
        let flow = flows.entry(turn).or_default().entry((is_inner, from)).or_default();
        flow.0 = number("bytes_acked").unwrap_or(flow.0);
        flow.1.push((seconds, [window, round_trip]));
    }
    let largest = |of: &Flows<'_>, is_inner| {
        let flows = of.iter().filter(|((inner, _), _)| *inner == is_inner).map(|(_, flow)| flow);
        flows.max_by(|one, other| one.0.total_cmp(&other.0)).map(|flow| flow.1.clone()).unwrap_or_default()
    };
    flows.into_iter().map(|(turn, of)| (turn, [largest(&of, true), largest(&of, false)])).collect()
}
