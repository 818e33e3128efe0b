use super::*;
use crate::mqtt::QoS;
use crate::store::record::tests::packet;
use crate::store::segment::Header;
use crate::store::{
    Changes, ClockReading, MemoryBase, RestoredDelivery, RestoredSession, RestoredState, Wall, check_rows,
};

/// A file that mosquitto 2.0.11 wrote at the end of `tests/broker/database.rs`.
const REAL: &[u8] = include_bytes!("../../tests/fuzz/corpus/mosquitto/real");
const NOW_SECONDS: i64 = 1_796_050_300;
const NOW: ClockReading =
    ClockReading { wall_millis: NOW_SECONDS as u64 * 1000, boot: 7, boot_millis: 1_000_000 };

/// Builds a database of format 6.
struct Builder(Vec<u8>);

impl Builder {
    fn new() -> Builder {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 6]);
        Builder(bytes)
    }

    fn chunk(mut self, kind: u32, parts: &[&[u8]]) -> Builder {
        let body = parts.concat();
        self.0.extend(kind.to_be_bytes());
        self.0.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        self.0.extend(body);
        self
    }

    fn session(self, id: &str, expires_at: i64, expiry_seconds: u32) -> Builder {
        self.session_by(1883, id, expires_at, expiry_seconds)
    }

    fn session_by(self, port: u16, id: &str, expires_at: i64, expiry_seconds: u32) -> Builder {
        let port = port.to_be_bytes();
        let id_len = u16::try_from(id.len()).unwrap().to_be_bytes();
        let (expires_at, expiry) = (expires_at.to_le_bytes(), expiry_seconds.to_be_bytes());
        self.chunk(chunk::SESSION, &[&expires_at, &expiry, &[0, 0], &id_len, &port, &[0; 6], id.as_bytes()])
    }

    fn message(self, id: u64, topic: &str, payload: &str, qos: u8, retain: bool, expires_at: i64) -> Builder {
        let lengths = [0, 2, 0, u16::try_from(topic.len()).unwrap(), 1884].map(u16::to_be_bytes).concat();
        let payload_len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let marks = [qos, u8::from(retain)];
        self.chunk(
            chunk::MESSAGE,
            &[
                &id.to_le_bytes(),
                &expires_at.to_le_bytes(),
                &payload_len,
                &lengths,
                &marks,
                b"me",
                topic.as_bytes(),
                payload.as_bytes(),
            ],
        )
    }

    /// Adds a message to or from the client `c`.
    fn delivery(self, message: u64, packet_id: u16, qos: u8, state: u8, dup: u8, direction: u8) -> Builder {
        let head = [packet_id, 1].map(u16::to_be_bytes).concat();
        self.chunk(chunk::DELIVERY, &[&message.to_le_bytes(), &head, &[qos, state, dup, direction], b"c"])
    }

    /// Adds a subscription of the client `c`.
    fn subscription(self, filter: &str, options: u8) -> Builder {
        let lengths = [1, u16::try_from(filter.len()).unwrap()].map(u16::to_be_bytes).concat();
        let options = [options & 3, options & !3, 0, 0];
        self.chunk(chunk::SUBSCRIPTION, &[&[0; 4], &lengths, &options, b"c", filter.as_bytes()])
    }

    fn retained(self, message: u64) -> Builder {
        self.chunk(chunk::RETAINED, &[&message.to_le_bytes()])
    }

    fn taken(&self) -> (Takings, Vec<RestoredSession>, Vec<(String, u64)>) {
        taken(&Database::parse(&self.0).unwrap())
    }
}

