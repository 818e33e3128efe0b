//! A report as one HTML page without external resources: no script, no font, no image, no address.
//! Styles and plots are inline, for light and dark screens. The browser shows the tooltips of the
//! plots.

use hdrhistogram::Histogram;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::context::Context;
use crate::latency::bins;
use crate::plot::{
    HEIGHT, LEFT, Plot, Scale, WIDTH, decimals, duration, linear_ticks, log_ticks, round_up, short,
};
use crate::report::{PERCENTILES, Report, grouped, latency_rows};
use crate::timeline::Rate;

/// The whole page. All its elements but `meta` are closed, so that a test can check it.
pub(crate) fn page(report: &Report, context: &Context) -> String {
    let started = context.rows.iter().find(|row| row.0 == "started").map_or("", |row| row.1.as_str());
    let figures = report.figures.iter().map(|figure| {
        let value = grouped(figure.value, figure.decimals);
        (figure.label.to_owned(), value, with_micro(figure.unit))
    });
    let faults = report
        .faults
        .rows()
        .into_iter()
        .map(|(name, count)| (name.replace('_', " "), grouped(count as f64, 0), String::new()));
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (report.scenario) ", " (started) }
                style { (PreEscaped(STYLE)) }
            }
            body { main {
                header { h1 { (report.scenario) } p { (verdict(report)) " " (started) } }
                p.settings {
                    @for (name, value) in &report.settings { span { (name) " " b { (value) } } " " }
                }
                (notes_and_details(report))
                (tiles(report))
                (timeline_plots(report))
                (latencies(report))
                div.columns {
                    (number_table("Figures", figures))
                    @if let Some((of, histogram)) = &report.latency {
                        (number_table(&format!("Latency, {of}"), latency_rows(histogram).into_iter().map(
                            |(name, value)| (name.to_owned(), format!("{value:.3}"), "ms".to_owned()),
                        )))
                    }
                    (number_table("Faults", faults))
                    (text_table("Run", &context.rows))
                }
            } }
        }
    };
    // Nothing may stand for a control character in HTML, not even a character reference.
    let is_forbidden = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    format!("{}\n", markup.into_string().replace(is_forbidden, "\u{fffd}"))
}

fn with_micro(unit: &str) -> String {
    unit.replacen("us ", "µs ", 1)
}

fn verdict(report: &Report) -> Markup {
    match report.faults.total() {
        0 => html! { span.verdict.good { "no faults" } },
        1 => html! { span.verdict.bad { "1 fault" } },
        faults => html! { span.verdict.bad { (grouped(faults as f64, 0)) " faults" } },
    }
}

fn notes_and_details(report: &Report) -> Markup {
    html! {
        @if !report.notes.is_empty() || !report.details.is_empty() {
            ul.remarks {
                @for note in &report.notes { li { (note) } }
                @for detail in &report.details { li.fault { (detail) } }
            }
        }
    }
}

/// Keys and labels of the figures in tiles. Figures that a scenario does not have are left out.
const HEADLINES: [(&str, &str); 6] = [
    ("broker_cpu_us", "broker CPU"),
    ("delivered_per_second", "delivered"),
    ("connections_per_second", "connected"),
    ("join_per_second", "connecting"),
    ("resident_per_connection_bytes", "broker memory"),
    ("broker_busy_percent", "broker busy"),
];

fn tiles(report: &Report) -> Markup {
    let tile = |label: &str, value: &str, unit: &str, is_bad: bool| {
        html! {
            div.tile.bad[is_bad] { div.label { (label) } div.value { (value) } div.unit { (unit) } }
        }
    };
    let headlines = HEADLINES
        .iter()
        .filter_map(|&(key, label)| Some((label, report.figures.iter().find(|figure| figure.key == key)?)));
    let millis = report.figures.iter().filter(|figure| figure.key.ends_with("_ms"));
    let faults = report.faults.total();
    html! {
        section.tiles {
            @for (label, figure) in headlines.chain(millis.map(|figure| (figure.label, figure))) {
                (tile(label, &grouped(figure.value, figure.decimals), &with_micro(figure.unit), false))
            }
            @if let Some((_, histogram)) = &report.latency {
                @for (name, at) in [("p50", 50.0), ("p99", 99.0)] {
                    @let text = duration(histogram.value_at_percentile(at) as f64);
                    @let (value, unit) = text.split_once(' ').unwrap_or((&text, ""));
                    (tile(&format!("latency {name}"), value, unit, false))
                }
            }
            (tile("faults", &grouped(faults as f64, 0), "in total", faults > 0))
        }
    }
}

