//! A run as a picture: beliefs, faults as bands, writes as ticks. One SVG, to be opened in a browser.
//!
//! Time runs to the right. From the top: faults, with a row for each of those active at one time; then a row for each candidate,
//! with its terms as bars, its dead and frozen times as shades, and its command's life as a line; then the writes
//! to each place, one tick each, in the colour of their writer's term. Pointing at anything shows its details.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    checker::Violation,
    history::{At, Event, EventKind, History, WriteTarget},
    terms::{Term, Terms},
};

const LEFT: f64 = 130.0;
const ROW: f64 = 26.0;
const FAULT_ROW: f64 = 15.0;
/// Pixels a second; less in long runs, which would be too wide for browsers.
const SCALE: f64 = 40.0;
const WIDEST: f64 = 24_000.0;

struct Canvas<'a> {
    history: &'a History,
    scale: f64,
    y: f64,
    body: String,
}

impl Canvas<'_> {
    fn x(&self, at: At) -> f64 {
        LEFT + self.history.seconds(at) * self.scale
    }

    fn bar(&mut self, class: &str, style: &str, (from, to): (At, At), (y, height): (f64, f64), title: &str) {
        let (x, end) = (self.x(from), self.x(to));
        let width = (end - x).max(1.0);
        let title = escaped(title);
        let _ = writeln!(
            self.body,
            r#"<rect class="{class}" {style} x="{x:.2}" y="{y:.1}" width="{width:.2}" height="{height:.1}"><title>{title}</title></rect>"#
        );
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(self.body, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#);
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A colour for each term, far from those of its neighbours.
fn colour(terms: &Terms, token: u64) -> String {
    let place = terms.all().iter().position(|term| term.token == token);
    place.map_or("#888".into(), |place| format!("hsl({} 65% 48%)", place * 137 % 360))
}

/// Draws the picture.
pub(crate) fn draw(history: &History, terms: &Terms, violations: &[Violation], heading: &str) -> String {
    let end = history.events().last().map_or(At(0), |event| event.at);
    let seconds = history.seconds(end);
    let scale = SCALE.min((WIDEST - LEFT) / seconds.max(1.0));
    let mut canvas = Canvas { history, scale, y: 24.0, body: String::new() };
    canvas.text(8.0, 16.0, "heading", heading);
    for violation in violations {
        canvas.y += 16.0;
        let y = canvas.y - 6.0;
        canvas.text(8.0, y, "violation", &violation.to_string());
    }
    let top = canvas.y;
    faults(&mut canvas);
    let mut names = BTreeSet::new();
    for event in history.events() {
        if let EventKind::Started { who } | EventKind::Proved { who, .. } = &event.what {
            names.insert(who.clone());
        }
    }
    for name in names {
        candidate(&mut canvas, terms, &name, end);
    }
    for place in [WriteTarget::Etcd, WriteTarget::Log, WriteTarget::Store, WriteTarget::File] {
        writes(&mut canvas, terms, place);
    }
    let (height, width) = (canvas.y + 30.0, LEFT + seconds * scale + 20.0);
    let mut axis = String::new();
    let step = [1, 5, 10, 60].into_iter().find(|step| f64::from(*step) * scale >= 40.0).unwrap_or(300);
    for second in (0..=seconds as u32).step_by(step as usize) {
        let x = LEFT + f64::from(second) * scale;
        let _ = writeln!(
            axis,
            r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{top:.1}" y2="{:.1}"/>"#,
            canvas.y
        );
        let _ =
            writeln!(axis, r#"<text class="axis" x="{x:.1}" y="{:.1}">{second} s</text>"#, canvas.y + 14.0);
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}">
<style>
svg {{ background: #fff; font: 11px sans-serif; }}
.heading {{ font-weight: bold; font-size: 13px; }}
.violation {{ fill: #c00; font-weight: bold; }}
.name {{ font-size: 12px; }}
.axis, .small {{ fill: #555; font-size: 10px; }}
.grid {{ stroke: #eee; }}
.fault {{ fill: #f3d9b1; stroke: #c98a2b; stroke-width: .5; }}
.healed {{ stroke: #2a7; stroke-dasharray: 4 3; }}
.row {{ fill: #f7f7f7; }}
.frozen {{ fill: #9ec9ea; }}
.dead {{ fill: #bbb; }}
.alive {{ fill: #111; }}
.told {{ fill: #fff; font-size: 10px; pointer-events: none; }}
</style>
{axis}{}</svg>
"#,
        canvas.body
    )
}

/// Puts each fault in the first free row.
fn faults(canvas: &mut Canvas<'_>) {
    let mut bands: BTreeMap<usize, (At, At, String, String)> = BTreeMap::new();
    for Event { at, what } in canvas.history.events() {
        match what {
            EventKind::Began { fault, kind, text } => {
                bands.insert(*fault, (*at, *at, kind.clone(), text.clone()));
            }
            EventKind::Over { fault } => {
                if let Some(band) = bands.get_mut(fault) {
                    band.1 = *at;
                }
            }
            _ => {}
        }
    }
    // Room for the label too.
    let label = |text: &str| std::time::Duration::from_secs_f64((text.len() as f64 * 5.6 + 8.0) / SCALE);
    let mut rows: Vec<At> = Vec::new();
    let top = canvas.y;
    for (from, to, kind, text) in bands.into_values() {
        let row = rows.iter().position(|free| *free <= from).unwrap_or_else(|| {
            rows.push(At(0));
            rows.len() - 1
        });
        rows[row] = to.max(from.plus(label(&kind)));
        let y = top + row as f64 * FAULT_ROW;
        let title =
            format!("{text}: {:.3} s to {:.3} s", canvas.history.seconds(from), canvas.history.seconds(to));
        canvas.bar("fault", "", (from, to), (y, FAULT_ROW - 2.0), &title);
        let x = canvas.x(from) + 3.0;
        canvas.text(x, y + FAULT_ROW - 5.0, "small", &kind);
    }
    canvas.y += rows.len() as f64 * FAULT_ROW + 8.0;
    if let Some(healed) = canvas.history.healed() {
        let (x, y) = (canvas.x(healed), canvas.y);
        let _ = writeln!(
            canvas.body,
            r#"<line class="healed" x1="{x:.1}" x2="{x:.1}" y1="{top:.1}" y2="{:.1}"><title>all faults are over</title></line>"#,
            y + 300.0
        );
    }
}

fn candidate(canvas: &mut Canvas<'_>, terms: &Terms, name: &str, end: At) {
    let y = canvas.y;
    canvas.text(8.0, y + ROW - 9.0, "name", name);
    canvas.bar("row", "", (canvas.history.start(), end), (y, ROW - 4.0), name);
    let (mut dead, mut frozen) = (None, None);
    let mut shades = Vec::new();
    for Event { at, what } in canvas.history.events() {
        match what {
            EventKind::Frozen { who } if who == name => frozen = frozen.or(Some(*at)),
            EventKind::Thawed { who } if who == name => {
                shades.extend(frozen.take().map(|from| ("frozen", from, *at)));
            }
            EventKind::Killed { who } | EventKind::Exited { who, .. } if who == name => {
                shades.extend(frozen.take().map(|from| ("frozen", from, *at)));
                dead = dead.or(Some(*at));
            }
            EventKind::Started { who } if who == name => {
                shades.extend(dead.take().map(|from| ("dead", from, *at)));
            }
            _ => {}
        }
    }
    shades.extend(dead.map(|from| ("dead", from, end)));
    for (class, from, to) in shades {
        canvas.bar(class, "", (from, to), (y, ROW - 4.0), &format!("{name} is {class}"));
    }
    for Term { token, from, end, deposed, .. } in terms.all().iter().filter(|term| term.who == name) {
        let seconds = |at: At| canvas.history.seconds(at);
        let mut title =
            format!("{name} led with token {token}: {:.4} s to {:.4} s", seconds(*from), seconds(*end));
        if let Some(deposed) = deposed {
            let _ = write!(title, ", deposed at {:.3} s", seconds(*deposed));
        }
        let fill = format!(r#"fill="{}""#, colour(terms, *token));
        canvas.bar("term", &fill, (*from, *end), (y + 3.0, ROW - 12.0), &title);
        let x = canvas.x(*from) + 3.0;
        canvas.text(x, y + ROW - 12.0, "told", &token.to_string());
    }
    for (token, from, to) in lives(canvas.history, name) {
        canvas.bar(
            "alive",
            "",
            (from, to),
            (y + ROW - 8.0, 2.0),
            &format!("the command of term {token} was alive"),
        );
    }
    canvas.y += ROW;
}

/// Times of commands' signs of life, by term.
fn lives(history: &History, name: &str) -> Vec<(u64, At, At)> {
    let mut lives: BTreeMap<u64, (At, At)> = BTreeMap::new();
    for Event { at, what } in history.events() {
        if let EventKind::Alive { who, token } = what
            && who == name
        {
            lives.entry(*token).or_insert((*at, *at)).1 = *at;
        }
    }
    lives.into_iter().map(|(token, (from, to))| (token, from, to)).collect()
}

fn writes(canvas: &mut Canvas<'_>, terms: &Terms, of: WriteTarget) {
    let there = |event: &Event| matches!(event.what, EventKind::Wrote { place, .. } if place == of);
    if !canvas.history.events().iter().any(there) {
        return;
    }
    let y = canvas.y;
    let label = match of {
        WriteTarget::Etcd => "writes: etcd",
        WriteTarget::Log => "writes: log",
        WriteTarget::Store => "writes: store",
        WriteTarget::File => "writes: file",
    };
    canvas.text(8.0, y + 13.0, "name", label);
    let mut newest = 0;
    for Event { at, what } in canvas.history.events() {
        // Of those in etcd only the order and the time of reading are known.
        let (token, refused) = match what {
            EventKind::Wrote { place, token, .. } if *place == of && of != WriteTarget::Etcd => {
                (*token, false)
            }
            EventKind::Refused { place, token } if *place == of => (*token, true),
            _ => continue,
        };
        let stale = token < newest;
        newest = newest.max(token);
        let x = canvas.x(*at);
        let (y1, stroke) =
            if stale || refused { (y, "#c00".to_owned()) } else { (y + 5.0, colour(terms, token)) };
        let what = if refused { "refused" } else { "taken" };
        let _ = writeln!(
            canvas.body,
            r#"<line x1="{x:.2}" x2="{x:.2}" y1="{y1:.1}" y2="{:.1}" stroke="{stroke}"><title>term {token}: {what}</title></line>"#,
            y + 16.0
        );
    }
    if of == WriteTarget::Etcd {
        let count = canvas
            .history
            .events()
            .iter()
            .filter(|event| matches!(event.what, EventKind::Wrote { place: WriteTarget::Etcd, .. }));
        let count = count.count();
        canvas.text(
            LEFT,
            y + 13.0,
            "small",
            &format!("{count} in all, in order of their revisions: see history.jsonl"),
        );
    }
    canvas.y += 20.0;
}

#[cfg(test)]
mod tests {
    use super::{
        super::{checker::sample::*, terms::Terms},
        *,
    };

    #[test]
    fn shows_terms_faults_writes_and_what_is_wrong() {
        let began = EventKind::Began { fault: 0, kind: "a <fault>".into(), text: "text".into() };
        let history = History::of(vec![
            started(0, "a"),
            proved(1_000, "a", 7, 4_000),
            alive(1_500, "a", 7),
            Event { at: at(2_000), what: began },
            frozen(2_000, "a"),
            thawed(3_000, "a"),
            wrote(2_500, WriteTarget::File, 1, 7),
            healed(3_500),
            closed(5_000),
        ]);
        let terms = Terms::of(history.events());
        let violation = Violation { invariant: "one leader", what: "two".into() };
        let svg = draw(&history, &terms, &[violation], "seed 1");
        for part in
            ["a led with token 7: 1.0000 s to 4.0000 s", "a &lt;fault&gt;", "one leader: two", "a is frozen"]
        {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert_eq!(svg.matches("<rect").count(), svg.matches("</rect>").count());
    }
}