/// What a start with one shard restores from a database: its sessions, and its retained messages with the
/// bytes of their sources.
fn taken(database: &Database<'_>) -> (Takings, Vec<RestoredSession>, Vec<(String, u64)>) {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let header = Header { epoch: 1, shard: 0, shards: 1, number: 0, first_sequence: 1, seed: 0 };
    let terms = ImportTerms { now: NOW, written_seconds: NOW_SECONDS - 100, ports: &[1883, 1884] };
    let apply = &mut |frame: &[u8]| {
        changes.apply_frame(&base, &header, frame).unwrap();
        Ok(())
    };
    let takings = take(database, &terms, apply).unwrap();
    base.commit(&mut changes);
    assert_eq!(changes.ignored(), 0);
    assert_eq!(check_rows(&base).unwrap(), [] as [String; 0]);
    let wall = Wall { zero_millis: NOW.wall_millis };
    let (mut parts, _) = changes.restore(&base, 1, 9, wall).unwrap();
    let part = parts.remove(0);
    let mut retained: Vec<(String, u64)> = part
        .retained
        .iter()
        .map(|message| (message.as_publication().topic.to_owned(), message.source().len() as u64))
        .collect();
    retained.sort();
    (takings, part.sessions, retained)
}

fn left(takings: &Takings) -> Vec<(Left, u64)> {
    takings.left.iter().map(|(left, count)| (*left, *count)).collect()
}

fn described(delivery: &RestoredDelivery) -> (String, QoS, RestoredState) {
    (delivery.message.as_publication().topic.to_owned(), delivery.qos, delivery.state)
}

#[test]
fn a_real_file_is_cut_anywhere_and_is_refused_or_has_whole_chunks() {
    let whole = Database::parse(REAL).unwrap();
    assert!((whole.version, whole.is_final) == (6, true));
    assert_eq!((whole.sessions.len(), whole.retained.len(), whole.strays, whole.unknown), (3, 4, 0, 0));
    let mut ends = 0;
    for len in 0..REAL.len() {
        match Database::parse(&REAL[..len]) {
            Ok(database) => {
                ends += 1;
                taken(&database);
            }
            Err(bad) => assert!(bad.at <= len, "{bad}"),
        }
    }
    // A cut after the head or after any chunk but the last leaves a valid file.
    let of_sessions: usize =
        whole.sessions.iter().map(|session| 1 + session.subscriptions.len() + session.deliveries.len()).sum();
    assert_eq!((of_sessions, ends), (27, 1 + whole.messages.len() + of_sessions + whole.retained.len()));
}

#[test]
fn a_real_file_with_a_flipped_bit_is_refused_or_its_rows_agree() {
    // One bit per byte, in turn. The fuzz target has all of them.
    for (at, bit) in (0..REAL.len()).zip((0..8).cycle()) {
        let mut flipped = REAL.to_vec();
        flipped[at] ^= 1 << bit;
        if let Ok(database) = Database::parse(&flipped) {
            taken(&database);
        }
    }
}

#[test]
fn earlier_formats_and_other_machines_say_the_same() {
    let files: [&[u8]; 7] = [
        include_bytes!("../../tests/fuzz/corpus/mosquitto/format-2"),
        include_bytes!("../../tests/fuzz/corpus/mosquitto/format-3"),
        include_bytes!("../../tests/fuzz/corpus/mosquitto/format-4"),
        include_bytes!("../../tests/fuzz/corpus/mosquitto/format-5"),
        include_bytes!("../../tests/fuzz/corpus/mosquitto/format-6"),
        include_bytes!("../../tests/fuzz/corpus/mosquitto/format-6-big-endian"),
        include_bytes!("../../tests/fuzz/corpus/mosquitto/format-6-no-filling"),
    ];
    for bytes in files {
        let database = Database::parse(bytes).unwrap();
        let (takings, sessions, retained) = taken(&database);
        assert_eq!((&*sessions[0].client_id, sessions.len()), ("c", 1), "format {}", database.version);
        assert!(retained.iter().any(|(topic, _)| topic == "r/1"), "{retained:?}");
        assert_eq!((takings.held, takings.queued, takings.passed_on), (1, 1, 1));
        assert_eq!(sessions[0].held, [(packet(9), if database.version < 5 { 3 } else { 5 })]);
        let has_end = database.sessions[0].expires_at != 0;
        assert_eq!(has_end, matches!(database.sessions[0].expiry_seconds, 3600));
    }
}

