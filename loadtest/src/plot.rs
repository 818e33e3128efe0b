//! Draws plots as SVG: scales, ticks, axes and marks. The caller chooses what to plot.
//!
//! The style of the page sets colours and fonts by class: `line`, `area`, `bar`, `mark`, `dot`,
//! `grid`, `tick`. Every element is closed.

use std::fmt;

use maud::{Markup, html};

/// Size of a plot and its margins, in the units of its view box.
pub(crate) const WIDTH: f64 = 900.0;
pub(crate) const HEIGHT: f64 = 270.0;
pub(crate) const LEFT: f64 = 82.0;
pub(crate) const RIGHT: f64 = 30.0;
const BOTTOM: f64 = 46.0;

/// Maps values to pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    is_log: bool,
    values: (f64, f64),
    pixels: (f64, f64),
}

impl Scale {
    /// A linear scale. An empty range of values is widened, so that nothing is divided by zero.
    pub(crate) fn linear(values: (f64, f64), pixels: (f64, f64)) -> Scale {
        let values = if values.1 > values.0 { values } else { (values.0, values.0 + 1.0) };
        Scale { is_log: false, values, pixels }
    }

    /// A logarithmic scale. Both values must be above zero.
    pub(crate) fn log(values: (f64, f64), pixels: (f64, f64)) -> Scale {
        let values = if values.1 > values.0 { values } else { (values.0, values.0 * 10.0) };
        Scale { is_log: true, values, pixels }
    }

    pub(crate) fn at(&self, value: f64) -> f64 {
        let ((low, high), (from, to)) = (self.values, self.pixels);
        let share = if self.is_log {
            (value.max(low).ln() - low.ln()) / (high.ln() - low.ln())
        } else {
            (value - low) / (high - low)
        };
        from + share.clamp(0.0, 1.0) * (to - from)
    }

    /// Whether a value is in the range.
    pub(crate) fn shows(&self, value: f64) -> bool {
        (self.values.0..=self.values.1).contains(&value)
    }
}

/// About `wanted` round numbers from `low` to `high`, in steps of 1, 2 or 5.
pub(crate) fn linear_ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 || wanted == 0 {
        return vec![low];
    }
    let rough = span / wanted as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough * 0.999).unwrap_or(10.0);
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|at| at as f64 * step).collect()
}

/// The number of decimals that distinguish these ticks.
pub(crate) fn decimals(ticks: &[f64]) -> usize {
    let step = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    if step.is_finite() && step > 0.0 {
        (-(step * 1.000_001).log10().floor()).clamp(0.0, 9.0) as usize
    } else {
        0
    }
}

/// The end of an axis from zero that contains `max`: the next round step.
pub(crate) fn round_up(max: f64, wanted: usize) -> f64 {
    let ticks = linear_ticks(0.0, max, wanted);
    let step = match ticks.as_slice() {
        [first, second, ..] => second - first,
        _ => return if max > 0.0 { max } else { 1.0 },
    };
    (max / step - 1e-9).ceil() * step
}

/// Round numbers for a logarithmic axis: powers of ten, with steps between them if there are few.
pub(crate) fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    if !(low > 0.0 && high.is_finite() && high >= low) {
        return Vec::new();
    }
    let decades = (high / low).log10();
    if decades < 0.4 {
        // A range this short is almost linear.
        return linear_ticks(low, high, 5).into_iter().filter(|tick| (low..=high).contains(tick)).collect();
    }
    let (powers_from, powers_to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let steps: &[f64] = match decades {
        _ if decades < 1.2 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
        _ if decades < 4.5 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    (powers_from..=powers_to)
        .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
        .filter(|tick| (low * 0.999_999..=high * 1.000_001).contains(tick))
        .collect()
}

/// Formats a count with a suffix, such as 1.5M.
pub(crate) fn short(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{suffix}", trimmed(scaled, 3))
}

/// Formats nanoseconds with a suitable unit.
pub(crate) fn duration(nanos: f64) -> String {
    let (scaled, unit) = match nanos {
        _ if nanos >= 1e9 => (nanos / 1e9, "s"),
        _ if nanos >= 1e6 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e3, "µs"),
    };
    format!("{} {unit}", trimmed(scaled, 3))
}

