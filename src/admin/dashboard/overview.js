// What the broker does: figures of now, and plots of the last ten minutes. They are asked for each second, on each view.

import { api } from "./api.js";
import { bytes, duration, h, number, put, short } from "./dom.js";
import { SPAN, plot } from "./plot.js";

/** The answers of the last ten minutes, with the time of each in seconds. */
const answers = [];

/** Asks once. Returns the answer. */
export async function sample() {
  const answer = await api("/api/v1/overview");
  const at = performance.now() / 1000;
  // After a restart everything counts from 0 again.
  if (answers.length > 0 && answer.uptime_seconds < answers.at(-1).answer.uptime_seconds) answers.length = 0;
  answers.push({ at, answer });
  while (at - answers[0].at > SPAN) answers.shift();
  return answer;
}

/** The change of a counter a second, from each answer to the next. */
function rates(...counters) {
  return answers.slice(1).map(({ at, answer }, place) => {
    const before = answers[place];
    return { at, values: counters.map((counter) => (counter(answer) - counter(before.answer)) / (at - before.at)) };
  });
}

function levels(...values) {
  return answers.map(({ at, answer }) => ({ at, values: values.map((value) => value(answer)) }));
}

/** The time below which a share of the writes of the log took, between two answers: the bound of its bucket. */
function quantile(before, after, share) {
  const counts = after.counts.map((count, place) => count - before.counts[place]);
  const all = counts.reduce((sum, count) => sum + count, 0);
  let seen = 0;
  for (let place = 0; place < counts.length; place += 1) {
    seen += counts[place];
    if (all > 0 && seen >= all * share) return after.bounds_seconds[place] ?? after.bounds_seconds.at(-1);
  }
  return NaN;
}

function commitTimes() {
  return answers.slice(1).map(({ at, answer }, place) => {
    const [before, after] = [answers[place].answer.commits, answer.commits];
    const count = (commits) => commits.counts.reduce((sum, each) => sum + each, 0);
    const mean = (after.sum_seconds - before.sum_seconds) / (count(after) - count(before));
    return { at, values: [mean * 1000, quantile(before, after, 0.99) * 1000] };
  });
}

/** The most shards of which each has a line of its own. */
const LINES_MAX = 8;

function busyTimes() {
  const last = answers.at(-1)?.answer.shards ?? [];
  const samples = answers.slice(1).map(({ at, answer }, place) => {
    const before = answers[place];
    const values = last.map((_, shard) => {
      const seconds = (of) => of.shards[shard]?.busy_seconds;
      return ((seconds(answer) - seconds(before.answer)) / (at - before.at)) * 100;
    });
    if (values.length <= LINES_MAX) return { at, values };
    return { at, values: [Math.max(...values), values.reduce((sum, value) => sum + value, 0) / values.length, Math.min(...values)] };
  });
  const names = last.length <= LINES_MAX ? last.map((shard) => `shard ${shard.shard}`) : ["busiest shard", "mean", "least busy shard"];
  return { names, samples };
}

function tiles(answer) {
  const last = (samples) => samples.at(-1)?.values ?? [];
  const [received, sent, dropped] = last(rates((of) => of.messages_received, (of) => of.messages_sent, (of) => of.messages_dropped));
  const tile = (label, value, unit, isBad) =>
    h("div", { class: isBad ? "tile bad" : "tile" }, h("div", { class: "label" }, label), h("div", { class: "value" }, value),
      h("div", { class: "unit" }, unit));
  const share = answer.memory_max_bytes ? ` of ${bytes(answer.memory_max_bytes)}` : "";
  return [
    tile("clients", number(answer.clients_connected), `of at most ${short(answer.connections_max)}`, answer.connections > answer.connections_max * 0.8),
    tile("sessions", number(answer.sessions), `${number(answer.sessions - answer.clients_connected)} away`),
    tile("subscriptions", number(answer.subscriptions), ""),
    tile("messages in", short(received ?? 0), "a second"),
    tile("messages out", short(sent ?? 0), "a second"),
    tile("dropped", number(answer.messages_dropped), `${number(dropped ?? 0)} a second`, dropped > 0),
    tile("in queues", number(answer.queued_messages), "messages"),
    tile("retained", number(answer.retained_messages), "messages"),
    tile("memory", bytes(answer.memory_bytes), `kept for clients${share}`),
    answer.log_failed && tile("log", "failed", "nothing kept is acknowledged", true),
  ];
}

export function show(view) {
  const row = h("section", { class: "tiles", "aria-label": "Figures" });
  const connections = plot("Connections", "", number);
  const messages = plot("Messages a second", "PUBLISH packets.", short);
  const traffic = plot("Bytes a second", "", bytes, { least: 1024, isBytes: true });
  const drops = plot("Dropped and refused a second", "Messages dropped for a session, PUBLISH and CONNECT packets refused.", number);
  const busy = plot("Busy time of each shard", "Processor time of the shard. 100 % is one core.", (value) => `${number(value)} %`, { least: 100 });
  const commits = plot("Time to write the log", "From the write to the disk's answer. 99 %: the bound below which 99 of 100 writes stay.",
    (value) => `${number(value)} ms`, { least: 0.1 });
  put(view, row, h("div", { class: "plots" }, [connections, messages, traffic, drops, busy, commits].map((each) => each.element)));

  function draw() {
    const last = answers.at(-1);
    if (last === undefined) return;
    const now = last.at;
    put(row, tiles(last.answer));
    connections.draw(["connections"], levels((of) => of.connections), now);
    messages.draw(["in", "out"], rates((of) => of.messages_received, (of) => of.messages_sent), now);
    traffic.draw(["in", "out"], rates((of) => of.bytes_received, (of) => of.bytes_sent), now);
    drops.draw(["dropped", "publishes refused", "connects refused"],
      rates((of) => of.messages_dropped, (of) => of.messages_refused, (of) => of.connects_refused), now);
    const { names, samples } = busyTimes();
    busy.draw(names, samples, now);
    commits.draw(["mean", "99 %"], commitTimes(), now);
  }

  draw();
  return { draw };
}

/** The state of the broker in a line. */
export function words(answer) {
  const draining = answer.draining ? ", draining" : "";
  return `midge ${answer.version}, up ${duration(answer.uptime_seconds)}${draining}`;
}
