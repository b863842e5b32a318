// The backend of the example: it lets people into calls, signs their tokens, and carries the
// messages by which their pages find each other. It sees neither media nor health frames.
import { createHmac, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { json } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

const { PORT = "8080", CALL_KEY = "call.key", INGEST = "http://127.0.0.1:9475" } = process.env;
const secret = readFileSync(CALL_KEY, "utf8").trim();

const FILES = {
  "/": ["text/html", new URL("page/index.html", import.meta.url)],
  "/call.js": ["text/javascript", new URL("page/call.js", import.meta.url)],
  "/callsight.js": ["text/javascript", import.meta.resolve("callsight/callsight.js")],
};

/** Who is in which call, by a key that only their page knows; `stream` is open to that page. */
const people = new Map();

/** What `callsight ingest` wants to know of a participant, signed. */
function tokenFor({ meetingId, peerId }) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const claims = { meeting_id: meetingId, peer_id: peerId, exp };
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

/** The others in the call, whose pages listen. */
const othersOf = ({ meetingId, peerId }) =>
  [...people.values()].filter(
    (one) => one.stream && one.meetingId === meetingId && one.peerId !== peerId,
  );

const say = ({ stream }, message) => stream?.write(`data: ${JSON.stringify(message)}\n\n`);

/** Lets a page into a call. A real service asks who it is. */
function join({ meetingId, name }) {
  const key = randomUUID();
  // Ids become labels that people read: see docs/browser.md on opaque ones.
  const peerId = `${name}-${key.slice(0, 4)}`;
  people.set(key, { meetingId, peerId });
  return { key, meetingId, peerId, endpoint: INGEST };
}

/** Opens the stream of messages to a page. It ends when the page goes. */
function listen(key, person, response) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  person.stream = response;
  say(person, { here: othersOf(person).map(({ peerId }) => peerId) });
  response.on("close", () => {
    people.delete(key);
    for (const other of othersOf(person)) say(other, { left: person.peerId });
  });
}

/** Passes a message on, to one participant or to all. */
function pass(person, { to, ...message }) {
  const receivers = othersOf(person).filter(({ peerId }) => to === undefined || peerId === to);
  for (const other of receivers) say(other, { ...message, from: person.peerId });
}

async function answer(request, response) {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  const file = request.method === "GET" && FILES[pathname];
  if (file) {
    response.writeHead(200, { "Content-Type": file[0] });
    return response.end(readFileSync(fileURLToPath(file[1])));
  }
  if (pathname === "/join") return response.end(JSON.stringify(join(await json(request))));
  const key = searchParams.get("key");
  const person = people.get(key);
  if (!person) return response.writeHead(403).end("join first");
  if (pathname === "/messages") return listen(key, person, response);
  if (pathname === "/token") return response.end(tokenFor(person));
  if (pathname === "/say") pass(person, await json(request));
  response.writeHead(204).end();
}

createServer((request, response) => {
  answer(request, response).catch((error) => response.writeHead(400).end(`${error}`));
}).listen(Number(PORT), "127.0.0.1", function listening() {
  console.log(`http://localhost:${this.address().port}/`);
});
