// The clients: found, sorted, page by page.

import { api, query } from "./api.js";
import { bytes, card, field, h, number, put, short, table } from "./dom.js";

const PAGE = 50;
const SORTS = [["client_id", "client identifier"], ["messages", "messages"], ["bytes", "bytes"], ["rate", "messages a second"], ["queue", "queue"], ["lost", "lost messages"]];

/** A link to the page of a client. */
export function clientLink(id) {
  return h("a", { href: `#/client/${encodeURIComponent(id)}` }, id === "" ? "(empty)" : id);
}

const of = (client, key) => client.connection?.[key];
const COLUMNS = [
  { name: "client", show: (client) => clientLink(client.client_id) },
  { name: "state", short: true, show: (client) => (client.connected ? h("span", { class: "verdict good" }, "connected") : h("span", { class: "verdict" }, "away")) },
  { name: "user", show: (client) => of(client, "user") ?? "–" },
  { name: "peer", short: true, show: (client) => of(client, "peer") ?? "–" },
  { name: "MQTT", short: true, show: (client) => client.protocol },
  { name: "in a second", number: true, show: (client) => number(of(client, "received_per_second_1m")) },
  { name: "out a second", number: true, show: (client) => number(of(client, "sent_per_second_1m")) },
  { name: "messages in", number: true, show: (client) => short(of(client, "messages_received") ?? 0) },
  { name: "messages out", number: true, show: (client) => short(of(client, "messages_sent") ?? 0) },
  { name: "queue", number: true, show: (client) => number(client.queued_messages) },
  { name: "queue size", number: true, show: (client) => bytes(client.queued_bytes) },
  { name: "lost", number: true, show: (client) => number(client.lost_messages) },
];

export function show(view) {
  const option = ([value, words]) => h("option", { value }, words);
  const prefix = h("input", { name: "prefix", type: "search", placeholder: "beginning of the identifier" });
  const user = h("input", { name: "user", type: "search" });
  const address = h("input", { name: "address", type: "search", placeholder: "192.0.2.7" });
  const state = h("select", { name: "state" }, [["", "all"], ["connected", "connected"], ["away", "away"]].map(option));
  const sort = h("select", { name: "sort" }, SORTS.map(option));
  const list = h("div", { "aria-live": "polite" });
  let asked = 0;

  async function load(after, rows) {
    asked += 1;
    const own = asked;
    const parameters = { prefix: prefix.value, user: user.value, address: address.value, state: state.value, sort: sort.value, limit: PAGE, after };
    try {
      const page = await api(query("/api/v1/clients", parameters));
      if (own !== asked) return;
      const all = [...rows, ...page.clients];
      put(list,
        h("p", { class: "note" }, `${number(all.length)} of ${number(page.matching)}`),
        table("Clients", COLUMNS, all, "No client is like that."),
        page.next !== undefined && h("button", { onclick: () => load(page.next, all) }, "More"));
    } catch (error) {
      if (own === asked) put(list, h("p", { class: "fault", role: "alert" }, error.message));
    }
  }

  const form = h("form", {
    class: "row",
    onsubmit: (event) => {
      event.preventDefault();
      load(undefined, []);
    },
    onchange: () => load(undefined, []),
  }, field("Client", prefix), field("User", user), field("Address", address), field("State", state), field("Sort by", sort),
  h("button", { class: "primary" }, "Search"));
  put(view, card("Clients", form, list));
  load(undefined, []);
  return {};
}
