//! Peers that do not speak TLS, or speak it badly.

use super::super::{HANDSHAKE_BYTES_MAX, PENDING_BYTES_MAX, Spoken, TlsFailure, TlsProgress};
use super::peer::{Client, Pair, V12, V13};
use super::pki::{Authority, Listener};

fn fresh(listener: &Listener) -> Pair {
    Client::new(V13, &listener.authority).connect(&listener.config())
}

#[test]
fn what_is_not_tls_is_told_by_its_first_byte_and_gets_no_answer() {
    let listener = Listener::new();
    let spoken: [(&[u8], Spoken, &str); 4] = [
        (
            b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0",
            Spoken::Mqtt,
            "the client speaks MQTT without TLS to a TLS port",
        ),
        (b"GET / HTTP/1.1\r\n\r\n", Spoken::Http, "the client speaks HTTP without TLS to a TLS port"),
        (b"\0\x01\x02\x03", Spoken::Unknown, "the first bytes are not TLS"),
        (b"\x80\x2e\x01\0\x02", Spoken::Unknown, "the first bytes are not TLS"),
    ];
    for (bytes, who, why) in spoken {
        for read in [bytes, &bytes[..1]] {
            let mut pair = fresh(&listener);
            assert_eq!(pair.read(b""), Ok(TlsProgress::Handshaking));
            let failure = pair.read(read).unwrap_err();
            assert_eq!((failure.to_string().as_str(), failure), (why, TlsFailure::NotTls(who)));
            assert!(pair.out.is_empty());
            assert_eq!(pair.read(read), Err(TlsFailure::Ended));
        }
    }
}

