// A service with a past: what the page is looked at over.
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PATIENCE = 60_000; // milliseconds, of a busy machine

export async function until(what, look) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${PATIENCE / 1000} s`);
    await new Promise((resume) => setTimeout(resume, 50));
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const listener = createServer().once('error', reject).listen(0, '127.0.0.1', () => {
      const { port } = listener.address();
      listener.close(() => resolve(port));
    });
  });
}

/** Two hundred people with two tastes, forty things. */
function plays() {
  const lines = [];
  for (let user = 0; user < 200; user++) {
    for (let item = 0; item < 40; item++) {
      const draw = Math.abs(Math.imul(user * 7919 + item * 104_729, 2_654_435_761)) % 100;
      if (draw < (user % 2 === item % 2 ? 30 : 6)) {
        const [value, time] = [1 + draw % 4, item * 1000];
        lines.push(JSON.stringify({ user: `u${user}`, item: `i${item}`, event_id: `${user}-${item}`, value, time }));
      }
    }
  }
  return lines;
}

export class Service {
  constructor(binary, brokers) {
    [this.binary, this.brokers] = [binary, brokers];
    this.directory = mkdtempSync(join(tmpdir(), 'nepenthe-page.'));
    this.log = join(this.directory, 'log');
    // However this process ends, it leaves nothing behind; `exit` is what everything but SIGKILL comes to.
    process.once('exit', () => this.remove());
    for (const [name, number] of [['SIGHUP', 1], ['SIGINT', 2], ['SIGTERM', 15]]) process.once(name, () => process.exit(128 + number));
  }

  async start() {
    this.address = `127.0.0.1:${await freePort()}`;
    this.base = `http://${this.address}`;
    const settings = {
      'kafka.brokers': this.brokers, 'kafka.group': 'page', 'http.listen': this.address, 'store.path': join(this.directory, 'state'),
      'log.level': 'warn', 'model.rank': 16, 'model.regularization': 25, 'model.regularization_exp': 0,
      'generation.max_delay': '300ms', 'generation.forget_delay': '0ms',
      // A request stays published for a while, and then the page shows by itself that it is purged.
      'store.purge_interval': '3s', 'topics.purge_proof': 'none',
    };
    this.settings = Object.entries(settings).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
    this.do(['topics']);
    const words = openSync(this.log, 'w');
    this.child = spawn(this.binary, ['run', ...this.settings], { stdio: ['ignore', words, words] });
    closeSync(words);
    this.died = new Promise((_, reject) => {
      const ended = (how) => this.stopping || reject(new Error(`nepenthe run ended: ${how}`));
      this.child.once('error', ended).once('exit', (code, signal) => ended(signal ?? `exit code ${code}`));
    });
    await this.outlives(until('the page', () => this.status().then(() => true, () => false)));
  }

  /** What `work` answers; fails at once when the service ends before. */
  outlives(work) {
    return Promise.race([work, this.died]);
  }

  /** One command, to its end. */
  do([command, ...rest], input) {
    const done = spawnSync(this.binary, [command, ...this.settings, ...rest], { input, encoding: 'utf8' });
    if (done.status !== 0) throw new Error(`nepenthe ${command} ${rest.join(' ')}: ${done.error ?? done.stderr}`);
    return done.stdout;
  }

  async status() {
    return (await fetch(`${this.base}/v1/status`)).json();
  }

  async learn() {
    const lines = plays();
    this.do(['send', '-', '--format', 'jsonl'], `${lines.join('\n')}\n`);
    await until('a first generation', async () => {
      const status = await this.status();
      return status.generation && status.phase === 'idle' && status.ready && status.counts.users === 200;
    });
    this.played = lines.map((line) => JSON.parse(line));
  }

  forget(id, ...selected) {
    return JSON.parse(this.do(['forget', '--request-id', id, ...selected, '--wait', 'published', '--timeout', '60s']));
  }

  said() {
    return existsSync(this.log) ? readFileSync(this.log, 'utf8').slice(-4000) : 'nothing: it was not started';
  }

  async stop() {
    this.stopping = true;
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill('SIGTERM');
    await ended;
  }

  remove() {
    this.stopping = true;
    // Nothing to do where it has ended.
    this.child?.kill('SIGKILL');
    rmSync(this.directory, { recursive: true, force: true });
  }
}