/// Plots of the work per second and, if it was sampled, of the CPU time of the broker over time.
fn timeline_plots(report: &Report) -> Markup {
    let Some((of, timeline)) = &report.timeline else { return Markup::default() };
    let rates = timeline.rates();
    let (Some(first), Some(last)) = (rates.first(), rates.last()) else {
        return figure(
            &format!("{of} per second"),
            "",
            &html! { p.none { "The run was too short for a plot." } },
        );
    };
    let measured = report.measured.unwrap_or((first.from_nanos, last.to_nanos));
    let axis = TimeAxis {
        zero: measured.0,
        from: first.from_nanos.min(measured.0),
        to: last.to_nanos.max(measured.1),
        measured,
    };
    let throughput =
        axis.draw(&rates, |rate| Some(rate.work_per_second), "one", &format!("{of} per second"), short);
    let shaded = if axis.from < measured.0 || axis.to > measured.1 {
        "Shaded: before and after the measured time. Dashed: the mean of the measured time."
    } else {
        "Dashed: the mean of the measured time."
    };
    let has_cores = rates.iter().any(|rate| rate.broker_cores.is_some());
    let cores = |rate: &Rate| rate.broker_cores.map(|cores| cores * 100.0);
    let plot = || axis.draw(&rates, cores, "two", "% of one core", |value| format!("{value:.0} %"));
    html! {
        (figure(&format!("{of} per second, over time"), shaded, &throughput))
        @if has_cores {
            (figure("broker CPU, over time", "User and system time together. 100 % is one core.", &plot()))
        }
    }
}

/// The time axis: seconds since the start of the measured time.
struct TimeAxis {
    zero: u64,
    from: u64,
    to: u64,
    measured: (u64, u64),
}

impl TimeAxis {
    fn seconds(&self, nanos: u64) -> f64 {
        (nanos as f64 - self.zero as f64) / 1e9
    }

    fn draw(
        &self,
        rates: &[Rate],
        value: impl Fn(&Rate) -> Option<f64>,
        class: &str,
        title: &str,
        name: impl Fn(f64) -> String,
    ) -> Markup {
        let mut plot = Plot::new(14.0);
        let time = Scale::linear((self.seconds(self.from), self.seconds(self.to)), plot.x_pixels());
        let max = rates.iter().filter_map(&value).fold(0.0, f64::max);
        let top = round_up(max, 5);
        let height = Scale::linear((0.0, top), plot.y_pixels());
        let x = |nanos: u64| time.at(self.seconds(nanos));
        let (begin, end) = self.measured;
        plot.shade(LEFT, x(begin));
        plot.shade(x(end), x(self.to));
        plot.y_axis(height, &linear_ticks(0.0, top, 5), &name, title);
        let ticks = linear_ticks(self.seconds(self.from), self.seconds(self.to), 9);
        let digits = decimals(&ticks);
        let second = |tick: f64| format!("{:.digits$}", if tick.abs() < 1e-9 { 0.0 } else { tick });
        plot.x_axis(time, &ticks, second, "seconds since the measured time began");
        let points: Vec<(f64, f64)> = rates
            .iter()
            .filter_map(|rate| {
                Some((x(u64::midpoint(rate.from_nanos, rate.to_nanos)), height.at(value(rate)?)))
            })
            .collect();
        plot.line(class, &points, Some(height.at(0.0)));
        if let Some(mean) = self.mean(rates, &value) {
            plot.horizontal(&format!("mean {class}"), height.at(mean), x(begin), x(end));
        }
        // A line has no points for tooltips, so a short run gets a dot for each sample.
        if points.len() <= 60 {
            let shown = rates.iter().filter_map(|rate| value(rate).map(|value| (rate, value)));
            for (&(at, y), (rate, value)) in points.iter().zip(shown) {
                let hint = format!("{:.1} s: {}", self.seconds(rate.to_nanos), name(value));
                plot.dot(class, at, y, &hint);
            }
        }
        plot.finish(title)
    }

    /// The mean over the measured time. Each interval has the weight of its length in it.
    fn mean(&self, rates: &[Rate], value: impl Fn(&Rate) -> Option<f64>) -> Option<f64> {
        let (mut sum, mut nanos) = (0.0, 0.0);
        for rate in rates {
            let within =
                rate.to_nanos.min(self.measured.1).saturating_sub(rate.from_nanos.max(self.measured.0));
            sum += value(rate)? * within as f64;
            nanos += within as f64;
        }
        (nanos > 0.0).then(|| sum / nanos)
    }
}

