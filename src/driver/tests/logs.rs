//! A log beside sockets: its results end the park, whichever way the shard waits.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::*;
use crate::persistence::Spares;
use crate::settings::SyncPolicy;
use crate::store::segment::LogName;
use crate::store::{Journal, Record};

const NAME: LogName = LogName { epoch: 1, shard: 0 };

async fn log_in(directory: &str, outstanding: &Outstanding) -> (PathBuf, LogWriter) {
    let directory = std::env::temp_dir().join(format!("midge-{directory}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let config = LogConfig {
        directory: directory.clone(),
        name: NAME,
        shards: 1,
        seed: 1,
        segment_bytes: 64 << 10,
        sync: SyncPolicy::Always,
        spares: Spares::default(),
    };
    (directory, LogWriter::start(config, outstanding).await.unwrap())
}

#[test]
fn each_commit_ends_the_park() {
    let shard = on_shard(|| async {
        let mut host = Host::new(&NetConfig::default());
        let (directory, mut log) = log_in("log-parks", &host.outstanding).await;
        let mut journal = Journal::new(NAME);
        for _ in 0..1000 {
            journal.record(&Record::Ended { sid: 1 });
            let batch = journal.take().unwrap();
            let last = batch.last;
            log.submit(batch);
            let began = Instant::now();
            loop {
                // A wake-up that is lost would cost all of it.
                host.turn_within(2 * PATIENCE).await;
                let events: Vec<LogEvent> = std::iter::from_fn(|| log.poll(Instant::now())).collect();
                let is_durable = |event: &LogEvent| matches!(event, LogEvent::Durable { last: durable } if *durable == last);
                if events.iter().any(is_durable) {
                    break;
                }
            }
            assert!(began.elapsed() < PATIENCE);
        }
        log.close().await;
        std::fs::remove_dir_all(directory).unwrap();
    });
    shard.join().unwrap();
}

#[test]
fn an_echo_that_waits_for_the_log_comes_back_each_time() {
    let (socket, port) = bound();
    let shard = on_shard(move || async move {
        let mut host = Host::listening(&NetConfig::default(), socket);
        let (directory, mut log) = log_in("log-echoes", &host.outstanding).await;
        let mut journal = Journal::new(NAME);
        let mut waiting: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut under_way: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut gone = 0;
        while gone < 2 || host.net.connections() > 0 {
            for event in host.turn_within(2 * PATIENCE).await {
                match event {
                    Event::Accepted { slot, .. } => host.net.receive_stream(slot),
                    Event::Received { slot, buffer } => {
                        let bytes = host.take(buffer);
                        journal.record(&Record::Ended { sid: 1 });
                        waiting.push((slot, bytes));
                    }
                    Event::Hangup { slot, .. } => {
                        gone += 1;
                        host.net.close(slot);
                    }
                    other => panic!("{other:?}"),
                }
            }
            while let Some(event) = log.poll(Instant::now()) {
                if let LogEvent::Durable { .. } = event {
                    for (slot, bytes) in under_way.drain(..) {
                        host.send(slot, &bytes);
                    }
                }
            }
            if log.is_idle()
                && let Some(batch) = journal.take()
            {
                under_way.append(&mut waiting);
                log.submit(batch);
            }
        }
        log.close().await;
        std::fs::remove_dir_all(directory).unwrap();
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
