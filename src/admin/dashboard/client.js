// One client: its connection, subscriptions, losses and events, what it does now, and its end.

import { api, follow, query } from "./api.js";
import { bytes, card, confirmed, duration, h, number, put, table } from "./dom.js";

/** The most lines of a trace that are kept. */
const LINES_MAX = 300;
const TRACE_SECONDS = 600;
const EVERY = 2000;

function facts(rows) {
  const shown = rows.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return h("dl", {}, shown.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function yes(flag) {
  return flag ? "yes" : "no";
}

const SUBSCRIPTIONS = [
  { name: "filter", show: (each) => each.filter },
  { name: "QoS", number: true, show: (each) => each.qos ?? "–" },
  { name: "no local", short: true, show: (each) => (each.no_local === undefined ? "–" : yes(each.no_local)) },
  { name: "retain as published", show: (each) => (each.retain_as_published === undefined ? "–" : yes(each.retain_as_published)) },
  { name: "identifier", number: true, show: (each) => each.subscription_id ?? "–" },
];
const EVENTS = [
  { name: "when", short: true, show: (event) => event.at.replace("T", " ").slice(0, 19) },
  { name: "what", short: true, show: (event) => event.what },
  { name: "more", show: (event) => event.words },
  { name: "times", number: true, show: (event) => number(event.count) },
];

function connectionFacts(client) {
  const connection = client.connection;
  if (connection === undefined) return h("p", { class: "none" }, "The client is not connected.");
  return facts([
    ["peer", connection.peer], ["user", connection.user], ["listener", client.listener], ["protocol", `MQTT ${client.protocol}`],
    ["TLS", client.tls && `${client.tls.version}, ${client.tls.cipher_suite}`],
    ["certificate", client.tls?.certificate_subject],
    ["connected for", duration(connection.connected_seconds)],
    ["keep alive", connection.keep_alive_seconds === 0 ? "none" : duration(connection.keep_alive_seconds)],
    ["messages in", number(connection.messages_received)], ["bytes in", bytes(connection.bytes_received)],
    ["in a second (1, 5 min)", `${number(connection.received_per_second_1m)}, ${number(connection.received_per_second_5m)}`],
    ["messages out", number(connection.messages_sent)], ["bytes out", bytes(connection.bytes_sent)],
    ["out a second (1, 5 min)", `${number(connection.sent_per_second_1m)}, ${number(connection.sent_per_second_5m)}`],
    ["not taken by the socket", bytes(connection.backlog_bytes)],
    ["paused by", connection.paused_by.join(", ")],
    ["largest packet", client.packet_bytes_max && bytes(client.packet_bytes_max)],
  ]);
}

function sessionFacts(client) {
  const { losses, will } = client;
  return facts([
    ["expires after", client.session_expiry_seconds === undefined ? "never" : duration(client.session_expiry_seconds)],
    ["survives a restart", yes(client.kept)],
    ["subscriptions", number(client.subscriptions)],
    ["in the queue", `${number(client.queued_messages)} messages, ${bytes(client.queued_bytes)}`],
    ["sent, not acknowledged", number(client.inflight_messages)],
    ["waiting for PUBREL", number(client.unreleased_messages)],
    ["lost: queue full", number(losses.queue_full)], ["lost: expired", number(losses.expired)],
    ["lost: too large", number(losses.too_large)], ["lost: withdrawn", number(losses.withdrawn)],
    ["last loss", losses.last_millis && new Date(losses.last_millis).toISOString()],
    ["will", will && `${will.topic}, QoS ${will.qos}, ${bytes(will.payload_bytes)}`],
  ]);
}

/** A panel that follows the client while it is open. */
function tracePanel(id) {
  const lines = h("ol", { class: "trace", tabindex: 0, "aria-label": "Trace", role: "log" });
  const note = h("p", { class: "note", role: "status" }, "Each packet in both directions, and what midge decides.");
  const payload = h("input", { type: "checkbox" });
  let running = null;

  function add(line) {
    if (line.end !== undefined) {
      put(note, `The trace has ended: ${line.end}.`);
      return;
    }
    const words = line.left_out !== undefined
      ? h("span", { class: "fault" }, `${number(line.left_out)} lines were too many`)
      : [h("time", {}, line.at.slice(11, 23)), h("b", { class: `way ${line.direction}` }, { in: "→", out: "←" }[line.direction] ?? "·"),
        h("b", {}, line.packet), ` ${line.detail}`, line.payload !== undefined && h("code", {}, line.payload)];
    const isAtEnd = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 4;
    lines.append(h("li", {}, words));
    while (lines.childElementCount > LINES_MAX) lines.firstElementChild.remove();
    if (isAtEnd) lines.scrollTop = lines.scrollHeight;
  }

  async function start() {
    running = new AbortController();
    put(lines);
    put(button, "Stop");
    put(note, "Following …");
    try {
      await follow(query("/api/v1/trace", { client: id, payload: payload.checked ? "true" : "", seconds: TRACE_SECONDS }), running.signal, add);
    } catch (error) {
      put(note, error.name === "AbortError" ? "Stopped." : error.message);
    }
    running = null;
    put(button, "Start");
  }

  function stop() {
    running?.abort();
  }

  const button = h("button", { class: "primary", onclick: () => (running === null ? start() : stop()) }, "Start");
  const element = card("Live trace", h("div", { class: "row" }, button, h("label", { class: "check" }, payload, "with payloads")), note, lines);
  return { element, stop };
}

export function show(view, id) {
  const path = `/api/v1/clients/${encodeURIComponent(id)}`;
  const head = h("h2", { class: "id" }, id === "" ? "(empty client identifier)" : id);
  const done = h("p", { role: "status", class: "note" });
  const connection = h("div", {});
  const session = h("div", {});
  const subscriptions = h("div", {});
  const events = h("div", {});
  const trace = tracePanel(id);
  let stopped = false;
  let filters = "";

  async function load() {
    try {
      const client = await api(path);
      if (stopped) return;
      put(connection, connectionFacts(client));
      put(session, sessionFacts(client));
      // A table that did not change keeps the reader's place in it.
      const now = JSON.stringify([client.subscription_list, client.events]);
      if (now === filters) return;
      filters = now;
      put(subscriptions, table("Subscriptions", SUBSCRIPTIONS, client.subscription_list, "It has subscribed to nothing."));
      put(events, table("Events", EVENTS, client.events, "Nothing has happened since the start."));
    } catch (error) {
      if (!stopped) put(connection, h("p", { class: "fault", role: "alert" }, error.message));
    }
  }

  async function end(withSession) {
    const what = withSession ? "End the session" : "Disconnect";
    const more = withSession ? " Its subscriptions and queued messages are lost." : "";
    if (!(await confirmed(`${what} of the client ${id}?${more}`, what))) return;
    try {
      const result = await api(query(path, { session: withSession ? "true" : "" }), { method: "DELETE" });
      put(done, result.session_ended ? "The session has ended." : result.was_connected ? "The client was disconnected." : "The client was not connected.");
    } catch (error) {
      put(done, h("span", { class: "fault" }, error.message));
    }
    load();
  }

  put(view,
    h("section", { class: "card" }, head,
      h("div", { class: "row" },
        h("a", { href: "#/clients" }, "All clients"),
        h("button", { onclick: () => end(false) }, "Disconnect"),
        h("button", { class: "danger", onclick: () => end(true) }, "End the session")),
      done),
    h("div", { class: "columns" }, card("Connection", connection), card("Session and losses", session)),
    card("Subscriptions", subscriptions), card("Last events", events), trace.element);
  load();
  const timer = setInterval(() => {
    if (!document.hidden) load();
  }, EVERY);
  return {
    stop() {
      stopped = true;
      clearInterval(timer);
      trace.stop();
    },
  };
}
