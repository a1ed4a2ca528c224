// A service with a past: what the page is looked at over.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
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
  static async start(binary, brokers) {
    const service = new Service();
    service.binary = binary;
    service.directory = mkdtempSync(join(tmpdir(), 'nepenthe-page.'));
    service.address = `127.0.0.1:${await freePort()}`;
    service.base = `http://${service.address}`;
    const settings = {
      'kafka.brokers': brokers, 'kafka.group': 'page', 'http.listen': service.address, 'store.path': join(service.directory, 'state'),
      'log.level': 'warn', 'model.rank': 16, 'model.regularization': 25, 'model.regularization_exp': 0,
      'generation.max_delay': '300ms', 'generation.forget_delay': '0ms',
      // A request stays published for a while, and then the page shows by itself that it is purged.
      'store.purge_interval': '3s', 'topics.purge_proof': 'none',
    };
    service.settings = Object.entries(settings).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
    service.do(['topics']);
    service.log = join(service.directory, 'log');
    const words = openSync(service.log, 'w');
    service.child = spawn(binary, ['run', ...service.settings], { stdio: ['ignore', words, words] });
    await until('the page', () => service.status().then(() => true, () => false));
    return service;
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
    return readFileSync(this.log, 'utf8').slice(-4000);
  }

  async stop() {
    if (!this.child) return;
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill('SIGTERM');
    await ended;
    this.child = null;
  }

  remove() {
    this.child?.kill('SIGKILL');
    rmSync(this.directory, { recursive: true, force: true });
  }
}
