// The frame: the token, the views and the clock.

import { ApiError, hasToken, setToken } from "./api.js";
import { h, put } from "./dom.js";
import * as broker from "./broker.js";
import * as client from "./client.js";
import * as clients from "./clients.js";
import * as consoleView from "./console.js";
import * as overview from "./overview.js";
import * as topics from "./topics.js";

const VIEWS = [
  ["overview", "Overview", overview],
  ["clients", "Clients", clients],
  ["topics", "Topics", topics],
  ["broker", "Listeners and limits", broker],
  ["console", "Console", consoleView],
];
const SECOND = 1000;

const view = document.getElementById("view");
const nav = document.getElementById("nav");
const state = document.getElementById("state");
let shown = null;
let asking = false;

const links = VIEWS.map(([name, title]) => h("a", { href: `#/${name}` }, title));
put(nav, links);

/** The view of the address: `#/clients`, `#/client/ID`. */
function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  shown?.stop?.();
  links.forEach((link, place) => {
    const own = VIEWS[place][0];
    if (own === name || (name === "client" && own === "clients") || (name === "" && own === "overview")) {
      link.setAttribute("aria-current", "page");
    } else {
      link.removeAttribute("aria-current");
    }
  });
  if (name === "client") {
    const id = decodeURIComponent(rest.join("/"));
    document.title = `${id} – midge`;
    shown = client.show(view, id);
  } else {
    const [, title, module] = VIEWS.find(([own]) => own === name) ?? VIEWS[0];
    document.title = `${title} – midge`;
    shown = module.show(view);
  }
}

/** Asks for a token. Nothing else is shown meanwhile. */
function askForToken(why) {
  if (asking) return;
  asking = true;
  shown?.stop?.();
  shown = null;
  const input = h("input", { type: "password", autocomplete: "off", required: true, id: "token" });
  const form = h("form", {
    class: "card login",
    onsubmit: (event) => {
      event.preventDefault();
      setToken(input.value.trim());
      asking = false;
      begin();
    },
  },
  h("h2", {}, "A token is needed"),
  h("p", { role: "alert" }, hasToken() ? `Refused: ${why}.` : "One of the file that admin.token_file names. It is forgotten when this tab is closed."),
  h("label", { class: "field" }, h("span", {}, "Token"), input),
  h("button", { class: "primary" }, "Sign in"));
  put(view, form);
  put(state, "not signed in");
  input.focus();
}

window.addEventListener("midge-token", (event) => {
  askForToken(event.detail);
});
window.addEventListener("hashchange", () => {
  if (asking) return;
  route();
  view.focus({ preventScroll: true });
  window.scrollTo(0, 0);
});

async function tick() {
  if (asking || document.hidden) return;
  try {
    const answer = await overview.sample();
    if (asking) return;
    put(state, overview.words(answer));
    state.classList.remove("bad");
    if (shown === null) route();
    shown?.draw?.();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return;
    put(state, error.message);
    state.classList.add("bad");
  }
}

async function begin() {
  await tick();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) tick();
});
setInterval(tick, SECOND);
begin();
