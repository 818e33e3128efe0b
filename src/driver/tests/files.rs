//! Files on the ring of the sockets: the result of each operation, and that its end also ends the park.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::base::log_files::{FileId, FileOperation, FileResult, LogFiles, LogWork, WRITE_BYTES_MAX};

const BLOCK: usize = 4096;

/// An empty directory, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch::within(&std::env::temp_dir(), name)
    }

    fn within(root: &Path, name: &str) -> Scratch {
        let path = root.join(format!("midge-files-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for the end of the pending operation.
fn finish(net: &mut Net) -> io::Result<FileResult> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = net.next_file_done() {
            assert_eq!(done.work, LogWork::Segment);
            return done.result;
        }
        assert!(Instant::now() < until, "an operation does not end");
        net.await_files(PATIENCE).unwrap();
    }
}

fn run(net: &mut Net, operation: FileOperation) -> io::Result<FileResult> {
    net.begin(LogWork::Segment, operation);
    finish(net)
}

fn open(net: &mut Net, operation: FileOperation) -> io::Result<(FileId, u64)> {
    match run(net, operation)? {
        FileResult::Opened { file, bytes } => Ok((file, bytes)),
        other => panic!("{other:?}"),
    }
}

/// Creates a file of this length.
fn create(net: &mut Net, path: PathBuf, writes_through: bool, bytes: usize) -> FileId {
    let (file, length) = open(net, FileOperation::Create { path, writes_through }).unwrap();
    assert_eq!(length, 0);
    run(net, FileOperation::Allocate { file, bytes: bytes as u64 }).unwrap();
    run(net, FileOperation::Sync { file }).unwrap();
    file
}

fn write(net: &mut Net, file: FileId, at: usize, bytes: &[u8]) -> io::Result<FileResult> {
    net.write(LogWork::Segment, file, at as u64, bytes.len(), |buffer| buffer.copy_from_slice(bytes));
    finish(net)
}

#[test]
fn what_is_written_is_read_back() {
    on_shard(|| {
        let scratch = Scratch::new("read-back");
        let mut net = Net::new(&NetConfig::default()).unwrap();
        for writes_through in [false, true] {
            let path = scratch.path(&format!("{writes_through}"));
            let file = create(&mut net, path.clone(), writes_through, 1 << 20);
            let long = pattern(1 << 18);
            // Long writes are between short ones, because a write's buffer is reused by the next one.
            for (at, len) in [(0, BLOCK), (BLOCK, 40 * BLOCK), (41 * BLOCK, BLOCK), (42 * BLOCK, 3 * BLOCK)] {
                let bytes = &long[at..at + len];
                assert_eq!(write(&mut net, file, at, bytes).unwrap(), FileResult::Written { bytes: len });
            }
            net.give_memory_back();
            write(&mut net, file, 45 * BLOCK, &long[45 * BLOCK..46 * BLOCK]).unwrap();
            let read = std::fs::read(&path).unwrap();
            assert_eq!(read.len(), 1 << 20);
            assert!(
                read[..46 * BLOCK] == long[..46 * BLOCK] && read[46 * BLOCK..].iter().all(|&byte| byte == 0)
            );
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "nobody else may read it");
            net.close_file(file);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn the_longest_write_is_taken() {
    on_shard(|| {
        let scratch = Scratch::new("longest");
        let mut net = Net::new(&NetConfig::default()).unwrap();
        let path = scratch.path("long");
        let file = create(&mut net, path.clone(), true, WRITE_BYTES_MAX);
        let bytes = pattern(WRITE_BYTES_MAX);
        let mut done = 0;
        while done < bytes.len() {
            let FileResult::Written { bytes } = write(&mut net, file, done, &bytes[done..]).unwrap() else {
                panic!()
            };
            assert!(bytes > 0);
            done += bytes;
        }
        assert!(std::fs::read(&path).unwrap() == bytes);
    })
    .join()
    .unwrap();
}

/// The flags of the descriptor that this process has on a file.
fn open_flags(path: &Path) -> Option<i32> {
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
            let info = std::fs::read_to_string(info).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            return Some(i32::from_str_radix(flags.trim(), 8).unwrap());
        }
    }
    None
}

#[test]
fn writes_go_past_the_cache_and_end_on_the_disk_if_that_is_asked_for() {
    on_shard(|| {
        let scratch = Scratch::new("flags");
        let mut net = Net::new(&NetConfig::default()).unwrap();
        for writes_through in [false, true] {
            let path = scratch.path(&format!("{writes_through}"));
            let created = create(&mut net, path.clone(), writes_through, BLOCK);
            for round in 0..2 {
                let flags = open_flags(&path).unwrap();
                assert_eq!(flags & libc::O_DIRECT, libc::O_DIRECT, "{round}");
                assert_eq!(flags & libc::O_DSYNC == libc::O_DSYNC, writes_through, "{round}");
                if round == 0 {
                    net.close_file(created);
                    assert_eq!(open_flags(&path), None);
                    let again = FileOperation::Open { path: path.clone(), writes_through };
                    assert_eq!(open(&mut net, again).unwrap().1, BLOCK as u64);
                }
            }
        }
    })
    .join()
    .unwrap();
}

#[test]
fn names_come_and_go() {
    on_shard(|| {
        let scratch = Scratch::new("names");
        let mut net = Net::new(&NetConfig::default()).unwrap();
        let (first, second) = (scratch.path("first"), scratch.path("second"));
        let file = create(&mut net, first.clone(), false, BLOCK);
        assert!(net.is_found(&first, file).unwrap());
        let rename = FileOperation::Rename { from: first.clone(), to: second.clone() };
        assert_eq!(run(&mut net, rename).unwrap(), FileResult::Done);
        run(&mut net, FileOperation::SyncDirectory { path: scratch.0.clone() }).unwrap();
        assert!(net.is_found(&second, file).unwrap());
        assert_eq!(net.is_found(&first, file).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&first, b"another").unwrap();
        assert!(!net.is_found(&first, file).unwrap());
        run(&mut net, FileOperation::Remove { path: second.clone() }).unwrap();
        assert!(!second.exists());
    })
    .join()
    .unwrap();
}

#[test]
fn what_can_not_be_done_says_why() {
    use io::ErrorKind::{AlreadyExists, NotFound};
    on_shard(|| {
        let scratch = Scratch::new("errors");
        let mut net = Net::new(&NetConfig::default()).unwrap();
        let (there, missing) = (scratch.path("there"), scratch.path("missing/missing"));
        let file = create(&mut net, there.clone(), true, BLOCK);
        for (operation, kind) in [
            (FileOperation::Create { path: there.clone(), writes_through: true }, AlreadyExists),
            (FileOperation::Create { path: missing.clone(), writes_through: true }, NotFound),
            (FileOperation::Open { path: missing.clone(), writes_through: true }, NotFound),
            (FileOperation::Rename { from: missing.clone(), to: there.clone() }, NotFound),
            (FileOperation::SyncDirectory { path: missing.clone() }, NotFound),
            (FileOperation::Remove { path: missing.clone() }, NotFound),
            (FileOperation::Remove { path: "zero\0".into() }, io::ErrorKind::InvalidInput),
        ] {
            assert_eq!(run(&mut net, operation.clone()).unwrap_err().kind(), kind, "{operation:?}");
        }
        let too_long = FileOperation::Allocate { file, bytes: 1 << 62 };
        assert!(run(&mut net, too_long).is_err());
        net.close_file(file);
        let closed = write(&mut net, file, 0, &[1; BLOCK]).unwrap_err();
        assert_eq!(closed.raw_os_error(), Some(libc::EBADF));
        // The next file gets the number of the closed one.
        let again = create(&mut net, scratch.path("again"), true, BLOCK);
        assert_eq!(again, file);
    })
    .join()
    .unwrap();
}

#[test]
fn memory_file_systems_take_files_too() {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return;
    }
    on_shard(|| {
        let scratch = Scratch::within(memory, "tmpfs");
        let mut net = Net::new(&NetConfig::default()).unwrap();
        let path = scratch.path("file");
        let file = create(&mut net, path.clone(), true, 2 * BLOCK);
        write(&mut net, file, BLOCK, &[7; BLOCK]).unwrap();
        assert_eq!(std::fs::read(path).unwrap()[BLOCK - 1..=BLOCK], [0, 7]);
    })
    .join()
    .unwrap();
}

#[test]
fn a_net_may_end_while_a_write_is_under_way() {
    on_shard(|| {
        let scratch = Scratch::new("ends");
        for _ in 0..20 {
            let mut net = Net::new(&NetConfig::default()).unwrap();
            let path = scratch.path("file");
            let file = create(&mut net, path.clone(), true, 256 * BLOCK);
            net.write(LogWork::Write, file, 0, 256 * BLOCK, |buffer| buffer.fill(9));
            net.ring.enter(crate::driver::ring::Wait::Never).unwrap();
            drop(net);
            std::fs::remove_file(path).unwrap();
        }
    })
    .join()
    .unwrap();
}

#[test]
fn each_write_ends_the_park() {
    on_shard(|| {
        let scratch = Scratch::new("parks");
        let mut host = Host::new(&NetConfig::default());
        let file = create(&mut host.net, scratch.path("file"), true, BLOCK);
        for _ in 0..1000 {
            host.net.write(LogWork::Write, file, 0, BLOCK, |buffer| buffer.fill(1));
            let began = Instant::now();
            let done = loop {
                // A lost wake-up would take all of this time.
                host.turn_within(2 * PATIENCE);
                if let Some(done) = host.net.next_file_done() {
                    break done;
                }
            };
            assert_eq!(done.result.unwrap(), FileResult::Written { bytes: BLOCK });
            assert!(began.elapsed() < PATIENCE);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn an_echo_that_waits_for_a_write_comes_back_each_time() {
    let (socket, port) = bound();
    let shard = on_shard(move || {
        let scratch = Scratch::new("echoes");
        let mut host = Host::listening(&NetConfig::default(), socket);
        let file = create(&mut host.net, scratch.path("file"), true, BLOCK);
        let mut waiting: Vec<(ConnectionSlot, Vec<u8>)> = Vec::new();
        let mut under_way: Vec<(ConnectionSlot, Vec<u8>)> = Vec::new();
        let mut gone = 0;
        while gone < 2 || host.net.connections() > 0 {
            for event in host.turn_within(2 * PATIENCE) {
                match event {
                    IoEvent::Accepted { slot, .. } => host.net.receive_stream(slot),
                    IoEvent::Received { slot, buffer } => {
                        let bytes = host.take(buffer);
                        waiting.push((slot, bytes));
                    }
                    IoEvent::Hangup { slot, .. } => {
                        gone += 1;
                        host.net.close(slot);
                    }
                    other => panic!("{other:?}"),
                }
            }
            while let Some(done) = host.net.next_file_done() {
                done.result.unwrap();
                for (slot, bytes) in under_way.drain(..) {
                    host.send(slot, &bytes);
                }
            }
            if under_way.is_empty() && !waiting.is_empty() {
                under_way.append(&mut waiting);
                host.net.write(LogWork::Write, file, 0, BLOCK, |buffer| buffer.fill(1));
            }
        }
    });
    let clients: Vec<JoinHandle<()>> = (0..2)
        .map(|_| {
            std::thread::spawn(move || {
                let mut socket = connect(port);
                let mut answer = [0; 8];
                for round in 0..1000u64 {
                    socket.write_all(&round.to_le_bytes()).unwrap();
                    let began = Instant::now();
                    socket.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, round.to_le_bytes());
                    assert!(began.elapsed() < PATIENCE);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    shard.join().unwrap();
}
