// What is running: asked for again and again while somebody looks.

import { showSweeps } from "./chart.js";
import { follow } from "./receipt.js";
import { at, between, bytes, fact, get, known, put, short, span, tableRow, tiny, whole } from "./words.js";

const PERIOD = 2000; // milliseconds between two looks
const STAGES = ["accepted", "erased", "unlearned", "published"];

let answered = null; // when the service last did

function showState({ ready, reason, version }) {
  at("state").className = ready === true ? "state ready" : "state";
  put("state", ready === true ? "ready" : "not ready");
  at("reason").hidden = ready === true || !reason;
  put("reason", reason ?? "");
  put("version", version);
  document.body.classList.remove("stale");
}

function showAway() {
  at("state").className = "state gone";
  put("state", "no answer");
  at("reason").hidden = false;
  put("reason", `The service does not answer${answered ? `; the figures are of ${answered.toLocaleTimeString()}` : ""}.`);
  document.body.classList.add("stale");
}

/** Against the objective, as every other tolerance is against what it measures. */
function gapOf({ gap, objective }) {
  if (!known(gap)) return "not asked for";
  return objective ? `${tiny(gap / Math.abs(objective))} of the objective` : tiny(gap);
}

const BADGES = { global: "global optimum", residual: "certified" };

function showBadge(generation, certificate) {
  const { residual, tolerance, certified } = certificate ?? {};
  const judged = known(generation) && known(residual) && known(tolerance);
  at("badge").hidden = !judged;
  const holds = judged && residual <= tolerance;
  at("badge").className = holds ? "badge good" : "badge bad";
  put("badge", holds ? `✓ ${BADGES[certified] ?? "certified"}` : "✗ above the tolerance");
}

function showGeneration({ generation, created, certificate, counts, rank }) {
  put("generation", whole(generation));
  const moment = new Date(created ?? NaN);
  const made = !isNaN(moment);
  put("created", made ? `${moment.toLocaleString()}, ${span(Math.max(0, (Date.now() - moment) / 1000))} ago` : "none published yet");
  if (made) at("created").dateTime = moment.toISOString();
  showBadge(generation, certificate);
  put("residual", tiny(certificate?.residual));
  put("tolerance", tiny(certificate?.tolerance));
  put("sweeps", whole(certificate?.sweeps));
  put("objective", short(certificate?.objective));
  put("rank", known(certificate?.effective_rank) ? `${whole(certificate.effective_rank)} of ${whole(rank)}` : undefined);
  put("gap", known(certificate) ? gapOf(certificate) : undefined);
  const said = [certificate?.warning, certificate?.refused].filter(known).join("; ");
  at("warning").hidden = said === "";
  put("warning", said);
  for (const name of ["users", "items", "interactions"]) put(name, whole(counts?.[name]));
}

function showWork({ phase, sweep, generation }) {
  const next = whole((generation ?? 0) + 1);
  const solving = sweep > 0 ? `learning generation ${next}, sweep ${whole(sweep)}` : `learning generation ${next}`;
  at("work").classList.toggle("busy", phase !== "idle");
  put("work", { solving, publishing: `publishing generation ${next}` }[phase] ?? "");
}

function showForgets(forgets, purge) {
  let pending = 0;
  for (const stage of STAGES) {
    const count = forgets?.pending ? forgets.pending[stage] ?? 0 : undefined;
    pending += count ?? 0;
    put(`pending-${stage}`, whole(count));
    const age = forgets?.longest_seconds?.[stage];
    put(`age-${stage}`, count > 0 && known(age) ? `oldest ${span(age)}` : "");
    at(`pending-${stage}`).parentElement.className = count > 0 ? "busy" : "";
  }
  const waits = forgets?.oldest_seconds > 0;
  put("oldest", waits ? `the oldest waits ${span(forgets.oldest_seconds)} for its generation` : pending > 0 ? "" : "nobody waits");
  at("purge").hidden = !purge?.reason;
  put("purge", purge?.reason ? `Purge: ${purge.reason}` : "");
}

function showLag(lag) {
  const partitions = Array.isArray(lag) ? lag : [];
  const topics = new Map();
  for (const { topic, records } of partitions) topics.set(topic, (topics.get(topic) ?? 0) + (records ?? 0));
  put("lag", partitions.length > 0 ? whole([...topics.values()].reduce((sum, records) => sum + records, 0)) : undefined);
  at("topics").replaceChildren(...[...topics].map(([topic, records]) => fact(topic, whole(records))));
  const rows = partitions.map(({ topic, partition, records }) => tableRow([topic, partition, whole(records) ?? "–"]));
  at("partitions").replaceChildren(...rows);
}

function showService({ started, objective, events_accepted: events, outbox, fences, store_bytes: sizes, backups }) {
  put("uptime", known(started) ? span(Math.max(0, between(started, new Date()))) : undefined);
  put("kind", objective);
  put("accepted", whole(events));
  put("outbox", whole(outbox));
  put("fences", whole(fences));
  put("disk", sizes && bytes(Object.values(sizes).reduce((sum, size) => sum + size, 0)));
  put("backups", backups ? whole(backups.count) : "none");
}

async function json(path) {
  const answer = await get(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function look() {
  if (!document.hidden) {
    try {
      const [status, sweeps] = await Promise.all([json("/v1/status"), json("/v1/sweeps")]);
      answered = new Date();
      showState(status);
      showGeneration(status);
      showWork(status);
      showForgets(status.forgets, status.purge);
      showLag(status.lag);
      showService(status);
      showSweeps(sweeps);
    } catch {
      showAway();
    }
    await follow();
  }
  setTimeout(look, PERIOD);
}

look();
