// Opens the status page in a Chromium and holds it against what it promises. See scripts/page.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Service, until } from './service.mjs';

const tools = createRequire(`${process.env.TOOLS}/`);
const { chromium } = tools('playwright-core');
const axe = readFileSync(tools.resolve('axe-core/axe.min.js'), 'utf8');

const REQUEST = 'evening with Mara/7'; // with what a shell and an address must be told about
const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };

const { values: options, positionals } = parseArgs({
  allowPositionals: true, options: { shots: { type: 'string' }, from: { type: 'string' } },
});
if (options.shots) mkdirSync(options.shots, { recursive: true });

let checks = 0;
function holds(what, condition) {
  assert.ok(condition, what);
  checks += 1;
}

/** A fresh browser window on the page, and what it did that no page may do. */
async function open(browser, service, { base, prepare, ...settings } = {}, path = '/') {
  const context = await browser.newContext({ viewport: DESKTOP, ...settings });
  const page = await context.newPage();
  page.faults = [];
  const allowed = base ?? service.base;
  page.on('request', (request) => {
    if (!request.url().startsWith(`${allowed}/`)) page.faults.push(`asks for ${request.url()}`);
  });
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) page.faults.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => page.faults.push(`error: ${error.stack}`));
  if (options.from) {
    await page.route(/\/($|#|[\w]+\.(css|js|svg)$)/, (route) => {
      const { pathname } = new URL(route.request().url());
      return route.fulfill({ path: join(options.from, pathname === '/' ? 'page.html' : pathname) });
    });
  }
  if (prepare) await prepare(page);
  await page.goto(`${allowed}${path}`);
  await page.locator('#state', { hasText: /^ready$/ }).waitFor().catch((late) => {
    throw new Error(`${page.url()} shows no service: ${page.faults.slice(0, 3)}`, { cause: late });
  });
  return page;
}

const text = (page, id) => page.locator(`#${id}`).innerText();
const link = `/#receipt=${encodeURIComponent(REQUEST)}`;

/** The page asks again and again: an answer that is being changed when its window closes reaches nobody, and is no fault. */
async function leave(page) {
  await page.unrouteAll({ behavior: 'ignoreErrors' });
  await page.context().close();
}

async function close(page, name) {
  assert.deepEqual(page.faults, [], name);
  await leave(page);
  checks += 1;
}

