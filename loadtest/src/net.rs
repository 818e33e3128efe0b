//! All sockets of a run in one edge-triggered epoll loop on the calling thread.
//!
//! [`Net`] opens the connections, from several source addresses if necessary. It reads into one
//! large buffer that all connections share, and passes each packet in it to a [`Handler`]. The
//! answers to one read are sent in one write. No message causes an allocation. With a
//! [`TransportConfig`], all bytes pass through the layers of their connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::Timespec;

use crate::codec::{self, Packet};
use crate::transport::{Layers, Received, Scratch, TransportConfig};

/// Nanoseconds since the start of the run. All stamps and schedules use this clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What happens to a connection after a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Continue,
    /// Sends the answers and closes the connection. `handle_closed` is not called.
    Close,
}

/// Handles the events of a scenario's connections. `id` is the number given to [`Net::open`]. The
/// bytes in `out` are sent to that connection.
pub(crate) trait Handler {
    /// The connection is established, including TLS and WebSocket.
    fn handle_connected(&mut self, id: usize, out: &mut Vec<u8>);
    /// A packet arrived, in the read that returned at `now`.
    fn handle_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next;
    /// A socket that was full can be written again.
    fn handle_writable(&mut self, id: usize);
    /// The connection was closed by the broker, or because of an error.
    fn handle_closed(&mut self, id: usize, why: Closed);
}

/// Why a connection was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The broker closed it, or the network failed.
    Peer(String),
    /// The broker sent bytes that are not MQTT, so the harness closed it.
    Malformed(&'static str),
}

/// The connections of a run.
pub(crate) struct Net {
    epoll: OwnedFd,
    target: SocketAddr,
    sources: Sources,
    clock: Clock,
    connections: Vec<Option<Connection>>,
    events: Vec<epoll::Event>,
    buffer: Box<[u8]>,
    out: Vec<u8>,
    transport: Option<TransportConfig>,
    layer_buffers: LayerBuffers,
    handshakes: Handshakes,
}

/// Buffers for the connections that have layers.
#[derive(Default)]
struct LayerBuffers {
    scratch: Scratch,
    /// The MQTT bytes of a read.
    mqtt: Vec<u8>,
    /// The bytes of a write after the layers.
    wire: Vec<u8>,
}

/// The completed TLS handshakes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes {
    pub(crate) full: u64,
    pub(crate) resumed: u64,
    /// Version, cipher suite and group of the first handshake.
    pub(crate) suite: Option<String>,
}

struct Connection {
    stream: TcpStream,
    connected: bool,
    /// The connection is not read for now. Received bytes wait in the kernel.
    paused: bool,
    /// The beginning of an incomplete packet.
    partial: Vec<u8>,
    /// Bytes that the full socket did not accept.
    unsent: Vec<u8>,
    /// The PINGREQ of [`Net::send_ping`] is not answered yet.
    awaits_pingresp: bool,
    /// The layers between MQTT and the socket.
    layers: Option<Box<Layers>>,
}

const BUFFER_LEN: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;

