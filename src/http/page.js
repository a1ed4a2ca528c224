"use strict";

const PERIOD = 2000; // milliseconds between two looks
const STAGES = ["accepted", "erased", "unlearned", "published"];

const at = (id) => document.getElementById(id);
const known = (value) => value !== undefined && value !== null;
const put = (id, value) => {
  const text = known(value) ? String(value) : "–";
  // Only what changed, or a screen reader would repeat itself.
  if (at(id).textContent !== text) at(id).textContent = text;
};
const whole = (value) => known(value) ? Number(value).toLocaleString("en") : undefined;
const short = (value) => known(value) ? Number(value).toLocaleString("en", { maximumSignificantDigits: 6 }) : undefined;
const tiny = (value) => known(value) ? Number(value).toExponential(2) : undefined;

function span(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function showState(status) {
  const ready = status.ready === true;
  at("state").className = ready ? "state ready" : "state";
  put("state", ready ? "ready" : "not ready");
  at("reason").hidden = ready || !status.reason;
  put("reason", status.reason ?? "");
  put("version", status.version);
}

// 1 when the residual is at or below the tolerance, one less for each eight powers of ten above it.
function closeness(residual, tolerance) {
  if (!known(residual) || !known(tolerance)) return 0;
  if (residual <= tolerance) return 1;
  return Math.max(0.02, 1 - Math.log10(residual / tolerance) / 8);
}

function showModel({ generation, created, certificate, counts, rank }) {
  put("generation", whole(generation));
  const moment = new Date(created ?? NaN);
  put("created", isNaN(moment) ? "none published yet" : moment.toLocaleString());
  const { residual, tolerance } = certificate ?? {};
  const judged = known(residual) && known(tolerance);
  put("residual", tiny(residual));
  put("tolerance", tiny(tolerance));
  put("verdict", !judged ? "tolerance" : residual <= tolerance ? "✓ within the tolerance of" : "✗ above the tolerance of");
  at("verdict").parentElement.className = !judged ? "note" : residual <= tolerance ? "note good" : "note bad";
  at("closeness").value = closeness(residual, tolerance);
  put("sweeps", whole(certificate?.sweeps));
  put("objective", short(certificate?.objective));
  put("rank", whole(rank));
  put("effective-rank", whole(certificate?.effective_rank));
  put("gap", known(certificate?.gap) ? tiny(certificate.gap) : "not asked for");
  const said = [certificate?.warning, certificate?.refused].filter(known).join("; ");
  at("warning").hidden = said === "";
  put("warning", said);
  for (const name of ["users", "items", "interactions"]) put(name, whole(counts?.[name]));
}

function showWork({ phase, sweep, residual }) {
  const solving = phase === "solving" && known(residual) ? `: sweep ${whole(sweep)}, residual ${tiny(residual)}` : "";
  put("work", phase === "publishing" ? "publishing the next one" : phase === "solving" ? `learning the next one${solving}` : "");
}

function showForgets(forgets) {
  let pending = 0;
  for (const stage of STAGES) {
    const count = forgets?.pending ? forgets.pending[stage] ?? 0 : undefined;
    pending += count ?? 0;
    put(`pending-${stage}`, whole(count));
    at(`pending-${stage}`).parentElement.className = count > 0 ? "busy" : "";
  }
  put("oldest", pending > 0 ? `the oldest waits for ${span(forgets.oldest_seconds)}` : "nobody waits");
}

function showLag(lag, outbox) {
  const partitions = Array.isArray(lag) ? lag : [];
  put("lag", Array.isArray(lag) ? whole(partitions.reduce((sum, { records }) => sum + (records ?? 0), 0)) : undefined);
  put("outbox", whole(outbox));
  const row = (cells) => {
    const line = document.createElement("tr");
    line.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return line;
  };
  at("partitions").replaceChildren(...partitions.map(({ topic, partition, records }) => row([topic, partition, whole(records) ?? "–"])));
}

async function look() {
  try {
    const answer = await fetch("/v1/status", { signal: AbortSignal.timeout(PERIOD * 2) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const status = await answer.json();
    showState(status);
    showModel(status);
    showWork(status);
    showForgets(status.forgets);
    showLag(status.lag, status.outbox);
  } catch {
    at("state").className = "state gone";
    put("state", "no answer");
  }
  setTimeout(look, PERIOD);
}

async function lookUp(event) {
  event.preventDefault();
  const id = at("request").value.trim();
  if (!id) return;
  at("receipt").hidden = false;
  try {
    const answer = await fetch(`/v1/receipts/${encodeURIComponent(id)}`);
    const body = await answer.json();
    put("receipt", answer.ok ? JSON.stringify(body, null, 2) : `${body.title}: ${body.detail}`);
  } catch {
    put("receipt", "no answer");
  }
}

at("look-up").addEventListener("submit", lookUp);
look();