/** The page's own policy forbids scripts from elsewhere; a test's come by another way. */
async function accessible(page, name) {
  const { violations, passes } = await page.evaluate(`${axe}; axe.run({ resultTypes: ['violations'] })`);
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join(' | ')}`);
  assert.deepEqual(found, [], `${name}: axe-core`);
  holds(`${name}: axe-core looked at something`, passes.length > 15);
}

async function shoot(page, name) {
  if (options.shots) await page.screenshot({ path: join(options.shots, `${name}.png`), fullPage: true });
}

async function fits(page, name) {
  const [wide, has] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  holds(`${name}: ${wide} pixels wide on ${has}`, wide <= has);
}

async function figures(page, service) {
  const { generation, certificate, counts } = await service.status();
  assert.equal(await text(page, 'generation'), String(generation));
  assert.equal(await text(page, 'interactions'), counts.interactions.toLocaleString('en'));
  holds('the certificate is judged', /certified|optimum/.test(await text(page, 'badge')) && certificate.residual <= certificate.tolerance);
  for (const id of ['residual', 'tolerance', 'objective', 'sweeps', 'rank', 'uptime', 'disk', 'accepted', 'lag', 'version']) {
    holds(`${id} has a figure`, /\d/.test(await text(page, id)));
  }
  const { last } = await (await fetch(`${service.base}/v1/sweeps`)).json();
  const drawn = (await page.locator('.course.last').getAttribute('points')).split(' ');
  assert.equal(drawn.length, last.points.length);
  holds('the course has a tolerance', await page.locator('line.tolerance').count() === 1);
  assert.equal(await page.locator('#points tr').count(), last.points.length, 'the table has what the picture shows');
  holds('the picture is told in words', (await text(page, 'course')).includes('below the tolerance'));
}

/** From the top to the receipt without a pointer; what has the focus shows it. */
async function byKeyboard(page) {
  const focused = () => page.evaluate(() => {
    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return { id: document.activeElement.id, tag: document.activeElement.tagName, seen: outlineStyle !== 'none' && outlineWidth !== '0px' };
  });
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  assert.equal((await focused()).id, 'request', 'the first link leads to the look-up');
  await page.keyboard.type(REQUEST);
  await page.keyboard.press('Enter');
  await page.locator('#verdict.valid').waitFor();
  // Through everything once, opening what can be opened.
  await page.evaluate(() => document.querySelector('.skip').focus());
  for (;;) {
    const now = await focused();
    const isNew = await page.evaluate(() => {
      const { dataset, parentElement } = document.activeElement;
      return document.activeElement !== document.body && !dataset.met && (dataset.met = parentElement.open ? 'open' : 'closed');
    });
    if (!isNew) break;
    holds(`the focus is seen on ${now.tag} ${now.id}`, now.seen);
    if (now.tag === 'SUMMARY' && isNew === 'closed') await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
  }
  const missed = await page.evaluate(() => [...document.querySelectorAll('a, input, button, summary, [tabindex="0"]')]
    .filter((one) => one.checkVisibility() && !one.dataset.met).map((one) => one.outerHTML));
  assert.deepEqual(missed, [], 'everything can be reached');
  checks += 1;
}

async function theReceipt(page, service) {
  await page.locator('#verdict.valid').waitFor();
  holds('it says valid', (await text(page, 'says')) === 'Signature valid.');
  const stages = await page.locator('#line li.reached .name').allInnerTexts();
  assert.deepEqual(stages.slice(0, 4), ['accepted', 'erased', 'unlearned', 'published']);
  holds('with times between', /^\+ [\d.]+ (ms|s)$/.test(await page.locator('#line .took').nth(2).innerText()));
  holds('it names the request', (await text(page, 'facts')).includes(REQUEST));
  holds('it names the command', (await text(page, 'commands')).includes(`receipt verify '${REQUEST}'`));
  const answer = await fetch(`${service.base}/v1/receipts/${encodeURIComponent(REQUEST)}`);
  const bytes = Buffer.from(await answer.arrayBuffer());
  const to = join(service.directory, 'proof');
  service.do(['receipt', 'save', REQUEST, '--to', to]);
  // The topic may be a stage ahead of the answer; the page asks again.
  if (readFileSync(join(to, 'receipt.json')).equals(bytes)) {
    assert.equal(readFileSync(join(to, 'receipt.sig')).toString('base64'), answer.headers.get('nepenthe-signature'));
    checks += 1;
  }
}

const RECEIPTS = '**/v1/receipts/**';
const receipts = (change) => (page) => page.route(RECEIPTS, async (route) => {
  const response = await route.fetch();
  await route.fulfill({ response, ...await change(response) });
});
const keys = (change) => (page) => page.route('**/v1/keys', (route) => route.fetch()
  .then(async (response) => route.fulfill({ json: change(await response.json()) })));

const tampered = receipts(async (response) => (
  { body: (await response.text()).replace(/"interactions":(\d+)/, (_, n) => `"interactions":${Number(n) + 1}`) }));
const unsigned = receipts((response) => {
  const { 'nepenthe-signature': _, ...headers } = response.headers();
  return { headers };
});
const garbled = receipts((response) => ({ headers: { ...response.headers(), 'nepenthe-signature': '*no base64*' } }));
/** Another request's, with the signature that is its own. */
const swapped = (page) => page.route(RECEIPTS, async (route) => {
  const response = await route.fetch({ url: new URL('/v1/receipts/everything', route.request().url()).href });
  await route.fulfill({ response });
});
const withoutKeys = keys(() => ({ version: 1, keys: [] }));
const badKeys = keys(({ keys: all }) => ({ keys: all.map((key) => ({ ...key, public_key: '*no base64*' })) }));
const noKeys = keys(() => ({ title: 'somebody else answers' }));
const old = (page) => page.addInitScript(() => {
  crypto.subtle.importKey = () => Promise.reject(new DOMException('Unrecognized name.', 'NotSupportedError'));
});

async function verdicts(browser, service) {
  const plain = `http://page.test:${new URL(service.base).port}`;
  for (const [name, verdict, words, settings] of [
    ['tampered', 'invalid', 'Do not rely on it', { prepare: tampered }],
    ['swapped', 'invalid', 'It is a receipt of another request.', { prepare: swapped }],
    ['garbled signature', 'invalid', 'Do not rely on it', { prepare: garbled }],
    ['unsigned', 'unchecked', 'without a signature', { prepare: unsigned }],
    ['unknown key', 'unchecked', 'does not list', { prepare: withoutKeys }],
    ['garbled key', 'unchecked', 'is no Ed25519 key', { prepare: badKeys }],
    ['no list of keys', 'unchecked', 'does not tell its keys', { prepare: noKeys }],
    ['old browser', 'unchecked', 'does not know Ed25519', { prepare: old, colorScheme: 'dark' }],
    ['no TLS', 'unchecked', 'over TLS or from this machine', { base: plain }],
  ]) {
    const page = await open(browser, service, settings, link);
    await page.locator(`#verdict.${verdict}`).waitFor();
    holds(`${name}: why`, (await text(page, 'because')).includes(words));
    holds(`${name}: never valid`, await page.locator('#verdict.valid').count() === 0);
    holds(`${name}: the command`, (await text(page, 'commands')).includes('nepenthe receipt verify'));
    holds(`${name}: whose`, (await text(page, 'facts')).includes(name === 'swapped' ? 'everything' : REQUEST));
    if (['tampered', 'swapped', 'unknown key', 'old browser', 'no TLS'].includes(name)) await accessible(page, name);
    if (['tampered', 'swapped', 'no TLS'].includes(name)) await shoot(page, name.replace(' ', '-'));
    await close(page, name);
  }
}

