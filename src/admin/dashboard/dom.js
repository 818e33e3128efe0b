// Elements and words. Data only ever becomes text: what a client has named itself or its topics is no markup here.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element with attributes, listeners (`onclick`) and children. Strings become text. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Replaces what an element contains. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** A number with separators: whole from 100 on, three digits below. */
export function number(value) {
  if (value === undefined || value === null || Number.isNaN(value)) return "–";
  return Math.abs(value) >= 100 || Number.isInteger(value) ? whole.format(value) : few.format(value);
}

function scaled(value, step, units) {
  let at = 0;
  while (Math.abs(value) >= step && at < units.length - 1) {
    value /= step;
    at += 1;
  }
  return `${number(value)}${units[at]}`;
}

/** A short number: 12.3 k. */
export function short(value) {
  return scaled(value, 1000, ["", " k", " M", " G", " T"]);
}

export function bytes(value) {
  return value === undefined || value === null ? "–" : scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
}

/** A duration in its two largest units. */
export function duration(seconds) {
  if (seconds === undefined || seconds === null) return "–";
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.floor(seconds);
  const words = [];
  for (const [unit, size] of parts) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count > 0) words.push(`${count} ${unit}`);
  }
  return words.slice(0, 2).join(" ") || "0 s";
}

/** Whether the keyboard is in an element, so that its content should stay. */
export function isInUse(element) {
  return element.contains(document.activeElement);
}

/** A table in a box that scrolls by itself. `columns`: name, how a row shows it, whether it is a
 * number, or short words that stay in one line. */
export function table(caption, columns, rows, empty) {
  if (rows.length === 0) return h("p", { class: "none" }, empty);
  const head = columns.map((column) => h("th", { scope: "col", class: column.number && "number" }, column.name));
  const line = (row) => columns.map((column) => h("td", { class: column.number ? "number" : column.short ? "short" : "words" }, column.show(row)));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map((row) => h("tr", {}, line(row))))));
}

/** A section with a heading. */
export function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), children);
}

/** A labelled field of a form. */
export function field(label, control) {
  return h("label", { class: "field" }, h("span", {}, label), control);
}

/** Asks before something that can't be taken back. */
export function confirmed(question, action) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-label": question },
      h("p", {}, question),
      h("form", { method: "dialog", class: "row" },
        h("button", { value: "no" }, "Cancel"),
        h("button", { value: "yes", class: "danger" }, action)));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
