//! A bar chart in SVG, readable on light and dark pages.

use std::fmt::Write as _;

use crate::peers::Peer;
use crate::report::number;

/// The bars of one job, in µs.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) bars: Vec<(Peer, f64)>,
}

const WIDTH: f64 = 760.0;
const LABEL: f64 = 70.0;
/// What the longest bar of a group takes.
const LONGEST: f64 = 600.0;
const BAR: f64 = 15.0;

fn colour(peer: Peer) -> &'static str {
    match peer {
        Peer::Floor => "#9aa0a6",
        Peer::Bare => "#c7cbd1",
        Peer::Gateway => "#d9480f",
        Peer::Plain => "#f4a582",
        Peer::Haproxy => "#4c78a8",
        Peer::Nginx => "#59a14f",
        Peer::Envoy => "#b07aa1",
    }
}

/// Each group has its own scale, from zero.
pub(crate) fn draw(groups: &[Group]) -> String {
    let mut shapes = String::new();
    let mut y = 24.0;
    for group in groups {
        y += 14.0;
        let _ = writeln!(shapes, "<text x=\"0\" y=\"{y}\" class=\"title\">{}</text>", escaped(group.title));
        y += 6.0;
        let longest = group.bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (peer, value) in &group.bars {
            let width = value / longest * LONGEST;
            let (middle, end) = (y + BAR - 4.0, LABEL + width + 6.0);
            let _ = writeln!(
                shapes,
                "<text x=\"0\" y=\"{middle}\">{}</text><rect x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" \
                 height=\"{}\" fill=\"{}\"/><text x=\"{end:.1}\" y=\"{middle}\">{}</text>",
                peer.title(),
                BAR - 3.0,
                colour(*peer),
                number(*value),
            );
            y += BAR;
        }
        y += 6.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"Processor time of a request, in microseconds\">\n\
         <style>text{{font:12px system-ui,sans-serif;fill:#333}}.title{{font-weight:600}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}}}</style>\n\
         <text x=\"0\" y=\"14\">Processor time of a request in µs; shorter is better, each job has its own scale</text>\n\
         {shapes}</svg>\n",
        height = y + 6.0,
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