/** What fails once is tried again, what never answers is given up, and no verdict outlives what it was about. */
async function again(browser, service) {
  let broken = true;
  const first = (pattern, what) => (page) => page.route(pattern, (route) => (broken ? what(route) : route.continue()));
  const valid = async (page, name) => {
    broken = false;
    await page.locator('#verdict.valid').waitFor();
    holds(`${name}: valid`, (await text(page, 'says')) === 'Signature valid.');
  };
  const unavailable = first('**/v1/keys', (route) => route.fulfill({ status: 503, body: 'no' }));
  const refused = await open(browser, service, { prepare: unavailable }, link);
  await refused.locator('#verdict.unchecked', { hasText: 'does not tell its keys' }).waitFor();
  await valid(refused, 'keys that come later');
  for (const [name, answer] of Object.entries({
    'a page of somebody else': { body: '<p>' }, 'no receipt': { body: 'null' }, 'a gateway': { status: 502, body: '<p>' },
  })) {
    broken = true;
    await first(RECEIPTS, (route) => route.fulfill(answer))(refused);
    await refused.locator('#absent', { hasText: 'no answer that can be read' }).waitFor();
    holds(`${name}: no verdict stays`, !await refused.locator('#verdict').isVisible());
    await valid(refused, name);
  }
  await leave(refused);
  broken = true;
  const silent = await open(browser, service, { prepare: first(/v1\/(receipts|keys)/, () => {}) }, link);
  await silent.locator('#absent', { hasText: 'gives no answer' }).waitFor();
  await valid(silent, 'a receipt that never came');
  await close(silent, 'silent');
}

