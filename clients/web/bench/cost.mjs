// What the client costs in a call with ten others, in a real Chromium.
//
// The main thread is the one that an application can't do without, so its processor time counts,
// as Chromium measures it for its tasks. In a call, three kinds of work take turns: nothing, calls
// of getStats(), and the client. Each makes a frame a second, for a good signal.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { buffer } from "node:stream/consumers";
import { decode } from "@msgpack/msgpack";
import { chromium } from "playwright-core";

const [executablePath, rounds = "5", seconds = "20"] = process.argv.slice(2);
const FLAGS = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-features=WebRtcHideLocalIpsWithMdns",
  "--disable-sync",
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
];
const WORK = ["nothing", "getStats", "callsight"];
/** A token as `callsight token sign` makes them has about so many bytes. */
const TOKEN = "t".repeat(180);
/** Frames a minute at the usual interval, after the first ten. */
const USUAL = 12;
/** The most that the client may use of a processor, in percent. */
const ALLOWED = 1;

const files = new Map([
  ["/", ["text/html", readFileSync(new URL("cost.html", import.meta.url))]],
  [
    "/callsight.js",
    ["text/javascript", readFileSync(new URL("../dist/callsight.js", import.meta.url))],
  ],
]);
const sent = { frames: 0, peers: 0, bytes: 0, headers: 0 };

const server = createServer(async (request, response) => {
  if (request.method === "POST") {
    const body = await buffer(request);
    response.writeHead(204).end();
    // The last frame of a call has no statistics.
    const { 6: ended, 11: peers } = decode(body);
    if (ended) return;
    sent.frames += 1;
    sent.bytes += body.length;
    sent.headers += request.rawHeaders.join("\r\n").length;
    sent.peers = peers.length;
    return;
  }
  const [type, text] = files.get(request.url) ?? ["text/plain", ""];
  response.writeHead(text ? 200 : 404, { "Content-Type": type }).end(text);
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${server.address().port}/`;

/** Processor time of the page's main thread, in milliseconds. */
async function busy(session) {
  const { metrics } = await session.send("Performance.getMetrics");
  return 1e3 * metrics.find(({ name }) => name === "TaskDuration").value;
}

/** A page of a call in which all media have come. */
async function open(browser, kind) {
  const page = await browser.newPage();
  await page.goto(url);
  await page.waitForFunction(() => globalThis.page);
  await page.evaluate(
    ([call, token]) => {
      globalThis.page.token = token;
      return globalThis.page.call(call);
    },
    [kind, TOKEN],
  );
  await page.waitForFunction(() => globalThis.page.complete(), { polling: 500 });
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  return { page, session };
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const row = (cells) => console.log(cells.map((cell) => String(cell).padStart(12)).join(""));

const browser = await chromium.launch({ executablePath, args: FLAGS });
try {
  row(["call", "work", "ms a second", "ms a frame", "% at 5 s", "bytes", "headers", "a minute"]);
  for (const kind of ["mesh", "server"]) {
    const { page, session } = await open(browser, kind);
    const times = { nothing: [], getStats: [], callsight: [] };
    Object.assign(sent, { frames: 0, bytes: 0, headers: 0 });
    for (let round = 0; round < Number(rounds); round += 1) {
      for (const work of WORK) {
        await page.evaluate((name) => globalThis.page.start(name), work);
        const [before, started] = [await busy(session), performance.now()];
        await new Promise((done) => setTimeout(done, 1e3 * Number(seconds)));
        const used = (await busy(session)) - before;
        times[work].push(used / ((performance.now() - started) / 1e3));
        await page.evaluate(() => globalThis.page.end());
      }
    }
    if (sent.peers !== 10) throw new Error(`a frame has ${sent.peers} peers`);
    const idle = median(times.nothing);
    for (const work of WORK) {
      const used = median(times[work]);
      // One frame a second, as in the first ten seconds of a call.
      const frame = used - idle;
      const share = (100 * frame * USUAL) / 60_000;
      if (share > ALLOWED) throw new Error(`${work} uses ${share} % of a processor`);
      const [bytes, headers] = [sent.bytes, sent.headers].map((sum) =>
        Math.round(sum / sent.frames),
      );
      const more = work === "callsight" ? [bytes, headers, (bytes + headers) * USUAL] : [];
      row([kind, work, used.toFixed(2), frame.toFixed(2), share.toFixed(3), ...more]);
    }
    await page.close();
  }
} finally {
  await browser.close();
  server.close();
}
