use super::super::StoreDirectory;
use super::super::recovery::recover;
use super::super::recovery::tests::{Log, Scratch};
use super::has_one_name;
use crate::base::nth;
use crate::host::SealedSegments;
use crate::store::Record;
use crate::store::state::tests::{described, session};
use std::fs;
use std::time::{Duration, Instant};

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn sessions(directory: &StoreDirectory) -> usize {
    described(&recover(directory, 3, 9, None).unwrap().parts).len()
}

#[test]
fn sealed_segments_of_several_threads_are_worked_in_and_given_back_or_removed() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    std::thread::scope(|scope| {
        for shard in 0..4 {
            let submitter = recovery.checkpoint.submitter();
            let mut log = Log::new(&directory, recovery.epoch, shard);
            scope.spawn(move || {
                for number in 0..20 {
                    let sid = 4 + 4 * number + u64::from(shard);
                    log.frame(number, &[session(sid, &format!("client {sid}"))]);
                    if number > 0 {
                        log.frame(number, &[Record::Ended { sid: nth(sid - 4) }]);
                    }
                    let path = log.seal();
                    submitter.submit(path, 8192);
                }
            });
        }
    });
    wait_until("the checkpoint", || recovery.checkpoint.log_bytes() == 0);
    // This run has logs of two shards.
    let shards: Vec<u16> = directory.segments().unwrap().iter().map(|segment| segment.shard).collect();
    assert_eq!(shards, [0, 0, 1, 1]);
    recovery.checkpoint.stop();
    assert_eq!(directory.segments().unwrap(), []);
    assert_eq!(sessions(&directory), 4);
}

#[test]
fn while_a_segment_can_not_be_worked_in_the_others_stay_and_it_is_tried_again() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    let mut log = Log::new(&directory, recovery.epoch, 0);
    log.frame(1, &[session(4, "a")]);
    let first = log.seal();
    log.frame(2, &[session(8, "b")]);
    let second = log.seal();
    let hidden = first.with_extension("hidden");
    fs::rename(&first, &hidden).unwrap();
    recovery.checkpoint.submit(first.clone(), 100);
    recovery.checkpoint.submit(second.clone(), 200);
    // Leave time for a first try.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(recovery.checkpoint.log_bytes(), 300);
    assert!(second.exists());
    fs::rename(&hidden, &first).unwrap();
    wait_until("the next try", || recovery.checkpoint.log_bytes() == 0);
    recovery.checkpoint.stop();
    assert!(!first.exists() && !second.exists());
    assert_eq!(sessions(&directory), 2);
}

#[test]
fn a_stop_does_not_wait_for_what_can_not_be_written() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    let mut log = Log::new(&directory, recovery.epoch, 0);
    log.frame(1, &[session(4, "a")]);
    let first = log.seal();
    recovery.checkpoint.submit(directory.log().join("missing"), 1);
    recovery.checkpoint.submit(first, 1);
    recovery.checkpoint.stop();
    assert_eq!(sessions(&directory), 1);
}

#[test]
fn a_segment_that_was_damaged_since_it_was_written_is_set_aside() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    let mut log = Log::new(&directory, recovery.epoch, 0);
    (1..=3).for_each(|sid| log.frame(sid, &[session(sid, &format!("client {sid}"))]));
    let path = log.seal();
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * 4096 + 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    recovery.checkpoint.submit(path.clone(), 1);
    wait_until("the checkpoint", || recovery.checkpoint.log_bytes() == 0);
    assert_eq!(
        recovery.checkpoint.submitter().spares().take(0),
        None,
        "nobody writes over what was set aside"
    );
    recovery.checkpoint.stop();
    assert!(directory.damaged().join(path.file_name().unwrap()).exists() && !path.exists());
    assert_eq!(sessions(&directory), 2);
}

#[test]
fn a_sealed_segment_that_was_cut_is_set_aside_and_what_is_left_of_it_is_used() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let recovery = recover(&directory, 2, 9, None).unwrap();
    let mut log = Log::new(&directory, recovery.epoch, 0);
    log.frame(1, &[session(4, "a")]);
    log.frame(2, &[session(8, "b")]);
    let path = log.seal();
    fs::write(&path, &fs::read(&path).unwrap()[..8192]).unwrap();
    recovery.checkpoint.submit(path.clone(), 3 * 4096);
    wait_until("the checkpoint", || recovery.checkpoint.log_bytes() == 0);
    recovery.checkpoint.stop();
    assert!(directory.damaged().join(path.file_name().unwrap()).exists());
    assert_eq!(sessions(&directory), 1);
}

#[test]
fn a_file_that_was_set_aside_is_not_written_over() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let path = directory.segment_path(7, 0, 0);
    fs::write(&path, b"x").unwrap();
    assert!(has_one_name(&path));
    directory.set_aside(&path).unwrap();
    assert!(!has_one_name(&path));
}