impl Net {
    pub(crate) fn new(
        target: SocketAddr,
        sources: Sources,
        transport: Option<TransportConfig>,
        clock: Clock,
    ) -> io::Result<Net> {
        Ok(Net {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            target,
            sources,
            clock,
            connections: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; BUFFER_LEN].into(),
            out: Vec::with_capacity(BUFFER_LEN),
            transport,
            layer_buffers: LayerBuffers::default(),
            handshakes: Handshakes::default(),
        })
    }

    /// The TLS handshakes so far.
    pub(crate) fn handshakes(&self) -> &Handshakes {
        &self.handshakes
    }

    /// Opens a connection with the number `id`. `handle_connected` or `handle_closed` follows.
    pub(crate) fn open(&mut self, id: usize) -> io::Result<()> {
        let socket = self.sources.connect(self.target)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &stream, EventData::new_u64(id as u64), flags)?;
        if self.connections.len() <= id {
            self.connections.resize_with(id + 1, || None);
        }
        let layers =
            self.transport.as_ref().map(|transport| transport.new_layers().map(Box::new)).transpose();
        let layers = layers.map_err(io::Error::other)?;
        let (partial, unsent) = (Vec::new(), Vec::new());
        let connection = Connection {
            stream,
            connected: false,
            paused: false,
            partial,
            unsent,
            awaits_pingresp: false,
            layers,
        };
        self.connections[id] = Some(connection);
        Ok(())
    }

    /// Closes a connection and its layers at once. `handle_closed` is not called.
    pub(crate) fn close(&mut self, id: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(id) {
            connection.close_layers(&mut self.layer_buffers);
        }
        self.forget(id);
    }

    fn forget(&mut self, id: usize) {
        if let Some(connection) = self.connections.get_mut(id) {
            *connection = None;
        }
    }

    /// Resets a connection, like a device that loses power. Bytes in flight are lost in both
    /// directions, and `handle_closed` is not called.
    pub(crate) fn abort(&mut self, id: usize) {
        if let Some(Some(connection)) = self.connections.get(id) {
            // If this fails, the connection is closed without a reset, and nothing else is wrong.
            let _ = sockopt::set_socket_linger(&connection.stream, Some(Duration::ZERO));
        }
        self.forget(id);
    }

    /// Stops reading from a connection. Its receive buffer stays small, because the kernel lets it
    /// grow only while the program reads. It is not made smaller explicitly, because it would then
    /// stay so, and later reading would take minutes.
    pub(crate) fn pause(&mut self, id: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(id) {
            connection.paused = true;
        }
    }

    /// Reads from a connection again, beginning with the bytes that arrived meanwhile.
    pub(crate) fn resume(&mut self, id: usize, handler: &mut impl Handler) {
        if let Some(Some(connection)) = self.connections.get_mut(id) {
            connection.paused = false;
            self.read(id, true, handler);
        }
    }

    pub(crate) fn is_open(&self, id: usize) -> bool {
        matches!(self.connections.get(id), Some(Some(_)))
    }

    /// Whether bytes for this connection wait because its socket is full.
    pub(crate) fn is_blocked(&self, id: usize) -> bool {
        matches!(self.connections.get(id), Some(Some(connection)) if !connection.unsent.is_empty())
    }

    /// Sends what `fill` appends. Does nothing if the connection is closed.
    pub(crate) fn send(&mut self, id: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        let Some(Some(connection)) = self.connections.get_mut(id) else { return };
        self.out.clear();
        fill(&mut self.out);
        connection.send(&self.out, &mut self.layer_buffers);
    }

    /// Sends a PINGREQ whose answer the handler does not get. The answer shows that the broker has
    /// read everything before it, and that everything that the broker sent before the answer has
    /// arrived.
    pub(crate) fn send_ping(&mut self, id: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(id) {
            connection.awaits_pingresp = true;
            self.send(id, codec::put_pingreq);
        }
    }

    /// Whether the connection is open and has not answered [`Net::send_ping`].
    pub(crate) fn awaits_pingresp(&self, id: usize) -> bool {
        matches!(self.connections.get(id), Some(Some(connection)) if connection.awaits_pingresp)
    }

    /// Waits at most `timeout`, and handles all events.
    pub(crate) fn poll(&mut self, timeout: Duration, handler: &mut impl Handler) -> io::Result<()> {
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for at in 0..self.events.len() {
            let event = self.events[at];
            self.serve(event.data.u64() as usize, event.flags, handler);
        }
        Ok(())
    }

    fn serve(&mut self, id: usize, flags: EventFlags, handler: &mut impl Handler) {
        let Some(Some(connection)) = self.connections.get_mut(id) else { return };
        if !connection.connected {
            if let Err(error) = connection.finish_connect(flags) {
                self.connections[id] = None;
                return handler.handle_closed(id, Closed::Peer(error.to_string()));
            }
            if !connection.connected {
                return;
            }
            self.out.clear();
            match &mut connection.layers {
                None => handler.handle_connected(id, &mut self.out),
                Some(layers) => {
                    if let Err(why) = layers.start(&mut self.out) {
                        self.connections[id] = None;
                        return handler.handle_closed(id, why);
                    }
                }
            }
            connection.write(&self.out);
        } else if flags.contains(EventFlags::OUT) && !connection.unsent.is_empty() {
            connection.write(&[]);
            if connection.unsent.is_empty() {
                handler.handle_writable(id);
            }
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
            && !connection.paused
        {
            let until_end = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            self.read(id, until_end, handler);
        }
    }

    /// Reads until the socket is empty. A read that does not fill the buffer has emptied it. Only
    /// the end of the stream needs one more read (`until_end`).
    fn read(&mut self, id: usize, until_end: bool, handler: &mut impl Handler) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.read_into(&mut buffer, id, until_end, handler);
        self.buffer = buffer;
    }

    fn read_into(&mut self, buffer: &mut Box<[u8]>, id: usize, until_end: bool, handler: &mut impl Handler) {
        while let Some(Some(connection)) = self.connections.get_mut(id) {
            // With layers, the partial packet is put before their output instead.
            let partial_len = if connection.layers.is_none() { connection.partial.len() } else { 0 };
            if partial_len + BUFFER_LEN / 2 > buffer.len() {
                // A packet is larger than the buffer, so the buffer grows.
                *buffer = vec![0; 2 * buffer.len()].into();
            }
            if partial_len > 0 {
                buffer[..partial_len].copy_from_slice(&connection.partial);
                connection.partial.clear();
            }
            let room = buffer.len() - partial_len;
            let count = match connection.stream.read(&mut buffer[partial_len..]) {
                Ok(0) => return self.end_by_peer(id, "closed by the broker", handler),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.partial.extend_from_slice(&buffer[..partial_len]);
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    connection.partial.extend_from_slice(&buffer[..partial_len]);
                    continue;
                }
                Err(error) => return self.end_by_peer(id, &error.to_string(), handler),
            };
            let now = self.clock.now();
            let is_open = if connection.layers.is_none() {
                self.handle_packets(id, now, &buffer[..partial_len + count], handler)
            } else {
                self.handle_layered(id, now, &mut buffer[..count], handler)
            };
            if is_open && (count == room || until_end) {
                continue;
            }
            return;
        }
    }

    /// Passes received bytes through the layers, and handles the MQTT packets in them.
    fn handle_layered(
        &mut self,
        id: usize,
        now: u64,
        received: &mut [u8],
        handler: &mut impl Handler,
    ) -> bool {
        let Some(Some(connection)) = self.connections.get_mut(id) else { return false };
        let Some(layers) = &mut connection.layers else { return false };
        let LayerBuffers { scratch, mqtt, wire } = &mut self.layer_buffers;
        mqtt.clear();
        mqtt.append(&mut connection.partial);
        wire.clear();
        let received = layers.receive(received, scratch, mqtt, wire);
        if received == Ok(Received::Established) {
            self.handshakes.count(layers);
            self.out.clear();
            handler.handle_connected(id, &mut self.out);
            layers.send(&self.out, scratch, wire);
        }
        if !wire.is_empty() {
            connection.write(wire);
        }
        let mqtt = std::mem::take(mqtt);
        let is_open = self.handle_packets(id, now, &mqtt, handler);
        self.layer_buffers.mqtt = mqtt;
        match received {
            _ if !is_open => false,
            Ok(Received::NoChange | Received::Established) => true,
            Ok(Received::Ended) => {
                self.end_by_peer(id, "closed by the broker", handler);
                false
            }
            Err(why) => {
                self.connections[id] = None;
                handler.handle_closed(id, why);
                false
            }
        }
    }

    /// Passes the packets in `bytes` to the handler, sends the answers, and stores the rest.
    /// Returns whether the connection is still open.
    fn handle_packets(&mut self, id: usize, now: u64, mut bytes: &[u8], handler: &mut impl Handler) -> bool {
        let Some(Some(connection)) = self.connections.get_mut(id) else { return false };
        self.out.clear();
        loop {
            match codec::split(bytes) {
                Ok(Some((packet, used))) => {
                    bytes = &bytes[used..];
                    if connection.awaits_pingresp && packet.kind() == codec::PINGRESP {
                        connection.awaits_pingresp = false;
                        continue;
                    }
                    if handler.handle_packet(id, now, packet, &mut self.out) == Next::Close {
                        connection.send(&self.out, &mut self.layer_buffers);
                        self.close(id);
                        return false;
                    }
                }
                Ok(None) => break,
                Err(malformed) => {
                    self.connections[id] = None;
                    handler.handle_closed(id, Closed::Malformed(malformed.0));
                    return false;
                }
            }
        }
        connection.partial.extend_from_slice(bytes);
        if !self.out.is_empty() {
            connection.send(&self.out, &mut self.layer_buffers);
        }
        true
    }

    fn end_by_peer(&mut self, id: usize, why: &str, handler: &mut impl Handler) {
        self.connections[id] = None;
        handler.handle_closed(id, Closed::Peer(why.to_owned()));
    }
}

