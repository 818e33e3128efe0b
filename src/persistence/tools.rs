//! `midge store verify`, `dump` and `repair`: an operator's tools for a store that no broker uses.

use super::chain::Chain;
use super::directory::StoreDirectory;
use super::image::{Image, ImageError};
use super::recovery::{self, RecoveryReport, SegmentKind, Tail, kind_of, recover};
use super::salvage::look;
use super::segment_file::SegmentFile;
use crate::base::{DeliveryNumber, SessionNumber, WillNumber};
use crate::mqtt::SubscriptionId;
use crate::session::LossTimes;
use crate::store::check_rows;
use crate::store::rows::{
    self, DeliveryRow, Meta, Presence, RetainedRow, SessionRow, SubscriptionRow, Table, WillRow,
    decode_message, number_at,
};
use crate::store::segment::{Header, Place, Walk};
use crate::store::source::Source;
use crate::store::state::Changes;
use crate::store::{StoreError, StoredMessage, open_body};
use std::io::Write;
use std::path::Path;

/// Reads everything and writes a line for each file and for each fault. Returns whether the store is intact.
/// Nothing is changed, except that a checkpoint that was not closed is checked and closed.
///
/// # Errors
/// [`StoreError`] if the directory is in use, or something can't be read or written.
pub fn verify(path: &Path, out: &mut impl Write) -> Result<bool, StoreError> {
    let directory = open(path)?;
    let mut is_sound = true;
    let mut lines: Vec<String> = Vec::new();
    let (mut meta, mut has_lost_image) = (Meta::default(), false);
    match open_image(&directory)? {
        Some(Ok(image)) => {
            meta = Changes::new(&image)?.meta().clone();
            let wrong = check_rows(&image)?;
            is_sound &= wrong.is_empty();
            let sound = if wrong.is_empty() { "sound" } else { "damaged" };
            lines.push(format!("{}: {sound}", directory.checkpoint().display()));
            lines.extend(wrong);
        }
        Some(Err(error)) => {
            // It is not known how much of the log the checkpoint contained.
            (is_sound, has_lost_image) = (false, true);
            let found = look(&directory.checkpoint())?;
            lines.push(format!("{}: damaged: {}; {found}", directory.checkpoint().display(), error.cause));
        }
        None => lines.push(format!("{}: there is none", directory.checkpoint().display())),
    }
    let mut chain = Chain::new(&meta, has_lost_image);
    for name in directory.segments()? {
        let path = directory.segment_path(name.epoch, name.shard, name.number);
        if meta.epoch > name.epoch || chain.has_passed(&name) {
            lines.push(format!("{}: in the checkpoint", path.display()));
            continue;
        }
        let mut file = SegmentFile::open(&path)?;
        let kind = kind_of(&name, &mut file)?;
        let fault = chain.fault_at(&name, &kind, file.len());
        let summary = match kind {
            SegmentKind::Unused => "unused".to_owned(),
            SegmentKind::Spare => "kept for a later segment".to_owned(),
            SegmentKind::OtherVersion(version) => return Err(recovery::other_version(&path, version)),
            SegmentKind::NoHeader => {
                is_sound = false;
                "damaged: the header can't be read".to_owned()
            }
            SegmentKind::Segment(header) => {
                let missing = chain.missing_before(&header);
                let checked = check_segment(&header, &mut file)?;
                chain.pass(&header, checked.last_sequence);
                is_sound &= checked.is_sound;
                if let Some(missing) = missing.filter(|_| checked.frames > 0) {
                    is_sound = false;
                    lines.push(format!("{}: damaged: {missing}", path.display()));
                }
                checked.summary
            }
        };
        lines.push(format!("{}: {summary}", path.display()));
        if let Some((number, what)) = fault {
            is_sound = false;
            let path = directory.segment_path(name.epoch, name.shard, number);
            lines.push(format!("{}: damaged: {what}", path.display()));
        }
    }
    for line in lines {
        print(out, &line)?;
    }
    Ok(is_sound)
}

