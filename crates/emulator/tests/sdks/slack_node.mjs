// Drives the official Node SDK (@slack/web-api 8.2), unpatched, against a running emulator.
//
// BASE_URL=http://127.0.0.1:PORT CLIENT_ID=… CLIENT_SECRET=… node slack_node.mjs
// Prints one line per check; exits with 1 at the first that fails. NODE_MODULES may name the folder that holds it.
import assert from 'node:assert/strict';

import {control, judge, required} from './judging.mjs';

const {ErrorCode, LogLevel, WebClient} = required('@slack/web-api');

const {BASE_URL, CLIENT_ID: ID, CLIENT_SECRET: SECRET} = process.env;
const BACK = 'http://127.0.0.1:9/slack/callback';
const SCOPES = 'chat:write,channels:read,channels:history,groups:read,groups:history,users:read,users:read.email';

const client = (token, options = {}) =>
  new WebClient(token, {slackApiUrl: `${BASE_URL}/api/`, retryConfig: {retries: 0}, logLevel: LogLevel.ERROR, ...options});

async function refused(work, word) {
  const error = await work().then(() => assert.fail(`expected ${word}`), (error) => error);
  assert.equal(error.code, ErrorCode.PlatformError, error.stack);
  assert.equal(error.data.error, word);
  return error;
}

async function install() {
  await control('POST', 'oauth', {
    client: {id: ID, secret: SECRET, name: 'SDK', redirect_uris: [BACK]}, dials: {consent: 'allow'},
  });
  const ask = new URL('/oauth/v2/authorize', BASE_URL);
  ask.search = new URLSearchParams({client_id: ID, scope: SCOPES, redirect_uri: BACK, state: 'state-1'});
  const answer = await fetch(ask, {redirect: 'manual'});
  assert.equal(answer.status, 302);
  const code = new URL(answer.headers.get('location')).searchParams.get('code');
  return client().oauth.v2.access({client_id: ID, client_secret: SECRET, code, redirect_uri: BACK});
}

const checks = {
  async rotation() {
    const reply = await install();
    assert.equal(reply.token_type, 'bot');
    assert.equal((await client(reply.access_token).auth.test()).team_id, reply.team.id);
    await control('POST', 'oauth', {expire: [reply.access_token]});
    await refused(() => client(reply.access_token).auth.test(), 'token_expired');
    const refresh = {client_id: ID, client_secret: SECRET, grant_type: 'refresh_token', refresh_token: reply.refresh_token};
    const fresh = await client().oauth.v2.access(refresh);
    assert.ok((await client(fresh.access_token).auth.test()).ok);
    await refused(() => client().oauth.v2.access(refresh), 'invalid_refresh_token');
  },
  async messages() {
    const api = client((await install()).access_token);
    const {channels} = await api.conversations.list({limit: 200});
    const channel = channels.find((one) => one.is_member).id;
    const posted = await api.chat.postMessage({channel, text: 'hi & <b>', blocks: [{type: 'divider'}]});
    assert.equal(posted.message.blocks[0].type, 'divider');
    await api.chat.update({channel, ts: posted.ts, text: 'changed'});
    const answer = await api.chat.postMessage({channel, text: 'answer', thread_ts: posted.ts});
    const replies = await api.conversations.replies({channel, ts: posted.ts});
    assert.deepEqual(replies.messages.map((one) => one.text), ['changed', 'answer']);
    await api.chat.delete({channel, ts: answer.ts});
    const at = Math.floor(Date.now() / 1000) + 3600;
    const waiting = await api.chat.scheduleMessage({channel, text: 'later', post_at: at});
    await api.chat.deleteScheduledMessage({channel, scheduled_message_id: waiting.scheduled_message_id});
    await refused(() => api.chat.postMessage({channel: 'C0', text: 'x'}), 'channel_not_found');
    await refused(() => api.users.list({cursor: 'nonsense'}), 'invalid_cursor');
    const error = await refused(() => api.team.info(), 'missing_scope');
    assert.equal(error.data.needed, 'team:read');
  },
  async pages() {
    const api = client((await install()).access_token);
    const ids = [];
    for await (const page of api.paginate('users.list', {limit: 7})) ids.push(...page.members.map((one) => one.id));
    assert.ok(new Set(ids).size === ids.length && ids.length >= 20, ids.length);
    const {channels} = await api.conversations.list({limit: 200});
    const channel = channels.find((one) => one.is_member).id;
    const stamps = [];
    for await (const page of api.paginate('conversations.history', {channel, limit: 5})) {
      stamps.push(...page.messages.map((one) => one.ts));
    }
    assert.deepEqual(stamps, [...new Set(stamps)].sort().reverse());
    assert.ok(stamps.length > 10);
  },
  async limits() {
    const {access_token: token} = await install();
    const throttled = {next: [{route: 'POST /api/auth.test', faults: [{throttle: {seconds: 1}}]}]};
    await control('POST', 'faults', throttled);
    const error = await client(token, {rejectRateLimitedCalls: true}).auth.test().catch((error) => error);
    assert.deepEqual([error.code, error.retryAfter], [ErrorCode.RateLimitedError, 1]);
    await control('POST', 'faults', throttled);
    assert.ok((await client(token, {retryConfig: {retries: 1}}).auth.test()).ok, 'it waits as it is told to');
    await control('POST', 'faults', {next: [{route: 'POST /api/auth.test', faults: [{status: 503}]}]});
    const failed = await client(token).auth.test().catch((error) => error);
    assert.ok([ErrorCode.HTTPError, ErrorCode.RequestError].includes(failed.code), failed.code);
  },
};

await control('POST', 'limits', {limits: false});
await control('POST', 'populate', {users: 20, channels: 5, private_channels: 1, messages_per_channel: 20});
await judge(checks);
