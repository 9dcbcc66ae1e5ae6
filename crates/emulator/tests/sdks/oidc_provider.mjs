// A certified OpenID provider (npm: oidc-provider) on loopback, set up as strictly as it can be: PKCE with S256 required,
// refresh tokens rotated on every use, revocation (RFC 7009), its issuer named in the callback (RFC 9207). It is the
// other side of palisade-tests' binary `certified`, which starts it, drives its login and consent pages, and judges.
//
//   node oidc_provider.mjs <redirect URI of the client>
//
// Prints where it listens as JSON on its first line and ends when its standard input closes. `GET /counts` tells what it
// has seen.
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const { default: Provider } = await import(
  pathToFileURL(`${process.env.NODE_MODULES}/node_modules/oidc-provider/lib/index.js`)
);

const server = createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
const client = { client_id: 'palisade', client_secret: 'secret-of-a-certified-client-0123456789' };

const provider = new Provider(issuer, {
  clients: [{
    ...client,
    redirect_uris: [process.argv[2]],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'client_secret_basic',
  }],
  cookies: { keys: ['a key of the tests alone'] },
  features: { revocation: { enabled: true }, introspection: { enabled: true } },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: (_, known, code) => known.grantTypeAllowed('refresh_token') && code.scopes.has('offline_access'),
  ttl: { AccessToken: 3600, AuthorizationCode: 60, Grant: 86400, IdToken: 3600, Interaction: 600, RefreshToken: 86400, Session: 86400 },
});

const counts = { refreshed: 0, spent: 0, refused: {}, revoked_grants: 0 };
provider.on('refresh_token.consumed', () => { counts.spent += 1; });
provider.on('grant.revoked', () => { counts.revoked_grants += 1; });
provider.on('grant.success', (context) => { counts.refreshed += context.oidc.params.grant_type === 'refresh_token' ? 1 : 0; });
provider.on('grant.error', (_, error) => { counts.refused[error.error] = (counts.refused[error.error] ?? 0) + 1; });

// A connection that the hub keeps must not close under its next request.
server.keepAliveTimeout = 120_000;
const answer = provider.callback();
server.on('request', (request, response) => {
  if (request.url === '/counts') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(counts));
  } else {
    answer(request, response);
  }
});
console.log(JSON.stringify({ issuer, ...client }));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
