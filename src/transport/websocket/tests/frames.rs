//! Frames of both sides, and closing.

use super::*;

/// The result of frames after an accepted request, without the answer to the request.
#[track_caller]
fn frames(frames: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Result<WebSocketProgress, WebSocketFailure>) {
    let mut heard = conversation(&[&request(), &frames.concat()[..]].concat());
    let out = heard.out.split_off(ACCEPTED.len());
    (heard.payload, out, heard.end)
}

#[track_caller]
fn broken(sent: &[&[u8]], expected: u16, says: &str) {
    let (_, out, end) = frames(sent);
    let Err(WebSocketFailure::Frame { code, words }) = end else {
        panic!("{end:?} is no failure");
    };
    assert_eq!(code, expected, "{words}");
    assert!(words.contains(says), "{words}");
    assert!(out.ends_with(&[&[0x88, 2][..], &code.to_be_bytes()].concat()), "{out:02X?}");
}

#[test]
fn frames_behind_the_request_are_read_with_it() {
    let (payload, out, end) = frames(&[&frame(0x82, b"\x10\x00")]);
    assert_eq!(
        (&payload[..], &out[..], end),
        (&b"\x10\x00"[..], &b""[..], Ok(WebSocketProgress::Established))
    );
    let huge = vec![7; 3 * HEADER_BYTES_MAX_DEFAULT];
    assert_eq!(frames(&[&frame(0x82, &huge)]).0, huge, "the bound of the request is not theirs");
}

// [MQTT5-6.0.0-2] [MQTT311-6.0.0-2]
// [MQTT311-§6#3] [PITFALL-53]
#[test]
fn payload_is_one_stream_however_it_is_framed() {
    let message: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for size in [1, 2, 3, 125, 126, 127, 0xFFFF, 0x1_0000, 70_000] {
        let framed: Vec<u8> = message.chunks(size).flat_map(|part| frame(0x82, part)).collect();
        let sent = [request(), framed].concat();
        for read in [1, 7, 4096, sent.len()] {
            let heard = hear(&settings(), sent.chunks(read));
            assert_eq!((heard.payload == message, heard.established), (true, 1), "{size} in {read}");
        }
    }
}

// [PITFALL-53]
#[test]
fn empty_and_fragmented_frames_pass_with_control_frames_among_them() {
    let (payload, out, end) = frames(&[
        &frame(0x82, b""),
        &frame(0x02, b"ab"),
        &frame(0x89, b"ping"),
        &frame(0x00, b""),
        &frame(0x8A, b"unasked"),
        &frame(0x00, b"cde"),
        &frame(0x80, b""),
        &frame(0x02, b""),
        &frame(0x80, b"f"),
    ]);
    assert_eq!(payload, b"abcdef");
    assert_eq!(out, b"\x8A\x04ping");
    assert_eq!(end, Ok(WebSocketProgress::Established));
}

// [MQTT5-§6] [MQTT311-§6#2]
#[test]
fn a_ping_is_answered_with_its_payload() {
    let longest = [7; 125];
    assert_eq!(frames(&[&frame(0x89, &longest)]).1, [&[0x8A, 125][..], &longest].concat());
    assert_eq!(frames(&[&frame(0x89, b"")]).1, [0x8A, 0]);
    let long_header = [&[0x89, 0xFF, 0, 0, 0, 0, 0, 0, 0, 125, 0, 0, 0, 0][..], &longest].concat();
    assert_eq!(long_header.len(), FRAME_UNIT_BYTES_MAX);
    assert_eq!(frames(&[&long_header]).1, [&[0x8A, 125][..], &longest].concat());
}

// [MQTT5-6.0.0-1] [MQTT311-6.0.0-1]
#[test]
fn a_text_frame_closes_the_connection() {
    broken(&[&frame(0x82, b"a"), &frame(0x81, b"\x10\x00")], 1003, "text");
    broken(&[&frame(0x01, b"")], 1003, "text");
}

// [MQTT311-§6#2]
#[test]
fn frames_that_break_the_rules_close_the_connection() {
    broken(&[b"\x82\x01a"], 1002, "not masked");
    broken(&[b"\x89\x00"], 1002, "not masked");
    for bit in [0x40, 0x20, 0x10] {
        broken(&[&frame(0x82 | bit, b"a")], 1002, "reserved bit");
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        broken(&[&frame(0x80 | opcode, b"a")], 1002, "unknown");
    }
    broken(&[&frame(0x80, b"a")], 1002, "nothing to continue");
    broken(&[&frame(0x02, b"a"), &frame(0x80, b"b"), &frame(0x80, b"c")], 1002, "nothing to continue");
    broken(&[&frame(0x02, b"a"), &frame(0x82, b"b")], 1002, "begins before");
    for control in [0x08, 0x09, 0x0A] {
        broken(&[&frame(control, b"")], 1002, "fragmented");
        broken(&[&frame(0x80 | control, &[0; 126])], 1002, "more than 125");
    }
    broken(&[&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]], 1002, "top bit");
    broken(&[&[0x89, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4]], 1002, "top bit");
}

