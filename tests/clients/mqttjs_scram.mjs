// mqtt.js 5 proves itself by SCRAM-SHA-256 (enhanced authentication): node mqttjs_scram.mjs HOST PORT.
// The broker knows "user" with the password "pencil" by SCRAM, "old" with the same by another kind of hash, and lets
// nobody in without. The client's side of SCRAM is written here, on node's crypto.
// MIDGE_NODE is the folder whose node_modules has the package `mqtt`: an import would look beside this file.

import assert from "node:assert/strict";
import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";

const mqtt = createRequire(join(process.env.MIDGE_NODE, "package.json"))("mqtt");
const [host, port] = [process.argv[2], Number(process.argv[3])];
const METHOD = "SCRAM-SHA-256";
const WAIT_SECONDS = 60;
const cases = [];
const test = (name, run) => cases.push({ name, run });

/** What the promise gives, or an error that says what was waited for. */
function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${WAIT_SECONDS} s`)), WAIT_SECONDS * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

/** The client's side of one exchange (RFC 5802). */
class Scram {
  nonce = randomBytes(18).toString("base64");

  constructor(user, password) {
    this.password = password;
    this.bare = `n=${user},r=${this.nonce}`;
    this.first = Buffer.from(`n,,${this.bare}`);
  }

  /** Answers the challenge; knows then what the broker has to say in the end. */
  last(serverFirst) {
    const [, nonce, salt, iterations] = /^r=([^,]+),s=([^,]+),i=([0-9]+)$/.exec(serverFirst);
    assert.ok(nonce.startsWith(this.nonce) && nonce.length > this.nonce.length, "the broker adds to the nonce");
    assert.ok(Number(iterations) >= 4096);
    this.salt = salt;
    const salted = pbkdf2Sync(this.password, Buffer.from(salt, "base64"), Number(iterations), 32, "sha256");
    const clientKey = hmac(salted, "Client Key");
    const withoutProof = `c=${Buffer.from("n,,").toString("base64")},r=${nonce}`;
    const message = `${this.bare},${serverFirst},${withoutProof}`;
    const signature = hmac(createHash("sha256").update(clientKey).digest(), message);
    this.expected = `v=${hmac(hmac(salted, "Server Key"), message).toString("base64")}`;
    return Buffer.from(`${withoutProof},p=${clientKey.map((byte, at) => byte ^ signature[at]).toString("base64")}`);
  }
}

/** A client, in or on its way in. */
class Peer {
  constructor(options) {
    const clientId = randomBytes(6).toString("hex");
    const common = { host, port, clientId, protocolVersion: 5, reconnectPeriod: 0, clean: true };
    this.client = mqtt.connect({ ...common, ...options });
    this.connected = new Promise((resolve, reject) => {
      this.client.once("connect", resolve);
      this.client.on("error", reject);
    });
    // Who is refused is asked elsewhere.
    this.connected.catch(() => {});
    this.disconnected = new Promise((resolve) => this.client.once("disconnect", resolve));
  }

  static byScram(user, password, options = {}) {
    const scram = new Scram(user, password);
    const properties = { authenticationMethod: METHOD, authenticationData: scram.first };
    const peer = new Peer({ ...options, properties });
    peer.scram = scram;
    peer.client.handleAuth = (packet, callback) => {
      assert.equal(packet.properties.authenticationMethod, METHOD);
      const data = String(packet.properties.authenticationData);
      if (packet.reasonCode === 0) {
        peer.proved(data);
        return callback(null);
      }
      callback(null, peer.auth(0x18, peer.scram.last(data)));
    };
    return peer;
  }

  auth(reasonCode, authenticationData) {
    return { cmd: "auth", reasonCode, properties: { authenticationMethod: METHOD, authenticationData } };
  }

  /** Re-authentication; gives what the broker says of itself in the end. */
  proveAgain(user, password) {
    this.scram = new Scram(user, password);
    const done = new Promise((resolve) => (this.proved = resolve));
    this.client._sendPacket(this.auth(0x19, this.scram.first));
    return done;
  }

  async in() {
    return within("CONNACK", this.connected);
  }

  async refused() {
    const error = await within("refusal", this.connected.then(() => assert.fail("it came in"), (error) => error));
    return error.code;
  }

  close() {
    return within("end", this.client.endAsync(true));
  }
}

test("a user comes in, and knows the broker by its signature", async (peers) => {
  const peer = peers(Peer.byScram("user", "pencil"));
  const connack = await peer.in();
  assert.equal(connack.properties.authenticationMethod, METHOD);
  assert.equal(String(connack.properties.authenticationData), peer.scram.expected);
  const granted = await peer.client.subscribeAsync("a/b", { qos: 1 });
  assert.equal(granted[0].qos, 1);
});

test("a user proves itself again while messages go both ways", async (peers) => {
  const peer = peers(Peer.byScram("user", "pencil"));
  await peer.in();
  const topic = `again/${randomBytes(6).toString("hex")}`;
  await peer.client.subscribeAsync(topic, { qos: 1 });
  for (let round = 0; round < 3; round++) {
    const come = new Promise((resolve) => peer.client.once("message", (_, payload) => resolve(String(payload))));
    const proved = peer.proveAgain("user", "pencil");
    await within("PUBACK", peer.client.publishAsync(topic, `round ${round}`, { qos: 1 }));
    assert.equal(await within("message", come), `round ${round}`);
    assert.equal(await within("AUTH", proved), peer.scram.expected);
  }
});

test("a wrong password and another user end it later too", async (peers) => {
  for (const [user, password] of [["user", "pencils"], ["other", "pencil"]]) {
    const peer = peers(Peer.byScram("user", "pencil"));
    await peer.in();
    peer.proveAgain(user, password);
    const packet = await within("DISCONNECT", peer.disconnected);
    assert.equal(packet.reasonCode, 0x87);
  }
});

test("wrong passwords, strangers and users without keys are refused alike", async (peers) => {
  for (const [user, password] of [["user", "pencils"], ["stranger", "pencil"], ["old", "pencil"]]) {
    const [one, again] = [peers(Peer.byScram(user, password)), peers(Peer.byScram(user, password))];
    assert.equal(await one.refused(), 0x87, user);
    assert.equal(await again.refused(), 0x87, user);
    assert.equal(one.scram.salt, again.scram.salt, "a salt that changes betrays a stranger");
    assert.equal(Buffer.from(one.scram.salt, "base64").length, 16);
  }
});

test("a user name beside the proof has to be the same", async (peers) => {
  await peers(Peer.byScram("user", "pencil", { username: "user" })).in();
  assert.equal(await peers(Peer.byScram("user", "pencil", { username: "old" })).refused(), 0x87);
});

test("a method that nobody offers is refused", async (peers) => {
  const properties = { authenticationMethod: "SCRAM-SHA-1", authenticationData: Buffer.from("n,,n=user,r=abc") };
  assert.equal(await peers(new Peer({ properties })).refused(), 0x8c);
});

test("the same users come in by plain passwords", async (peers) => {
  await peers(new Peer({ username: "user", password: "pencil" })).in();
  await peers(new Peer({ username: "old", password: "pencil" })).in();
  for (const username of ["user", "old", "stranger"]) {
    assert.equal(await peers(new Peer({ username, password: "pencils" })).refused(), 0x87);
  }
  assert.equal(await peers(new Peer({})).refused(), 0x87);
});

let failed = 0;
for (const { name, run } of cases) {
  const open = [];
  const peers = (peer) => (open.push(peer), peer);
  try {
    await run(peers);
    await Promise.all(open.map((peer) => peer.close()));
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.stack ?? error}`);
  }
}
console.log(`${cases.length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
