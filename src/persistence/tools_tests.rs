use super::super::recovery::tests::{Log, Scratch, set_version};
use super::*;
use crate::base::{MessageNumber, SessionNumber, nth};
use crate::mqtt::QoS;
use crate::session::LossCause;
use crate::store::Record;
use crate::store::record::tests::packet;
use crate::store::state::tests::{delivery, session, stored, subscribed};
use std::fs;
use std::path::PathBuf;

fn text(tool: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    tool(&mut out);
    String::from_utf8(out).unwrap()
}

/// Creates a store with one part in the checkpoint and one part in the log. Returns the path of the segment.
fn filled(scratch: &Scratch) -> PathBuf {
    let directory = scratch.open();
    let mut log = Log::new(&directory, 1, 0);
    log.frame(1, &[session(4, "new\nline"), subscribed(4, "t/#", QoS::AtLeastOnce)]);
    log.write();
    recover(&directory, 2, 9, None).unwrap().checkpoint.stop();
    let mut log = Log::new(&directory, 2, 0);
    let message = stored("t/1", b"SECRET", QoS::AtLeastOnce);
    log.frame(2, &[Record::Message { number: nth(8), message }, delivery(4, 12, 8)]);
    log.frame(2, &[Record::Lost { sid: nth(4), number: None, cause: LossCause::QueueFull, count: 6 }]);
    log.frame(2, &[Record::Held { sid: nth(4), packet_id: packet(9), payload_bytes: 77 }]);
    log.frame(2, &[Record::Retained { stamp: nth(3), message }]);
    log.seal()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_dump_has_a_line_for_everything_and_no_payload() {
    let scratch = Scratch::new();
    filled(&scratch);
    let first = text(|out| dump(&scratch.0, out).unwrap());
    let kinds: Vec<&str> = first.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["session", "lost", "subscription", "delivery", "held", "retained"], "{first}");
    assert!(first.contains(r#"client="new\nline""#) && first.contains("payload_bytes=6"), "{first}");
    assert!(!first.contains("SECRET"));
    let lost = "lost 4 queue_full=6 expired=0 too_large=0 withdrawn=0 first_millis=2 last_millis=2";
    assert!(first.contains(lost), "{first}");
    assert_eq!(text(|out| dump(&scratch.0, out).unwrap()), first, "nothing was changed");
}

#[test]
fn verify_tells_a_sound_store_from_a_damaged_one() {
    let scratch = Scratch::new();
    let segment = filled(&scratch);
    let told = text(|out| assert!(verify(&scratch.0, out).unwrap()));
    assert!(told.contains("checkpoint.redb: sound") && told.contains("4 frames, 5 records"), "{told}");
    flip(&segment, 2 * 4096 + 20);
    let told = text(|out| assert!(!verify(&scratch.0, out).unwrap()));
    assert!(told.contains("damaged: bytes 8192 to 12288"), "{told}");
    flip(&segment, 2 * 4096 + 20);
    flip(&segment, 20);
    assert!(text(|out| assert!(!verify(&scratch.0, out).unwrap())).contains("header"));
    flip(&segment, 20);
    fs::write(scratch.0.join("checkpoint.redb"), b"no checkpoint").unwrap();
    let told = text(|out| assert!(!verify(&scratch.0, out).unwrap()));
    assert!(told.contains("checkpoint.redb: damaged"), "{told}");
}

#[test]
fn verify_tells_of_a_segment_that_is_cut_or_missing() {
    for is_last in [false, true] {
        for way in 0..3 {
            let scratch = Scratch::new();
            filled(&scratch);
            let directory = scratch.open();
            let mut log = Log::new(&directory, 3, 1);
            let mut paths = Vec::new();
            for number in 0..3 {
                log.frame(number, &[session(100 + 4 * number, "c")]);
                paths.push(log.seal());
            }
            fs::write(log.path(), vec![0; 3 * 4096]).unwrap();
            drop(directory);
            let told = text(|out| assert!(verify(&scratch.0, out).unwrap()));
            assert!(told.contains("unused"), "{told}");
            let lost = &paths[if is_last { 2 } else { 0 }];
            match way {
                0 => fs::write(lost, b"").unwrap(),
                1 => fs::remove_file(lost).unwrap(),
                _ => fs::write(lost, &fs::read(lost).unwrap()[..5000]).unwrap(),
            }
            let told = text(|out| assert!(!verify(&scratch.0, out).unwrap()));
            let what = if way == 2 { "cut to 5000 bytes" } else { "not there or can't be read" };
            assert!(told.contains(what), "{told}");
            assert_eq!(text(|out| assert!(!verify(&scratch.0, out).unwrap())), told, "nothing was changed");
        }
    }
}

#[test]
fn a_repaired_store_is_sound_and_has_no_log() {
    let scratch = Scratch::new();
    let segment = filled(&scratch);
    flip(&segment, 2 * 4096 + 20);
    let told = text(|out| repair(&scratch.0, out).unwrap());
    assert!(told.contains("1 sessions, 1 subscriptions, 1 queued messages, 1 retained"), "{told}");
    assert!(told.contains("1 damaged files"), "{told}");
    text(|out| assert!(verify(&scratch.0, out).unwrap()));
    assert_eq!(scratch.open().segments().unwrap(), []);
}

#[test]
fn rows_that_name_what_is_not_there_are_told() {
    let scratch = Scratch::new();
    filled(&scratch);
    let mut image = Image::open(&scratch.0.join("checkpoint.redb")).unwrap();
    let mut changes = Changes::new(&image).unwrap();
    changes.set(Table::Deliveries, &rows::DeliveryKey { sid: nth(4), number: nth(5) }.row(), |out| {
        out.extend([3, 1])
    });
    changes.set(Table::Held, &rows::pair_key(SessionNumber::new(77), 1), |out| out.push(1));
    changes.set(Table::Counts, &rows::key(MessageNumber::new(2)), |out| out.extend([1, 0, 0, 0]));
    image.commit(&mut changes).unwrap();
    drop(image);
    let told = text(|out| assert!(!verify(&scratch.0, out).unwrap()));
    for part in [
        "a row of held names session 77",
        "message 2 is counted, and not there",
        "a delivery is of message 3, which is not there",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn a_store_in_use_or_not_there_is_refused() {
    let scratch = Scratch::new();
    assert!(verify(&scratch.0, &mut Vec::new()).is_err());
    assert!(!scratch.0.exists());
    let directory = scratch.open();
    for refused in [
        verify(&scratch.0, &mut Vec::new()).map(drop),
        dump(&scratch.0, &mut Vec::new()),
        repair(&scratch.0, &mut Vec::new()),
    ] {
        assert!(refused.unwrap_err().to_string().contains("another midge"));
    }
    drop(directory);
    verify(&scratch.0, &mut Vec::new()).unwrap();
}

#[test]
fn a_store_of_another_version_is_not_called_damaged() {
    let scratch = Scratch::new();
    set_version(&filled(&scratch), 4);
    type Tool = fn(&Path, &mut Vec<u8>) -> Result<(), StoreError>;
    let tools: [Tool; 3] =
        [|path, out| verify(path, out).map(drop), |path, out| dump(path, out), |path, out| repair(path, out)];
    for tool in tools {
        let mut out = Vec::new();
        let error = tool(&scratch.0, &mut out).unwrap_err().to_string();
        assert!(error.contains("in format version 4; this one reads versions 2 and 3."), "{error}");
        assert_eq!(String::from_utf8(out).unwrap(), "");
    }
    assert_eq!(fs::read_dir(scratch.0.join("damaged")).unwrap().count(), 0);
}