#[test]
fn what_is_no_database_is_refused_where_it_stops_being_one() {
    let mut version = REAL.to_vec();
    version[22] = 7;
    let mut ids = REAL.to_vec();
    ids[40] = 4;
    for (bytes, at) in [(&b"[[listeners]]"[..], 0), (b"", 0), (&version, 19), (&ids, 40)] {
        assert_eq!(Database::parse(bytes).map(|_| ()).unwrap_err().at, at);
    }
}

#[test]
fn lifetime_of_a_session_goes_on_where_it_was() {
    let never = u32::MAX;
    for (expires_at, expiry_seconds, expected) in [
        // The client left 100 s ago.
        (NOW_SECONDS + 500, 600, Ok((NOW_SECONDS - 100, 600))),
        (NOW_SECONDS, 600, Err(Left::SessionExpired)),
        // The client was connected when the file was written, 100 s ago.
        (0, 600, Ok((NOW_SECONDS - 100, 600))),
        (0, 100, Err(Left::SessionExpired)),
        (0, 0, Err(Left::SessionEnded)),
        (0, never, Ok((NOW_SECONDS - 100, never))),
        // persistent_client_expiration is shorter than the session's own expiry.
        (NOW_SECONDS + 500, never, Ok((NOW_SECONDS - 100, 600))),
        (NOW_SECONDS - 1, never, Err(Left::SessionExpired)),
        // The wall clock was wrong.
        (NOW_SECONDS + 5000, 600, Ok((NOW_SECONDS, 5000))),
        (i64::MAX, 600, Ok((NOW_SECONDS, never - 1))),
        (i64::MIN, 600, Ok((NOW_SECONDS - 100, 600))),
    ] {
        let (takings, sessions, _) = Builder::new().session("c", expires_at, expiry_seconds).taken();
        match expected {
            Err(why) => assert_eq!(left(&takings), [(why, 1)]),
            Ok((left_at, seconds)) => {
                let got = (sessions[0].left_at_millis, sessions[0].expiry_seconds);
                assert_eq!(got, (u64::try_from(left_at).unwrap() * 1000, seconds), "{expires_at}");
            }
        }
    }
}

#[test]
fn session_of_a_bridge_of_mosquittos_own_is_left_out() {
    let (takings, sessions, _) = Builder::new()
        .session_by(0, "local.hub.cloud", 0, u32::MAX)
        // A client with such a name, and a client that has not come back since mosquitto was started.
        .session_by(1883, "local.lamp", 0, u32::MAX)
        .session_by(0, "lamp", 0, u32::MAX)
        .taken();
    assert_eq!(left(&takings), [(Left::Bridge, 1)]);
    let ids: Vec<&str> = sessions.iter().map(|session| &*session.client_id).collect();
    assert_eq!(ids, ["local.lamp", "lamp"]);
}

