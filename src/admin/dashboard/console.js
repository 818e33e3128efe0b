// A client for trying things out: it publishes and subscribes over a WebSocket listener.

import { api } from "./api.js";
import { card, field, h, put } from "./dom.js";
import { Mqtt } from "./mqtt.js";

/** The most messages that are shown. */
const MESSAGES_MAX = 200;

/** The address of a listener as the browser reaches it. */
function urlOf(listener) {
  const [, host, port] = /^(.*):(\d+)$/.exec(listener.address) ?? [];
  if (port === undefined) return null;
  const isAny = host === "0.0.0.0" || host === "[::]";
  return `${listener.tls ? "wss" : "ws"}://${isAny ? location.hostname : host}:${port}/mqtt`;
}

export function show(view) {
  const url = h("input", { required: true, size: 30, placeholder: "ws://host:9001/mqtt" });
  const clientId = h("input", { value: `dashboard-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}` });
  const user = h("input", { autocomplete: "off" });
  const password = h("input", { type: "password", autocomplete: "off" });
  const state = h("p", { class: "note", role: "status" }, "Not connected.");
  const messages = h("ol", { class: "trace", tabindex: 0, role: "log", "aria-label": "Messages" });
  const topic = h("input", { required: true, placeholder: "site/1/door" });
  const payload = h("textarea", { rows: 2 });
  const qos = () => h("select", {}, ["0", "1", "2"].map((value) => h("option", { value }, value)));
  const publishQos = qos();
  const retain = h("input", { type: "checkbox" });
  const filter = h("input", { required: true, placeholder: "site/#" });
  const subscribeQos = qos();
  const publishForm = h("fieldset", { disabled: true });
  const subscribeForm = h("fieldset", { disabled: true });
  const button = h("button", { class: "primary" }, "Connect");
  let mqtt = null;

  function add(...children) {
    const isAtEnd = messages.scrollTop + messages.clientHeight >= messages.scrollHeight - 4;
    messages.append(h("li", {}, h("time", {}, new Date().toISOString().slice(11, 23)), children));
    while (messages.childElementCount > MESSAGES_MAX) messages.firstElementChild.remove();
    if (isAtEnd) messages.scrollTop = messages.scrollHeight;
  }

  function setConnected(is) {
    publishForm.disabled = !is;
    subscribeForm.disabled = !is;
    put(button, is ? "Disconnect" : "Connect");
  }

  function connect() {
    put(state, "Connecting …");
    try {
      mqtt = new Mqtt(url.value, { clientId: clientId.value, user: user.value, password: password.value }, {
        connected() {
          put(state, `Connected as ${clientId.value}.`);
          setConnected(true);
        },
        message({ topic: name, payload: words, qos: level, retain: isRetained }) {
          add(h("b", {}, name), ` QoS ${level}${isRetained ? ", retained" : ""} `, h("code", {}, words));
        },
        told(words, isBad) {
          add(h("span", { class: isBad ? "fault" : "soft" }, words));
        },
        closed(why) {
          put(state, `Not connected: ${why}.`);
          setConnected(false);
          mqtt = null;
        },
      });
    } catch (error) {
      put(state, `Not connected: ${error.message}`);
    }
  }

  function onsubmit(work) {
    return (event) => {
      event.preventDefault();
      work();
    };
  }

  const connection = h("form", { class: "row", onsubmit: onsubmit(() => (mqtt === null ? connect() : mqtt.disconnect())) },
    field("WebSocket listener", url), field("Client identifier", clientId), field("User", user), field("Password", password), button);
  publishForm.append(h("form", { class: "row", onsubmit: onsubmit(() => mqtt?.publish(topic.value, payload.value, Number(publishQos.value), retain.checked)) },
    field("Topic", topic), field("Payload", payload), field("QoS", publishQos), h("label", { class: "check" }, retain, "retain"),
    h("button", { class: "primary" }, "Publish")));
  subscribeForm.append(h("form", { class: "row", onsubmit: onsubmit(() => mqtt?.subscribe(filter.value, Number(subscribeQos.value))) },
    field("Filter", filter), field("QoS", subscribeQos), h("button", { class: "primary" }, "Subscribe"),
    h("button", { type: "button", onclick: () => filter.reportValidity() && mqtt?.unsubscribe(filter.value) }, "Unsubscribe")));
  put(view, card("Console", h("p", { class: "note" }, "An MQTT 5.0 client in this page, with the rights of its user name."), connection, state),
    card("Subscribe", subscribeForm, messages), card("Publish", publishForm));

  api("/api/v1/listeners").then(({ listeners }) => {
    const found = listeners.filter((listener) => listener.protocol === "websocket").map(urlOf).filter((each) => each !== null);
    if (found.length > 0) url.value = found[0];
    else put(state, "There is no WebSocket listener: add one with protocol = \"websocket\".");
  }, (error) => put(state, error.message));
  return { stop: () => mqtt?.disconnect() };
}
