//! The chart: a panel for each figure, a bar for each system. Pure: values in, SVG out.

use std::fmt::Write as _;

use crate::figures::{Column, Figure};
use crate::report::{Setting, number};
use crate::systems::Kind;

/// The figures that fit on a page, by row.
const PANELS: [[Figure; 2]; 4] = [
    [Figure::OneFlow, Figure::FourFlows],
    [Figure::SmallPackets, Figure::CpuHub],
    [Figure::IdleTrip, Figure::LoadedTrip],
    [Figure::NarrowTrip, Figure::NarrowFlow],
];

// All in pixels.
const MARGIN: usize = 24;
const HEAD: usize = 64;
const PANEL_WIDTH: usize = 460;
const PANEL_HEAD: usize = 34;
const PANEL_FOOT: usize = 18;
const BAR: usize = 22;
const LABEL_WIDTH: usize = 140;
/// Room behind the longest bar for its value.
const VALUE_WIDTH: usize = 54;

/// Draws all columns that have values.
pub(crate) fn svg(columns: &[Column], setting: &Setting) -> String {
    let width = 2 * PANEL_WIDTH + 3 * MARGIN;
    let mut body = String::new();
    let mut top = HEAD;
    for row in PANELS {
        let bars = row.map(|figure| bars(columns, figure).count()).into_iter().max().unwrap_or(0);
        if bars == 0 {
            continue;
        }
        for (i, figure) in row.into_iter().enumerate() {
            panel(&mut body, columns, figure, MARGIN + i * (PANEL_WIDTH + MARGIN), top);
        }
        top += PANEL_HEAD + bars * BAR + PANEL_FOOT;
    }
    let (machine, date) = (escape(&setting.machine), escape(&setting.date));
    let height = top + MARGIN / 2;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" \
         fill=\"#1f2933\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"30\" font-size=\"18\" font-weight=\"600\">\
         From one machine to another, through one hub</text>\n\
         <text x=\"{MARGIN}\" y=\"49\" fill=\"#52606d\">{machine}; {date}</text>\n{body}</svg>\n"
    )
}

fn panel(svg: &mut String, columns: &[Column], figure: Figure, left: usize, top: usize) {
    let better = if figure.more_is_better() { "more is better" } else { "less is better" };
    let (title, unit) = (escape(figure.title().trim_start_matches("- ")), escape(figure.unit()));
    let title_y = top + 20;
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{title_y}\"><tspan font-weight=\"600\">{title}</tspan>\
         <tspan fill=\"#52606d\">, {unit} ({better})</tspan></text>"
    );
    let largest = bars(columns, figure).map(|(_, value)| value).fold(f64::MIN_POSITIVE, f64::max);
    let space = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH) as f64;
    for (i, (column, value)) in bars(columns, figure).enumerate() {
        let (y, x) = (top + PANEL_HEAD + i * BAR, left + LABEL_WIDTH);
        let (label_x, text_y, height) = (x - 8, y + BAR / 2 + 3, BAR - 6);
        let length = (value / largest * space).max(1.0);
        let value_x = x as f64 + length + 6.0;
        let (colour, weight) = match column.system.kind {
            Kind::Ours => ("#d9480f", 600),
            Kind::Ceiling => ("#c5ccd3", 400),
            Kind::TcpPeer | Kind::UdpPeer => ("#7b93b0", 400),
        };
        let (name, value) = (escape(column.system.title), number(value));
        let _ = writeln!(
            svg,
            "<text x=\"{label_x}\" y=\"{text_y}\" text-anchor=\"end\" font-weight=\"{weight}\">{name}</text>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"{height}\" fill=\"{colour}\"/>\
             <text x=\"{value_x:.1}\" y=\"{text_y}\" font-weight=\"{weight}\">{value}</text>"
        );
    }
}

fn bars(columns: &[Column], figure: Figure) -> impl Iterator<Item = (&Column, f64)> {
    columns.iter().filter_map(move |column| Some((column, column.value(figure)?)))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
