// Drives the official Node SDK (@sendgrid/mail and @sendgrid/client 8.1, @sendgrid/eventwebhook 8.0), unpatched, against a
// running emulator.
//
// BASE_URL=http://127.0.0.1:PORT API_KEY=SG.… PUBLIC_KEY=… node sendgrid_node.mjs
import assert from 'node:assert/strict';

import {BASE, control, judge, receiver, required} from './judging.mjs';

const {MailService} = required('@sendgrid/mail');
const {Client} = required('@sendgrid/client');
const {EventWebhook, EventWebhookHeader} = required('@sendgrid/eventwebhook');

const {API_KEY: KEY, PUBLIC_KEY: PUBLIC} = process.env;
const LISTS = ['bounces', 'blocks', 'spam_reports', 'unsubscribes', 'invalid_emails'];

function client(key = KEY) {
  const made = new Client();
  made.setApiKey(key);
  made.setDefaultRequest('baseUrl', BASE);
  return made;
}

function mailer(key = KEY) {
  const made = new MailService();
  made.setClient(client(key));
  return made;
}

function simple(to = 'b@example.com', more = {}) {
  return {from: 'a@example.com', to, subject: 's', text: 't', ...more};
}

async function refused(work, status, field) {
  const error = await work().then(() => assert.fail(`expected ${status}`), (error) => error);
  assert.equal(error.code, status, error.message);
  if (field !== undefined) assert.equal(error.response.body.errors[0].field, field);
  return error;
}

async function ask(method, url, more = {}) {
  const [answer, body] = await client().request({method, url, ...more});
  return {status: answer.statusCode, headers: answer.headers, body};
}

const checks = {
  async mail() {
    const [answer] = await mailer().send(simple());
    assert.equal(answer.statusCode, 202);
    assert.ok(answer.headers['x-message-id']);
    const [rich] = await mailer().send({
      from: {email: 'a@example.com', name: 'Ada'},
      subject: 'Grüße',
      text: 't',
      html: '<b>t</b>',
      personalizations: ['b', 'c'].map((name) => ({to: `${name}@example.com`, dynamicTemplateData: {name}})),
      templateId: 'd-0123456789abcdef0123456789abcdef',
      attachments: [{content: Buffer.from('%PDF-').toString('base64'), filename: 'a.pdf', type: 'application/pdf'}],
      categories: ['orders'],
      customArgs: {order: '18'},
    });
    const stored = (await control('GET', 'mails')).at(-1);
    assert.equal(stored.id, rich.headers['x-message-id']);
    assert.deepEqual(stored.body.personalizations.map((one) => one.to[0].email), ['b@example.com', 'c@example.com']);
    assert.equal(stored.body.personalizations[1].dynamic_template_data.name, 'c');
    assert.equal(stored.body.attachments[0].content, 'JVBERi0=');
    // Each of many is a mail of its own.
    const before = (await control('GET', 'mails')).length;
    await mailer().sendMultiple(simple(['d@example.com', 'e@example.com']));
    const [many] = (await control('GET', 'mails')).slice(before);
    assert.equal(many.body.personalizations.length, 2);
    const [checked] = await mailer().send(simple('b@example.com', {mailSettings: {sandboxMode: {enable: true}}}));
    assert.equal(checked.statusCode, 200);
    assert.equal((await control('GET', 'mails')).length, before + 1, 'nothing was sent');
  },
  async errors() {
    await refused(() => mailer('SG.wrong').send(simple()), 401);
    await refused(() => ask('GET', '/v3/nothing'), 404);
    const wrong = await refused(() => mailer().send(simple('b@example.com', {from: 'nobody'})), 400, 'from.email');
    assert.match(wrong.response.body.errors[0].message, /valid address/);
    const many = Array.from({length: 1001}, (_, at) => `p${at}@example.com`);
    await refused(() => mailer().send(simple(many)), 400, 'personalizations');
    const faults = [{status: 413}, {status: 500}, {status: 503}, {throttle: {seconds: 1}}];
    await control('POST', 'faults', {next: [{route: 'POST /v3/mail/send', faults}]});
    for (const status of [413, 500, 503]) await refused(() => mailer().send(simple()), status);
    const throttled = await refused(() => mailer().send(simple()), 429);
    assert.equal(throttled.response.headers['retry-after'], '1');
  },
  async lists() {
    for (const name of LISTS) {
      await control('POST', 'populate', {list: name, addresses: 23});
      const url = `/v3/suppression/${name}`;
      const rows = [];
      for (;;) {
        const page = (await ask('GET', url, {qs: {limit: 7, offset: rows.length}})).body;
        rows.push(...page);
        if (page.length < 7) break;
      }
      const emails = rows.map((row) => row.email);
      assert.equal(new Set(emails).size, emails.length, name);
      assert.ok(emails.length >= 23, `${name}: ${emails.length}`);
      const one = name === 'unsubscribes' ? `/v3/asm/suppressions/global/${emails[0]}` : `${url}/${emails[0]}`;
      const shown = (await ask('GET', one)).body;
      assert.equal(name === 'unsubscribes' ? shown.recipient_email : shown[0].email, emails[0]);
      assert.equal((await ask('DELETE', one)).status, 204);
      await refused(() => ask('DELETE', one), 404);
    }
    assert.equal((await ask('DELETE', '/v3/suppression/bounces', {body: {delete_all: true}})).status, 204);
    assert.deepEqual((await ask('GET', '/v3/suppression/bounces')).body, []);
    const added = await ask('POST', '/v3/asm/suppressions/global', {body: {recipient_emails: ['n@example.com']}});
    assert.equal(added.status, 201);
  },
  async limits() {
    await control('POST', 'limits', {requests: 2, period: {secs: 3600, nanos: 0}});
    for (const left of ['1', '0']) {
      const {headers} = await ask('GET', '/v3/scopes');
      assert.deepEqual([headers['x-ratelimit-limit'], headers['x-ratelimit-remaining']], ['2', left]);
    }
    await refused(() => ask('GET', '/v3/scopes'), 429);
    await control('POST', 'limits', {});
    assert.ok((await ask('GET', '/v3/scopes')).body.scopes.includes('mail.send'));
  },
  async events() {
    const place = await receiver();
    await control('POST', 'endpoints', {event_url: place.url});
    place.answers.push(500);
    const recipients = ['new@example.com', 'bounce+1@example.com', 'click@example.com'];
    for (const to of recipients) await mailer().send(simple(to));
    const got = await place.take();
    assert.equal(got.length, 4, 'one was tried again');
    const verifier = new EventWebhook();
    const key = verifier.convertPublicKeyToECDSA(PUBLIC);
    const verifies = (body, headers) =>
      verifier.verifySignature(
        key, body, headers[EventWebhookHeader.SIGNATURE().toLowerCase()], headers[EventWebhookHeader.TIMESTAMP().toLowerCase()],
      );
    for (const {body, headers} of got) {
      assert.ok(verifies(body, headers));
      assert.ok(!verifies(body.trimEnd(), headers) && !verifies(body.replace('example', 'exbmple'), headers));
    }
    const told = new Map(got.flatMap(({body}) => JSON.parse(body)).map((event) => [event.sg_event_id, event]));
    assert.equal(told.size, 2 + 2 + 3);
    assert.deepEqual(new Set([...told.values()].map((event) => event.event)), new Set(['processed', 'delivered', 'bounce', 'click']));
    await control('POST', 'endpoints', {});
    place.close();
  },
};

await judge(checks);
