//! A plot of one measure, as SVG: a row for each contender, a dot for each trial, a bar at the median, and the
//! numbers beside it. It brings its own background, so it reads the same on a light and on a dark page.

use std::fmt::Write as _;

use super::{
    measure::{Better, Measure},
    number::short,
    sample::Sample,
    who::Who,
};

const WIDTH: f64 = 760.0;
/// The dots' area, between the names and the numbers.
const LEFT: f64 = 168.0;
const RIGHT: f64 = 540.0;
const TOP: f64 = 58.0;
const ROW: f64 = 36.0;
/// Below the last row: the axis.
const BOTTOM: f64 = 44.0;
/// Largest vertical spread of the dots of one row, so that equal ones show.
const SPREAD: f64 = 9.0;
/// Ratio of values above which the axis is logarithmic.
const LINEAR_UP_TO: f64 = 25.0;
/// A logarithmic axis has no zero: zeros have a lane of their own, left of it.
const ZERO_LANE: f64 = 48.0;

const STYLE: &str = "
  .card { fill: #ffffff; stroke: #d0d7de }
  text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
  .head { font-size: 15px; font-weight: 600 }
  .ours { font-weight: 600 }
  .faint { fill: #59636e; font-size: 12px }
  .grid { stroke: #d8dee4; stroke-width: 1 }
  .dots { fill: none; stroke-width: 6; stroke-linecap: round; stroke: #8c959f; opacity: 0.75 }
  .dots.mine { stroke: #0969da }
  .bar { stroke: #424a53; stroke-width: 3 }
  .bar.mine { stroke: #0550ae }
  @media (prefers-color-scheme: dark) {
    .card { fill: #151b23; stroke: #3d444d }
    text { fill: #f0f6fc }
    .faint { fill: #9198a1 }
    .grid { stroke: #2f3742 }
    .dots { stroke: #818b98 }
    .dots.mine { stroke: #4493f8 }
    .bar { stroke: #d1d7e0 }
    .bar.mine { stroke: #a5d6ff }
  }
";

pub(crate) fn svg(measure: &Measure) -> String {
    let rows: Vec<(Who, &Sample)> =
        measure.outcomes.keys().filter_map(|who| Some((*who, measure.sample(*who)?))).collect();
    let axis = Axis::over(rows.iter().flat_map(|(_, sample)| sample.values()).copied());
    let end = TOP + ROW * rows.len() as f64;
    let height = end + BOTTOM;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        escaped(&in_words(measure, &rows)),
        WIDTH - 1.0,
        height - 1.0,
    );
    let _ = writeln!(svg, "<text class=\"head\" x=\"16\" y=\"27\">{}</text>", escaped(&measure.what));
    let _ = writeln!(svg, "<text class=\"faint\" x=\"16\" y=\"45\">{}</text>", legend(measure, &axis));
    let _ = writeln!(
        svg,
        "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        RIGHT + 16.0,
        end + 18.0,
        measure.unit.symbol()
    );
    for (place, label) in axis.ticks() {
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{place:.1} {TOP}V{end}\"/>\n\
             <text class=\"faint\" x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>\n",
            end + 18.0,
        );
    }
    for (index, (who, sample)) in rows.iter().enumerate() {
        row(&mut svg, measure, &axis, (*who, sample), TOP + ROW * (index as f64 + 0.5));
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, measure: &Measure, axis: &Axis, (who, sample): (Who, &Sample), y: f64) {
    let (bold, mine) = if who.is_ours() { (" class=\"ours\"", " mine") } else { ("", "") };
    let base = y + 4.5;
    let _ = writeln!(svg, "<text{bold} x=\"16\" y=\"{base:.1}\">{}</text>", escaped(who.title()));
    let mut dots = String::new();
    for (index, value) in sample.values().iter().enumerate() {
        let (x, y) = (axis.place(*value, index), y + SPREAD * spread(index));
        let _ = write!(dots, "M{x:.1} {y:.1}h0");
    }
    let _ = writeln!(svg, "<path class=\"dots{mine}\" d=\"{dots}\"/>");
    if measure.better != Better::Never {
        let x = axis.place(sample.median(), 0);
        let _ = writeln!(svg, "<path class=\"bar{mine}\" d=\"M{x:.1} {:.1}v22\"/>", y - 11.0);
    }
    let _ = writeln!(
        svg,
        "<text{bold} x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
        RIGHT + 16.0,
        escaped(&measure.cell(who))
    );
}

fn legend(measure: &Measure, axis: &Axis) -> String {
    let better = match measure.better {
        Better::Less => "less is better; ",
        Better::More => "more is better; ",
        Better::Never => "none is right; ",
        Better::Neither => "",
    };
    let bar = if measure.better == Better::Never { "" } else { ", the bar and the number are the median" };
    let scale = if axis.is_factors() { "; each step of the axis is a factor" } else { "" };
    format!("{better}a dot is a trial{bar}{scale}")
}

/// Alternative text.
fn in_words(measure: &Measure, rows: &[(Who, &Sample)]) -> String {
    let cells: Vec<_> =
        rows.iter().map(|(who, _)| format!("{} {}", who.title(), measure.cell(*who))).collect();
    format!("{}: {}", measure.what, cells.join("; "))
}

/// A dot's fixed position in the spread, evenly over −1 to 1: the fractional part of the golden ratio's multiples.
fn spread(index: usize) -> f64 {
    (index as f64 * 0.618_034).fract() * 2.0 - 1.0
}

/// Maps values to positions.
#[derive(Debug)]
enum Axis {
    Linear {
        most: f64,
        step: f64,
    },
    /// From a power of ten to a power of ten.
    Factors {
        least: i32,
        most: i32,
        has_zero: bool,
    },
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone) -> Self {
        let most = values.clone().fold(0.0, f64::max);
        let least = values.clone().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        if most > least * LINEAR_UP_TO {
            let has_zero = values.clone().any(|value| value <= 0.0);
            return Self::Factors {
                least: least.log10().floor() as i32,
                most: most.log10().ceil() as i32,
                has_zero,
            };
        }
        let step = step(most);
        Self::Linear { most: (most / step).ceil().max(1.0) * step, step }
    }

    fn is_factors(&self) -> bool {
        matches!(self, Self::Factors { .. })
    }

    /// `index` spreads zeros within their lane.
    fn place(&self, value: f64, index: usize) -> f64 {
        match self {
            Self::Linear { most, .. } => LEFT + (RIGHT - LEFT) * value / most,
            Self::Factors { .. } if value <= 0.0 => LEFT + 8.0 * spread(index * 7 + 3),
            Self::Factors { least, most, has_zero } => {
                let left = if *has_zero { LEFT + ZERO_LANE } else { LEFT };
                let share = (value.log10() - f64::from(*least)) / f64::from(most - least);
                left + (RIGHT - left) * share
            }
        }
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let of = |value: f64| (self.place(value, 0), tick(value));
        match self {
            Self::Linear { most, step } => {
                (0..=(most / step).round() as u32).map(|count| of(f64::from(count) * step)).collect()
            }
            Self::Factors { least, most, has_zero } => {
                let zero = has_zero.then(|| (LEFT, "none".to_owned()));
                zero.into_iter().chain((*least..=*most).map(|power| of(10_f64.powi(power)))).collect()
            }
        }
    }
}

/// A tick's label, without meaningless digits.
fn tick(value: f64) -> String {
    if value >= 1000.0 { short(value) } else { format!("{}", (value * 1e6).round() / 1e6) }
}

/// 1, 2 or 5 times a power of ten, for four to ten ticks.
fn step(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::number::Unit;

    fn plotted(better: Better, samples: &[(Who, &[f64])]) -> String {
        let mut measure = Measure::new("name", "what <it> is", Unit::Milliseconds, better);
        for (who, values) in samples {
            measure.add(*who, values.iter().copied().collect());
        }
        svg(&measure)
    }

    /// Horizontal positions of a row's dots.
    fn places(svg: &str, class: &str) -> Vec<f64> {
        let start = format!("<path class=\"{class}\" d=\"");
        let path = svg.lines().find_map(|line| line.strip_prefix(&start)).expect("there is such a row");
        let dots = path.trim_end_matches("\"/>").split('M').skip(1);
        dots.map(|dot| dot.split(' ').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn equal_steps_are_equally_far_apart_from_zero_on() {
        let svg = plotted(Better::Less, &[(Who::Elect, &[0.0, 5.0, 10.0])]);
        assert_eq!(places(&svg, "dots mine"), [LEFT, (LEFT + RIGHT) / 2.0, RIGHT]);
    }

    #[test]
    fn far_apart_values_are_apart_by_factors_and_zero_has_its_place() {
        let svg = plotted(Better::Never, &[(Who::Elect, &[0.0; 4]), (Who::Twin, &[1.0, 10.0, 100.0])]);
        let zeros = places(&svg, "dots mine");
        let others = places(&svg, "dots");
        assert!(zeros.iter().all(|x| *x < others[0] - 10.0), "{zeros:?} {others:?}");
        assert!(((others[1] - others[0]) - (others[2] - others[1])).abs() < 0.2, "{others:?}");
        assert!(svg.contains(">none</text>") && svg.contains("each step of the axis is a factor"));
        assert!(svg.contains(">0 of 4</text>") && svg.contains(">3 of 3, up to 100 ms</text>"), "{svg}");
        // Its median would equal one of its dots.
        assert!(!svg.contains("class=\"bar"), "{svg}");
    }

    #[test]
    fn nothing_is_drawn_outside() {
        for values in [&[0.0][..], &[0.001, 99_999.0], &[7.3, 7.3], &[64_000.0, 3500.0]] {
            let svg = plotted(Better::Less, &[(Who::Go, values)]);
            assert!(places(&svg, "dots").iter().all(|x| (LEFT..=RIGHT).contains(x)), "{values:?}\n{svg}");
        }
    }

    #[test]
    fn text_cannot_become_markup() {
        let svg = plotted(Better::Less, &[(Who::Elect, &[1.0])]);
        assert!(svg.contains(">what &lt;it&gt; is</text>"), "{svg}");
        assert!(!svg.contains("<it>"));
    }

    #[test]
    fn an_axis_has_some_round_ticks() {
        for (most, expected) in [(10.0, 2.0), (9.3, 2.0), (0.4, 0.1), (61.0, 20.0), (1500.0, 500.0)] {
            assert!((step(most) - expected).abs() < 1e-9, "{most}: {}", step(most));
        }
    }
}
