// Drives Google's API client for Node (@googleapis/gmail 18, @googleapis/calendar 16), unpatched, against a running emulator.
//
// BASE_URL=http://127.0.0.1:PORT CLIENT_ID=… CLIENT_SECRET=… node google_node.mjs
import assert from 'node:assert/strict';
import {Readable} from 'node:stream';
import {setTimeout as sleep} from 'node:timers/promises';

import {BASE, control, judge, receiver, required} from './judging.mjs';

const {gmail: gmailOf, auth} = required('@googleapis/gmail');
const {calendar: calendarOf} = required('@googleapis/calendar');

const {CLIENT_ID: ID, CLIENT_SECRET: SECRET} = process.env;
const BACK = 'http://127.0.0.1:9/google/callback';
const ADA = 'ada@example.com';
const SCOPES = ['https://mail.google.com/', 'https://www.googleapis.com/auth/calendar'];
const mine = {userId: 'me'};
const primary = {calendarId: 'primary'};

async function connected() {
  await control('POST', 'oauth', {
    client: {id: ID, secret: SECRET, name: 'SDK', redirect_uris: [BACK]}, dials: {consent: 'allow'},
  });
  const held = new auth.OAuth2({
    clientId: ID, clientSecret: SECRET, redirectUri: BACK, forceRefreshOnFailure: true,
    endpoints: {
      oauth2AuthBaseUrl: `${BASE}/o/oauth2/v2/auth`, oauth2TokenUrl: `${BASE}/token`, oauth2RevokeUrl: `${BASE}/revoke`,
      oauth2FederatedSignonPemCertsUrl: `${BASE}/oauth2/v1/certs`,
    },
  });
  const ask = held.generateAuthUrl({access_type: 'offline', prompt: 'consent', scope: SCOPES, state: 's'});
  const answer = await fetch(ask, {redirect: 'manual'});
  const back = new URL(answer.headers.get('location')).searchParams;
  const {tokens} = await held.getToken(back.get('code'));
  assert.ok(tokens.refresh_token, 'an offline grant');
  held.setCredentials(tokens);
  return held;
}

let held = await connected();
// Repeats are the checks' business.
const options = (auth) => ({version: 'v1', auth, rootUrl: `${BASE}/`, retry: false});
const mails = (who = held) => gmailOf(options(who)).users;
const dates = (who = held) => calendarOf({...options(who), version: 'v3'});

async function refused(work, status, reason) {
  const error = await work().then(() => assert.fail(`expected ${status} ${reason}`), (error) => error);
  assert.equal(Number(error.status ?? error.response?.status), status, error.message);
  assert.equal(error.response.data.error.errors[0].reason, reason, JSON.stringify(error.response.data));
  return error;
}

function encoded(subject, more = '', to = 'bob@elsewhere.example') {
  return Buffer.from(`To: ${to}\r\nSubject: ${subject}\r\n${more}\r\nx`).toString('base64url');
}

async function pages(list, first, field) {
  const rows = [];
  let [pageToken, answer] = [undefined, undefined];
  do {
    answer = (await list({...first, pageToken})).data;
    rows.push(...(answer[field] ?? []));
    pageToken = answer.nextPageToken;
  } while (pageToken);
  return [rows, answer];
}

function meeting(summary, more = {}) {
  return {summary, start: {dateTime: '2026-03-02T10:00:00Z'}, end: {dateTime: '2026-03-02T11:00:00Z'}, ...more};
}

