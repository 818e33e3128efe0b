// Uses the dashboard in a browser the way an operator does, and attacks it the way a page or a client would.
// Arguments: what to do, and a JSON object with the ports and tokens.

import assert from "node:assert/strict";
import http from "node:http";
import net from "node:net";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.MIDGE_NODE}/node_modules/`);
const { chromium } = require("playwright-core");
const mqtt = require("mqtt");

const [, , task, given] = process.argv;
const { admin, mqttPort, wsPort, socket, reader, writer, pictures } = JSON.parse(given);
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--host-resolver-rules=MAP evil.example 127.0.0.1"];
const HOSTILE = `<img src=x onerror=alert(1)>"'&amp;\u202e`;
const PATIENCE = 60_000;
const VIEWS = ["overview", "clients", "topics", "broker", "console"];

function device(clientId) {
  return new Promise((resolve, reject) => {
    const client = mqtt.connect(`mqtt://127.0.0.1:${mqttPort}`, { clientId, protocolVersion: 5, reconnectPeriod: 0 });
    client.on("connect", () => resolve(client));
    client.on("error", reject);
  });
}

/** A page whose faults fail the test. */
async function open(browser, options) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.on("dialog", (dialog) => { throw new Error(`a script has run: ${dialog.message()}`); });
  page.on("pageerror", (error) => { throw error; });
  page.on("console", (message) => {
    // Refusals are shown: a wrong token, what a reader may not do, a client that has gone.
    const isExpected = /status of 4\d\d/.test(message.text());
    assert.ok(message.type() !== "error" || isExpected, message.text());
  });
  return page;
}

async function signIn(page, token) {
  await page.fill("#token", token);
  await page.press("#token", "Enter");
}

const shows = (page, words) => page.getByText(words).first().waitFor();
const go = (page, view) => page.getByRole("navigation").getByRole("link", { name: view }).click();
const tile = (page, label) => page.locator(".tile", { hasText: label }).first().locator(".value");
const moves = (page, label) => page.waitForFunction((words) => {
  const found = [...document.querySelectorAll(".tile")].find((each) => each.querySelector(".label").textContent === words);
  return found !== undefined && !/^(0|–)$/.test(found.querySelector(".value").textContent);
}, label);

