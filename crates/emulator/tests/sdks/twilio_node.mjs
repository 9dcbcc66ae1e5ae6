// Drives the official Node SDK (twilio 6.2), unpatched, against a running emulator.
//
// BASE_URL=http://127.0.0.1:PORT ACCOUNT_SID=… AUTH_TOKEN=… API_KEY_SID=… API_KEY_SECRET=… node twilio_node.mjs
// Prints one line per check; exits with 1 at the first that fails. NODE_MODULES may name the folder that holds `twilio`.
import assert from 'node:assert/strict';
import http from 'node:http';
import {setTimeout as sleep} from 'node:timers/promises';

import {control, judge, required} from './judging.mjs';

const twilio = required('twilio');

const {BASE_URL, ACCOUNT_SID: ACCOUNT, AUTH_TOKEN: TOKEN, API_KEY_SID: KEY, API_KEY_SECRET: SECRET} = process.env;
const [TO, SENDER, SERVICE] = ['+15005550010', '+15005550006', 'MG00000000000000000000000000000000'];
const LIST = 'GET /2010-04-01/Accounts/{sid}/Messages.json';

function client(user = ACCOUNT, secret = TOKEN, options = {}) {
  const made = twilio(user, secret, {accountSid: ACCOUNT, ...options});
  made.api.baseUrl = BASE_URL;
  return made;
}

async function refused(work, status, code) {
  const error = await work().then(() => assert.fail(`expected ${code}`), (error) => error);
  assert.deepEqual([error.status, error.code], [status, code], error.message);
  return error;
}

async function receiver() {
  const got = [];
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (part) => (body += part)).on('end', () => {
      got.push({form: Object.fromEntries(new URLSearchParams(body)), headers: request.headers});
      response.writeHead(204).end();
    });
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const take = async () => {
    for (let n = 0; n < 400 && (await control('GET', 'waiting')).deliveries > 0; n++) await sleep(50);
    return got.splice(0);
  };
  return {url: `http://127.0.0.1:${server.address().port}/hook?a=1`, take, close: () => server.close()};
}

const checks = {
  async messages() {
    const api = client();
    const made = await api.messages.create({to: TO, from: SENDER, body: 'hi'});
    assert.deepEqual([made.status, made.direction, made.dateSent], ['queued', 'outbound-api', null]);
    const read = await api.messages(made.sid).fetch();
    assert.equal(read.status, 'delivered');
    assert.ok(Math.abs(Date.now() - read.dateSent) < 60_000, read.dateSent);
    assert.equal((await api.messages(made.sid).update({body: ''})).body, '');
    assert.equal(await api.messages(made.sid).remove(), true);
    await refused(() => api.messages(made.sid).fetch(), 404, 20404);
    const other = await client(KEY, SECRET).messages.create({to: TO, messagingServiceSid: SERVICE, body: 'hi'});
    assert.deepEqual([other.status, other.from], ['accepted', null]);
  },
  async pages() {
    await control('POST', 'populate', {messages: 60});
    const api = client();
    const since = {dateSentAfter: new Date('2026-01-01T00:00:00Z')};
    const sids = (await api.messages.list({...since, pageSize: 1000})).map((row) => row.sid);
    assert.ok(new Set(sids).size === sids.length && sids.length >= 60, sids.length);
    for (const pageSize of [7, 50]) {
      assert.deepEqual((await api.messages.list({...since, pageSize})).map((row) => row.sid), sids);
    }
    const page = await api.messages.page({pageSize: 5});
    const next = await page.nextPage();
    assert.deepEqual([...page.instances, ...next.instances].map((row) => row.sid), sids.slice(0, 10));
  },
  async errors() {
    const api = client();
    const said = await refused(() => api.messages.create({to: 'bad', from: SENDER, body: 'x'}), 400, 21211);
    assert.match(said.message, /not a valid phone number/);
    await refused(() => api.messages.create({to: TO, from: SENDER, body: 'x'.repeat(1601)}), 400, 21617);
    await refused(() => client(ACCOUNT, 'wrong').messages.list(), 401, 20003);
  },
  async retries() {
    const throttled = {next: [{route: LIST, faults: [{throttle: {seconds: 1}}]}]};
    await control('POST', 'faults', throttled);
    await refused(() => client().messages.list({limit: 1}), 429, 20429);
    await control('POST', 'faults', throttled);
    assert.equal((await client(ACCOUNT, TOKEN, {autoRetry: true}).messages.list({limit: 1})).length, 1);
  },
  async webhooks() {
    const place = await receiver();
    const made = await client().messages.create({to: TO, from: SENDER, body: 'hi', statusCallback: place.url});
    await control('POST', 'inbound', {url: place.url});
    await control('POST', 'receive', {from: TO, to: SENDER, body: 'Grüße & mehr = 1+1'});
    await control('POST', 'inbound', {});
    const got = await place.take();
    place.close();
    assert.equal(got.length, 5);
    const told = got.filter(({form}) => form.MessageSid === made.sid).map(({form}) => form.MessageStatus);
    assert.deepEqual(told.sort(), ['delivered', 'queued', 'sending', 'sent'], 'callbacks keep no order');
    for (const {form, headers} of got) {
      const signature = headers['x-twilio-signature'];
      assert.ok(twilio.validateRequest(TOKEN, signature, place.url, form));
      assert.ok(!twilio.validateRequest('wrong', signature, place.url, form));
      assert.ok(!twilio.validateRequest(TOKEN, signature, place.url, {...form, From: '+1'}));
    }
  },
};

await judge(checks);
