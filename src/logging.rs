//! Writes log lines: `tracing` events become lines of text or JSON. A separate thread writes them.
//!
//! A bounded queue lies between the shards and that thread. When it is full, lines are dropped and counted. A
//! blocked terminal or a slow pipe never stops a shard.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Metadata, Subscriber, dispatcher, span};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

use crate::settings::{Log, LogFormat, LogLevel, LogTarget};

/// Keeps the writing thread alive. When `main` drops it, it writes the lines that still wait, for about a
/// second at most.
#[derive(Debug)]
#[must_use = "the lines that wait are lost without it"]
pub struct LogGuard {
    dropped: ErrorCounter,
    level: LevelSwitch,
    _worker: WorkerGuard,
}

impl LogGuard {
    /// Changes `log.level` while midge runs.
    pub fn level(&self) -> LevelSwitch {
        self.level.clone()
    }

    /// The number of lines that were dropped since the start because `log.queue_lines` lines were waiting.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.dropped_lines() as u64
    }

    /// A counter of the dropped lines, for the publisher of the counters. It may outlive this borrow.
    pub fn dropped_lines_counter(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// The current log level. All clones switch the same log.
#[derive(Clone, Debug)]
pub struct LevelSwitch(Arc<AtomicU8>);

impl LevelSwitch {
    fn new(level: LogLevel) -> LevelSwitch {
        LevelSwitch(Arc::new(AtomicU8::new(level as u8)))
    }

    /// Sets the level from now on.
    pub fn set(&self, level: LogLevel) {
        self.0.store(level as u8, Ordering::Relaxed);
        // Each call site caches whether it is enabled.
        tracing::callsite::rebuild_interest_cache();
    }

    fn filter(&self) -> LevelFilter {
        let level = self.0.load(Ordering::Relaxed);
        const LEVELS: [LogLevel; 5] =
            [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
        filter(LEVELS.into_iter().find(|&known| known as u8 == level).unwrap_or(LogLevel::Trace))
    }
}

/// Passes lines up to the level of a switch on to another subscriber, which accepts all levels.
struct Switched<S> {
    level: LevelSwitch,
    lines: S,
}

impl<S: Subscriber> Subscriber for Switched<S> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level.filter() && self.lines.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.filter())
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.lines.new_span(span)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        self.lines.record(span, values);
    }

    fn record_follows_from(&self, span: &span::Id, follows: &span::Id) {
        self.lines.record_follows_from(span, follows);
    }

    fn event(&self, event: &tracing::Event<'_>) {
        self.lines.event(event);
    }

    fn enter(&self, span: &span::Id) {
        self.lines.enter(span);
    }

    fn exit(&self, span: &span::Id) {
        self.lines.exit(span);
    }

    fn clone_span(&self, id: &span::Id) -> span::Id {
        self.lines.clone_span(id)
    }

    fn try_close(&self, id: span::Id) -> bool {
        self.lines.try_close(id)
    }
}

/// Starts logging for the whole process, once.
///
/// Fails with a sentence if logging was started before.
pub fn start(log: &Log) -> Result<LogGuard, String> {
    let (dispatch, guard) = match log.target {
        LogTarget::Stderr => to_writer(log, stderr(), stderr().is_terminal()),
        LogTarget::Stdout => to_writer(log, stdout(), stdout().is_terminal()),
    };
    dispatcher::set_global_default(dispatch).map_err(|_| "logging was started twice".to_string())?;
    Ok(guard)
}