impl Handshakes {
    /// The handshakes after `earlier`.
    pub(crate) fn since(&self, earlier: &Handshakes) -> Handshakes {
        let (full, resumed) = (self.full - earlier.full, self.resumed - earlier.resumed);
        Handshakes { full, resumed, suite: self.suite.clone() }
    }

    fn count(&mut self, layers: &Layers) {
        match layers.is_resumed() {
            None => return,
            Some(false) => self.full += 1,
            Some(true) => self.resumed += 1,
        }
        if self.suite.is_none() {
            self.suite = layers.suite();
        }
    }
}

impl Connection {
    fn finish_connect(&mut self, flags: EventFlags) -> io::Result<()> {
        sockopt::socket_error(&self.stream)??;
        self.connected = flags.contains(EventFlags::OUT) && !flags.contains(EventFlags::HUP);
        Ok(())
    }

    /// Sends MQTT bytes, through the layers if there are any.
    #[inline]
    fn send(&mut self, mqtt: &[u8], buffers: &mut LayerBuffers) {
        match &mut self.layers {
            None => self.write(mqtt),
            Some(layers) => {
                buffers.wire.clear();
                layers.send(mqtt, &mut buffers.scratch, &mut buffers.wire);
                self.write(&buffers.wire);
            }
        }
    }

