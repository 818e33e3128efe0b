// mqtt.js 5 against the broker, MQTT 3.1, 3.1.1 and 5.0: node mqttjs_client.mjs HOST PORT 3|4|5
// [mqtt|ws|mqtts|wss CA].
// MIDGE_NODE is the folder whose node_modules has the package `mqtt`: an import would look beside this file.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const mqtt = createRequire(join(process.env.MIDGE_NODE, "package.json"))("mqtt");
const [host, port, level] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const protocol = process.argv[5] ?? "mqtt";
const over = {
  protocol,
  ...(protocol.startsWith("ws") && { path: "/mqtt" }),
  ...(["mqtts", "wss"].includes(protocol) && { ca: readFileSync(process.argv[6]) }),
};
const CASE_SECONDS_MAX = 240;
const WAIT_SECONDS = 60;
const ALL = [3, 4, 5];
const cases = [];
const test = (levels, name, run) => cases.push({ levels, name, run });

/** What the promise gives, or an error that says what was waited for. */
function within(seconds, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A payload in which every byte value comes. */
const binary = (length) => Buffer.from(Uint8Array.from({ length }, (_, i) => i * 7 + (i >> 10)));

/** One case's place: topics and client identifiers nobody else uses, and the peers to end with it. */
class Spot {
  run = randomBytes(4).toString("hex");
  peers = [];

  topic(rest) {
    return `clients/${this.run}/${rest}`;
  }

  async peer(who, options = {}) {
    const peer = new Peer(`${this.run}-${who}`, options);
    this.peers.push(peer);
    await within(WAIT_SECONDS, `CONNACK for ${who}`, peer.connected);
    return peer;
  }

  close() {
    return Promise.all(this.peers.map((peer) => peer.close()));
  }
}

/** A connected client whose messages wait in a queue. */
class Peer {
  messages = [];
  waiting = [];

  constructor(clientId, options) {
    this.client = mqtt.connect({
      host,
      port,
      ...over,
      clientId,
      protocolId: level === 3 ? "MQIsdp" : "MQTT",
      protocolVersion: level,
      reconnectPeriod: 0,
      clean: true,
      ...options,
    });
    this.connected = new Promise((resolve, reject) => {
      this.client.once("connect", (connack) => resolve((this.connack = connack)));
      this.client.on("error", reject);
    });
    this.closed = new Promise((resolve) => this.client.once("close", resolve));
    this.client.on("disconnect", (packet) => (this.disconnect = packet));
    this.client.on("message", (topic, payload, packet) => {
      const message = { topic, payload, qos: packet.qos, retain: packet.retain, properties: packet.properties ?? {} };
      const next = this.waiting.shift();
      next ? next(message) : this.messages.push(message);
    });
  }

  next(seconds = WAIT_SECONDS) {
    const message = this.messages.shift();
    return message ?? within(seconds, "message", new Promise((resolve) => this.waiting.push(resolve)));
  }

  async expect(topic, payload, qos, retain) {
    const message = await this.next();
    assert.equal(message.topic, topic);
    assert.ok(message.payload.equals(Buffer.from(payload)), `payload of ${topic}: ${message.payload.length} bytes`);
    if (qos !== undefined) assert.equal(message.qos, qos, "QoS");
    if (retain !== undefined) assert.equal(message.retain, retain, "retain");
    return message;
  }

  async subscribe(filter, options) {
    const granted = await within(WAIT_SECONDS, "SUBACK", this.client.subscribeAsync(filter, options));
    return granted.map((one) => one.qos);
  }

  publish(topic, payload, options = {}) {
    return within(WAIT_SECONDS, "acknowledgement", this.client.publishAsync(topic, payload, options));
  }

  /** Ends the connection without DISCONNECT. */
  async drop() {
    this.client.stream.destroy();
    await within(WAIT_SECONDS, "close", this.closed);
  }

  async close() {
    await within(WAIT_SECONDS, "end", this.client.endAsync());
  }
}

test(ALL, "each QoS both ways", async (spot) => {
  const [sub, pub] = [await spot.peer("sub"), await spot.peer("pub")];
  for (const wanted of [0, 1, 2]) {
    assert.deepEqual(await sub.subscribe(spot.topic(`${wanted}/+`), { qos: wanted }), [wanted]);
    for (const sent of [0, 1, 2]) {
      for (const payload of ["", "grün", binary(256), binary(100_000)]) {
        await pub.publish(spot.topic(`${wanted}/${sent}`), payload, { qos: sent });
        await sub.expect(spot.topic(`${wanted}/${sent}`), payload, Math.min(wanted, sent), false);
      }
    }
  }
});

test(ALL, "a megabyte arrives whole", async (spot) => {
  const [sub, pub] = [await spot.peer("sub"), await spot.peer("pub")];
  const payload = binary(1 << 20);
  await sub.subscribe(spot.topic("big"), { qos: 2 });
  for (const qos of [1, 2]) {
    await pub.publish(spot.topic("big"), payload, { qos });
    await sub.expect(spot.topic("big"), payload, qos);
  }
});

test(ALL, "a burst keeps its order", async (spot) => {
  const [sub, pub] = [await spot.peer("sub"), await spot.peer("pub")];
  await sub.subscribe(spot.topic("burst"), { qos: 2 });
  const numbers = Array.from({ length: 300 }, (_, n) => n);
  for (const qos of [0, 1, 2]) {
    // mqtt.js knows no bound of its own for what is in flight, and the broker's Receive Maximum may be as low as 10.
    for (let start = 0; start < numbers.length; start += 10) {
      const flight = numbers.slice(start, start + 10);
      await Promise.all(flight.map((n) => pub.publish(spot.topic("burst"), String(n), { qos })));
    }
    const got = [];
    for (const _ of numbers) got.push(Number((await sub.next()).payload));
    assert.deepEqual(got, numbers);
  }
});

test(ALL, "retained is kept, replaced and cleared", async (spot) => {
  const pub = await spot.peer("pub");
  for (const payload of ["first", "second"]) await pub.publish(spot.topic("r"), payload, { qos: 1, retain: true });
  const late = await spot.peer("late");
  await late.subscribe(spot.topic("+"), { qos: 2 });
  await late.expect(spot.topic("r"), "second", 1, true);
  await pub.publish(spot.topic("r"), "", { qos: 1, retain: true });
  const later = await spot.peer("later");
  await later.subscribe(spot.topic("#"), { qos: 1 });
  await pub.publish(spot.topic("marker"), "end", { qos: 1 });
  await later.expect(spot.topic("marker"), "end");
});

test(ALL, "a will comes after an abrupt close only", async (spot) => {
  const will = (payload) => ({ will: { topic: spot.topic("will"), payload: Buffer.from(payload), qos: 1, retain: false } });
  const sub = await spot.peer("sub");
  await sub.subscribe(spot.topic("will"), { qos: 1 });
  await (await spot.peer("calm", will("calm"))).close();
  await (await spot.peer("dies", will("died"))).drop();
  await sub.expect(spot.topic("will"), "died", 1, false);
});

test(ALL, "a session is resumed with its queue", async (spot) => {
  const keep = { clean: false, ...(level === 5 && { properties: { sessionExpiryInterval: 60 } }) };
  const away = await spot.peer("s", keep);
  await away.subscribe(spot.topic("q"), { qos: 1 });
  await away.close();
  const pub = await spot.peer("pub");
  for (let n = 0; n < 10; n++) await pub.publish(spot.topic("q"), String(n), { qos: 1 });
  const back = await spot.peer("s", keep);
  if (level !== 3) assert.equal(back.connack.sessionPresent, true);
  for (let n = 0; n < 10; n++) await back.expect(spot.topic("q"), String(n), 1);
  await back.close();
  const fresh = await spot.peer("s");
  assert.equal(fresh.connack.sessionPresent, false);
});

test(ALL, "unsubscribe ends delivery", async (spot) => {
  const me = await spot.peer("me");
  await me.subscribe([spot.topic("a"), spot.topic("b")], { qos: 1 });
  await me.client.unsubscribeAsync(spot.topic("a"));
  await me.publish(spot.topic("a"), "1", { qos: 1 });
  await me.publish(spot.topic("b"), "2", { qos: 1 });
  await me.expect(spot.topic("b"), "2");
});

test(ALL, "a ping keeps an idle connection", async (spot) => {
  const [idle, pub] = [await spot.peer("idle", { keepalive: 6 }), await spot.peer("pub")];
  await idle.subscribe(spot.topic("ping"));
  await sleep(10_000);
  await pub.publish(spot.topic("ping"), "still here");
  await idle.expect(spot.topic("ping"), "still here");
});

test(ALL, "a second connection takes over", async (spot) => {
  const first = await spot.peer("twin");
  await spot.peer("twin");
  await within(WAIT_SECONDS, "close", first.closed);
  if (level === 5) assert.equal(first.disconnect?.reasonCode, 0x8e);
});

test([5], "properties are forwarded", async (spot) => {
  const [sub, pub] = [await spot.peer("sub"), await spot.peer("pub")];
  await sub.subscribe(spot.topic("p"), { qos: 2 });
  const sent = {
    payloadFormatIndicator: true,
    contentType: "application/json",
    responseTopic: spot.topic("answer"),
    correlationData: Buffer.from([0, 1, 255]),
    userProperties: { a: ["1", "2"], b: "3" },
  };
  await pub.publish(spot.topic("p"), "{}", { qos: 2, properties: { ...sent, messageExpiryInterval: 60 } });
  const { messageExpiryInterval, ...got } = (await sub.expect(spot.topic("p"), "{}", 2)).properties;
  assert.deepEqual({ ...got, userProperties: { ...got.userProperties } }, sent);
  assert.ok(messageExpiryInterval > 54 && messageExpiryInterval <= 60, `expiry ${messageExpiryInterval}`);
});

test([5], "subscription identifier and options are kept", async (spot) => {
  const [me, pub] = [await spot.peer("me"), await spot.peer("pub")];
  await me.subscribe(spot.topic("x"), { qos: 1, nl: true, rap: true, properties: { subscriptionIdentifier: 300 } });
  await me.publish(spot.topic("x"), "mine", { qos: 1 });
  await pub.publish(spot.topic("x"), "another's", { qos: 1, retain: true });
  const got = await me.expect(spot.topic("x"), "another's", 1, true);
  assert.deepEqual([got.properties.subscriptionIdentifier].flat(), [300]);
  await pub.publish(spot.topic("x"), "", { qos: 1, retain: true });
});

test([5], "a shared subscription deals each message once", async (spot) => {
  const members = [await spot.peer("one"), await spot.peer("two")];
  const pub = await spot.peer("pub");
  const count = 20;
  for (const member of members) await member.subscribe(`$share/g/${spot.topic("job")}`, { qos: 1 });
  for (let n = 0; n < count; n++) await pub.publish(spot.topic("job"), String(n), { qos: 1 });
  const shares = () => members.map((member) => member.messages.map(({ payload }) => Number(payload)));
  for (let n = 0; n < WAIT_SECONDS * 50 && shares().flat().length < count; n++) await sleep(20);
  assert.deepEqual(shares().flat().sort((a, b) => a - b), Array.from({ length: count }, (_, n) => n));
  assert.ok(shares().every((share) => share.length > 0), "one member got all");
});

test([5], "topic aliases work both ways", async (spot) => {
  // mqtt.js resolves the broker's aliases and, with autoAssignTopicAlias, sends its own.
  const sub = await spot.peer("sub", { properties: { topicAliasMaximum: 2 } });
  const pub = await spot.peer("pub", { autoAssignTopicAlias: true, properties: { topicAliasMaximum: 2 } });
  assert.ok(pub.connack.properties?.topicAliasMaximum > 0, "no Topic Alias Maximum");
  const aliased = [];
  pub.client.on("packetsend", (packet) => packet.cmd === "publish" && aliased.push(packet.topic === ""));
  await sub.subscribe(spot.topic("#"), { qos: 1 });
  for (let n = 0; n < 12; n++) {
    await pub.publish(spot.topic(`t${n % 3}`), String(n), { qos: 1 });
    await sub.expect(spot.topic(`t${n % 3}`), String(n), 1);
  }
  assert.ok(aliased.includes(true), "mqtt.js never sent an alias alone");
});

test([5], "a will is delayed", async (spot) => {
  const sub = await spot.peer("sub");
  await sub.subscribe(spot.topic("will"), { qos: 1 });
  const dies = await spot.peer("dies", {
    clean: false,
    properties: { sessionExpiryInterval: 60 },
    will: { topic: spot.topic("will"), payload: "late", qos: 1, properties: { willDelayInterval: 1, contentType: "x" } },
  });
  const start = performance.now();
  await dies.drop();
  const got = await sub.expect(spot.topic("will"), "late", 1);
  assert.ok(performance.now() - start > 900, `will after ${performance.now() - start} ms`);
  assert.equal(got.properties.contentType, "x");
});

const chosen = cases.filter(({ levels }) => levels.includes(level));
const results = await Promise.all(
  chosen.map(async ({ name, run }) => {
    const spot = new Spot();
    const start = performance.now();
    try {
      await within(CASE_SECONDS_MAX, "end of the case", run(spot));
      await spot.close();
      console.log(`ok ${name} (${((performance.now() - start) / 1000).toFixed(2)} s)`);
      return true;
    } catch (error) {
      console.log(`FAILED ${name} [${spot.run}]: ${error.stack ?? error}`);
      return false;
    }
  }),
);
const failed = results.filter((passed) => !passed).length;
console.log(`${results.length - failed} passed, ${failed} failed`);
process.exit(failed || !results.length ? 1 : 0);
