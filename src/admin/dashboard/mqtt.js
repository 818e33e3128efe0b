// An MQTT 5.0 client over WebSocket, as much of it as the console needs.

const CONNECT = 1;
const CONNACK = 2;
const PUBLISH = 3;
const PUBACK = 4;
const PUBREC = 5;
const PUBREL = 6;
const PUBCOMP = 7;
const SUBSCRIBE = 8;
const SUBACK = 9;
const UNSUBSCRIBE = 10;
const UNSUBACK = 11;
const PINGREQ = 12;
const DISCONNECT = 14;

/** A larger packet is not sent to the console. */
const PACKET_BYTES_MAX = 1 << 20;
const KEEP_ALIVE = 30;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The meanings of the reason codes that a console meets. */
const REASONS = {
  0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error", 0x83: "implementation specific error",
  0x84: "unsupported protocol version", 0x85: "client identifier not valid", 0x86: "bad user name or password", 0x87: "not authorized",
  0x88: "server unavailable", 0x89: "server busy", 0x8a: "banned", 0x8b: "server shutting down", 0x8d: "keep alive timeout",
  0x8e: "session taken over", 0x8f: "topic filter invalid", 0x90: "topic name invalid", 0x91: "packet identifier in use",
  0x93: "receive maximum exceeded", 0x95: "packet too large", 0x96: "message rate too high", 0x97: "quota exceeded",
  0x98: "administrative action", 0x99: "payload format invalid", 0x9a: "retain not supported", 0x9b: "QoS not supported",
  0x9c: "use another server", 0x9d: "server moved", 0x9e: "shared subscriptions not supported", 0x9f: "connection rate exceeded",
  0xa1: "subscription identifiers not supported", 0xa2: "wildcard subscriptions not supported",
};

export function reason(code) {
  const hex = `0x${code.toString(16).padStart(2, "0")}`;
  return code < 0x80 ? "good" : `${REASONS[code] ?? "refused"} (${hex})`;
}

function text(words) {
  const coded = encoder.encode(words);
  return [coded.length >> 8, coded.length & 255, ...coded];
}

function variable(value) {
  const coded = [];
  do {
    coded.push((value & 127) | (value > 127 ? 128 : 0));
    value >>= 7;
  } while (value > 0);
  return coded;
}

function packet(type, flags, body) {
  return new Uint8Array([(type << 4) | flags, ...variable(body.length), ...body]);
}

/** Reads the parts of a packet in turn. */
class Parts {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  byte() {
    if (this.at >= this.bytes.length) throw new Error("the packet is too short");
    return this.bytes[this.at++];
  }

  two() {
    return (this.byte() << 8) | this.byte();
  }

  take(count) {
    if (this.at + count > this.bytes.length) throw new Error("the packet is too short");
    const part = this.bytes.subarray(this.at, this.at + count);
    this.at += count;
    return part;
  }

  text() {
    return decoder.decode(this.take(this.two()));
  }

  variable() {
    let value = 0;
    for (let shift = 0; shift < 28; shift += 7) {
      const byte = this.byte();
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw new Error("a length has more than four bytes");
  }

  rest() {
    return this.take(this.bytes.length - this.at);
  }
}

/** One connection. `heard` gets `connected`, `message`, `told` (words) and `closed` (words). */
export class Mqtt {
  constructor(url, { clientId, user, password }, heard) {
    this.heard = heard;
    this.identifier = 0;
    this.unreleased = new Set();
    this.waiting = new Map();
    this.received = new Uint8Array(0);
    this.isOpen = false;
    this.socket = new WebSocket(url, "mqtt");
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.connect(clientId, user, password);
    this.socket.onmessage = (event) => this.take(new Uint8Array(event.data));
    this.socket.onclose = () => this.close(this.isOpen ? "the connection was closed" : "no WebSocket: is the listener there, does websocket_path fit, and does websocket_origins allow this page?");
  }

  send(bytes) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  connect(clientId, user, password) {
    const flags = 2 | (user === "" ? 0 : 128) | (password === "" ? 0 : 64);
    // Maximum Packet Size is the only property.
    const size = PACKET_BYTES_MAX;
    const properties = [0x27, (size >> 24) & 255, (size >> 16) & 255, (size >> 8) & 255, size & 255];
    const names = [text(clientId), user === "" ? [] : text(user), password === "" ? [] : text(password)].flat();
    this.send(packet(CONNECT, 0, [...text("MQTT"), 5, flags, 0, KEEP_ALIVE, properties.length, ...properties, ...names]));
    this.timer = setInterval(() => this.send(packet(PINGREQ, 0, [])), (KEEP_ALIVE * 1000) / 2);
  }

  next() {
    this.identifier = (this.identifier % 65535) + 1;
    return [this.identifier >> 8, this.identifier & 255];
  }

