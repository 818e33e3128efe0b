// The way to the admin interface: requests with the token, and what they can say no with.

const KEY = "midge-token";
let token = sessionStorage.getItem(KEY);

/** An answer that is no success. `status` is 0 if there was none. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Keeps a token until the tab is closed. `null` forgets it. */
export function setToken(value) {
  token = value;
  if (value === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, value);
}

export function hasToken() {
  return token !== null;
}

async function request(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (token !== null) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "midge does not answer");
  }
  if (answer.ok) return answer;
  const words = await answer.json().then((value) => value.error, () => answer.statusText);
  if (answer.status === 401) window.dispatchEvent(new CustomEvent("midge-token", { detail: words }));
  throw new ApiError(answer.status, words);
}

/** The JSON of an answer. */
export async function api(path, options) {
  const answer = await request(path, options);
  return answer.status === 204 ? null : answer.json();
}

/** A path with parameters. Empty ones are left out. */
export function query(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
}

/** Reads an answer of JSON lines, and gives each to `take`, until it ends or `signal` aborts it. */
export async function follow(path, signal, take) {
  const answer = await request(path, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.filter((line) => line !== "").forEach((line) => take(JSON.parse(line)));
  }
}
