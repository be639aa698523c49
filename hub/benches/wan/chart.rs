//! The chart: for each line a bar for the throughput and one for the ping under it, of each system and both ways. Pure:
//! values in, SVG out.

use std::fmt::Write as _;

// All in pixels.
const MARGIN: usize = 24;
const HEAD: usize = 60;
const LABEL_WIDTH: usize = 130;
const PANEL_WIDTH: usize = 300;
/// Room behind the longest bar for its value.
const VALUE_WIDTH: usize = 54;
const PANEL_HEAD: usize = 40;
const BAR: usize = 9;
const GROUP: usize = 2 * BAR + 6;

const OURS: [&str; 2] = ["#d9480f", "#f0a37f"];
const OTHERS: [&str; 2] = ["#7b93b0", "#b9c6d4"];

/// What a system reached on a line: up and down.
pub(crate) struct Bars {
    pub(crate) name: String,
    pub(crate) is_ours: bool,
    pub(crate) megabits: [f64; 2],
    /// The mean ping as a multiple of the idle one.
    pub(crate) wait: [f64; 2],
}

/// Draws all lines that have values.
pub(crate) fn svg(lines: &[(String, Vec<Bars>)]) -> String {
    let (mut body, mut top) = (String::new(), HEAD);
    for (title, bars) in lines {
        let _ = writeln!(
            body,
            "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"600\">{}</text>",
            top + 16,
            escape(title)
        );
        let left = [0, 1].map(|panel| MARGIN + LABEL_WIDTH + panel * (PANEL_WIDTH + MARGIN));
        for (title, left) in ["Mbit/s, up and down", "ping under it, × idle"].into_iter().zip(left) {
            let y = top + 32;
            let _ = writeln!(body, "<text x=\"{left}\" y=\"{y}\" fill=\"#52606d\">{title}</text>");
        }
        top += PANEL_HEAD;
        let most =
            |values: fn(&Bars) -> [f64; 2]| bars.iter().flat_map(values).fold(f64::MIN_POSITIVE, f64::max);
        let most = [most(|bars| bars.megabits), most(|bars| bars.wait)];
        for bars in bars {
            group(&mut body, bars, top, left, most);
            top += GROUP;
        }
        top += MARGIN / 2;
    }
    let width = MARGIN + LABEL_WIDTH + 2 * (PANEL_WIDTH + MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{top}\" viewBox=\"0 0 {width} {top}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#1f2933\">\n\
         <rect width=\"{width}\" height=\"{top}\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"34\" font-size=\"18\" font-weight=\"600\">Over long and lossy lines</text>\n{body}</svg>\n"
    )
}

fn group(svg: &mut String, bars: &Bars, top: usize, left: [usize; 2], most: [f64; 2]) {
    let (weight, colours) = if bars.is_ours { (600, OURS) } else { (400, OTHERS) };
    let (x, y, name) = (MARGIN + LABEL_WIDTH - 8, top + BAR + 4, escape(&bars.name));
    let _ =
        writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" font-weight=\"{weight}\">{name}</text>");
    for ((values, most), left) in [bars.megabits, bars.wait].into_iter().zip(most).zip(left) {
        for (way, value) in values.into_iter().enumerate() {
            let (y, colour) = (top + way * BAR, colours[way]);
            let length = (value / most * (PANEL_WIDTH - VALUE_WIDTH) as f64).max(1.0);
            let (value_x, value_y, height) = (left as f64 + length + 5.0, y + BAR - 1, BAR - 1);
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{length:.1}\" height=\"{height}\" fill=\"{colour}\"/>\
                 <text x=\"{value_x:.1}\" y=\"{value_y}\" font-size=\"9\">{value:.2}</text>"
            );
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
