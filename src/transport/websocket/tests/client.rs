//! Tests with the client of another implementation.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Bytes, Error, Message};

use super::*;

/// Both ends of a connection in memory, in the form that tungstenite's client needs.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<(VecDeque<u8>, VecDeque<u8>)>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.borrow_mut().1.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server, which echoes MQTT bytes, one frame per read, in reads of seven bytes.
struct Echo {
    wire: Wire,
    socket: WebSocket,
    last: WebSocketProgress,
}

impl Echo {
    fn turn(&mut self) {
        let sent: Vec<u8> = self.wire.0.borrow_mut().0.drain(..).collect();
        for read in sent.chunks(7) {
            let (mut payload, mut out) = (Vec::new(), Vec::new());
            self.last = self
                .socket
                .read(&settings(), None, read, &mut payload, &mut out)
                .expect("tungstenite is right");
            if !payload.is_empty() && self.socket.is_open() {
                self.socket.write_header(payload.len(), &mut out);
                out.append(&mut payload);
            }
            self.wire.0.borrow_mut().1.extend(out);
        }
    }
}

#[test]
fn the_client_of_tungstenite_is_served() {
    let mut request = "ws://localhost/mqtt".into_client_request().expect("an address");
    let mqtt = tungstenite::http::HeaderValue::from_static("mqtt");
    request.headers_mut().insert("Sec-WebSocket-Protocol", mqtt);
    let wire = Wire::default();
    let mut echo =
        Echo { wire: wire.clone(), socket: WebSocket::new(), last: WebSocketProgress::Handshaking };

    let mut shaking = ClientHandshake::start(wire, request, None).expect("a request");
    let (mut client, response) = loop {
        match shaking.handshake() {
            Ok(done) => break done,
            Err(HandshakeError::Interrupted(rest)) => shaking = rest,
            Err(failure) => panic!("{failure}"),
        }
        echo.turn();
    };
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");

    let sent: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    client.send(Message::Binary(sent.clone().into())).expect("sent");
    client.send(Message::Ping(Bytes::from_static(b"ping"))).expect("sent");
    echo.turn();
    let (mut echoed, mut pongs) = (Vec::new(), 0);
    while let Ok(message) = client.read() {
        match message {
            Message::Binary(part) => echoed.extend_from_slice(&part),
            Message::Pong(body) => pongs += usize::from(&body[..] == b"ping"),
            other => panic!("{other:?}"),
        }
    }
    assert!(echoed == sent && pongs == 1);

    let bye = CloseFrame { code: CloseCode::Away, reason: "".into() };
    client.close(Some(bye.clone())).expect("sent");
    echo.turn();
    assert_eq!(echo.last, WebSocketProgress::PeerClosed);
    assert_eq!(client.read().expect("the echo"), Message::Close(Some(bye)));
    assert!(matches!(client.read(), Err(Error::ConnectionClosed | Error::Io(_))));
}
