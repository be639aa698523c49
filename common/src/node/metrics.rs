//! Metrics, and their text as Prometheus reads it: exposition format, version 0.0.4. Pure.
//!
//! The format is a few lines, and node_exporter's directory of text files takes no newer one.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// The media type of [`text`].
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It only grows, until the program starts anew.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        })
    }
}

/// A metric: its samples differ in their labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name: small letters and `_`, with the unit at its end, and `_total` where it is a counter.
    pub name: String,
    /// What its values mean.
    pub kind: Kind,
    /// A sentence.
    pub help: String,
    /// Its values.
    pub samples: Vec<Sample>,
}

/// One value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Names and values of its labels.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Metric {
    /// A counter without samples.
    pub fn counter(name: &str, help: &str) -> Metric {
        Metric::new(name, Kind::Counter, help)
    }

    /// A gauge without samples.
    pub fn gauge(name: &str, help: &str) -> Metric {
        Metric::new(name, Kind::Gauge, help)
    }

    fn new(name: &str, kind: Kind, help: &str) -> Metric {
        Metric { name: name.to_owned(), kind, help: help.to_owned(), samples: Vec::new() }
    }

    /// The same with one more value, without labels.
    pub fn value(self, value: impl Value) -> Metric {
        self.of([], value)
    }

    /// The same with one more value, where there is one.
    pub fn known(self, value: Option<impl Value>) -> Metric {
        match value {
            Some(value) => self.value(value),
            None => self,
        }
    }

    /// The same with one more value, of these labels.
    pub fn of<const N: usize>(mut self, labels: [(&str, &str); N], value: impl Value) -> Metric {
        self.add(labels, value);
        self
    }

    /// The same with a value for each of these, which the label tells apart.
    pub fn each<S: AsRef<str>, V: Value>(
        mut self,
        label: &str,
        values: impl IntoIterator<Item = (S, V)>,
    ) -> Metric {
        values.into_iter().for_each(|(name, value)| self.add([(label, name.as_ref())], value));
        self
    }

    fn add<const N: usize>(&mut self, labels: [(&str, &str); N], value: impl Value) {
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        self.samples.push(Sample { labels, value: value.into_sample() });
    }
}

/// What can be a sample. Prometheus has no integers: above 2^53 the last digits are lost.
pub trait Value {
    /// As a sample.
    fn into_sample(self) -> f64;
}

impl Value for f64 {
    fn into_sample(self) -> f64 {
        self
    }
}

impl Value for u64 {
    fn into_sample(self) -> f64 {
        self as f64
    }
}

impl Value for usize {
    fn into_sample(self) -> f64 {
        self as f64
    }
}

impl Value for bool {
    fn into_sample(self) -> f64 {
        f64::from(u8::from(self))
    }
}

/// The text of these metrics. One without samples is left out.
pub fn text(metrics: &[Metric]) -> String {
    let mut text = String::new();
    // A String takes whatever is written to it.
    for Metric { name, kind, help, samples } in metrics.iter().filter(|metric| !metric.samples.is_empty()) {
        let _ = writeln!(text, "# HELP {name} {}", Escaped(help, false));
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for Sample { labels, value } in samples {
            text.push_str(name);
            for (index, (label, value)) in labels.iter().enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                let _ = write!(text, "{before}{label}=\"{}\"", Escaped(value, true));
            }
            let end = if labels.is_empty() { "" } else { "}" };
            let _ = writeln!(text, "{end} {value}");
        }
    }
    text
}

/// A text on one line, and between quotes where those are escaped, too.
struct Escaped<'a>(&'a str, bool);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' if self.1 => f.write_str("\\\""),
            char => f.write_char(char),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_the_format_says() {
        let metrics = [
            Metric::gauge("hub_members", "Members \\ by\nstate.")
                .of([("state", "online")], 2_usize)
                .each("state", [("offline", 10_u64)]),
            Metric::counter("hub_nothing_total", "Left out."),
            Metric::counter("hub_packets_total", "Packets.").value(1_u64 << 53),
            Metric::gauge("hub_time_seconds", "Time.").value(0.00025),
            Metric::gauge("hub_locked", "Whether.").value(true),
            Metric::gauge("hub_odd", "Odd.").of([("a", "x\"y\\z\n"), ("b", "")], -1.5),
        ];
        assert_eq!(
            text(&metrics),
            "# HELP hub_members Members \\\\ by\\nstate.\n\
             # TYPE hub_members gauge\n\
             hub_members{state=\"online\"} 2\n\
             hub_members{state=\"offline\"} 10\n\
             # HELP hub_packets_total Packets.\n\
             # TYPE hub_packets_total counter\n\
             hub_packets_total 9007199254740992\n\
             # HELP hub_time_seconds Time.\n\
             # TYPE hub_time_seconds gauge\n\
             hub_time_seconds 0.00025\n\
             # HELP hub_locked Whether.\n\
             # TYPE hub_locked gauge\n\
             hub_locked 1\n\
             # HELP hub_odd Odd.\n\
             # TYPE hub_odd gauge\n\
             hub_odd{a=\"x\\\"y\\\\z\\n\",b=\"\"} -1.5\n"
        );
        let json = serde_json::to_string(&metrics[0]).unwrap();
        assert_eq!(serde_json::from_str::<Metric>(&json).unwrap(), metrics[0]);
    }
}
