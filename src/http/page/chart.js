// Residual over sweeps: a line on a logarithmic scale, the tolerance, and the same in words and in a table.

import { at, put, raised, tableRow, tiny, whole } from "./words.js";

const MARGIN = { top: 16, right: 20, bottom: 40, left: 52 };
const LOWEST = 1e-17; // of the logarithm: a residual may be 0
const POINTS = 40; // more are drawn as a line alone

let shown = "";
let courses = [];

const svg = at("chart");

// The page's policy names no namespace, and neither does this script: the parser has given the picture its own.
function mark(name, attributes, text) {
  const made = document.createElementNS(svg.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const level = (residual) => Math.log10(Math.max(residual, LOWEST));

function scales(width, height) {
  const points = courses.flatMap((course) => course.points);
  const levels = [...points.map(([, residual]) => level(residual)), level(courses[0].tolerance)];
  const [low, high] = [Math.floor(Math.min(...levels)), Math.max(Math.ceil(Math.max(...levels)), Math.floor(Math.min(...levels)) + 1)];
  const last = Math.max(2, ...points.map(([sweep]) => sweep));
  const x = (sweep) => MARGIN.left + (sweep - 1) / (last - 1) * (width - MARGIN.left - MARGIN.right);
  const y = (power) => MARGIN.top + (high - power) / (high - low) * (height - MARGIN.top - MARGIN.bottom);
  return { low, high, last, x, y };
}

function step(range, most) {
  const rough = Math.max(1, range / most);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
}

function drawFrame(width, height, { low, high, last, x, y }) {
  const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, height - MARGIN.bottom];
  const every = step(high - low, (bottom - MARGIN.top) / 28);
  for (let power = high; power >= low; power -= every) {
    svg.append(mark("line", { class: "rule", x1: left, x2: right, y1: y(power), y2: y(power) }));
    svg.append(mark("text", { class: "tick end", x: left - 8, y: y(power) + 4 }, raised(power)));
  }
  const apart = step(last - 1, (right - left) / 56);
  for (let sweep = 1; sweep <= last; sweep = sweep === 1 && apart > 1 ? apart : sweep + apart) {
    svg.append(mark("text", { class: "tick middle", x: x(sweep), y: bottom + 18 }, whole(sweep)));
  }
  svg.append(mark("text", { class: "tick end", x: right, y: height - 4 }, "sweep"));
}

function drawTolerance(width, { x, y, high, low }, tolerance) {
  const at = y(level(tolerance));
  svg.append(mark("line", { class: "tolerance", x1: x(1), x2: width - MARGIN.right, y1: at, y2: at }));
  // Under the line where there is room, since the course comes from above.
  const below = level(tolerance) > low + (high - low) * 0.08;
  svg.append(mark("text", { class: "tolerance-name", x: x(1) + 6, y: below ? at + 16 : at - 7 }, `tolerance ${tiny(tolerance)}`));
}

function drawCourse({ points, name }, { x, y }) {
  const places = points.map(([sweep, residual]) => [x(sweep).toFixed(1), y(level(residual)).toFixed(1)]);
  svg.append(mark("polyline", { class: `course ${name}`, points: places.map((place) => place.join(",")).join(" ") }));
  const dots = places.length <= POINTS ? places : places.slice(-1);
  dots.forEach(([cx, cy], index) => {
    const newest = index === dots.length - 1;
    svg.append(mark("circle", { class: `dot ${name}${newest ? " newest" : ""}`, cx, cy, r: newest ? 5 : 3 }));
  });
}

function draw() {
  svg.replaceChildren();
  const plot = at("plot");
  plot.classList.toggle("empty", courses.length === 0);
  const width = plot.clientWidth;
  if (courses.length === 0 || width === 0) return;
  const height = plot.clientHeight;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const scale = scales(width, height);
  drawFrame(width, height, scale);
  drawTolerance(width, scale, courses[0].tolerance);
  courses.toReversed().forEach((course) => drawCourse(course, scale));
}

function words({ name, generation, tolerance, points }) {
  const [[, first], [sweeps, last]] = [points[0], points.at(-1)];
  const reached = points.find(([, residual]) => residual <= tolerance);
  const begin = name === "running" ? `Generation ${whole(generation)} is being solved` : `Generation ${whole(generation)}`;
  const fell = `${whole(sweeps)} ${sweeps === 1 ? "sweep" : "sweeps"}, from ${tiny(first)} to ${tiny(last)}`;
  const judged = reached ? `below the tolerance of ${tiny(tolerance)}` : `the tolerance is ${tiny(tolerance)}`;
  return `${begin}: ${fell}; ${judged}.`;
}

/** Shows what /v1/sweeps answered: the solve under way in front of the last one. */
export function showSweeps(answer) {
  const text = JSON.stringify(answer);
  if (text === shown) return;
  shown = text;
  courses = ["running", "last"].filter((name) => answer[name]?.points.length > 0).map((name) => ({ name, ...answer[name] }));
  draw();
  const front = courses[0];
  const behind = courses[1] ? ` The faint line is generation ${whole(courses[1].generation)}.` : "";
  put("course", front ? words(front) + behind : "No solve since the service started.");
  at("values").hidden = !front;
  at("points").replaceChildren(...(front?.points ?? []).map(([sweep, residual]) => tableRow([whole(sweep), residual.toExponential(3)])));
}

/** For those with a pointer: the sweep that is nearest to it. The table has them all. */
function point(event) {
  if (courses.length === 0) return;
  const box = svg.getBoundingClientRect();
  const { x } = scales(box.width, box.height);
  const away = ([sweep]) => Math.abs(x(sweep) - (event.clientX - box.left));
  const [sweep, residual] = courses[0].points.reduce((best, next) => away(next) < away(best) ? next : best);
  put("readout", `sweep ${whole(sweep)}: ${tiny(residual)}`);
}

svg.addEventListener("pointermove", point);
svg.addEventListener("pointerleave", () => put("readout", ""));
new ResizeObserver(draw).observe(at("plot"));