fn latencies(report: &Report) -> Markup {
    let Some((of, histogram)) = &report.latency else {
        return figure("latency", "", &html! { p.none { "No latency was measured." } });
    };
    let samples = grouped(histogram.len() as f64, 0);
    let noun = if histogram.len() == 1 { "sample" } else { "samples" };
    let bins = format!("{of}, {samples} {noun}. Every bin with a sample is at least one pixel high.");
    let axis = "The percentile axis is logarithmic: 90, 99 and 99.9 % are equally far apart.";
    html! {
        (figure("latency distribution", &bins, &distribution(histogram)))
        (figure("latency by percentile", axis, &percentiles(histogram)))
    }
}

/// The percentiles to mark: name and nanoseconds, the maximum last.
fn percentile_marks(histogram: &Histogram<u64>) -> Vec<(&'static str, f64)> {
    let mut marks: Vec<_> =
        PERCENTILES.iter().map(|&(name, at)| (name, histogram.value_at_percentile(at) as f64)).collect();
    marks.push(("max", histogram.max() as f64));
    marks
}

fn distribution(histogram: &Histogram<u64>) -> Markup {
    const ROW: f64 = 15.0;
    const ROWS: usize = 5;
    let bins = bins(histogram);
    let total = histogram.len() as f64;
    let share = |count: u64| count as f64 / total * 100.0;
    let mut plot = Plot::new(14.0 + ROW * ROWS as f64);
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return Markup::default() };
    let x = Scale::log((first.from / 1.05, last.to * 1.05), plot.x_pixels());
    let top = round_up(bins.iter().map(|bin| share(bin.count)).fold(0.0, f64::max), 4);
    let y = Scale::linear((0.0, top), plot.y_pixels());
    let name = |tick: f64| format!("{} %", short(tick));
    plot.y_axis(y, &linear_ticks(0.0, top, 4), name, "% of the samples");
    plot.x_axis(
        x,
        &spaced(&log_ticks(first.from / 1.05, last.to * 1.05), x),
        duration,
        "latency, logarithmic",
    );
    let base = y.at(0.0);
    for bin in bins.iter().filter(|bin| bin.count > 0) {
        let height = y.at(share(bin.count)).min(base - 1.0);
        let (from, to) = (x.at(bin.from), x.at(bin.to));
        let hint = format!(
            "{} to {}: {} samples, {:.3} %",
            duration(bin.from),
            duration(bin.to),
            grouped(bin.count as f64, 0),
            share(bin.count)
        );
        let gap = if to - from > 4.0 { 1.0 } else { 0.0 };
        plot.bar((from, to - gap), (base, height), &hint);
    }
    // Each mark has its own row of text, because neighbours may be close. The lines are below the
    // text.
    let row_y = |row: usize| 12.0 + ROW * row as f64;
    let marks = percentile_marks(histogram);
    for (row, &(_, nanos)) in marks.iter().enumerate() {
        plot.vertical("mark", x.at(nanos), row_y(row) - 9.0, base);
    }
    for (row, (name, nanos)) in marks.into_iter().enumerate() {
        let (at, text) = (x.at(nanos), format!("{name} {}", duration(nanos)));
        let (class, at) = if at > WIDTH * 0.8 { ("label end", at - 5.0) } else { ("label", at + 5.0) };
        plot.text(class, at, row_y(row), &text);
    }
    plot.finish("histogram of the latency")
}

/// Latency by percentile. One decade of the axis is a tenth of the remaining samples.
fn percentiles(histogram: &Histogram<u64>) -> Markup {
    const TICKS: [f64; 9] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999, 99.999_99];
    const POINTS: usize = 240;
    let rest = |percentile: f64| 1.0 / (1.0 - percentile / 100.0).max(1e-12);
    let end = (histogram.len() as f64).clamp(10.0, 1e8);
    let mut plot = Plot::new(24.0);
    let x = Scale::log((1.0, end), plot.x_pixels());
    let (low, high) = (histogram.min().max(1000) as f64 / 1.1, histogram.max().max(2000) as f64 * 1.1);
    let y = Scale::log((low, high), plot.y_pixels());
    plot.y_axis(y, &spaced(&log_ticks(low, high), y), duration, "latency, logarithmic");
    let ticks: Vec<f64> = TICKS.iter().map(|&at| rest(at)).filter(|&at| at <= end * 1.000_001).collect();
    let name = |tick: f64| {
        let percentile = 100.0 - 100.0 / tick;
        let digits = (tick.log10().round() as usize).saturating_sub(2);
        format!("{percentile:.digits$} %")
    };
    plot.x_axis(x, &ticks, name, "percentile");
    let points: Vec<(f64, f64)> = (0..=POINTS)
        .map(|step| {
            let left = end.powf(step as f64 / POINTS as f64);
            let nanos = histogram.value_at_quantile(1.0 - 1.0 / left) as f64;
            (x.at(left), y.at(nanos))
        })
        .collect();
    plot.line("one", &points, None);
    for (&(name, at), (_, nanos)) in PERCENTILES.iter().zip(percentile_marks(histogram)) {
        let left = rest(at);
        if x.shows(left) {
            plot.dot("mark", x.at(left), y.at(nanos), &format!("{name}: {}", duration(nanos)));
            let text = format!("{name} {}", duration(nanos));
            // The first label stands on the right of its dot, because the axis is on its left.
            if x.at(left) < LEFT + 100.0 {
                plot.text("label", x.at(left) + 4.0, y.at(nanos) + 18.0, &text);
            } else {
                plot.text("label end", x.at(left) - 2.0, y.at(nanos) - 10.0, &text);
            }
        }
    }
    let max = histogram.max() as f64;
    plot.dot("mark", x.at(end), y.at(max), &format!("max: {}", duration(max)));
    plot.text("label end", x.at(end) - 8.0, y.at(max) - 6.0, &format!("max {}", duration(max)));
    plot.finish("latency by percentile")
}