#[test]
fn what_came_before_a_broken_frame_is_there() {
    let (payload, out, _) = frames(&[&frame(0x82, b"abc"), &frame(0x89, b"p"), b"\x82\x01a"]);
    assert_eq!((&payload[..], &out[..]), (&b"abc"[..], &b"\x8A\x01p\x88\x02\x03\xEA"[..]));
}

#[test]
fn a_frame_of_any_length_is_streamed() {
    let mut socket = opened();
    let (mut payload, mut out) = (Vec::new(), Vec::new());
    let header = [&[0x82, 0xFF][..], &(i64::MAX as u64).to_be_bytes(), &MASK].concat();
    socket.read(&settings(), None, &header, &mut payload, &mut out).expect("the longest frame");
    for _ in 0..10 {
        socket.read(&settings(), None, &[0; 1001], &mut payload, &mut out).expect("its payload");
    }
    assert_eq!(payload, MASK.into_iter().cycle().take(10_010).collect::<Vec<u8>>());
    assert_eq!(socket.pending.capacity(), 0);
}

fn opened() -> WebSocket {
    let mut socket = WebSocket::new();
    assert_eq!(
        socket.read(&settings(), None, &request(), &mut vec![], &mut vec![]),
        Ok(WebSocketProgress::Established)
    );
    socket
}

// [MQTT5-§6] [MQTT311-§6#2]
#[test]
fn a_close_is_answered_with_its_code_and_nothing_behind_it_is_read() {
    for (body, echo) in [
        (&b""[..], &b"\x88\x00"[..]),
        (b"\x03\xE8", b"\x88\x02\x03\xE8"),
        (b"\x03\xE9going away", b"\x88\x02\x03\xE9"),
        (b"\x0F\xA0\xC3\xB6", b"\x88\x02\x0F\xA0"),
    ] {
        let (payload, out, end) =
            frames(&[&frame(0x82, b"a"), &frame(0x88, body), &frame(0x82, b"b"), b"\xFF\xFF"]);
        assert_eq!((&payload[..], &out[..], end), (&b"a"[..], echo, Ok(WebSocketProgress::PeerClosed)));
    }
}

#[test]
fn a_close_that_breaks_the_rules_is_answered_with_what_is_wrong() {
    broken(&[&frame(0x88, b"\x03")], 1002, "cut");
    for code in [0_u16, 999, 1005, 1006, 1015, 2000, 5000, 65535] {
        broken(&[&frame(0x88, &code.to_be_bytes())], 1002, "not one that may be sent");
    }
    broken(&[&frame(0x88, b"\x03\xE8\xFF")], 1007, "UTF-8");
}

#[test]
fn our_close_is_sent_once_and_waits_for_the_peers() {
    let (mut payload, mut out) = (Vec::new(), Vec::new());
    let mut early = WebSocket::new();
    early.close(1001, &mut out);
    assert!(out.is_empty() && !early.is_open(), "there is nobody to understand it");

    let mut socket = opened();
    assert!(socket.is_open());
    socket.close(1001, &mut out);
    socket.close(1000, &mut out);
    assert!(!socket.is_open());
    assert_eq!(out, b"\x88\x02\x03\xE9");
    let late = [frame(0x82, b"late"), frame(0x89, b"p"), frame(0x02, &[1; 300])].concat();
    assert_eq!(socket.read(&settings(), None, &late, &mut payload, &mut out), Ok(WebSocketProgress::Open));
    let close = frame(0x88, b"\x03\xE9");
    assert_eq!(
        socket.read(&settings(), None, &close, &mut payload, &mut out),
        Ok(WebSocketProgress::PeerClosed)
    );
    assert_eq!((payload.len(), out.len()), (0, 4), "a Close is the last that is sent");

    let mut socket = opened();
    socket.close(1001, &mut out);
    let close = frame(0x88, b"");
    assert_eq!(
        socket.read(&settings(), None, &close, &mut payload, &mut out),
        Ok(WebSocketProgress::PeerClosed)
    );
    assert_eq!((payload.len(), out.len()), (0, 8), "nor is an empty one answered");
}

#[test]
fn a_frame_of_ours_is_final_binary_and_unmasked() {
    for (len, header) in [
        (0, &b"\x82\x00"[..]),
        (125, b"\x82\x7D"),
        (126, b"\x82\x7E\x00\x7E"),
        (0xFFFF, b"\x82\x7E\xFF\xFF"),
        (0x1_0000, b"\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00"),
    ] {
        let mut out = b"ahead".to_vec();
        opened().write_header(len, &mut out);
        assert_eq!(out, [b"ahead", header].concat());
    }
}

#[test]
fn an_open_connection_that_waits_owns_no_heap() {
    let mut socket = WebSocket::new();
    let sent = [request(), frame(0x82, b"abcdef"), frame(0x89, b"ping")].concat();
    for read in sent.chunks(9) {
        socket.read(&settings(), None, read, &mut vec![], &mut vec![]).expect("all is well");
    }
    assert_eq!(socket.pending.capacity(), 0);
    assert!(size_of::<WebSocket>() <= 64);
}
