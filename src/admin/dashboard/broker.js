// Where clients come in, what bounds them, what each shard holds, and who is banned.

import { api } from "./api.js";
import { bytes, card, duration, field, h, isInUse, number, put, table } from "./dom.js";

const EVERY = 3000;
/** From this share of a limit on, it is shown as nearly reached. */
const NEARLY = 0.8;

function certificates(listener) {
  if (listener.certificates.length === 0) return listener.tls ? "none" : "no TLS";
  return listener.certificates.map((certificate) => h("div", { class: certificate.days_left < 14 ? "fault" : "" },
    `${certificate.subject}: ${certificate.days_left < 0 ? "has ended" : `${number(certificate.days_left)} days left`}`));
}

const LISTENERS = [
  { name: "address", show: (listener) => listener.address },
  { name: "protocol", show: (listener) => `${listener.protocol}${listener.tls ? ", TLS" : ""}` },
  { name: "connections", number: true, show: (listener) => number(listener.connections) },
  { name: "at most", number: true, show: (listener) => number(listener.connections_max) },
  { name: "certificates", show: certificates },
];

function amount(limit, value) {
  if (value === undefined) return "–";
  return limit.key.includes("bytes") ? bytes(value) : limit.key.endsWith("seconds") ? duration(value) : number(value);
}

function use(limit) {
  if (limit.used === undefined) return "–";
  if (limit.value === undefined) return amount(limit, limit.used);
  const share = limit.value === 0 ? 0 : limit.used / limit.value;
  const meter = h("meter", { min: 0, max: 1, high: NEARLY, low: NEARLY, optimum: 0, value: Math.min(1, share), "aria-label": limit.key });
  return h("span", { class: share >= NEARLY ? "use fault" : "use" }, meter, ` ${amount(limit, limit.used)}`);
}

const LIMITS = [
  { name: "limit", short: true, show: (limit) => limit.key },
  { name: "value", number: true, show: (limit) => (limit.value === undefined ? "none" : amount(limit, limit.value)) },
  { name: "used", short: true, show: use },
  { name: "reached", number: true, show: (limit) => number(limit.reached) },
];
const SHARDS = [
  { name: "shard", number: true, show: (shard) => shard.shard },
  { name: "busy", number: true, show: (shard) => duration(shard.busy_seconds) },
  { name: "connections", number: true, show: (shard) => number(shard.connections) },
  { name: "handshakes", number: true, show: (shard) => number(shard.handshakes) },
  { name: "sessions", number: true, show: (shard) => number(shard.sessions) },
  { name: "subscriptions", number: true, show: (shard) => number(shard.subscriptions) },
  { name: "in queues", number: true, show: (shard) => number(shard.queued_messages) },
  { name: "retained", number: true, show: (shard) => number(shard.retained_messages) },
  { name: "memory", number: true, show: (shard) => bytes(shard.memory_bytes) },
  { name: "mesh waits", number: true, show: (shard) => number(shard.mesh_waits) },
  { name: "log", show: (shard) => (shard.log_failed ? h("span", { class: "fault" }, "failed") : "good") },
];

function banPanel() {
  const box = h("div", {});
  const address = h("input", { required: true, placeholder: "192.0.2.7" });
  const seconds = h("input", { type: "number", min: 1, placeholder: "until it is removed" });
  const said = h("p", { class: "note", role: "status" });
  async function tell(work) {
    try {
      await work();
      put(said);
      document.activeElement?.blur();
    } catch (error) {
      put(said, h("span", { class: "fault" }, error.message));
    }
    load();
  }
  const remove = (network) => tell(() => api(`/api/v1/bans/${encodeURIComponent(network)}`, { method: "DELETE" }));
  const columns = [
    { name: "address", show: (ban) => ban.network },
    { name: "ends in", number: true, show: (ban) => duration(ban.seconds_left) },
    { name: "", show: (ban) => h("button", { onclick: () => remove(ban.network.split("/")[0]) }, "Remove") },
  ];
  async function load() {
    try {
      const { bans } = await api("/api/v1/bans");
      // A button that is about to be pressed stays where it is.
      if (!isInUse(box)) put(box, table("Bans", columns, bans, "Nobody is banned."));
    } catch (error) {
      put(box, h("p", { class: "fault" }, error.message));
    }
  }
  const form = h("form", {
    class: "row",
    onsubmit: (event) => {
      event.preventDefault();
      const body = { address: address.value.trim() };
      if (seconds.value !== "") body.seconds = Number(seconds.value);
      tell(() => api("/api/v1/bans", { method: "POST", body }));
    },
  }, field("Address", address), field("Seconds", seconds), h("button", { class: "danger" }, "Ban"));
  return { element: card("Banned addresses", h("p", { class: "note" }, "Without those of gate.banned."), form, said, box), load };
}

export function show(view) {
  const parts = [
    ["Listeners and certificates", "/api/v1/listeners", (value) => table("Listeners", LISTENERS, value.listeners, "There is none.")],
    ["Limits", "/api/v1/limits", (value) => table("Limits", LIMITS, value.limits, "There is none.")],
    ["Shards", "/api/v1/shards", (value) => table("Shards", SHARDS, value.shards, "There is none.")],
  ].map(([title, path, words]) => ({ title, path, words, box: h("div", {}), before: "" }));
  const bans = banPanel();
  put(view, parts.map(({ title, box }) => card(title, box)), bans.element);
  async function load() {
    bans.load();
    for (const part of parts) {
      try {
        const value = await api(part.path);
        const now = JSON.stringify(value);
        if (now !== part.before && !isInUse(part.box)) {
          put(part.box, part.words(value));
          part.before = now;
        }
      } catch (error) {
        part.before = "";
        put(part.box, h("p", { class: "fault", role: "alert" }, error.message));
      }
    }
  }
  load();
  const timer = setInterval(() => {
    if (!document.hidden) load();
  }, EVERY);
  return { stop: () => clearInterval(timer) };
}