/// Removes ticks whose labels would overlap earlier ones.
fn spaced(ticks: &[f64], scale: Scale) -> Vec<f64> {
    const APART: f64 = 18.0;
    let is_wide = scale.at(f64::MAX) > HEIGHT;
    let apart = if is_wide { 3.0 * APART } else { APART };
    let mut kept: Vec<f64> = Vec::new();
    for &tick in ticks {
        if kept.last().is_none_or(|&last| (scale.at(tick) - scale.at(last)).abs() >= apart) {
            kept.push(tick);
        }
    }
    kept
}

fn figure(title: &str, caption: &str, content: &Markup) -> Markup {
    html! {
        figure {
            figcaption { h2 { (title) } p { (caption) } }
            div.plot { (content) }
        }
    }
}

/// A table of names, numbers and units.
fn number_table(title: &str, rows: impl Iterator<Item = (String, String, String)>) -> Markup {
    table(
        title,
        &html! {
            @for (name, value, unit) in rows {
                tr {
                    th.part[name.starts_with(' ')] { (name.trim_start()) }
                    td.number { (value) }
                    td { (unit) }
                }
            }
        },
    )
}

/// A table of names and text.
fn text_table(title: &str, rows: &[(&str, String)]) -> Markup {
    table(
        title,
        &html! {
            @for (name, value) in rows { tr { th { (name) } td.words { (value) } } }
        },
    )
}

fn table(title: &str, rows: &Markup) -> Markup {
    html! { section { h2 { (title) } table { tbody { (rows) } } } }
}

