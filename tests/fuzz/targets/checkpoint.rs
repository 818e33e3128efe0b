//! The checkpoint's file: an input is such a file, or changes to the bytes of a valid one.
//!
//! The file must be opened and read, or refused, whatever is in it.

use midge::persistence::Image;
use midge::store::rows::Table;
use midge::store::segment::Header;
use midge::store::{Base, Changes, Journal, Record, Wall, check_rows, open_body};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Runs the target. The first byte gives the meaning of the rest.
pub fn run(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let bytes = match kind % 3 {
        0 => rest.to_vec(),
        1 => patched(sound().to_vec(), rest),
        _ => {
            let mut bytes = sound().to_vec();
            if let Some((length, rest)) = rest.split_first_chunk::<4>() {
                bytes.truncate(u32::from_le_bytes(*length) as usize % (bytes.len() + 1));
                bytes = patched(bytes, rest);
            }
            bytes
        }
    };
    let path = path("input");
    std::fs::write(&path, bytes).expect("the directory for temporary files can be written to");
    let image = Image::open(&path);
    assert!(image.is_ok() || kind % 3 != 1 || !rest.is_empty(), "a sound file is opened");
    if let Ok(image) = image {
        let _ = check_rows(&image);
        for table in Table::ALL {
            let _ = image.scan(table, &[], None, &mut |_, _| {});
        }
        if let Ok(mut changes) = Changes::new(&image) {
            let _ = changes.resolve_intents(&image);
            let _ = changes.restore(&image, 2, 7, Wall { zero_millis: 0 });
        }
    }
    let _ = std::fs::remove_file(&path);
}

/// Changes bytes. Each change is a position in four bytes and the value that is added there.
fn patched(mut bytes: Vec<u8>, patches: &[u8]) -> Vec<u8> {
    for patch in patches.chunks_exact(5) {
        let place = u32::from_le_bytes([patch[0], patch[1], patch[2], patch[3]]) as usize;
        let len = bytes.len();
        if len > 0 {
            bytes[place % len] ^= patch[4];
        }
    }
    bytes
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("midge-fuzz-checkpoint-{}-{name}", std::process::id()))
}

/// A checkpoint of some sessions.
fn sound() -> &'static [u8] {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let path = path("sound");
        let _ = std::fs::remove_file(&path);
        let mut image = Image::open(&path).expect("a new file");
        let mut changes = Changes::new(&image).expect("a new file");
        let header = Header { epoch: 1, shard: 0, shards: 1, number: 0, first_sequence: 1, seed: 5 };
        let mut journal = Journal::new(midge::store::segment::LogName { epoch: 1, shard: 0 });
        for number in 1..50 {
            let (client_id, version) = (format!("client {number}"), midge::mqtt::ProtocolVersion::V5);
            journal.record(&Record::Session {
                sid: midge::base::SessionNumber::new(number),
                client_id: &client_id,
                version,
                expiry_seconds: 9,
                will: None,
            });
        }
        let batch = journal.take().expect("there are records");
        let body = &batch.bytes[midge::store::segment::FRAME_HEAD..];
        assert!(open_body(body).is_ok());
        changes.apply_frame(&image, &header, body).expect("its own records");
        image.commit(&mut changes).expect("there is room");
        drop(image);
        let bytes = std::fs::read(&path).expect("it was just written");
        let _ = std::fs::remove_file(&path);
        bytes
    })
}