async function use(browser) {
  const page = await open(browser, { viewport: { width: 1200, height: 900 }, colorScheme: "light" });
  await page.goto(`${admin}/`);
  await signIn(page, "wrong-0123456789abcdef");
  await shows(page, "Refused: the token is not one of admin.token_file.");
  await signIn(page, reader);
  await tile(page, "clients").waitFor();

  console.log("numbers and plots move");
  const sensor = await device("sensor-1");
  await sensor.subscribeAsync("site/#", { qos: 1 });
  const publisher = setInterval(() => sensor.publish("site/1/door", "open", { qos: 1 }), 20);
  await moves(page, "messages in");
  await moves(page, "messages out");
  await page.locator("figure", { hasText: "Messages a second" }).locator("polyline").first().waitFor();
  const figure = page.locator("figure").first();
  await figure.focus();
  await page.keyboard.press("ArrowLeft");
  await figure.getByText(/s ago/).waitFor();

  console.log("clients are found, and their names are no markup");
  const hostile = await device(HOSTILE);
  await hostile.subscribeAsync("<script>alert(2)</script>/+");
  await hostile.publishAsync("<b>bold</b>", "<i>payload</i>", { retain: true });
  await go(page, "Clients");
  await page.getByLabel("Client", { exact: true }).fill("<img");
  await page.getByRole("button", { name: "Search" }).click();
  await page.getByText("1 of 1").waitFor();
  await page.getByRole("link", { name: HOSTILE }).click();
  await page.getByRole("heading", { name: HOSTILE }).waitFor();
  await shows(page, "<script>alert(2)</script>/+");
  assert.equal(await page.locator("img, b b, script:not([src])").count(), 0);

  console.log("a reader may look and not act");
  await page.getByRole("button", { name: "Disconnect" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
  await shows(page, "may only read");
  assert.ok(hostile.connected);

  console.log("a trace follows a client");
  await page.getByLabel("with payloads").check();
  await page.getByRole("button", { name: "Start" }).click();
  const ping = setInterval(() => hostile.publish("<u>topic</u>", "<s>traced</s>"), 50);
  await page.getByRole("log").getByText("<s>traced</s>").first().waitFor();
  clearInterval(ping);
  await page.getByRole("button", { name: "Stop" }).click();
  await shows(page, "Stopped.");

  console.log("a writer disconnects it");
  await page.evaluate((token) => sessionStorage.setItem("midge-token", token), writer);
  await page.reload();
  const ended = new Promise((resolve) => hostile.on("disconnect", (packet) => resolve(packet.reasonCode)));
  await page.getByRole("button", { name: "Disconnect" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Disconnect" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
  await shows(page, /The client was disconnected\.|The session has ended\./);
  assert.equal(await ended, 0x98);

  console.log("subscriptions and retained messages");
  await go(page, "Topics");
  await page.getByLabel("Or all that match a topic").fill("site/1/door");
  await page.getByRole("button", { name: "Search" }).first().click();
  await page.getByRole("link", { name: "sensor-1" }).first().waitFor();
  const row = page.getByRole("row", { name: "<b>bold</b>" });
  await row.getByRole("button", { name: "Show" }).click();
  await page.locator("pre", { hasText: "<i>payload</i>" }).waitFor();
  await row.getByRole("button", { name: "Remove" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await row.waitFor({ state: "detached" });

  console.log("listeners, limits and bans");
  await go(page, "Listeners and limits");
  await page.getByRole("cell", { name: `127.0.0.1:${wsPort}` }).waitFor();
  await page.getByRole("cell", { name: "limits.connections", exact: true }).waitFor();
  await page.getByLabel("Address").fill("203.0.113.9");
  await page.getByRole("button", { name: "Ban", exact: true }).click();
  await page.getByRole("cell", { name: "203.0.113.9" }).waitFor();
  await page.getByRole("button", { name: "Remove" }).click();
  await shows(page, "Nobody is banned.");
  await page.getByLabel("Address").fill("nowhere");
  await page.getByRole("button", { name: "Ban", exact: true }).click();
  await page.locator(".fault").first().waitFor();

  console.log("the console publishes and subscribes");
  await go(page, "Console");
  await page.waitForFunction((port) => document.querySelector("input").value.includes(port), String(wsPort));
  await page.getByRole("button", { name: "Connect" }).click();
  await shows(page, /^Connected as dashboard-/);
  for (const qos of ["0", "1", "2"]) {
    await page.getByLabel("Filter").fill(`console/${qos}`);
    await page.getByLabel("QoS").first().selectOption(qos);
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.getByRole("log").getByText(`SUBSCRIBE to console/${qos}: done`).waitFor();
    await page.getByLabel("Topic").fill(`console/${qos}`);
    await page.getByLabel("Payload").fill(`<em>${qos}</em> ä`);
    await page.getByLabel("QoS").last().selectOption(qos);
    await page.getByRole("button", { name: "Publish" }).click();
    await page.getByRole("log").locator("code", { hasText: `<em>${qos}</em> ä` }).waitFor();
  }
  await page.getByLabel("Filter").fill("a/#/b");
  await page.getByRole("button", { name: "Subscribe", exact: true }).click();
  await shows(page, /Not connected: midge has disconnected|SUBSCRIBE to a\/#\/b: topic filter invalid/);

  console.log("by keyboard");
  await page.goto(`${admin}/#/overview`);
  await page.reload();
  await tile(page, "clients").waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  const focused = await page.evaluate(() => ({ words: document.activeElement.textContent, outline: getComputedStyle(document.activeElement).outlineStyle }));
  assert.deepEqual(focused, { words: "Clients", outline: "solid" });
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Clients" }).waitFor();

  console.log("narrow and dark");
  const backgrounds = new Set();
  for (const [colorScheme, width] of [["light", 1200], ["dark", 1200], ["light", 400], ["dark", 400]]) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    for (const view of VIEWS) {
      await page.evaluate((name) => { location.hash = `#/${name}`; }, view);
      await page.locator("main .card, main figure").first().waitFor();
      const box = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
      assert.ok(box[0] <= box[1], `${view} is ${box[0]} wide at ${width}`);
      if (pictures) await page.screenshot({ path: `${pictures}/${view}-${colorScheme}-${width}.png`, fullPage: true });
    }
    backgrounds.add(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
  }
  assert.equal(backgrounds.size, 2);
  clearInterval(publisher);
  sensor.end(true);
  hostile.end(true);
}

/** A port that leads to the Unix-domain socket, as SSH makes it. */
function forward() {
  const server = net.createServer((near) => {
    const far = net.connect(socket);
    near.pipe(far).pipe(near);
    for (const each of [near, far]) each.on("error", () => [near, far].forEach((one) => one.destroy()));
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

async function attack(browser) {
  const tunnel = await forward();
  const port = tunnel.address().port;
  const bans = async () => (await (await fetch(`http://127.0.0.1:${port}/api/v1/bans`)).json()).bans;

  console.log("through the tunnel it needs no token");
  const own = await open(browser, {});
  await own.goto(`http://127.0.0.1:${port}/`);
  await tile(own, "clients").waitFor();

  console.log("a page of another site changes nothing, reads nothing and frames nothing");
  const evil = http.createServer((request, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end(`<title>evil</title><iframe name="framed" src="http://127.0.0.1:${port}/"></iframe>`);
  });
  await new Promise((resolve) => evil.listen(0, "127.0.0.1", resolve));
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`http://localhost:${evil.address().port}/`);
  const tried = await page.evaluate(async (base) => {
    const attempt = (path, options) => fetch(base + path, options).then((answer) => answer.type, (error) => error.name);
    const body = '{"address":"203.0.113.7"}';
    const form = document.createElement("form");
    Object.assign(form, { action: `${base}/api/v1/bans`, method: "post", target: "framed", enctype: "text/plain" });
    const input = document.createElement("input");
    [input.name, input.value] = ['{"address":"203.0.113.8","seconds":5,"x":"', '"}'];
    form.append(input);
    document.body.append(form);
    form.submit();
    return [
      await attempt("/api/v1/bans", { method: "POST", mode: "no-cors", body }),
      await attempt("/api/v1/bans", { method: "POST", headers: { "content-type": "application/json" }, body }),
      await attempt("/api/v1/clients", {}),
    ];
  }, `http://127.0.0.1:${port}`);
  assert.deepEqual(tried, ["opaque", "TypeError", "TypeError"]);
  assert.deepEqual(await bans(), []);
  const framed = page.frames().find((frame) => frame.name() === "framed");
  assert.equal(await framed.locator(".tile, #nav").count(), 0);

  console.log("a name that was made to point here is refused");
  const answer = await page.goto(`http://evil.example:${port}/api/v1/clients`);
  assert.equal(answer.status(), 403);
  assert.equal((await page.goto(`http://evil.example:${port}/`)).status(), 403);
  evil.close();
  tunnel.close();
}

const browser = await chromium.launch({ executablePath: process.env.MIDGE_CHROMIUM, headless: true, args: FLAGS });
await { use, attack }[task](browser);
await browser.close();
process.exit(0);