/// Formats a value with about `digits` significant digits, without trailing zeros in a fraction.
fn trimmed(value: f64, digits: usize) -> String {
    let whole = if value.abs() < 1.0 { 0 } else { value.abs().log10().floor() as usize + 1 };
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A plot in progress. The data area is to the right of [`LEFT`] and below `top`.
pub(crate) struct Plot {
    parts: Vec<Markup>,
    top: f64,
}

/// A length in the units of the view box, with one decimal.
#[derive(Clone, Copy)]
struct Pixels(f64);

impl fmt::Display for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

impl Plot {
    /// `top` is the space above the data, for the labels of marks.
    pub(crate) fn new(top: f64) -> Plot {
        Plot { parts: Vec::new(), top }
    }

    pub(crate) fn x_pixels(&self) -> (f64, f64) {
        (LEFT, WIDTH - RIGHT)
    }

    /// From bottom to top.
    pub(crate) fn y_pixels(&self) -> (f64, f64) {
        (HEIGHT - BOTTOM, self.top)
    }

    pub(crate) fn x_axis(&mut self, scale: Scale, ticks: &[f64], name: impl Fn(f64) -> String, title: &str) {
        let base = HEIGHT - BOTTOM;
        for &tick in ticks {
            let x = scale.at(tick);
            self.vertical("grid", x, self.top, base);
            self.text("tick middle", x, base + 17.0, &name(tick));
        }
        self.horizontal("axis", base, LEFT, WIDTH - RIGHT);
        self.text("title middle", (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0, title);
    }

    pub(crate) fn y_axis(&mut self, scale: Scale, ticks: &[f64], name: impl Fn(f64) -> String, title: &str) {
        for &tick in ticks {
            let y = scale.at(tick);
            self.horizontal("grid", y, LEFT, WIDTH - RIGHT);
            self.text("tick end", LEFT - 8.0, y + 4.0, &name(tick));
        }
        let middle = Pixels(f64::midpoint(self.top, HEIGHT - BOTTOM));
        self.parts.push(html! {
            text class="title middle" transform={ "translate(13 " (middle) ") rotate(-90)" } { (title) }
        });
    }

    /// Draws a bar with a tooltip.
    pub(crate) fn bar(&mut self, (from, to): (f64, f64), (low, high): (f64, f64), hint: &str) {
        let corner = (from, high);
        self.rectangle("bar", corner, ((to - from).max(0.5), low - high), html! { title { (hint) } });
    }

    /// Draws a shaded box for the time outside the measured time.
    pub(crate) fn shade(&mut self, from: f64, to: f64) {
        let size = (to - from, HEIGHT - BOTTOM - self.top);
        if size.0 > 0.5 {
            self.rectangle("shade", (from, self.top), size, Markup::default());
        }
    }

    fn rectangle(&mut self, class: &str, corner: (f64, f64), size: (f64, f64), content: Markup) {
        let ([x, y], [width, height]) = ([corner.0, corner.1].map(Pixels), [size.0, size.1].map(Pixels));
        self.parts.push(html! {
            rect class=(class) x=(x) y=(y) width=(width) height=(height) { (content) }
        });
    }

    /// Draws a line through points. Fills the area below it if `base` is given.
    pub(crate) fn line(&mut self, class: &str, points: &[(f64, f64)], base: Option<f64>) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let point = |&(x, y): &(f64, f64)| format!("{} {}", Pixels(x), Pixels(y));
        let path = points.iter().map(point).collect::<Vec<_>>().join("L");
        if let Some(base) = base {
            let [last, first] = [(last.0, base), (first.0, base)].map(|corner| point(&corner));
            self.parts.push(html! {
                path class={ "area " (class) } d={ "M" (path) "L" (last) "L" (first) "Z" } {}
            });
        }
        self.parts.push(html! { path class={ "line " (class) } d={ "M" (path) } {} });
    }

    pub(crate) fn vertical(&mut self, class: &str, x: f64, from: f64, to: f64) {
        self.straight(class, (x, x), (from, to));
    }

    pub(crate) fn horizontal(&mut self, class: &str, y: f64, from: f64, to: f64) {
        self.straight(class, (from, to), (y, y));
    }

    fn straight(&mut self, class: &str, x: (f64, f64), y: (f64, f64)) {
        let [x1, x2, y1, y2] = [x.0, x.1, y.0, y.1].map(Pixels);
        self.parts.push(html! { line class=(class) x1=(x1) x2=(x2) y1=(y1) y2=(y2) {} });
    }

    /// Draws a small dot with a tooltip. The style gives it an invisible ring that the pointer hits
    /// easily.
    pub(crate) fn dot(&mut self, class: &str, x: f64, y: f64, hint: &str) {
        self.parts.push(html! {
            circle class={ "dot " (class) } cx=(Pixels(x)) cy=(Pixels(y)) r="2.6" { title { (hint) } }
        });
    }

    pub(crate) fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        self.parts.push(html! { text class=(class) x=(Pixels(x)) y=(Pixels(y)) { (text) } });
    }

    /// The finished element. `label` describes it for screen readers.
    pub(crate) fn finish(self, label: &str) -> Markup {
        html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img"
                aria-label=(label) {
                @for part in self.parts { (part) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_end_an_element_or_attribute() {
        let mut plot = Plot::new(0.0);
        plot.text("x", 1.0, 2.0, "<b a=\"1\" c='2'>&</b>");
        let html = plot.finish("\"><script>").into_string();
        assert!(html.contains(">&lt;b a=&quot;1&quot; c='2'&gt;&amp;&lt;/b&gt;</text>"), "{html}");
        assert!(html.contains("aria-label=\"&quot;&gt;&lt;script&gt;\""), "{html}");
    }

    #[test]
    fn ticks_are_round_and_cover_the_axis() {
        assert_eq!(linear_ticks(0.0, 9.7, 5), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(linear_ticks(-1.0, 5.2, 6), [-0.0, 2.0, 4.0]);
        assert_eq!(linear_ticks(0.0, 250_000.0, 5), [0.0, 50_000.0, 1e5, 1.5e5, 2e5, 2.5e5]);
        for (ticks, digits) in
            [(&[0.0, 0.05][..], 2), (&[0.0, 0.5], 1), (&[0.0, 20.0], 0), (&[1.0], 0), (&[], 0)]
        {
            assert_eq!(decimals(ticks), digits, "{ticks:?}");
        }
        assert_eq!(round_up(9.7, 5), 10.0);
        assert_eq!(round_up(10.0, 5), 10.0);
        assert_eq!(round_up(0.0, 5), 1.0);
        for max in [1e-9, 0.3, 7.0, 99.9, 123_456.0, 9e15] {
            let end = round_up(max, 5);
            assert!(end >= max * 0.999_999 && end <= max * 2.0, "{max} {end}");
            assert!((3..=12).contains(&linear_ticks(0.0, end, 5).len()), "{max}");
        }
    }

    #[test]
    fn logarithmic_axis_has_ticks_at_any_width() {
        assert_eq!(log_ticks(1e3, 1e5), [1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5]);
        for high in [1.3e6, 3e6, 1e7, 2e9, 3.6e12] {
            let ticks = log_ticks(1e6, high);
            assert!((2..=24).contains(&ticks.len()), "{high}: {ticks:?}");
            assert!(ticks.is_sorted());
        }
        assert!(log_ticks(0.0, 1.0).is_empty() && log_ticks(2.0, 1.0).is_empty());
    }

    #[test]
    fn empty_ranges_and_outside_values_stay_on_the_plot() {
        let pixels = (10.0, 20.0);
        for scale in [Scale::linear((3.0, 3.0), pixels), Scale::log((3.0, 3.0), pixels)] {
            for value in [0.0, 3.0, 1e300, -5.0] {
                assert!((10.0..=20.0).contains(&scale.at(value)), "{scale:?} {value}");
            }
        }
    }

    #[test]
    fn counts_and_durations_are_short() {
        assert_eq!(short(250_000.0), "250k");
        assert_eq!(short(1_234_567.0), "1.23M");
        assert_eq!(short(0.5), "0.5");
        assert_eq!(duration(1_500_000.0), "1.5 ms");
        assert_eq!(duration(250_000.0), "250 µs");
        assert_eq!(duration(20e9), "20 s");
    }
}
