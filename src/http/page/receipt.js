// The look-up of a receipt: its stages on a line, and its signature checked here, over the bytes that came.

import { at, between, element, fact, known, put, span, tiny, whole } from "./words.js";

const STAGES = ["accepted", "erased", "unlearned", "published", "purged"];
const SIGNS = { valid: "M7 12.5l3.5 3.5L17 9", invalid: "M8 8l8 8M16 8l-8 8", unchecked: "M12 7v6M12 16.5v.5" };
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" };
const LONG = ["exactness", "mind", "refused because"]; // facts that are sentences
const RUNGS = { E0: "the data are gone from the store", E1: "the certificate holds on what is left" };

let wanted = null; // the request that is shown
let shown = null; // its bytes, to leave alone what did not change

const unbase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** One of "valid", "invalid", "unchecked", and why. */
async function judge(bytes, headers) {
  const [keyId, signature] = [headers.get("nepenthe-key-id"), headers.get("nepenthe-signature")];
  if (!keyId || !signature) return ["unchecked", "The answer came without a signature; a proxy may have taken it away."];
  if (!globalThis.isSecureContext || !crypto.subtle) {
    return ["unchecked", "Browsers check signatures only on pages that came over TLS or from this machine."];
  }
  const answer = await fetch("/v1/keys");
  const keys = answer.ok ? (await answer.json()).keys ?? [] : [];
  const key = keys.find((one) => one.key_id === keyId && one.algorithm === "Ed25519");
  if (!key) return ["unchecked", `It is signed with key ${keyId}, which this service does not list.`];
  let imported;
  try {
    imported = await crypto.subtle.importKey("raw", unbase64(key.public_key), { name: "Ed25519" }, false, ["verify"]);
  } catch {
    return ["unchecked", "This browser does not know Ed25519."];
  }
  const right = await crypto.subtle.verify({ name: "Ed25519" }, imported, unbase64(signature), bytes).catch(() => false);
  if (right) return ["valid", `Ed25519, key ${keyId}, checked in this browser over the ${whole(bytes.byteLength)} bytes that it received.`];
  return ["invalid", `These bytes are not what key ${keyId} signed: it was changed, or is not from this service. Do not rely on it.`];
}

function showVerdict([verdict, because]) {
  at("verdict").className = `verdict ${verdict}`;
  at("sign").setAttribute("d", SIGNS[verdict]);
  put("says", { valid: "Signature valid.", invalid: "Signature not valid.", unchecked: "Signature cannot be checked here." }[verdict]);
  put("because", verdict === "unchecked" ? `${because} The commands below can.` : because);
}

/** A stage with its moment, and the time that it took from the one before. */
function station(name, moment, before, isNext) {
  const stop = element("li", null, known(moment) ? "reached" : isNext ? "next" : "ahead");
  stop.append(element("span", name, "name"));
  if (known(moment)) {
    const date = new Date(moment);
    const day = date.toLocaleDateString();
    const time = element("time", date.toLocaleTimeString([], CLOCK));
    time.dateTime = moment;
    stop.append(time, element("span", before && day === new Date(before).toLocaleDateString() ? "" : day, "day"));
    if (before) stop.prepend(element("span", `+ ${span(between(before, moment))}`, "took"));
  } else {
    stop.append(element("span", isNext ? "waiting" : "not yet", "day"));
  }
  return stop;
}

function showLine({ status, stages }) {
  if (status === "rejected") {
    at("line").replaceChildren(element("li", "rejected", "refused"));
    return;
  }
  let before = null;
  const stops = STAGES.map((name, index) => {
    const moment = stages?.[name];
    const stop = station(name, moment, before, !known(moment) && (index === 0 || known(stages?.[STAGES[index - 1]])));
    before = moment ?? before;
    return stop;
  });
  at("line").replaceChildren(...stops);
}

function showFacts({ selector, removed, generation, certificate, exactness, purged_from: purgedFrom, backups, error }) {
  const rungs = (exactness ?? []).map((rung) => RUNGS[rung] ? `${rung}: ${RUNGS[rung]}` : rung);
  const facts = [
    ["refused because", error],
    ["selects", selector],
    ["interactions removed", whole(removed?.interactions)],
    ["users, items that disappeared", removed && `${whole(removed.users)}, ${whole(removed.items)}`],
    ["generation", whole(generation)],
    ["residual, tolerance", certificate && `${tiny(certificate.residual)}, ${tiny(certificate.tolerance)}`],
    ["exactness", rungs.join("; ") || undefined],
    ["purged from", purgedFrom?.join(", ")],
    ["backups from before", backups && `${whole(backups.count)}, newest of ${new Date(backups.newest).toLocaleString()}`],
    ["mind", certificate?.warning],
  ];
  const rows = facts.filter(([, value]) => known(value)).map(([name, value]) => fact(name, value, LONG.includes(name) ? "long" : ""));
  at("facts").replaceChildren(...rows);
}

const quoted = (id) => /^[\w./:@+-]+$/.test(id) && !id.startsWith("-") ? id : `'${id.replaceAll("'", "'\\''")}'`;

function showCommands(id) {
  put("commands", `nepenthe receipt verify ${quoted(id)} --keys keys.json\nnepenthe receipt save ${quoted(id)} --to proof`);
}

function showAbsent(text) {
  [at("absent").hidden, at("found").hidden, shown] = [false, true, null];
  put("absent", text);
}

async function ask(id) {
  const answer = await fetch(`/v1/receipts/${encodeURIComponent(id)}`);
  const body = await answer.arrayBuffer();
  const text = new TextDecoder().decode(body);
  // Somebody may have asked for another one meanwhile.
  if (wanted !== id) return;
  if (!answer.ok) {
    const { title, detail } = JSON.parse(text);
    showAbsent(`${title}: ${detail}`);
    return;
  }
  if (text === shown) return;
  const receipt = JSON.parse(text);
  const verdict = await judge(body, answer.headers);
  if (wanted !== id) return;
  [at("absent").hidden, at("found").hidden, shown] = [true, false, text];
  showVerdict(verdict);
  showLine(receipt);
  showFacts(receipt);
  put("raw", JSON.stringify(receipt, null, 2));
  showCommands(id);
}

/** Shows a request's receipt; called again it follows the request on its way. */
export async function follow() {
  if (wanted === null) return;
  try {
    await ask(wanted);
  } catch {
    // A service that is away does not make a receipt wrong that is there already.
    if (shown === null) showAbsent("The service gave no answer that can be read; it is asked again.");
  }
}

function lookUp(id) {
  [wanted, shown] = [id, null];
  history.replaceState(null, "", `#receipt=${encodeURIComponent(id)}`);
  return follow();
}

at("look-up").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = at("request").value.trim();
  if (id) lookUp(id);
});

// A link to a receipt can be handed on; what follows the # stays in the browser.
const linked = /^#receipt=(.+)$/.exec(location.hash);
if (linked) {
  try {
    at("request").value = decodeURIComponent(linked[1]);
    lookUp(at("request").value);
  } catch {
    // No percent-encoded text: as if there were none.
  }
}