const bounded = (page) => page.route('**/v1/status', async (route) => {
  const response = await route.fetch();
  const status = await response.json();
  status.certificate.gap = Math.abs(status.certificate.objective) * 2.5e-4;
  await route.fulfill({ response, json: status });
});

async function theGap(browser, service) {
  const page = await open(browser, service, { prepare: bounded });
  await page.locator('#gap', { hasText: '2.5 × 10⁻⁴ of the objective' }).waitFor();
  await close(page, 'gap');
}

/** Asked for before it is known, and never again: the page goes along with the request to its end. */
async function followed(browser, service) {
  const page = await open(browser, service, {}, '/#receipt=later');
  await page.locator('#absent', { hasText: 'no request of this id' }).waitFor();
  service.forget('later', '--user', 'u5');
  await until('the request is shown', () => page.locator('#verdict.valid').count());
  await until('and that it is purged', () => page.locator('#line li.reached', { hasText: 'purged' }).count());
  holds('still signed', await page.locator('#verdict.valid').count() === 1);
  await leave(page);
}

async function unknownAndAway(browser, service) {
  const page = await open(browser, service, {}, '/#receipt=nobody');
  await page.locator('#absent', { hasText: 'no request of this id' }).waitFor();
  await service.stop();
  await page.locator('#state.gone').waitFor();
  holds('figures of before are marked', await page.locator('body.stale').count() === 1);
  await leave(page);
}

async function everything(browser, service) {
  await service.learn();
  service.forget('everything', '--user', 'u3');
  const { item } = service.played.find(({ user }) => user === 'u4');
  service.forget(REQUEST, '--user', 'u4', '--item', item);
  const light = await open(browser, service, { colorScheme: 'light' });
  await figures(light, service);
  await byKeyboard(light);
  await theReceipt(light, service);
  await accessible(light, 'light');
  await fits(light, 'desktop');
  const dark = await open(browser, service, { colorScheme: 'dark', reducedMotion: 'reduce' }, link);
  await dark.locator('#verdict.valid').waitFor();
  await shoot(dark, 'dark');
  await accessible(dark, 'dark');
  await dark.evaluate(() => document.getElementById('work').classList.add('busy'));
  holds('nothing moves where motion is not wanted', await dark.evaluate(() => document.getAnimations().length) === 0);
  await close(dark, 'dark');
  const phone = await open(browser, service, { viewport: PHONE, deviceScaleFactor: 2, hasTouch: true, isMobile: true }, link);
  await phone.locator('#verdict.valid').waitFor();
  await shoot(phone, 'phone');
  await accessible(phone, 'phone');
  await fits(phone, 'phone');
  await close(phone, 'phone');
  const fresh = await open(browser, service, { colorScheme: 'light' }, link);
  await fresh.locator('#verdict.valid').waitFor();
  await shoot(fresh, 'light');
  await close(fresh, 'light');
  await verdicts(browser, service);
  await again(browser, service);
  await theGap(browser, service);
  await followed(browser, service);
  await close(light, 'the whole time');
  await unknownAndAway(browser, service);
}

const began = Date.now();
const service = new Service(process.env.NEPENTHE, positionals[0]);
let browser;
try {
  await service.start();
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    // A name that is not loopback: there browsers refuse to check signatures. That it leads to loopback all the same is no attack.
    // Playwright leaves Chromium's sandbox off, which root cannot have and many a container does not allow; it opens our own page only.
    args: ['--host-resolver-rules=MAP page.test 127.0.0.1', '--disable-features=LocalNetworkAccessChecks'],
  });
  await service.outlives(everything(browser, service));
  console.log(`${checks} checks in Chromium ${browser.version()}, ${((Date.now() - began) / 1000).toFixed(1)} s`);
} catch (error) {
  console.error(`nepenthe run said:\n${service.said()}`);
  throw error;
} finally {
  await browser?.close();
  service.remove();
}
