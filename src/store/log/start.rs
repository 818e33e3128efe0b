//! Begins a log: creates its first segment, writes its header, and makes both durable.

use std::io;

use super::segment::{Making, Segment, SegmentStart};
use super::write::Write;
use super::{LogConfig, LogWriter, Trouble, explain};
use crate::base::Time;
use crate::base::log_files::{FileDone, FileOperation, FileResult, LogFiles, LogWork};
use crate::store::segment::BLOCK;

/// A log that begins. Pass every [`FileDone`] to [`LogStart::handle_done`].
#[derive(Debug)]
pub struct LogStart {
    config: LogConfig,
    step: Step,
}

/// The state of a log that begins.
#[derive(Debug)]
pub enum Start {
    /// An operation is in progress.
    UnderWay(Box<LogStart>),
    /// The log can be written.
    Begun(Box<LogWriter>),
}

#[derive(Debug)]
enum Step {
    Making(Making),
    Writing(Segment, Write),
    Syncing(Segment),
}

impl LogStart {
    /// Begins a log.
    pub fn begin(config: LogConfig, files: &mut impl LogFiles) -> LogStart {
        assert!(config.segment_bytes >= 2 * BLOCK && config.segment_bytes.is_multiple_of(BLOCK));
        let making = Making::begin(config.order(0), false, files);
        LogStart { config, step: Step::Making(making) }
    }

    /// Takes the result of an operation.
    ///
    /// # Errors
    /// The errors of the disk: no room, a file system without direct I/O, no permission.
    pub fn handle_done(self, done: FileDone, now: Time, files: &mut impl LogFiles) -> io::Result<Start> {
        let LogStart { config, step } = self;
        let step = match step {
            Step::Making(making) => match making.handle_done(done.result, files) {
                Err(making) => Step::Making(making),
                Ok(made) => {
                    if let Some(trouble) = made.trouble {
                        return Err(Trouble::into_cause(trouble));
                    }
                    let segment = made.segment.expect("there is one without trouble");
                    let write = Write::new(
                        segment.file,
                        0,
                        Some(config.header(SegmentStart { number: 0, first_sequence: 1 })),
                        Vec::new(),
                    );
                    write.begin(files);
                    Step::Writing(segment, write)
                }
            },
            Step::Writing(segment, mut write) => {
                if write.handle_done(done.result, &segment.path)? {
                    files.begin(LogWork::Write, FileOperation::Sync { file: segment.file });
                    Step::Syncing(segment)
                } else {
                    write.begin(files);
                    Step::Writing(segment, write)
                }
            }
            Step::Syncing(segment) => {
                let _: FileResult = done.result.map_err(|error| explain("sync", &segment.path, error))?;
                return Ok(Start::Begun(Box::new(LogWriter::new(config, segment, now))));
            }
        };
        Ok(Start::UnderWay(Box::new(LogStart { config, step })))
    }
}
