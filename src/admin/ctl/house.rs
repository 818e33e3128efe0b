//! `midge ctl reload` and `midge ctl log-level`.

use super::commands::CtlRequest;
use super::shown::{flag, items, table};
use super::text_of;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fmt::Write;

/// The longest time of an option with a time, in seconds: one day.
const SECONDS_MAX: u32 = 86_400;

#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ReloadArgs {
    /// Only show what would change, when it takes effect and for whom
    #[arg(long, conflicts_with = "confirm")]
    plan: bool,
    /// Go back to the former configuration after this time, unless `midge ctl reload confirm` comes before: 60s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    confirm: Option<u32>,
    #[command(subcommand)]
    action: Option<ReloadAction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum ReloadAction {
    /// Keep the configuration of the last reload with --confirm
    Confirm,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct LogLevelArgs {
    /// The new level; without it the level is shown
    #[arg(value_parser = ["error", "warn", "info", "debug", "trace"])]
    level: Option<String>,
    /// Go back to log.level after this time: 30s, 10m, 2h. Without it the level stays until log.level changes or midge
    /// stops
    #[arg(long = "for", value_name = "TIME", value_parser = parse_seconds, requires = "level")]
    lasts: Option<u32>,
}

/// Reads a time: a number with s, m or h, or of seconds. Fails if it is not from a second to a day.
fn parse_seconds(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let factor = match unit {
        "h" => 3600,
        "m" => 60,
        _ => 1,
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = is_number.then(|| number.parse::<u32>().ok()?.checked_mul(factor)).flatten();
    seconds
        .filter(|seconds| (1..=SECONDS_MAX).contains(seconds))
        .ok_or_else(|| "it must be a time from 1s to 24h, such as 60s, 10m or 2h".to_owned())
}

impl ReloadArgs {
    pub(super) fn request(&self) -> CtlRequest {
        match (self.action, self.plan, self.confirm) {
            (Some(ReloadAction::Confirm), ..) => CtlRequest::post("/api/v1/reload/confirm", None),
            (None, true, _) => CtlRequest::get("/api/v1/reload"),
            (None, false, None) => CtlRequest::post("/api/v1/reload", None),
            (None, false, Some(seconds)) => {
                CtlRequest::post(&format!("/api/v1/reload?confirm_seconds={seconds}"), None)
            }
        }
    }

    pub(super) fn shown(&self, value: &Value) -> String {
        if self.action.is_some() {
            return "the new configuration is confirmed".to_owned();
        }
        let mut words = match items(value, "changes").next() {
            None => "no option differs\n".to_owned(),
            Some(_) => {
                let columns = ["key", "old", "new", "takes_effect", "for_whom"].map(|column| (column, false));
                table(value, "changes", &columns)
            }
        };
        for note in items(value, "notes").filter_map(Value::as_str) {
            add_line(&mut words, note);
        }
        for warning in items(value, "warnings").filter_map(Value::as_str) {
            add_line(&mut words, &format!("warning: {warning}"));
        }
        let done = flag(value, "done");
        let count = |field: &str| value.get(field).and_then(Value::as_u64).unwrap_or(0);
        match (count("disconnected"), done) {
            (0, _) => {}
            (1, true) => add_line(&mut words, "1 connection is closed"),
            (1, false) => add_line(&mut words, "1 connection would be closed"),
            (some, true) => add_line(&mut words, &format!("{some} connections are closed")),
            (some, false) => add_line(&mut words, &format!("{some} connections would be closed")),
        }
        match count("waiting_for_restart") {
            0 => {}
            1 => add_line(&mut words, "1 change needs a restart"),
            some => add_line(&mut words, &format!("{some} changes need a restart")),
        }
        match value.get("confirm_within_seconds") {
            Some(_) => {
                let seconds = text_of(value, "confirm_within_seconds");
                add_line(
                    &mut words,
                    &format!(
                        "the former configuration returns in {seconds} s, unless: midge ctl reload confirm"
                    ),
                );
            }
            None if done => add_line(&mut words, "the files are read again"),
            None => add_line(&mut words, "nothing was changed"),
        }
        words
    }
}

fn add_line(words: &mut String, line: &str) {
    // A string takes everything.
    let _ = writeln!(words, "{line}");
}

impl LogLevelArgs {
    pub(super) fn request(&self) -> CtlRequest {
        match &self.level {
            None => CtlRequest::get("/api/v1/log-level"),
            Some(level) => {
                CtlRequest::put("/api/v1/log-level", json!({ "level": level, "seconds": self.lasts }))
            }
        }
    }
}

/// The level of the log in words.
pub(super) fn log_level(value: &Value) -> String {
    let (level, configured) = (text_of(value, "level"), text_of(value, "configured"));
    match value.get("seconds_left") {
        Some(_) => format!("{level} for {} s, then {configured}", text_of(value, "seconds_left")),
        None if level == configured => level,
        None => format!("{level} (log.level is {configured})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct ReloadLine {
        #[command(flatten)]
        args: ReloadArgs,
    }

    #[derive(Parser)]
    struct LevelLine {
        #[command(flatten)]
        args: LogLevelArgs,
    }

    fn reload(words: &[&str]) -> Option<CtlRequest> {
        let line = ReloadLine::try_parse_from(["reload"].iter().chain(words)).ok()?;
        Some(line.args.request())
    }

    #[test]
    fn a_reload_is_planned_made_or_confirmed() {
        assert_eq!(reload(&[]), Some(CtlRequest::post("/api/v1/reload", None)));
        assert_eq!(reload(&["--plan"]), Some(CtlRequest::get("/api/v1/reload")));
        let path = "/api/v1/reload?confirm_seconds=120";
        assert_eq!(reload(&["--confirm", "2m"]), Some(CtlRequest::post(path, None)));
        assert_eq!(reload(&["confirm"]), Some(CtlRequest::post("/api/v1/reload/confirm", None)));
        for wrong in
            [&["--plan", "--confirm", "1s"][..], &["--plan", "confirm"], &["--confirm", "0"], &["other"]]
        {
            assert_eq!(reload(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_time_has_a_unit_and_bounds() {
        for (text, seconds) in [
            ("1", Some(1)),
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("24h", Some(SECONDS_MAX)),
            ("86400", Some(86_400)),
        ] {
            assert_eq!(parse_seconds(text).ok(), seconds, "{text}");
        }
        for wrong in ["", "s", "0", "25h", "1d", "-1s", "+1s", "1 m", "99999999999", "4294967295h", "ü"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_level_is_asked_for_or_set_for_a_while() {
        let level = |words: &[&str]| {
            let line = LevelLine::try_parse_from(["log-level"].iter().chain(words)).ok()?;
            Some(line.args.request())
        };
        assert_eq!(level(&[]), Some(CtlRequest::get("/api/v1/log-level")));
        let body = json!({ "level": "debug", "seconds": 600 });
        assert_eq!(level(&["debug", "--for", "10m"]), Some(CtlRequest::put("/api/v1/log-level", body)));
        assert!(level(&["loud"]).is_none() && level(&["--for", "10m"]).is_none());
        let words = |value: Value| log_level(&value);
        assert_eq!(words(json!({ "level": "info", "configured": "info" })), "info");
        assert_eq!(words(json!({ "level": "warn", "configured": "info" })), "warn (log.level is info)");
        let left = json!({ "level": "debug", "configured": "info", "seconds_left": 9 });
        assert_eq!(words(left), "debug for 9 s, then info");
    }

    #[test]
    fn a_plan_is_a_table_with_its_consequences() {
        let ReloadLine { args } = ReloadLine::try_parse_from(["reload", "--plan"]).expect("a line");
        let change = json!({ "key": "runtime.shards", "old": "1", "new": "2", "takes_effect": "at restart",
            "for_whom": "nobody before a restart" });
        let value = json!({ "done": false, "changes": [change], "waiting_for_restart": 1, "disconnected": 3,
            "warnings": ["w"], "notes": ["n"] });
        let lines: Vec<String> = args.shown(&value).lines().map(str::to_owned).collect();
        let expected = [
            "key             old  new  takes effect  for whom",
            "runtime.shards  1    2    at restart    nobody before a restart",
            "n",
            "warning: w",
            "3 connections would be closed",
            "1 change needs a restart",
            "nothing was changed",
        ];
        assert_eq!(lines, expected);
        assert!(args.shown(&json!({ "done": true, "changes": [] })).ends_with("the files are read again\n"));
    }
}