/// A dispatcher that writes lines to a writer. Colours are only used on a terminal.
fn to_writer<W: Write + Send + 'static>(log: &Log, writer: W, is_terminal: bool) -> (Dispatch, LogGuard) {
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(log.queue_lines)
        .lossy(true)
        .thread_name("midge-log")
        .finish(writer);
    let level = LevelSwitch::new(log.level);
    let guard = LogGuard { dropped: writer.error_counter(), level: level.clone(), _worker: worker };
    let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(writer);
    let dispatch = match log.format {
        LogFormat::Human => {
            let lines = lines.with_target(false).with_ansi(is_terminal).finish();
            Dispatch::new(Switched { level, lines })
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            Dispatch::new(Switched { level, lines: lines.finish() })
        }
    };
    (dispatch, guard)
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic while writing").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer that blocks until the test releases it.
    struct Blocked(Receiver<()>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error means that the test is over.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(log: &Log, is_terminal: bool, work: impl FnOnce()) -> String {
        let page = Page::default();
        let (dispatch, guard) = to_writer(log, page.clone(), is_terminal);
        dispatcher::with_default(&dispatch, work);
        drop(guard);
        String::from_utf8(page.0.lock().expect("no panic while writing").clone()).expect("UTF-8")
    }

    /// Whether a text starts like `2026-01-31T23:59:59.000000Z`.
    fn starts_with_utc_time(text: &str) -> bool {
        let time: Vec<char> = text.chars().take(27).collect();
        let shape = "0000-00-00T00:00:00.000000Z";
        time.len() == shape.len()
            && time.iter().zip(shape.chars()).all(|(at, shape)| match shape {
                '0' => at.is_ascii_digit(),
                shape => *at == shape,
            })
    }

    #[test]
    fn a_human_line_has_the_utc_time_the_level_the_words_and_the_fields() {
        let text = written(&Log::default(), false, || {
            tracing::info!(client = "lamp-7", "connected");
        });
        assert!(starts_with_utc_time(&text), "{text}");
        assert!(text.ends_with("  INFO connected client=\"lamp-7\"\n"), "{text}");
        assert!(!text.contains('\u{1b}'), "no colours unless on a terminal");
    }

    #[test]
    fn a_terminal_gets_colours() {
        let text = written(&Log::default(), true, || tracing::warn!("careful"));
        assert!(text.contains('\u{1b}'));
    }

    #[test]
    fn a_json_line_is_one_object_with_its_fields_at_the_top() {
        let log = Log { format: LogFormat::Json, ..Log::default() };
        let text = written(&log, true, || tracing::error!(code = 0x97, client = "a\nb", "refused"));
        assert_eq!(text.lines().count(), 1);
        let time = text.strip_prefix("{\"timestamp\":\"").expect("the time is first");
        assert!(starts_with_utc_time(time), "{text}");
        for part in ["\"level\":\"ERROR\"", "\"message\":\"refused\"", "\"code\":151", "\"client\":\"a\\nb\""]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn what_is_below_the_level_is_not_logged() {
        let log = Log { level: LogLevel::Warn, ..Log::default() };
        let text = written(&log, false, || {
            tracing::info!("not this");
            tracing::warn!("this");
        });
        assert!(text.contains("this") && !text.contains("not this"));
    }

    #[test]
    fn the_level_is_switched_while_lines_are_written() {
        let page = Page::default();
        let (dispatch, guard) = to_writer(&Log::default(), page.clone(), false);
        dispatcher::with_default(&dispatch, || {
            let said = |text| tracing::debug!("{text}");
            said("too soon");
            guard.level().set(LogLevel::Debug);
            said("now");
            guard.level().set(LogLevel::Error);
            said("too late");
            tracing::warn!("too late");
            tracing::error!("always");
        });
        drop(guard);
        let text = String::from_utf8(page.0.lock().expect("no panic while writing").clone()).expect("UTF-8");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("DEBUG now") && text.contains("ERROR always"), "{text}");
    }

    #[test]
    fn a_blocked_writer_stops_nobody_and_the_lost_lines_are_counted() {
        let (go_on, wait): (Sender<()>, _) = channel();
        let log = Log { queue_lines: 64, ..Log::default() };
        let (dispatch, guard) = to_writer(&log, Blocked(wait), false);
        dispatcher::with_default(&dispatch, || {
            for number in 0..1000 {
                tracing::info!(number, "line");
            }
        });
        // One line is with the writer, 64 wait.
        assert!((1000 - 65..=1000 - 64).contains(&guard.dropped_lines()), "{}", guard.dropped_lines());
        assert_eq!(guard.dropped_lines(), guard.dropped_lines_counter().dropped_lines() as u64);
        drop(go_on);
    }
}