/// Contains no `<` and no `&`, so it needs no escaping.
const STYLE: &str = "
:root{--page:#f7f7f5;--card:#fff;--ink:#1b1d21;--soft:#62666e;--faint:#e4e4df;--one:#2a6fdb;--two:#c4620e;
--mark:#9a3412;--good:#166534;--good-back:#dcfce7;--bad:#991b1b;--bad-back:#fee2e2;--warn-back:#fef6dc}
@media (prefers-color-scheme:dark){:root{--page:#14161a;--card:#1c1f25;--ink:#e7e8ea;--soft:#9ba1ab;--faint:#30353e;
--one:#6aa5ff;--two:#f0a35e;--mark:#f2b48c;--good:#86efac;--good-back:#14361f;--bad:#fca5a5;--bad-back:#451a1c;
--warn-back:#33290f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:980px;margin:0 auto;padding:28px 20px 48px}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 16px}
h1{font-size:28px;line-height:1.2;margin:0}
header p{margin:0;color:var(--soft)}
h2{font-size:15px;margin:0 0 4px}
h2::first-letter{text-transform:uppercase}
.verdict{font-weight:600;padding:2px 10px;border-radius:99px;margin-right:8px}
.good{color:var(--good);background:var(--good-back)}
.verdict.bad{color:var(--bad);background:var(--bad-back)}
.settings{display:flex;flex-wrap:wrap;gap:2px 18px;color:var(--soft);margin:10px 0 18px}
.settings b{color:var(--ink);font-weight:600}
.remarks{background:var(--warn-back);border-radius:8px;padding:10px 16px 10px 32px;margin:0 0 18px}
.remarks .fault{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:10px;margin-bottom:14px}
.tile,figure,.columns section{background:var(--card);border:1px solid var(--faint);border-radius:10px}
.tile{padding:10px 14px}
.tile .label,.tile .unit{color:var(--soft);font-size:13px}
.tile .value{font-size:24px;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums}
.tile.bad .value{color:var(--bad)}
figure{margin:0 0 14px;padding:14px 16px 10px}
figcaption p{margin:0 0 6px;color:var(--soft);font-size:13px}
.plot{overflow-x:auto}
.none{color:var(--soft);margin:12px 0}
svg{display:block;width:100%;min-width:620px;height:auto}
svg text{fill:var(--soft);font:12px system-ui,sans-serif;font-variant-numeric:tabular-nums}
svg .middle{text-anchor:middle}
svg .end{text-anchor:end}
svg text.label{fill:var(--mark);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:3px}
.grid{stroke:var(--faint)}
.axis{stroke:var(--soft)}
.mark{stroke:var(--mark);stroke-dasharray:3 3}
.shade{fill:var(--faint);opacity:.55}
.bar{fill:var(--one)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.line.one{stroke:var(--one)}
.line.two{stroke:var(--two)}
.area{stroke:none;opacity:.14}
.area.one{fill:var(--one)}
.area.two{fill:var(--two)}
.mean{stroke-width:1.2;stroke-dasharray:6 4}
.mean.one{stroke:var(--one)}
.mean.two{stroke:var(--two)}
.dot{stroke:transparent;stroke-width:9px;fill:var(--mark)}
.dot.one{fill:var(--one)}
.dot.two{fill:var(--two)}
.columns{columns:2 400px;column-gap:14px}
.columns section{break-inside:avoid;padding:14px 16px;margin:0 0 14px;overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{font-weight:400;text-align:left;vertical-align:top;padding:3px 12px 3px 0;white-space:nowrap}
th.part{padding-left:14px;color:var(--soft)}
td{padding:3px 0;color:var(--soft)}
tr+tr{border-top:1px solid var(--faint)}
.number{text-align:right;color:var(--ink);font-variant-numeric:tabular-nums;padding-right:8px;white-space:nowrap}
.words{color:var(--ink);overflow-wrap:anywhere}
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::histogram;
    use crate::timeline::Timeline;

    /// Whether every element is closed by its own name, and the text between is escaped.
    fn is_well_formed(html: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = html.strip_prefix("<!DOCTYPE html>").unwrap_or(html);
        while let Some((text, tail)) = rest.split_once('<') {
            let Some((tag, tail)) = tail.split_once('>') else { return false };
            if text.contains('>') || tag.matches('"').count() % 2 == 1 {
                return false;
            }
            rest = tail;
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.starts_with("meta ") {
                open.push(tag.split_ascii_whitespace().next().unwrap_or(""));
            }
        }
        open.is_empty()
    }

    fn context() -> Context {
        Context { rows: vec![("started", "<today> & \"now\"".to_owned())] }
    }

    #[test]
    fn page_of_an_empty_report_is_well_formed() {
        let html = page(&Report::new("pairs", Vec::new()), &context());
        assert!(is_well_formed(&html), "{html}");
        assert!(html.contains("No latency was measured") && !html.contains("<svg"), "{html}");
    }

    #[test]
    fn page_with_a_long_tail_is_well_formed_and_has_all_plots() {
        let mut report = Report::new("pairs", vec![("host", "<script>alert('1')</script>".to_owned())]);
        let mut latencies = histogram();
        for value in [0, 900_000, 1_000_000, 3_600_000_000_000] {
            latencies.saturating_record(value);
        }
        report.latency = Some(("send & receive", latencies));
        let mut timeline = Timeline::new(Some(std::process::id()));
        for step in 0..20 {
            timeline.take(step * 100_000_000, step * step, || 0);
        }
        report.timeline("deliveries", &timeline);
        report.measured = Some((300_000_000, 1_500_000_000));
        report.notes.push("a < b & \"c\" > 'd' \u{0}\u{1b}".to_owned());
        report.details.push("</body>".to_owned());
        let html = page(&report, &context());
        assert!(is_well_formed(&html), "{html}");
        assert_eq!(html.matches("<svg").count(), 4, "{html}");
        assert!(!html.contains("<script") && html.contains("&lt;script"), "{html}");
        assert!(html.contains("a &lt; b &amp; &quot;c&quot; &gt; 'd' \u{fffd}\u{fffd}"), "{html}");
        assert!(!html.contains("NaN") && !html.contains(">inf"), "{html}");
        // Nothing is loaded: the only address is the SVG namespace.
        assert_eq!(html.matches("http").count(), html.matches("http://www.w3.org/2000/svg").count());
        assert!(!html.contains("src=") && !html.contains("url(") && !html.contains("@import"));
    }
}