  publish(topic, payload, qos, retain) {
    const identifier = qos > 0 ? this.next() : [];
    if (qos > 0) this.waiting.set(this.identifier, `PUBLISH to ${topic}`);
    this.send(packet(PUBLISH, (qos << 1) | (retain ? 1 : 0), [...text(topic), ...identifier, 0, ...encoder.encode(payload)]));
  }

  subscribe(filter, qos) {
    const identifier = this.next();
    this.waiting.set(this.identifier, `SUBSCRIBE to ${filter}`);
    this.send(packet(SUBSCRIBE, 2, [...identifier, 0, ...text(filter), qos]));
  }

  unsubscribe(filter) {
    const identifier = this.next();
    this.waiting.set(this.identifier, `UNSUBSCRIBE from ${filter}`);
    this.send(packet(UNSUBSCRIBE, 2, [...identifier, 0, ...text(filter)]));
  }

  disconnect() {
    this.send(packet(DISCONNECT, 0, []));
    this.close("disconnected");
  }

  close(why) {
    if (this.hasClosed) return;
    this.hasClosed = true;
    clearInterval(this.timer);
    this.socket.onclose = null;
    this.socket.close();
    this.heard.closed(why);
  }

  take(bytes) {
    const all = new Uint8Array(this.received.length + bytes.length);
    all.set(this.received);
    all.set(bytes, this.received.length);
    let at = 0;
    try {
      for (;;) {
        const parts = new Parts(all.subarray(at));
        // The longest fixed header has five bytes.
        if (all.length - at < 2 || (all.length - at < 5 && all.subarray(at + 1).every((byte) => byte > 127))) break;
        const first = parts.byte();
        const length = parts.variable();
        if (all.length - at - parts.at < length) break;
        this.handle(first, new Parts(parts.take(length)));
        at += parts.at;
      }
      this.received = all.slice(at);
    } catch (error) {
      this.close(`midge has sent what this page does not understand: ${error.message}`);
    }
  }

  handle(first, parts) {
    const handler = {
      [CONNACK]: () => this.handleConnack(parts),
      [PUBLISH]: () => this.handlePublish(first, parts),
      [PUBACK]: () => this.acknowledged(parts),
      [PUBREC]: () => this.handlePubrec(parts),
      [PUBREL]: () => this.handlePubrel(parts),
      [PUBCOMP]: () => this.acknowledged(parts),
      [SUBACK]: () => this.answered(parts),
      [UNSUBACK]: () => this.answered(parts),
      [DISCONNECT]: () => this.close(`midge has disconnected: ${reason(parts.at < parts.bytes.length ? parts.byte() : 0)}`),
    }[first >> 4];
    handler?.();
  }

  handleConnack(parts) {
    parts.byte();
    const code = parts.byte();
    if (code >= 0x80) {
      this.close(`refused: ${reason(code)}`);
      return;
    }
    this.isOpen = true;
    this.heard.connected();
  }

  handlePublish(first, parts) {
    const qos = (first >> 1) & 3;
    const topic = parts.text();
    const identifier = qos > 0 ? [parts.byte(), parts.byte()] : [];
    parts.take(parts.variable());
    const payload = parts.rest();
    const key = identifier.join();
    // A QoS 2 message that comes again is the same one.
    if (qos < 2 || !this.unreleased.has(key)) this.heard.message({ topic, payload: decoder.decode(payload), qos, retain: (first & 1) === 1 });
    if (qos === 1) this.send(packet(PUBACK, 0, identifier));
    if (qos === 2) {
      this.unreleased.add(key);
      this.send(packet(PUBREC, 0, identifier));
    }
  }

  handlePubrec(parts) {
    const identifier = [parts.byte(), parts.byte()];
    const code = parts.at < parts.bytes.length ? parts.byte() : 0;
    if (code >= 0x80) this.tell((identifier[0] << 8) | identifier[1], code);
    else this.send(packet(PUBREL, 2, identifier));
  }

  handlePubrel(parts) {
    const identifier = [parts.byte(), parts.byte()];
    this.unreleased.delete(identifier.join());
    this.send(packet(PUBCOMP, 0, identifier));
  }

  acknowledged(parts) {
    const identifier = parts.two();
    this.tell(identifier, parts.at < parts.bytes.length ? parts.byte() : 0);
  }

  answered(parts) {
    const identifier = parts.two();
    parts.take(parts.variable());
    this.tell(identifier, parts.byte());
  }

  tell(identifier, code) {
    const what = this.waiting.get(identifier);
    this.waiting.delete(identifier);
    if (what !== undefined) this.heard.told(`${what}: ${code < 0x80 ? "done" : reason(code)}`, code >= 0x80);
  }
}