/// Writes a line for each session, its losses, subscription, queued message and retained message, as a start
/// would find them. It shows only the length of payloads. Nothing is changed.
///
/// # Errors
/// [`StoreError`] if the directory is in use, or something can't be read or written.
pub fn dump(path: &Path, out: &mut impl Write) -> Result<(), StoreError> {
    let directory = open(path)?;
    let Some(image) = open_image(&directory)? else { return Ok(()) };
    let image = image?;
    let mut report = RecoveryReport::default();
    let mut tail = Tail::new(&directory, Changes::new(&image)?, false);
    tail.sets_aside = false;
    for name in directory.segments()? {
        tail.apply(&image, &name, &mut report)?;
    }
    tail.resolve(&image, &mut report)?;
    let mut printer = Printer { image: &image, changes: &tail.changes, out, failed: None };
    printer.all()?;
    for damage in &report.damage {
        print(out, &format!("damaged {damage}"))?;
    }
    Ok(())
}

/// Recovers what can be read, sets aside what can't, and leaves a checkpoint without a log.
///
/// # Errors
/// [`StoreError`] if the directory is in use, or something can't be read or written.
pub fn repair(path: &Path, out: &mut impl Write) -> Result<(), StoreError> {
    let directory = open(path)?;
    // Nothing has expired at this time: the broker decides that.
    let recovery = recover(&directory, 1, 0, None)?;
    let report = recovery.report;
    recovery.checkpoint.stop();
    for damage in &report.damage {
        print(out, &damage.to_string())?;
    }
    if let Some(left) = directory.segments()?.first() {
        let path = directory.segment_path(left.epoch, left.shard, left.number);
        return Err(StoreError::new(
            "can't work into the checkpoint",
            &path,
            "the checkpoint can't be written",
        ));
    }
    let counts = report.restored;
    let line = format!(
        "{}: {} sessions, {} subscriptions, {} queued messages, {} retained messages; {} damaged files",
        directory.checkpoint().display(),
        counts.sessions,
        counts.subscriptions,
        counts.deliveries,
        counts.retained,
        report.damage.len()
    );
    print(out, &line)
}

/// Opens a store without creating it.
fn open(path: &Path) -> Result<StoreDirectory, StoreError> {
    if path.join("log").is_dir() {
        StoreDirectory::open(path)
    } else {
        Err(StoreError::new("can't use the state directory", path, "there is no store in it"))
    }
}

/// Returns `None` if there is no file yet.
fn open_image(directory: &StoreDirectory) -> Result<Option<Result<Image, StoreError>>, StoreError> {
    let path = directory.checkpoint();
    if !path.exists() && directory.segments()?.is_empty() {
        return Ok(None);
    }
    match Image::open(&path) {
        Ok(image) => Ok(Some(Ok(image))),
        Err(ImageError::Damaged(error)) => Ok(Some(Err(error))),
        Err(ImageError::Other(error)) => Err(error),
    }
}

/// The findings about a segment.
struct Checked {
    summary: String,
    is_sound: bool,
    frames: u64,
    last_sequence: u64,
}

fn check_segment(header: &Header, file: &mut SegmentFile) -> Result<Checked, StoreError> {
    let mut walk = Walk::new(header);
    let (mut records, mut damage) = (0, String::new());
    let last_sequence = header.first_sequence.saturating_sub(1);
    let mut checked = Checked { summary: String::new(), is_sound: true, frames: 0, last_sequence };
    loop {
        match walk.next(file)? {
            Place::Frame(frame) => {
                checked.frames += 1;
                checked.last_sequence = frame.sequence;
                match count_records(file.bytes(frame.body())?) {
                    Some(count) => records += count,
                    None => {
                        checked.is_sound = false;
                        damage += &format!(
                            ", damaged: the records of the frame at byte {} can't be read",
                            frame.at
                        );
                    }
                }
            }
            Place::Damage { from, to } => {
                checked.is_sound = false;
                damage += &format!(", damaged: bytes {from} to {to} can't be read");
            }
            Place::End { at, torn } => {
                let torn = if torn { " in an unfinished batch" } else { "" };
                let frames = checked.frames;
                checked.summary =
                    format!("{frames} frames, {records} records, ends at byte {at}{torn}{damage}");
                return Ok(checked);
            }
        }
    }
}

fn count_records(body: &[u8]) -> Option<u64> {
    let (_, mut records) = open_body(body).ok()?;
    let mut count = 0;
    while records.read_next().ok()?.is_some() {
        count += 1;
    }
    Some(count)
}

/// Prints rows. Text of clients is quoted, so that it can't forge a line.
struct Printer<'a, W> {
    image: &'a Image,
    changes: &'a Changes,
    out: &'a mut W,
    failed: Option<StoreError>,
}

