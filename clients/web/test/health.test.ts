import { decode } from "@msgpack/msgpack";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { FRAME, type Frame } from "../src/frame.js";
import { CallHealth, type CallHealthOptions } from "../src/health.js";
import type { Stat } from "../src/mapping.js";
import { json } from "./vectors.js";

/** A connection whose state and statistics a test sets; what they say is Chromium's. */
class Connection extends EventTarget {
  connectionState = "new";
  iceConnectionState = "new";
  signalingState = "stable";
  localDescription: { sdp: string } | undefined;
  stats = json<[Stat[]]>("clients/web/test/fixtures/chromium.json")[0];
  readonly listeners = new Set<unknown>();

  become(state: string, ice = state) {
    this.iceConnectionState = ice;
    this.dispatchEvent(new Event("iceconnectionstatechange"));
    this.connectionState = state;
    this.dispatchEvent(new Event("connectionstatechange"));
  }

  describe(fragment: string) {
    this.localDescription = { sdp: `v=0\r\na=ice-ufrag:${fragment}\r\n` };
    this.dispatchEvent(new Event("signalingstatechange"));
  }

  override addEventListener(type: string, listener: () => void, options: { signal: AbortSignal }) {
    super.addEventListener(type, listener, options);
    this.listeners.add(listener);
    options.signal.addEventListener("abort", () => this.listeners.delete(listener));
  }

  getReceivers() {
    const inbound = this.stats.filter(({ type }) => type === "inbound-rtp");
    return inbound.map(({ trackIdentifier, kind }) => ({ track: track(trackIdentifier, kind) }));
  }

  getTransceivers() {
    return [
      { mid: "0", currentDirection: "sendrecv", sender: { track: track("own mic", "audio") } },
      { mid: "1", currentDirection: "recvonly", sender: { track: track("own cam", "video") } },
      { mid: null, currentDirection: null, sender: { track: null } },
    ];
  }

  async getStats() {
    return this.stats;
  }
}

function track(id: string, kind: string) {
  return { id, kind, enabled: true, readyState: "live", getSettings: () => ({}) };
}

const pages = {
  document: new EventTarget() as EventTarget & { hidden: boolean },
  window: new EventTarget(),
};
let sent: Frame[] = [];
let keptAlive: boolean[] = [];
let problems: string[] = [];

function start(more: Partial<CallHealthOptions> = {}) {
  return new CallHealth({
    endpoint: "https://health.example",
    token: "t",
    meetingId: "standup",
    peerId: "ana",
    server: { url: "https://sfu.example" },
    app: "web-2.14.0",
    onError: (problem) => problems.push(problem),
    ...more,
  });
}

function connect(health: CallHealth, peerOf: (track: MediaStreamTrack) => string | null) {
  const pc = new Connection();
  health.watch(pc as unknown as RTCPeerConnection, { peerOf });
  return pc;
}

/** The keys of a compact frame that tests look at. */
function read(bytes: Uint8Array): Frame {
  const row = decode(bytes) as unknown[];
  const keys = FRAME.map((at) => (typeof at === "string" ? at : at[0]));
  return Object.fromEntries(keys.map((key, at) => [key, row[at] ?? undefined])) as unknown as Frame;
}