#[test]
fn each_message_goes_on_where_it_was_on_its_way() {
    let (old, later) = (NOW_SECONDS - 1, NOW_SECONDS + 100);
    let (takings, sessions, retained) = Builder::new()
        .message(1, "one", "x", 1, false, later)
        .message(2, "two", "x", 2, false, old)
        .message(3, "bad/#", "x", 1, false, 0)
        .session("c", 0, u32::MAX)
        // The client has not answered, although the message has expired since then.
        .delivery(2, 5, 2, state::WAIT_FOR_PUBREC, 1, 1)
        .delivery(1, 6, 1, state::WAIT_FOR_PUBACK, 1, 1)
        .delivery(2, 7, 2, state::WAIT_FOR_PUBCOMP, 1, 1)
        .delivery(2, 8, 2, state::RESEND_PUBREL, 0, 1)
        .delivery(1, 9, 1, state::PUBLISH_QOS1, 1, 1)
        // The message was never sent.
        .delivery(1, 10, 1, state::PUBLISH_QOS1, 0, 1)
        // If an identifier is already in use, the delivery gets a new one.
        .delivery(1, 6, 1, state::WAIT_FOR_PUBACK, 1, 1)
        .delivery(1, 0, 1, state::QUEUED, 0, 1)
        .delivery(2, 0, 2, state::QUEUED, 0, 1)
        .delivery(3, 0, 1, state::QUEUED, 0, 1)
        .delivery(4, 0, 1, state::QUEUED, 0, 1)
        .delivery(1, 0, 0, state::QUEUED, 0, 1)
        .delivery(1, 11, 1, state::WAIT_FOR_PUBREC, 0, 1)
        .delivery(2, 12, 2, state::QUEUED, 0, 0)
        .retained(2)
        .retained(77)
        .taken();
    let (one, two) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
    let got: Vec<_> = sessions[0].deliveries.iter().map(described).collect();
    let expected = [
        ("two", two, RestoredState::Sent(packet(5))),
        ("one", one, RestoredState::Sent(packet(6))),
        ("two", two, RestoredState::Released(packet(7))),
        ("two", two, RestoredState::Released(packet(8))),
        ("one", one, RestoredState::Sent(packet(9))),
        ("one", one, RestoredState::Queued),
        ("one", one, RestoredState::Queued),
        ("one", one, RestoredState::Queued),
    ];
    assert_eq!(got, expected.map(|(topic, qos, state)| (topic.to_owned(), qos, state)));
    let expected = [
        (Left::Message, 1),
        (Left::MessageExpired, 2),
        (Left::RetainedExpired, 2),
        (Left::QoS0, 1),
        (Left::Unacknowledged, 1),
        (Left::State, 1),
    ];
    assert_eq!(left(&takings), expected);
    assert_eq!(retained, []);
}

#[test]
fn what_waits_for_pubrel_is_passed_on_behind_the_rest_and_not_to_its_publisher_with_no_local() {
    let file = |options: u8| {
        Builder::new()
            .message(1, "a/b", "waits", 1, false, 0)
            .message(2, "a/b", "held", 2, true, 0)
            .message(3, "a/b", "before", 1, true, 0)
            .session("c", 0, u32::MAX)
            .delivery(2, 9, 2, state::WAIT_FOR_PUBREL, 0, 0)
            .delivery(1, 0, 1, state::QUEUED, 0, 1)
            .subscription("a/+", options)
            .subscription("a/b", 0)
            .subscription("other", 2)
            .retained(3)
    };
    let (takings, sessions, retained) = file(0b1010).taken();
    assert_eq!((takings.held, takings.passed_on, takings.retained), (1, 1, 1));
    assert_eq!(sessions[0].held, [(packet(9), 4)]);
    let last = sessions[0].deliveries.last().unwrap();
    assert_eq!((last.message.as_publication().payload, last.qos), (&b"held"[..], QoS::ExactlyOnce));
    assert!(last.retain, "Retain As Published");
    // The held message is retained now. Its source is the second listener, no user, and "me".
    assert_eq!(retained, [("a/b".to_owned(), 8)]);
    let (takings, sessions, _) = file(0b0110).taken();
    assert_eq!((takings.passed_on, sessions[0].deliveries.len()), (0, 1));
}

#[test]
fn what_mqtt_does_not_allow_is_left_out_and_counted() {
    let (takings, sessions, retained) = Builder::new()
        .message(1, "$SYS/broker/uptime", "1", 0, true, 0)
        .message(2, "empty", "", 0, true, 0)
        .message(3, "good", "x", 0, true, 0)
        .message(4, "bad", "x", 3, true, 0)
        .session("", 0, u32::MAX)
        .session("c", 0, u32::MAX)
        .subscription("a/#/b", 1)
        .subscription("good", 3)
        .subscription("good", 0b11_0001)
        .subscription("good", 0b01_1101)
        .retained(1)
        .retained(2)
        .retained(3)
        .retained(4)
        .taken();
    assert_eq!(left(&takings), [(Left::ClientId, 1), (Left::Filter, 3), (Left::Message, 2), (Left::Own, 1)]);
    assert_eq!(retained, [("good".to_owned(), 8)]);
    let options = sessions[0].subscriptions[0].options;
    assert!(options.no_local && options.retain_as_published, "{options:?}");
    let words = takings.to_string();
    assert!(words.contains("left out: 3 subscriptions: their topic filters"), "{words}");
}