    fn close_layers(&mut self, buffers: &mut LayerBuffers) {
        if let Some(layers) = &mut self.layers {
            buffers.wire.clear();
            layers.close(&mut buffers.wire);
            self.write(&buffers.wire);
        }
    }

    /// Sends the unsent bytes and then `bytes`, and stores what the socket refuses. The next read
    /// reports an error, together with the bytes that arrived before it.
    fn write(&mut self, bytes: &[u8]) {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            let sent = send(&mut self.stream, &self.unsent);
            self.unsent.drain(..sent);
            return;
        }
        let sent = send(&mut self.stream, bytes);
        self.unsent.extend_from_slice(&bytes[sent..]);
    }
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return bytes.len(),
        }
    }
    sent
}

/// The source addresses and ports of the connections. The kernel assigns about 28,000 ports to one
/// address, so more connections need more addresses. With addresses of its own, this type also
/// chooses the ports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    addresses: Vec<Ipv4Addr>,
    next_address: usize,
    port: u16,
}

const PORT_FIRST: u16 = 10_000;
const PORT_LAST: u16 = 65_000;
/// Number of ports to try for one connection.
const PORT_TRIES_MAX: usize = 5_000;

impl Sources {
    /// Uses `addresses` in turn. If there are none, the kernel chooses. `seed` sets the first port,
    /// so that the ports of two consecutive runs do not collide in TIME_WAIT.
    pub(crate) fn new(addresses: Vec<Ipv4Addr>, seed: u32) -> Sources {
        let span = u32::from(PORT_LAST - PORT_FIRST);
        Sources { addresses, next_address: 0, port: PORT_FIRST + (seed % span) as u16 }
    }

    /// `count` loopback addresses from 127.0.0.2 on.
    pub(crate) fn loopback(count: usize) -> Vec<Ipv4Addr> {
        (0..count as u32).map(|at| Ipv4Addr::from(0x7f00_0002 + at)).collect()
    }

    fn connect(&mut self, target: SocketAddr) -> io::Result<OwnedFd> {
        for _ in 0..PORT_TRIES_MAX {
            let family = if target.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
            let chosen = self.next_source();
            if let Some(source) = chosen {
                sockopt::set_socket_reuseaddr(&socket, true)?;
                match rustix::net::bind(&socket, &source) {
                    Ok(()) => {}
                    Err(Errno::ADDRINUSE) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            match rustix::net::connect(&socket, &target) {
                Ok(()) | Err(Errno::INPROGRESS) => return Ok(socket),
                Err(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) if chosen.is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::new(ErrorKind::AddrNotAvailable, "no free source port; use more --sources"))
    }

    fn next_source(&mut self) -> Option<SocketAddrV4> {
        let address = *self.addresses.get(self.next_address)?;
        let source = SocketAddrV4::new(address, self.port);
        self.next_address += 1;
        if self.next_address == self.addresses.len() {
            self.next_address = 0;
            self.port = if self.port == PORT_LAST { PORT_FIRST } else { self.port + 1 };
        }
        Some(source)
    }
}

/// Whether a target is reachable from any 127.x.x.x address.
pub(crate) fn is_loopback_v4(target: SocketAddr) -> bool {
    matches!(target.ip(), IpAddr::V4(address) if address.is_loopback())
}

/// Raises the soft limit of open files to the hard limit and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let effective = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    effective.unwrap_or(u64::MAX)
}

/// Pins the calling thread, and the processes that it starts, to these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::new(ErrorKind::InvalidInput, "there is no such CPU"));
        }
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}
