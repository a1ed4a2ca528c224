// The look-up of a receipt: its stages on a line, and its signature checked here, over the bytes that came.

import { at, between, element, fact, get, known, put, span, tiny, whole } from "./words.js";

const STAGES = ["accepted", "erased", "unlearned", "published", "purged"];
const SIGNS = { valid: "M7 12.5l3.5 3.5L17 9", invalid: "M8 8l8 8M16 8l-8 8", unchecked: "M12 7v6M12 16.5v.5" };
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" };
const LONG = ["request", "exactness", "mind", "refused because"]; // facts that take a row
const RUNGS = { E0: "the data are gone from the store", E1: "the certificate holds on what is left" };

const SAYS = { valid: "Signature valid.", invalid: "Signature not valid.", unchecked: "Signature cannot be checked here." };
const KEY_BYTES = 32;

let wanted = null; // the request that is asked for
let drawn = null; // the text of the receipt that is shown
let judged = null; // what came with it, once it has a verdict that stands

/** The bytes, or none where the text is no base64. */
function unbase64(text) {
  try {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  } catch {
    return new Uint8Array();
  }
}

/** The key that this service lists under that name; throws when it does not say. */
async function listed(keyId) {
  const answer = await get("/v1/keys");
  if (!answer.ok) throw new Error(`/v1/keys: ${answer.status}`);
  const { keys } = await answer.json();
  return keys.find((one) => one.key_id === keyId && one.algorithm === "Ed25519");
}

/** One of "valid", "invalid", "unchecked", why, and what it is called where that is not the usual. */
async function judge(id, receipt, bytes, [keyId, signature]) {
  // Signed or not.
  if (receipt.request_id !== id) return ["invalid", "It is a receipt of another request. Do not rely on it.", "Not the receipt asked for."];
  if (!keyId || !signature) return ["unchecked", "The answer came without a signature; a proxy may have taken it away."];
  if (!globalThis.isSecureContext || !crypto.subtle) {
    return ["unchecked", "Browsers check signatures only on pages that came over TLS or from this machine."];
  }
  let key;
  try {
    key = await listed(keyId);
  } catch {
    return ["unchecked", "This service does not tell its keys at present; it is asked again."];
  }
  if (!key) return ["unchecked", `It is signed with key ${keyId}, which this service does not list.`];
  const raw = unbase64(key.public_key);
  if (raw.length !== KEY_BYTES) return ["unchecked", `What this service lists as key ${keyId} is no Ed25519 key.`];
  let imported;
  try {
    imported = await crypto.subtle.importKey("raw", raw, { name: "Ed25519" }, false, ["verify"]);
  } catch {
    return ["unchecked", "This browser does not know Ed25519."];
  }
  const right = await crypto.subtle.verify({ name: "Ed25519" }, imported, unbase64(signature), bytes).catch(() => false);
  if (right) return ["valid", `Ed25519, key ${keyId}, checked in this browser over the ${whole(bytes.byteLength)} bytes that it received.`];
  return ["invalid", `These bytes are not what key ${keyId} signed: it was changed, or is not from this service. Do not rely on it.`];
}

function showVerdict([verdict, because, says]) {
  at("verdict").className = `verdict ${verdict}`;
  at("sign").setAttribute("d", SIGNS[verdict]);
  put("says", says ?? SAYS[verdict]);
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

function showFacts(receipt) {
  const { selector, removed, generation, certificate, exactness, purged_from: purgedFrom, backups, error } = receipt;
  const rungs = (exactness ?? []).map((rung) => RUNGS[rung] ? `${rung}: ${RUNGS[rung]}` : rung);
  const facts = [
    ["request", receipt.request_id],
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

/** Words where a receipt would be; no verdict outlives what it was about. */
function showAbsent(text) {
  [at("absent").hidden, at("found").hidden, drawn, judged] = [false, true, null, null];
  put("absent", text);
}

async function show(id, answer, body) {
  const text = new TextDecoder().decode(body);
  if (!answer.ok) {
    const { title, detail } = JSON.parse(text);
    showAbsent(`${title}: ${detail}`);
    return;
  }
  const signed = ["nepenthe-key-id", "nepenthe-signature"].map((name) => answer.headers.get(name));
  const came = JSON.stringify([text, ...signed]);
  if (came === judged) return;
  const receipt = JSON.parse(text);
  const verdict = await judge(id, receipt, body, signed);
  if (wanted !== id) return;
  showVerdict(verdict);
  // What did not change is left alone: somebody may be reading it, or copying from it.
  if (text !== drawn) {
    showLine(receipt);
    showFacts(receipt);
    put("raw", JSON.stringify(receipt, null, 2));
    showCommands(id);
  }
  [at("absent").hidden, at("found").hidden, drawn] = [true, false, text];
  // What could not be checked is tried again.
  judged = verdict[0] === "unchecked" ? null : came;
}

/** Shows a request's receipt; called again it follows the request on its way. */
export async function follow() {
  const id = wanted;
  if (id === null) return;
  let answer, body;
  try {
    answer = await get(`/v1/receipts/${encodeURIComponent(id)}`);
    body = await answer.arrayBuffer();
  } catch {
    // A service that is away does not make a receipt wrong that is there already.
    if (wanted === id && drawn === null) showAbsent("The service gives no answer; it is asked again.");
    return;
  }
  // Somebody may have asked for another one meanwhile.
  if (wanted !== id) return;
  try {
    await show(id, answer, body);
  } catch {
    if (wanted === id) showAbsent("The service gave no answer that can be read; it is asked again.");
  }
}

function lookUp(id) {
  [wanted, drawn, judged] = [id, null, null];
  // The receipt of another request is no answer to this one.
  at("found").hidden = true;
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
