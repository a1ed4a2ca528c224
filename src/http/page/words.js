// How this page asks and finds its parts, and how it writes numbers and times.

const PATIENCE = 4000; // milliseconds with an answer, to its last byte

/** Whoever waits for ever never asks again. */
export const get = (path) => fetch(path, { signal: AbortSignal.timeout(PATIENCE) });

export const at = (id) => document.getElementById(id);
export const known = (value) => value !== undefined && value !== null;

/** Only what changed is written, or a screen reader would repeat itself. */
export function put(id, value) {
  const text = known(value) ? String(value) : "–";
  if (at(id).textContent !== text) at(id).textContent = text;
}

export function element(name, text, className) {
  const made = document.createElement(name);
  if (known(text)) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** A row of a description list. */
export function fact(name, value, className) {
  const row = element("div", null, className);
  row.append(element("dt", name), element("dd", value));
  return row;
}

export function tableRow(cells) {
  const row = element("tr");
  row.append(...cells.map((text) => element("td", text)));
  return row;
}

export const whole = (value) => known(value) ? Number(value).toLocaleString("en") : undefined;
export const short = (value) => known(value) ? Number(value).toLocaleString("en", { maximumSignificantDigits: 6 }) : undefined;

export const raised = (power) => `10${[...String(power)].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("")}`;

/** 7.2 × 10⁻⁸ */
export function tiny(value) {
  if (!known(value)) return undefined;
  const [factor, power] = Number(value).toExponential(1).split("e").map(Number);
  if (power >= -1 && power < 3) return short(Number(value).toPrecision(2));
  return factor === 1 ? raised(power) : `${factor.toFixed(1)} × ${raised(power)}`;
}

export function bytes(value) {
  if (!known(value)) return undefined;
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(value, 1)) / 10));
  return `${(value / 1024 ** power).toLocaleString("en", { maximumFractionDigits: power > 0 ? 1 : 0 })} ${units[power]}`;
}

export function span(seconds) {
  if (!known(seconds) || isNaN(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/** Seconds from `one` to `other`, both as JSON has them. */
export const between = (one, other) => (new Date(other) - new Date(one)) / 1000;
