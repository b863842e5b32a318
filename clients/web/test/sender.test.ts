import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Sender, type Token } from "../src/sender.js";

/** The way in, with the answers that a test has written; then 204. */
function ingest(...answers: (Response | Error | "never")[]) {
  const seen: { frame: number; token: string; keepalive: boolean; at: number }[] = [];
  vi.stubGlobal("fetch", async (url: string, request: RequestInit) => {
    expect(url).toBe("https://health.example/v1/frames");
    const { Authorization } = request.headers as Record<string, string>;
    const frame = (request.body as Uint8Array)[0] as number;
    const token = Authorization?.slice("Bearer ".length) ?? "";
    seen.push({ frame, token, keepalive: request.keepalive === true, at: Date.now() });
    const answer = answers.shift() ?? new Response(null, { status: 204 });
    if (answer === "never") {
      return new Promise((_, fail) => {
        request.signal?.addEventListener("abort", () => fail(new Error("aborted")));
      });
    }
    if (answer instanceof Error) throw answer;
    return answer;
  });
  return seen;
}

function refusal(status: number, reason = "", headers = {}): Response {
  return new Response(JSON.stringify({ reason, detail: "do better" }), { status, headers });
}

const problems: string[] = [];

function sender(token: Token = "t", endpoint = "https://health.example/"): Sender {
  return new Sender(endpoint, token, (problem) => problems.push(problem));
}

function push(to: Sender, ...frames: number[]) {
  for (const frame of frames) to.push(new Uint8Array([frame]), false);
}

const frames = (seen: { frame: number }[]) => seen.map(({ frame }) => frame);

beforeEach(() => {
  vi.useFakeTimers();
  problems.length = 0;
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("a sender", () => {
  it("sends frames one after another, and leaves nothing behind", async () => {
    const seen = ingest();
    push(sender("t", "https://health.example/v1/frames"), 1, 2, 3);
    await vi.runAllTimersAsync();
    expect(frames(seen)).toEqual([1, 2, 3]);
    expect(seen[0]).toMatchObject({ token: "t", keepalive: false });
    expect(vi.getTimerCount()).toBe(0);
    expect(problems).toEqual([]);
  });

  it.each([
    [429, "participant"],
    [503, "buffer_full"],
    [503, "ack_late"],
    [502, ""],
    [400, "incomplete"],
  ])("sends the same frame again after %i %s, when Retry-After says", async (status, reason) => {
    const seen = ingest(refusal(status, reason, { "Retry-After": "7" }));
    push(sender(), 1, 2);
    await vi.runAllTimersAsync();
    expect(frames(seen)).toEqual([1, 1, 2]);
    const waited = (seen[1]?.at ?? 0) - (seen[0]?.at ?? 0);
    expect(waited).toBeGreaterThanOrEqual(7_000);
    expect(waited).toBeLessThanOrEqual(8_000);
  });

  it.each([
    [400, "out_of_range"],
    [401, "expired"],
    [403, "other_meeting"],
    [404, ""],
    [413, "too_large"],
    [415, "unsupported_type"],
    [503, "stream_rejected"],
  ])("gives a frame up after %i %s, and says why", async (status, reason) => {
    const seen = ingest(refusal(status, reason));
    push(sender(), 1, 2);
    await vi.runAllTimersAsync();
    expect(frames(seen)).toEqual([1, 2]);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(new RegExp(`${status} ${reason}: do better`));
  });

  it("waits longer from failure to failure, and begins anew after a success", async () => {
    const away = new TypeError("network");
    const seen = ingest(away, away, away, away, away, away, away);
    push(sender(), 1);
    await vi.runAllTimersAsync();
    expect(seen).toHaveLength(8);
    const waits = seen.slice(1).map(({ at }, before) => at - (seen[before]?.at ?? 0));
    for (const [at, most] of [1, 2, 4, 8, 16, 30, 30].entries()) {
      expect(waits[at]).toBeGreaterThanOrEqual(most * 500 - 1);
      expect(waits[at]).toBeLessThanOrEqual(most * 1000);
    }
  });

  it("gives up a request that is never answered, and sends the frame again", async () => {
    const seen = ingest("never");
    push(sender(), 1);
    await vi.runAllTimersAsync();
    expect(frames(seen)).toEqual([1, 1]);
  });

  it("keeps the newest sixty while nothing can be sent", async () => {
    const seen = ingest(refusal(503, "buffer_full", { "Retry-After": "60" }));
    const to = sender();
    push(to, ...Array.from({ length: 100 }, (_, at) => at));
    await vi.runAllTimersAsync();
    expect(frames(seen)).toEqual([0, ...Array.from({ length: 60 }, (_, at) => 40 + at)]);
  });

  it("renews a token that was refused, and sends the frame again", async () => {
    const seen = ingest(refusal(401, "expired"), refusal(401, "expired"));
    const tokens = ["old", "older", "new"];
    push(
      sender(async () => tokens.shift() ?? "none"),
      1,
      2,
    );
    await vi.runAllTimersAsync();
    expect(seen.map(({ frame, token }) => [frame, token])).toEqual([
      [1, "old"],
      [1, "older"],
      [1, "new"],
      [2, "new"],
    ]);
  });

  it("asks for a token again if none comes", async () => {
    const seen = ingest();
    const token = vi.fn(() => Promise.resolve("t")).mockRejectedValueOnce(new Error("no backend"));
    push(sender(token), 1);
    await vi.runAllTimersAsync();
    expect(frames(seen)).toEqual([1]);
    expect(problems[0]).toContain("no backend");
  });

  it.each([["never" as const], [refusal(503, "stopping", { "Retry-After": "60" })]])(
    "sends the last frame at once, in place of all that wait",
    async (answer) => {
      const seen = ingest(answer);
      const to = sender();
      push(to, 1, 2, 3);
      await vi.advanceTimersByTimeAsync(1);
      const last = to.last(new Uint8Array([9]));
      // Before anything else can happen: a page that goes runs no further.
      expect(frames(seen)).toEqual([1, 9]);
      expect(seen[1]?.keepalive).toBe(true);
      await last;
      expect(vi.getTimerCount()).toBe(0);
      await vi.runAllTimersAsync();
      expect(frames(seen)).toEqual([1, 9]);
    },
  );

  it("renews the token for the last frame, but waits for nothing", async () => {
    const seen = ingest(new Response(null, { status: 204 }), refusal(401), refusal(503));
    let number = 0;
    const to = sender(() => `t${++number}`);
    push(to, 1);
    await vi.runAllTimersAsync();
    await to.last(new Uint8Array([9]));
    expect(seen.map(({ token }) => token)).toEqual(["t1", "t1", "t2"]);
    expect(vi.getTimerCount()).toBe(0);
  });
});