impl<W: Write> Printer<'_, W> {
    fn all(&mut self) -> Result<(), StoreError> {
        self.table(Table::Sessions, |key, value| {
            let (sid, row) = (number_at::<SessionNumber>(key, 0)?, SessionRow::decode(value).ok()?);
            let presence = match row.presence {
                Presence::Connected { .. } => "connected".to_owned(),
                Presence::Left { at_millis } => format!("left_at_millis={at_millis}"),
            };
            let will = row.will.map_or(String::new(), |will| {
                format!(" will {} delay_seconds={}", shown(&will.message), will.delay_seconds)
            });
            Some(format!(
                "session {sid} client={:?} version={:?} expiry_seconds={} {presence}{will}",
                row.client_id, row.version, row.expiry_seconds
            ))
        })?;
        self.table(Table::Losses, |key, value| {
            let (sid, losses) = (number_at::<SessionNumber>(key, 0)?, rows::decode_losses(value).ok()?);
            let [queue_full, expired, too_large, withdrawn] = losses.counts();
            let LossTimes { first_millis, last_millis } = losses.times();
            Some(format!(
                "lost {sid} queue_full={queue_full} expired={expired} too_large={too_large} \
                 withdrawn={withdrawn} first_millis={first_millis} last_millis={last_millis}"
            ))
        })?;
        self.table(Table::Subscriptions, |key, value| {
            let (sid, row) = (number_at::<SessionNumber>(key, 0)?, SubscriptionRow::decode(value).ok()?);
            Some(format!(
                "subscription {sid} filter={:?} qos={} no_local={} retain_as_published={} \
                 retain_handling={:?} id={}",
                rows::filter_of(key)?,
                row.options.qos as u8,
                row.options.no_local,
                row.options.retain_as_published,
                row.options.retain_handling,
                row.subscription_id.map_or(0, SubscriptionId::get)
            ))
        })?;
        let (image, changes) = (self.image, self.changes);
        self.table(Table::Deliveries, |key, value| {
            let (sid, number) = (number_at::<SessionNumber>(key, 0)?, number_at::<DeliveryNumber>(key, 8)?);
            let row = DeliveryRow::decode(value).ok()?;
            let message = changes.row(image, Table::Messages, &rows::key(row.message)).ok()??;
            let state = match (row.packet_id, row.released) {
                (None, _) => "queued".to_owned(),
                (Some(packet_id), false) => format!("sent packet_id={packet_id}"),
                (Some(packet_id), true) => format!("released packet_id={packet_id}"),
            };
            let message = shown(&decode_message(&message).ok()?);
            let group = if row.group.is_empty() { String::new() } else { format!(" group={:?}", row.group) };
            Some(format!("delivery {sid} {number} {message} send_qos={} {state}{group}", row.qos as u8))
        })?;
        self.table(Table::Held, |key, value| {
            let ((sid, packet_id), bytes) =
                (rows::read_pair::<SessionNumber>(key)?, rows::decode_held(value).ok()?);
            Some(format!("held {sid} packet_id={packet_id} payload_bytes={bytes}"))
        })?;
        self.table(Table::Retained, |key, value| {
            let row = RetainedRow::decode(key, value).ok()?;
            Some(format!("retained {} stamp={}", shown(&row.message), row.stamp))
        })?;
        self.table(Table::Wills, |key, value| {
            let (number, row) = (number_at::<WillNumber>(key, 0)?, WillRow::decode(value).ok()?);
            Some(format!("will {number} client={:?} {}", row.client_id, shown(&row.will.message)))
        })
    }

    fn table(
        &mut self,
        table: Table,
        line: impl Fn(&[u8], &[u8]) -> Option<String>,
    ) -> Result<(), StoreError> {
        let (image, changes) = (self.image, self.changes);
        changes.scan(image, table, &[], None, &mut |key, value| {
            let line = line(key, value).unwrap_or_else(|| format!("a row of {} can't be read", table.name()));
            if self.failed.is_none() {
                self.failed = print(self.out, &line).err();
            }
        })?;
        self.failed.take().map_or(Ok(()), Err)
    }
}

fn shown(message: &StoredMessage<'_>) -> String {
    let expires = message.expires_at_millis.map_or(String::new(), |at| format!(" expires_at_millis={at}"));
    let (topic, qos, bytes) = (message.topic, message.qos as u8, message.payload.len());
    format!("topic={topic:?} qos={qos} payload_bytes={bytes}{expires}")
}

fn print(out: &mut impl Write, line: &str) -> Result<(), StoreError> {
    writeln!(out, "{line}").map_err(|error| StoreError::new("can't write to", Path::new("the output"), error))
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;
