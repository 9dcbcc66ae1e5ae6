// Judges what a hub forwards with the official library of Standard Webhooks for Node, as a receiver uses it.
//
// HUB=http://127.0.0.1:PORT TOKEN=… NODE_MODULES=… node forwarded.mjs
// Prints one line per check; exits with 1 at the first that fails.

import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.NODE_MODULES, "index.js"));
const { Webhook } = require("standardwebhooks");
const { HUB, TOKEN } = process.env;
const came = [];

const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    came.push([Buffer.concat(parts).toString(), request.headers]);
    response.writeHead(204).end();
  });
});
await new Promise((started) => server.listen(0, "127.0.0.1", started));
const url = `http://127.0.0.1:${server.address().port}/hooks`;

async function ask(method, at, body) {
  const headers = { authorization: `Bearer ${TOKEN}` };
  const answer = await fetch(`${HUB}/api/v1/destinations${at}`, { method, headers, body: body && JSON.stringify(body) });
  return [answer.status, await answer.json()];
}

function verifies(secret, body, headers) {
  try {
    return new Webhook(secret).verify(body, headers).type === "palisade.test";
  } catch {
    return false;
  }
}

function check(name, holds) {
  if (!holds) {
    console.log(`FAILED ${name}`);
    process.exit(1);
  }
  console.log(`ok ${name}`);
}

const [status, made] = await ask("POST", "", { name: "judged-by-node", url, allow_private: true, allow_http: true });
check("a destination is made", status === 201);
check("a trial arrives", (await ask("POST", "/judged-by-node/test"))[1].delivered);
let [body, headers] = came.pop();
check("the library verifies what is forwarded", verifies(made.secret, body, headers));
check("and not when the body was changed", !verifies(made.secret, `${body} `, headers));
const [, rotated] = await ask("POST", "/judged-by-node/rotate");
check("a trial arrives after its key was replaced", (await ask("POST", "/judged-by-node/test"))[1].delivered);
[body, headers] = came.pop();
check("both keys verify while they overlap", verifies(made.secret, body, headers) && verifies(rotated.secret, body, headers));
server.close();
