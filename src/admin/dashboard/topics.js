// Who has subscribed to what, shared subscriptions, and retained messages.

import { api, query } from "./api.js";
import { clientLink } from "./clients.js";
import { bytes, card, confirmed, field, h, number, put, table } from "./dom.js";

const PAGE = 100;

function fault(error) {
  return h("p", { class: "fault", role: "alert" }, error.message);
}

/** A form that loads a list page by page. `ask` returns `{rows, next, note}` for its parameters. */
function list(title, fields, columns, empty, ask) {
  const box = h("div", { "aria-live": "polite" });
  let asked = 0;
  async function load(place, before) {
    asked += 1;
    const own = asked;
    try {
      const { rows, next, note } = await ask(place);
      if (own !== asked) return;
      const all = [...before, ...rows];
      put(box, note && h("p", { class: "note" }, note), table(title, columns, all, empty),
        next && h("button", { onclick: () => load(next, all) }, "More"));
    } catch (error) {
      if (own === asked) put(box, fault(error));
    }
  }
  const again = () => load({}, []);
  const form = h("form", {
    class: "row",
    onsubmit: (event) => {
      event.preventDefault();
      again();
    },
  }, fields, h("button", { class: "primary" }, fields.length > 0 ? "Search" : "Load again"));
  return { element: card(title, form, box), again };
}

function subscriptions() {
  const filter = h("input", { type: "search", placeholder: "site/+/door" });
  const topic = h("input", { type: "search", placeholder: "site/1/door" });
  const prefix = h("input", { type: "search" });
  const columns = [
    { name: "client", show: (row) => clientLink(row.client_id) },
    { name: "filter", show: (row) => row.filter },
    { name: "QoS", number: true, show: (row) => row.qos ?? "–" },
  ];
  const fields = [field("Exactly this filter", filter), field("Or all that match a topic", topic), field("Beginning of the client", prefix)];
  return list("Subscriptions", fields, columns, "Nobody has subscribed like that.", async (place) => {
    const page = await api(query("/api/v1/subscriptions", { filter: filter.value, topic: topic.value, prefix: prefix.value, limit: PAGE, ...place }));
    return { rows: page.subscriptions, next: page.next, note: `${number(page.matching)} subscriptions` };
  });
}

function groups() {
  const columns = [
    { name: "shared subscription", show: (group) => group.filter },
    { name: "members", number: true, show: (group) => number(group.members) },
    { name: "some of them", show: (group) => group.member_list.slice(0, 10).flatMap((member) => [clientLink(member.client_id), member.ready ? " " : " (waits) "]) },
  ];
  return list("Shared subscriptions", [], columns, "There is none.", async (place) => {
    const page = await api(query("/api/v1/groups", { limit: PAGE, ...place }));
    return { rows: page.groups, next: page.next && { after: page.next } };
  });
}

function retained() {
  const filter = h("input", { type: "search", placeholder: "site/#" });
  const shown = h("div", { "aria-live": "polite" });
  const path = (topic) => `/api/v1/retained/${encodeURIComponent(topic)}`;
  async function read(topic) {
    try {
      const message = await api(path(topic));
      const words = message.payload ?? `base64: ${message.payload_base64}`;
      put(shown, h("p", { class: "note" }, topic), h("pre", { tabindex: 0 }, words));
    } catch (error) {
      put(shown, fault(error));
    }
  }
  async function remove(topic) {
    if (!(await confirmed(`Remove the retained message of ${topic}? Subscribers are not told.`, "Remove"))) return;
    try {
      await api(path(topic), { method: "DELETE" });
      put(shown, h("p", { class: "note" }, `The retained message of ${topic} is removed.`));
    } catch (error) {
      put(shown, fault(error));
    }
    messages.again();
  }
  const columns = [
    { name: "topic", show: (row) => row.topic },
    { name: "QoS", number: true, show: (row) => row.qos },
    { name: "size", number: true, show: (row) => bytes(row.payload_bytes) },
    { name: "", show: (row) => h("span", { class: "row tight" }, h("button", { onclick: () => read(row.topic) }, "Show"),
      h("button", { class: "danger", onclick: () => remove(row.topic) }, "Remove")) },
  ];
  const messages = list("Retained messages", [field("Filter", filter)], columns, "There is none.", async (place) => {
    const page = await api(query("/api/v1/retained", { filter: filter.value, limit: PAGE, ...place }));
    return { rows: page.messages, next: page.next && { after: page.next } };
  });
  messages.element.append(shown);
  return messages;
}

export function show(view) {
  const parts = [subscriptions(), groups(), retained()];
  put(view, parts.map((part) => part.element));
  parts.forEach((part) => part.again());
  return {};
}