#[test]
fn garbage_that_begins_like_tls_fails_with_an_alert() {
    let listener = Listener::new();
    let garbage: [(&[u8], &str); 5] = [
        (b"\x16\x03\x01\xff\xff", "a record is longer than TLS allows"),
        (b"\x16\x09\x09\x00\x05hello", "the bytes are not TLS"),
        (b"\x16\x03\x01\x00\x00", "the bytes are not TLS"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "a message can't be read: missing data"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", ""),
    ];
    for (bytes, why) in garbage {
        let mut pair = fresh(&listener);
        let failure = pair.read(bytes).unwrap_err().to_string();
        assert!(why.is_empty() || failure == why, "{failure}");
        assert_eq!(pair.out.first(), Some(&0x15), "an alert goes out for {bytes:?}");
    }
}

#[test]
fn a_handshake_that_does_not_end_is_ended() {
    let listener = Listener::new();
    // This is a hello that announces more bytes than its records have, in the smallest records.
    let mut pair = fresh(&listener);
    assert_eq!(pair.read(b"\x16\x03\x01\x00\x04\x01\x00\xff\xf0"), Ok(TlsProgress::Handshaking));
    let record = b"\x16\x03\x01\x00\x01\x00";
    let mut sent = 0;
    let failure = loop {
        sent += record.len();
        match pair.read(record) {
            Ok(progress) => assert_eq!(progress, TlsProgress::Handshaking),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure, TlsFailure::HandshakeTooLong);
    assert!(sent <= HANDSHAKE_BYTES_MAX + record.len());
    // The same bytes come all at once.
    let mut pair = fresh(&listener);
    let mut bytes = b"\x16\x03\x01\x00\x04\x01\x00\xff\xf0".to_vec();
    (0..HANDSHAKE_BYTES_MAX).for_each(|_| bytes.extend(record));
    assert_eq!(pair.read(&bytes), Err(TlsFailure::HandshakeTooLong));
    // This hello is too long by itself.
    let mut pair = fresh(&listener);
    assert!(pair.read(b"\x16\x03\x01\x00\x04\x01\x0f\xff\xf0").is_err());
}

#[test]
fn a_handshake_that_stalls_after_the_hello_is_ended() {
    let listener = Listener::new();
    for version in [V12, V13] {
        let mut pair = Client::new(version, &listener.authority).connect(&listener.config());
        pair.client_speaks().unwrap();
        // Change cipher spec: TLS 1.3 ignores it for the sake of middleboxes.
        let mut sent = 0;
        while pair.read(b"\x14\x03\x03\x00\x01\x01").is_ok() {
            sent += 6;
            assert!(sent <= HANDSHAKE_BYTES_MAX);
        }
    }
}

#[test]
fn a_changed_record_ends_the_connection() {
    let listener = Listener::new();
    for version in [V12, V13] {
        let config = listener.config();
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        pair.client_writes(b"good");
        let good = pair.client_says();
        pair.client_writes(b"bad");
        let mut bytes = pair.client_says();
        *bytes.last_mut().unwrap() ^= 1;
        let failure = pair.read(&[good, bytes].concat()).unwrap_err();
        assert_eq!(failure.to_string(), "a record was changed on its way, or encrypted with another key");
        assert_eq!(pair.take_received(), b"good", "what came before it is good");
        assert!(!pair.out.is_empty());
        assert!(matches!(pair.server_speaks(), Err(rustls::Error::AlertReceived(_))));
        assert_eq!(pair.read(b""), Err(TlsFailure::Ended));
        let write = pair.server.write([&b"x"[..]], &mut pair.scratch, &mut pair.out);
        assert_eq!(write, Err(TlsFailure::Ended));
    }
}

#[test]
fn records_can_be_neither_repeated_nor_left_out() {
    let listener = Listener::new();
    let config = listener.config();
    for version in [V12, V13] {
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        pair.client_writes(b"one");
        let one = pair.client_says();
        pair.read(&one).unwrap();
        assert!(pair.read(&one).is_err());

        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        pair.client_writes(b"one");
        pair.client_says();
        pair.client_writes(b"two");
        assert!(pair.client_speaks().is_err());
    }
}

#[test]
fn an_unencrypted_message_after_the_handshake_ends_the_connection() {
    let listener = Listener::new();
    let config = listener.config();
    for version in [V12, V13] {
        let mut hello = Client::new(version, &listener.authority).connect(&config);
        let hello = hello.client_says();
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        assert!(pair.read(&hello).is_err());
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        assert!(pair.read(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0").is_err());
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        assert!(pair.read(b"\x15\x03\x03\x00\x02\x01\x00").is_err(), "a forged close_notify");
    }
}

#[test]
fn a_record_that_never_becomes_whole_has_a_bound() {
    let listener = Listener::new();
    let mut pair = Client::new(V13, &listener.authority).connect(&listener.config()).handshake();
    // 18 KiB is the longest record. A longer one is refused when its header comes.
    assert_eq!(pair.read(b"\x17\x03\x03\x40\x00"), Ok(TlsProgress::Open));
    assert_eq!(pair.read(&[0; (1 << 14) - 1]), Ok(TlsProgress::Open));
    assert!(pair.read(&[0]).is_err());
    let mut pair = Client::new(V13, &listener.authority).connect(&listener.config()).handshake();
    assert!(pair.read(b"\x17\x03\x03\x50\x00").is_err());
    const { assert!(PENDING_BYTES_MAX >= (1 << 14) + 2048 + 5) };
}

#[test]
fn a_client_that_does_not_trust_us_says_so() {
    let listener = Listener::new();
    let stranger = Authority::new("Another CA");
    for version in [V12, V13] {
        let failure =
            Client::new(version, &stranger).connect(&listener.config()).try_handshake().unwrap_err();
        assert_eq!(failure.to_string(), "the client refused us: it does not know the CA of our certificate");
    }
}

/// Replaces each of the client's flights with random bytes. Whatever they are, the handshake ends without a
/// panic.
#[test]
fn no_change_of_a_byte_in_the_handshake_panics() {
    let listener = Listener::new();
    let config = listener.config();
    for version in [V12, V13] {
        let client = Client::new(version, &listener.authority);
        for flight in 0..2 {
            for position in (0..400).step_by(3) {
                let mut pair = client.connect(&config);
                for round in 0..3 {
                    let mut bytes = pair.client_says();
                    if round == flight && position < bytes.len() {
                        bytes[position] ^= 1 << (position % 8);
                    }
                    if pair.read(&bytes).is_err() || pair.server_speaks().is_err() {
                        break;
                    }
                }
            }
        }
    }
}