beforeEach(() => {
  vi.useFakeTimers();
  [sent, keptAlive, problems] = [[], [], []];
  pages.document = Object.assign(new EventTarget(), { hidden: false });
  pages.window = new EventTarget();
  vi.stubGlobal("document", pages.document);
  vi.stubGlobal("window", pages.window);
  vi.stubGlobal("fetch", async (_: string, { body, keepalive }: RequestInit) => {
    sent.push(read(body as Uint8Array));
    keptAlive.push(keepalive === true);
    return new Response(null, { status: 204 });
  });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("a call", () => {
  it("reports each second at first, then every five, until it ends", async () => {
    const health = start();
    const pc = connect(health, () => "bo");
    await vi.advanceTimersByTimeAsync(9_500);
    expect(sent).toHaveLength(10);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(sent).toHaveLength(13);
    expect(sent.map(({ seq }) => seq)).toEqual(sent.map((_, at) => at + 1));
    await health.end();
    expect(sent).toHaveLength(14);
    expect(sent.at(-1)).toMatchObject({ seq: 14, ended: true, peers: sent.at(-2)?.peers });
    expect(keptAlive.at(-1)).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
    expect(pc.listeners.size).toBe(0);
    health.watch(pc as unknown as RTCPeerConnection);
    health.join();
    await health.end();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sent).toHaveLength(14);
    expect(problems).toEqual([]);
  });

  it("makes identifiers of what the application says", async () => {
    const health = start({ meetingId: "Team Blue", peerId: "Ana María" });
    connect(health, (track) => (track.kind === "audio" ? "Bo 会議" : null));
    vi.useRealTimers();
    await vi.waitFor(() => expect(sent.length).toBeGreaterThan(0));
    await health.end();
    const [frame] = sent;
    expect(frame?.peer_id).toBe("id-8358ed271ba38466c055b29ed165b5c6");
    expect(frame?.session_id).toMatch(/^id-8358ed271ba38466c055b29ed165b5c6:[0-9a-f]{24}$/);
    expect(frame?.peers).toEqual([
      expect.arrayContaining([expect.stringMatching(/^id-[0-9a-f]{32}$/)]),
    ]);
  });

  it("says what the own tracks are, until the application knows better", async () => {
    const health = start();
    connect(health, () => null);
    await vi.advanceTimersByTimeAsync(0);
    expect(sent.at(-1)).toMatchObject({ audio_enabled: true, video_enabled: false, peers: [] });
    health.state({ audio: false, server: { url: "https://sfu-2.example" } });
    await vi.advanceTimersByTimeAsync(1_000);
    const now = sent.at(-1);
    expect(now).toMatchObject({ audio_enabled: false, video_enabled: false });
    expect(now?.server).toEqual(expect.arrayContaining(["https://sfu-2.example", "webrtc"]));
    await health.end();
  });

  it("takes numbers for ids", async () => {
    const health = start({ meetingId: 7 as never, peerId: 0 as never });
    connect(health, (track) => (track.kind === "audio" ? (0 as never) : null));
    health.peer(1 as never, { audio: true });
    await vi.advanceTimersByTimeAsync(0);
    expect(sent.at(-1)).toMatchObject({ meeting_id: "7", peer_id: "0" });
    expect(sent.at(-1)?.peers.map((peer) => Object.values(peer)[0])).toEqual(["1", "0"]);
    await health.end();
  });

  it("reports whom it expects and what it wants, until they leave", async () => {
    const health = start();
    connect(health, () => null);
    health.peer("bo", { audio: true });
    health.want("bo", { video: false });
    health.want("eve", { video: false });
    await vi.advanceTimersByTimeAsync(6_000);
    // Not heard for five seconds, with the microphone on; the camera is not wanted.
    expect(sent.at(-1)?.peers).toEqual([["bo", false, true, true, false, null, null, null, false]]);
    health.left("bo");
    await vi.advanceTimersByTimeAsync(1_000);
    expect(sent.at(-1)?.peers).toEqual([]);
    await health.end();
  });

  it("counts nothing that is concealed as somebody leaves, whose track stays", async () => {
    const health = start();
    const pc = connect(health, (track) => (track.kind === "audio" ? "bo" : null));
    const concealed = async (more: number) => {
      const grow = (name: string, stat: Stat) => ({ [name]: stat[name] + more });
      pc.stats = pc.stats.map((stat) =>
        stat.type === "inbound-rtp" && stat.kind === "audio"
          ? { ...stat, ...grow("packetsReceived", stat), ...grow("concealedSamples", stat) }
          : stat,
      );
      await vi.advanceTimersByTimeAsync(1_000);
      const peer = sent.at(-1)?.peers[0] as unknown as unknown[];
      // `packets_received` and `concealed_samples`, by their positions.
      const audio = peer[5] as number[];
      return [audio[4], audio[7]] as [number, number];
    };
    const [packets, before] = await concealed(0);
    health.left("bo");
    expect(await concealed(5)).toEqual([packets + 5, before]);
    expect(await concealed(3)).toEqual([packets + 8, before + 3]);
    await health.end();
  });

  it("reports at once how the attempt to join goes", async () => {
    const health = start();
    health.join();
    const pc = connect(health, () => null);
    await vi.advanceTimersByTimeAsync(300);
    expect(sent).toHaveLength(1);
    expect(sent[0]?.join).toEqual(["joining", expect.any(Number)]);
    pc.become("connected");
    await vi.advanceTimersByTimeAsync(0);
    expect(sent).toHaveLength(2);
    expect(sent[1]?.join).toEqual(["joined", 300]);
    health.failed("timeout");
    await vi.advanceTimersByTimeAsync(1_000);
    expect(sent.at(-1)?.join).toEqual(["joined", 300]);
    await health.end();
  });

  it.each([
    ["checking", "ice"],
    ["connected", "dtls"],
  ])("tells by the connection why an attempt failed: %s is %s", async (ice, reason) => {
    const health = start();
    health.join();
    const pc = connect(health, () => null);
    pc.become("failed", ice);
    health.failed();
    await vi.advanceTimersByTimeAsync(0);
    expect(sent.at(-1)?.join).toEqual(["failed", expect.any(Number), reason]);
    health.join();
    await vi.advanceTimersByTimeAsync(0);
    expect(sent.at(-1)?.join).toEqual(["joining", 0]);
    await health.end();
  });

  it("counts ICE restarts, and goes on after a connection was replaced", async () => {
    const health = start();
    const pc = connect(health, () => null);
    for (const fragment of ["a", "a", "b", "c"]) pc.describe(fragment);
    await vi.advanceTimersByTimeAsync(0);
    expect(sent.at(-1)?.path).toEqual(["host", "udp", expect.any(Number), 2]);
    pc.connectionState = "closed";
    const next = connect(health, () => null);
    for (const fragment of ["d", "e"]) next.describe(fragment);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(pc.listeners.size).toBe(0);
    expect(sent.at(-1)?.path).toEqual(["host", "udp", expect.any(Number), 3]);
    await health.end();
  });

  it("says that the page was hidden, at once and for as long as it was", async () => {
    const health = start();
    connect(health, () => null);
    await vi.advanceTimersByTimeAsync(100);
    const show = (hidden: boolean) => {
      pages.document.hidden = hidden;
      pages.document.dispatchEvent(new Event("visibilitychange"));
    };
    show(true);
    await vi.advanceTimersByTimeAsync(0);
    expect([sent.length, sent.at(-1)?.tab_visible, keptAlive.at(-1)]).toEqual([2, false, true]);
    show(false);
    await vi.advanceTimersByTimeAsync(0);
    expect(sent.at(-1)?.tab_visible).toBe(false);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(sent.at(-1)?.tab_visible).toBe(true);
    await health.end();
  });

  it("ends by itself when the page goes, before another task can run", async () => {
    const health = start();
    connect(health, () => "bo");
    await vi.advanceTimersByTimeAsync(0);
    pages.window.dispatchEvent(new Event("pagehide"));
    expect(sent.at(-1)).toMatchObject({ ended: true, seq: 2 });
    expect(vi.getTimerCount()).toBe(0);
    await health.end();
    expect(sent).toHaveLength(2);
  });

  it("throws nothing into the application, whatever it is given", async () => {
    vi.spyOn(console, "warn").mockImplementation(() => {});
    const health = start({ peerId: "x".repeat(120) });
    const pc = connect(health, () => {
      throw new Error("not now");
    });
    pc.getStats = () => Promise.reject(new Error("no statistics"));
    health.watch({} as RTCPeerConnection);
    health.want("bo", null as never);
    health.peer("bo", undefined);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(sent).toEqual([]);
    expect(problems.at(-1)).toMatch("peerId of at most 103 bytes");
    await health.end();

    const deaf = start({
      onError: () => {
        throw new Error("deaf");
      },
    });
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("network")));
    connect(deaf, () => "bo");
    await vi.advanceTimersByTimeAsync(30_000);
    await deaf.end();
    expect(vi.getTimerCount()).toBe(0);
  });
});
