// What the judges in Node share: the emulator's controls, a server of the product for its webhooks, and the run of checks.
import assert from 'node:assert/strict';
import http from 'node:http';
import {createRequire} from 'node:module';
import path from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';

export const BASE = process.env.BASE_URL.replace(/\/$/, '');

// Packages are required from the folder NODE_MODULES names, or from where the judge is started.
export const required = createRequire(path.join(process.env.NODE_MODULES ?? process.cwd(), 'anchor.js'));

export async function control(method, where, body) {
  const answer = await fetch(`${BASE}/_emulator/${where}`, {method, body: body && JSON.stringify(body)});
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer.json();
}

// A server of the product: keeps body and headers of what it is sent, and answers what it was told to.
export async function receiver() {
  const [got, answers] = [[], []];
  const server = http.createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part)).on('end', () => {
      got.push({body: Buffer.concat(parts).toString(), headers: request.headers});
      response.writeHead(answers.shift() ?? 204).end();
    });
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  // Waits until the emulator has posted all it has, and takes what came.
  const take = async () => {
    for (let n = 0; n < 400 && (await control('GET', 'waiting')).deliveries > 0; n++) await sleep(50);
    return got.splice(0);
  };
  return {url: `http://127.0.0.1:${server.address().port}/hook`, answers, take, close: () => server.close()};
}

// Runs the checks in order; prints one line for each and exits with 1 at the first that fails.
export async function judge(checks) {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
    } catch (error) {
      console.log(`FAILED ${name}: ${error.stack}`);
      process.exit(1);
    }
    console.log(`ok ${name}`);
  }
  process.exit(0);
}