const checks = {
  async refresh() {
    assert.equal((await mails().getProfile(mine)).data.emailAddress, ADA);
    const before = held.credentials.access_token;
    await control('POST', 'oauth', {expire: [before]});
    assert.equal((await mails().getProfile(mine)).data.emailAddress, ADA, 'refreshed after a 401');
    assert.notEqual(held.credentials.access_token, before);
    assert.ok(held.credentials.refresh_token, 'the refresh token stays');
    await control('POST', 'oauth', {revoke_all: true});
    const error = await mails().getProfile(mine).then(() => assert.fail('expected invalid_grant'), (error) => error);
    assert.match(JSON.stringify(error.response.data), /invalid_grant/);
    held = await connected();
  },
  async revocation() {
    const other = await connected();
    await other.revokeToken(other.credentials.refresh_token);
    await other.refreshAccessToken().then(() => assert.fail('it is revoked'), (error) => assert.match(error.message, /invalid_grant/));
    held = await connected();
  },
  async messages() {
    const api = mails().messages;
    const sent = (await api.send({...mine, requestBody: {raw: encoded('first')}})).data;
    assert.deepEqual([sent.labelIds, sent.threadId], [['SENT'], sent.id]);
    const shown = (await api.get({...mine, id: sent.id, format: 'metadata', metadataHeaders: ['Message-ID', 'From']})).data;
    const headers = Object.fromEntries(shown.payload.headers.map((row) => [row.name, row.value]));
    assert.equal(headers.From, ADA);
    const more = `In-Reply-To: ${headers['Message-ID']}\r\nReferences: ${headers['Message-ID']}\r\n`;
    const reply = (await api.send({...mine, requestBody: {raw: encoded('Re: first', more), threadId: sent.threadId}})).data;
    assert.equal(reply.threadId, sent.threadId);
    assert.equal((await api.list({...mine, q: 'in:sent subject:first'})).data.messages.length, 2);
    await refused(() => api.get({...mine, id: '0000000000000000'}), 404, 'notFound');
    await refused(() => api.send({...mine, requestBody: {raw: encoded('x', '', '').replace(/./, 'V')}}), 400, 'invalidArgument');
  },
  async uploads() {
    const text = Buffer.from(`To: ${ADA}\r\nSubject: with a file\r\n\r\n${'0123456789'.repeat(200_000)}`);
    const media = {mimeType: 'message/rfc822', body: Readable.from([text])};
    // Upload routes heed the root of the call only, not the client's.
    const sent = (await mails().messages.send({...mine, requestBody: {}, media}, {rootUrl: `${BASE}/`})).data;
    assert.ok(sent.labelIds.includes('INBOX'), JSON.stringify(sent));
    assert.ok((await mails().messages.get({...mine, id: sent.id})).data.sizeEstimate >= 2_000_000);
  },
  async lists() {
    await control('POST', 'populate', {email: ADA, messages: 23, events: 0});
    const api = mails().messages;
    const [rows] = await pages((ask) => api.list(ask), {...mine, maxResults: 7, includeSpamTrash: true}, 'messages');
    const ids = rows.map((row) => row.id);
    assert.equal(new Set(ids).size, ids.length);
    assert.ok(ids.length >= 23, ids.length);
    await api.modify({...mine, id: ids[0], requestBody: {addLabelIds: ['STARRED', 'IMPORTANT']}});
    const starred = (await api.list({...mine, labelIds: ['STARRED', 'IMPORTANT']})).data.messages;
    assert.deepEqual(starred.map((row) => row.id), [ids[0]], 'both labels are asked for');
    await api.delete({...mine, id: ids[1]});
    await refused(() => api.get({...mine, id: ids[1]}), 404, 'notFound');
  },
  async history() {
    const api = mails();
    const start = (await api.getProfile(mine)).data.historyId;
    await control('POST', 'mutate', {email: ADA, random: 40, seed: 5});
    const got = (await control('POST', 'receive', {to: ADA, subject: 'new'})).id;
    await api.messages.delete({...mine, id: got});
    const ask = {...mine, startHistoryId: start, maxResults: 3};
    const [rows, last] = await pages((one) => api.history.list(one), ask, 'history');
    const ids = rows.map((row) => Number(row.id));
    assert.deepEqual(ids, [...new Set(ids)].sort((a, b) => a - b));
    assert.ok(Number(last.historyId) >= ids.at(-1) && ids.length > 5);
    assert.equal(rows.at(-1).messagesDeleted[0].message.id, got);
    const only = {...mine, startHistoryId: start, historyTypes: ['messageAdded', 'messageDeleted']};
    const some = (await api.history.list(only)).data.history;
    assert.ok(some.every((row) => row.messagesAdded || row.messagesDeleted) && some.length < ids.length);
    await control('POST', 'forget', {email: ADA, history: true});
    await refused(() => api.history.list({...mine, startHistoryId: start}), 404, 'notFound');
  },
  async notifications() {
    const place = await receiver();
    const topicName = 'projects/p/topics/t';
    await control('POST', 'subscription', {
      name: 'projects/p/subscriptions/s', topic: topicName, url: place.url, audience: 'https://aud.example',
      email: 'push@p.iam.gserviceaccount.com',
    });
    const watch = (await mails().watch({...mine, requestBody: {topicName, labelIds: ['INBOX']}})).data;
    assert.ok(Number(watch.expiration) > Date.now());
    const [first] = await place.take();
    const ticket = await held.verifyIdToken({
      idToken: first.headers.authorization.replace('Bearer ', ''), audience: 'https://aud.example',
    });
    assert.equal(ticket.getPayload().email, 'push@p.iam.gserviceaccount.com');
    const data = JSON.parse(Buffer.from(JSON.parse(first.body).message.data, 'base64'));
    assert.deepEqual([data.emailAddress, data.historyId], [ADA, Number(watch.historyId)]);
    await mails().stop(mine);
    await sleep(1_100);
    await control('POST', 'receive', {to: ADA, subject: 'untold'});
    assert.deepEqual(await place.take(), []);

    const api = dates();
    const channel = {id: 'node-channel', type: 'web_hook', address: place.url, token: 't', params: {ttl: '3600'}};
    const opened = (await api.events.watch({...primary, requestBody: channel})).data;
    assert.ok(opened.resourceId);
    await refused(() => api.events.watch({...primary, requestBody: channel}), 400, 'channelIdNotUnique');
    await api.events.insert({...primary, requestBody: meeting('told')});
    const states = (await place.take()).map(({headers}) => [headers['x-goog-channel-id'], headers['x-goog-resource-state']]);
    assert.deepEqual(states, [['node-channel', 'sync'], ['node-channel', 'exists']]);
    await api.channels.stop({requestBody: {id: 'node-channel', resourceId: opened.resourceId}});
    place.close();
  },
  async events() {
    const api = dates().events;
    const made = (await api.insert({...primary, requestBody: meeting('mine', {id: 'node0'}), sendUpdates: 'all'})).data;
    assert.equal(made.status, 'confirmed');
    await refused(() => api.insert({...primary, requestBody: meeting('again', {id: 'node0'})}), 409, 'duplicate');
    const patched = (await api.patch({...primary, eventId: 'node0', requestBody: {location: 'here'}})).data;
    assert.deepEqual([patched.summary, patched.location], ['mine', 'here']);
    await api.delete({...primary, eventId: 'node0'});
    await refused(() => api.delete({...primary, eventId: 'node0'}), 410, 'deleted');
    await refused(() => api.list({calendarId: 'somebody@elsewhere.example'}), 404, 'notFound');
  },
  async syncTokens() {
    await control('POST', 'populate', {email: ADA, messages: 0, events: 23});
    const api = dates().events;
    const [rows, last] = await pages((ask) => api.list(ask), {...primary, maxResults: 7}, 'items');
    assert.ok(new Set(rows.map((row) => row.id)).size === rows.length && rows.length >= 23);
    const recurrence = ['RRULE:FREQ=DAILY;COUNT=3'];
    const series = (await api.insert({...primary, requestBody: meeting('series', {recurrence})})).data;
    const [, second] = (await api.instances({...primary, eventId: series.id})).data.items;
    await api.delete({...primary, eventId: second.id});
    const ask = {...primary, syncToken: last.nextSyncToken, maxResults: 1};
    const [changed, next] = await pages((one) => api.list(one), ask, 'items');
    const states = Object.fromEntries(changed.map((row) => [row.id, row.status]));
    assert.deepEqual(states, {[series.id]: 'confirmed', [second.id]: 'cancelled'});
    await control('POST', 'forget', {email: ADA, sync_tokens: true});
    await refused(() => api.list({...primary, syncToken: next.nextSyncToken}), 410, 'fullSyncRequired');
  },
  async quotas() {
    const route = 'GET /gmail/v1/users/{user}/profile';
    const fault = (...faults) => control('POST', 'faults', {next: [{route, faults}]});
    // Any 403 is taken for an old token first: refreshed, and asked once more.
    await fault({refuse: 'rateLimitExceeded'}, {refuse: 'rateLimitExceeded'});
    await refused(() => mails().getProfile(mine), 403, 'rateLimitExceeded');
    await fault({throttle: 'none'}, {status: 503});
    const patient = gmailOf({...options(held), retry: true});
    assert.equal((await patient.users.getProfile(mine)).data.emailAddress, ADA, '429 and 503 are tried again');
  },
};

await control('POST', 'limits', {limits: false});
await judge(checks);
