import { describe, expect, it } from "vitest";
import {
  type CallState,
  type ConnectionReport,
  type Context,
  platformOf,
  type Stat,
  toFrame,
} from "../src/mapping.js";
import { json, text } from "./vectors.js";

const context: Context = {
  meetingId: "standup",
  sessionId: "ana:1",
  peerId: "ana",
  now: 0,
  sentAt: 1_767_225_600_000,
  visible: true,
};

function report(stats: Stat[], more: Partial<ConnectionReport> = {}): ConnectionReport {
  const received = new Map([
    ["mic", { peerId: "bo" }],
    ["cam", { peerId: "bo" }],
    ["show", { peerId: "bo", screen: true }],
  ]);
  const sent = new Map([["1", "video"] as const]);
  return { connection: "1", stats, received, sent, iceRestarts: 0, ...more };
}

function mic(more: Stat): Stat {
  return { type: "inbound-rtp", kind: "audio", id: "A", trackIdentifier: "mic", ...more };
}

function cam(more: Stat): Stat {
  return { type: "inbound-rtp", kind: "video", id: "V", trackIdentifier: "cam", ...more };
}

/** A call, frame by frame, five seconds apart unless it is said otherwise. */
class Call {
  state: CallState | undefined;
  now = -5_000;

  frame(reports: ConnectionReport[], more: Partial<Context> = {}, after = 5_000) {
    this.now += after;
    const { frame, state } = toFrame(reports, this.state, { ...context, now: this.now, ...more });
    this.state = state;
    return frame;
  }

  peer(stats: Stat[], more: Partial<Context> = {}, after = 5_000) {
    const stamped = stats.map((stat) => ({ timestamp: this.now + after, ...stat }));
    const [peer] = this.frame([report(stamped)], more, after).peers;
    if (!peer) throw new Error("no peer");
    return peer;
  }
}

describe("a real browser's reports", () => {
  it.each(["chromium", "firefox"])("of %s become the frame that they say", (browser) => {
    const dumps = json<Stat[][]>(`clients/web/test/fixtures/${browser}.json`);
    const of = (dump: Stat[], type: string, kind: string, at = 0) =>
      dump.filter((stat) => stat.type === type && stat.kind === kind)[at] as Stat;
    const [first, second] = dumps as [Stat[], Stat[]];
    const [audio, video] = [of(second, "inbound-rtp", "audio"), of(second, "inbound-rtp", "video")];
    const screen = of(second, "inbound-rtp", "video", 1);
    const more = {
      received: new Map([
        [audio.trackIdentifier, { peerId: "bo" }],
        [video.trackIdentifier, { peerId: "bo" }],
        [screen.trackIdentifier, { peerId: "bo", screen: true }],
      ]),
      sent: new Map([[of(second, "outbound-rtp", "video").mid as string, "video" as const]]),
    };
    // Up to the last report of the far end, which may be that of the first dump.
    type Reported = { packets: number; at: unknown };
    const reported = (kind: string, at = 0) => {
      const [then, now] = [first, second].map((dump) => {
        const sent = of(dump, "outbound-rtp", kind, at);
        const said = dump.find(
          (stat) => stat.type === "remote-inbound-rtp" && stat.localId === sent.id,
        );
        return { packets: sent.packetsSent as number, at: said?.timestamp };
      }) as [Reported, Reported];
      return (now.at === undefined || now.at !== then.at ? now : then).packets;
    };
    const server = { url: "https://sfu.example", type: "webrtc" };
    const call = new Call();
    call.frame([report(first, more)], { server });
    const frame = call.frame([report(second, more)], { server });
    const [peer] = frame.peers;
    expect(peer).toMatchObject({
      peer_id: "bo",
      can_listen: true,
      can_see: true,
      audio_enabled: true,
      video_enabled: true,
    });
    expect(peer?.audio).toMatchObject({
      packets_received: audio.packetsReceived,
      packets_lost: audio.packetsLost,
      total_samples: audio.totalSamplesReceived,
      concealed_samples: audio.concealedSamples,
      concealment_events: audio.concealmentEvents,
      jitter_ms: audio.jitter * 1000,
    });
    const before = of(first, "inbound-rtp", "audio");
    expect(peer?.audio?.buffer_ms).toBeCloseTo(
      ((audio.jitterBufferDelay - before.jitterBufferDelay) /
        (audio.jitterBufferEmittedCount - before.jitterBufferEmittedCount)) *
        1000,
    );
    expect(peer?.video).toMatchObject({
      frames_decoded: video.framesDecoded,
      frame_height: video.frameHeight,
      packets_received: video.packetsReceived,
    });
    const was = of(first, "inbound-rtp", "video");
    const seconds = (video.timestamp - was.timestamp) / 1000;
    expect(peer?.video?.fps).toBeCloseTo((video.framesDecoded - was.framesDecoded) / seconds);
    expect(peer?.video?.bitrate_kbps).toBeCloseTo(
      (((video.bytesReceived - was.bytesReceived) / seconds) * 8) / 1000,
    );
    expect(peer?.screen).toMatchObject({ frames_decoded: screen.framesDecoded });
    const camera = of(second, "outbound-rtp", "video");
    expect(frame.send).toMatchObject({
      audio_packets_sent: reported("audio"),
      video_packets_sent: reported("video") + reported("video", 1),
      frame_height: camera.frameHeight,
    });
    expect(frame.path).toMatchObject({ candidate_type: "host", protocol: "udp", ice_restarts: 0 });
    expect(frame.server?.rtt_ms).toBeGreaterThanOrEqual(0);
    // What one browser lacks is absent, not zero.
    const limits = camera.qualityLimitationDurations;
    expect(frame.send?.quality_limitation_durations === undefined).toBe(limits === undefined);
    const pair = second.find((stat) => stat.availableOutgoingBitrate !== undefined);
    expect(frame.path?.available_outgoing_kbps).toEqual(
      pair && pair.availableOutgoingBitrate * 0.001,
    );
  });
});

describe("the mapping", () => {
  it("reads every statistic that the document names", () => {
    const section = text("docs/frame.md").split("\n## From `getStats()`\n")[1]?.split("\n## ")[0];
    const types =
      "candidate-pair|inbound-rtp|local-candidate|outbound-rtp|remote-inbound-rtp|transport";
    const named = [...(section ?? "").matchAll(new RegExp(`\`(?:${types})\\.(\\w+)\``, "g"))];
    expect(named.length).toBeGreaterThan(50);
    const source = text("clients/web/src/mapping.ts");
    const missing = named.map(([, name]) => name).filter((name) => !source.match(`\\b${name}\\b`));
    expect(missing).toEqual([]);
  });

  it("leaves the previous state as it is, and is the same with every kind of report", () => {
    const stats = [mic({ packetsReceived: 5, packetsLost: 1 })];
    const { state } = toFrame([report(stats)], undefined, context);
    const before = structuredClone(state);
    const byId = Object.fromEntries(stats.map((stat) => [stat.id, stat]));
    const kinds = [stats, new Map(Object.entries(byId)), byId].map(
      (kind) => toFrame([report([], { stats: kind as Stat[] })], state, context).frame,
    );
    expect(state).toEqual(before);
    expect(kinds[1]).toEqual(kinds[0]);
    expect(kinds[2]).toEqual(kinds[0]);
    expect(kinds[0]?.peers[0]?.audio).toEqual({ packets_received: 5, packets_lost: 1 });
  });

  it("goes on counting over new tracks, restarted statistics and replaced connections", () => {
    const call = new Call();
    const received = () => call.state?.peers.get("bo")?.audio.sums.packets_received;
    call.frame([report([mic({ packetsReceived: 100 })])]);
    call.frame([report([mic({ id: "B", packetsReceived: 10 })])]);
    expect(received()).toBe(110);
    call.frame([report([mic({ id: "B", packetsReceived: 4 })])]);
    expect(received()).toBe(114);
    call.frame([report([mic({ packetsReceived: 120 })])]);
    expect(received()).toBe(134);
    call.frame([report([mic({ packetsReceived: 7 })], { connection: "2" })]);
    expect(received()).toBe(141);
    call.frame([]);
    expect(call.peer([mic({ packetsReceived: 121 })]).audio?.packets_received).toBe(142);
  });

  it("writes the highest losses so far, at least zero", () => {
    const call = new Call();
    const losses = [-2, 3, 1, 4].map(
      (packetsLost, at) =>
        call.peer([mic({ packetsLost, packetsReceived: 10 * at })]).audio?.packets_lost,
    );
    expect(losses).toEqual([0, 3, 3, 4]);
  });

  it("adds the ice restarts of all connections, also of those that are gone", () => {
    const call = new Call();
    call.frame([report([], { iceRestarts: 2 })]);
    const { path } = call.frame([report([], { connection: "2", iceRestarts: 1 })]);
    expect(path?.ice_restarts).toBe(3);
  });

  it("misses nobody before five seconds, nor who is muted, unwanted or behind a hidden page", () => {
    const bo = (audio = {}) => ({ peers: new Map([["bo", { present: true, audio }]]) });
    const on = bo({ enabled: true });
    const call = new Call();
    expect(call.peer([], on).can_listen).toBe(true);
    expect(call.peer([], on, 4_900).can_listen).toBe(true);
    expect(call.peer([], on, 200)).toMatchObject({ can_listen: false, can_see: true });
    for (const not of [bo({ enabled: false }), bo({ enabled: true, wanted: false })]) {
      expect(call.peer([], not).can_listen).toBe(true);
      expect(call.peer([], on, 4_900).can_listen).toBe(true);
      expect(call.peer([], on, 5_100).can_listen).toBe(false);
    }
    expect(call.peer([], { ...on, visible: false }).can_listen).toBe(true);
    expect(call.peer([], on, 4_900).can_listen).toBe(true);
    expect(call.peer([], on).can_listen).toBe(false);
    expect(call.peer([mic({ packetsReceived: 1 })], on).can_listen).toBe(true);
    expect(call.peer([mic({ packetsReceived: 1 })], on).can_listen).toBe(false);
    expect(call.peer([mic({ packetsReceived: 2 })], on, 1).can_listen).toBe(true);
  });

  it("invents no one-way call where nobody says what is on", () => {
    const call = new Call();
    expect(call.peer([cam({ packetsReceived: 9 })])).toMatchObject({ video_enabled: true });
    const later = call.peer([cam({ packetsReceived: 9 })]);
    expect(later).toMatchObject({ video_enabled: false, can_see: true, audio_enabled: false });
  });

  it("drops what pauses raise, and nothing else", () => {
    const said = (enabled: boolean, paused = false) => ({
      peers: new Map([["bo", { audio: { enabled, paused } }]]),
    });
    const call = new Call();
    const at = (n: number) => [mic({ packetsReceived: n, concealedSamples: n, packetsLost: n })];
    const sums = [
      call.peer(at(1), said(true)),
      call.peer(at(3), said(true)),
      call.peer(at(7), said(true, true)),
      call.peer(at(8), said(false)),
      call.peer(at(9), said(true)),
      call.peer(at(20), { ...said(true), visible: false }),
      call.peer(at(21), said(true)),
    ].map((peer) => [peer.audio?.concealed_samples, peer.audio?.packets_lost]);
    expect(sums).toEqual([
      [1, 1],
      [3, 3],
      [3, 7],
      [3, 8],
      [3, 9],
      [3, 20],
      [4, 21],
    ]);
  });

  it("takes the connection with the longest round trip, and no pair before its first answer", () => {
    const pair = (id: string, more: Stat) => [
      { type: "candidate-pair", id, selected: true, localCandidateId: `${id}-here`, ...more },
      { type: "local-candidate", id: `${id}-here`, candidateType: id, protocol: "udp" },
      { type: "outbound-rtp", id: `${id}-o`, kind: "audio", packetsSent: 1 },
    ];
    const server = { url: "https://sfu.example", type: "webrtc" };
    const frame = (...pairs: Stat[][]) =>
      new Call().frame(
        pairs.map((stats, at) => report(stats, { connection: `${at}` })),
        { server },
      );
    const near = pair("host", { currentRoundTripTime: 0.01, availableOutgoingBitrate: 1e6 });
    const far = pair("relay", { currentRoundTripTime: 0.2, availableOutgoingBitrate: 2e6 });
    const both = frame(near, far);
    expect(both.server?.rtt_ms).toBe(200);
    expect(both.path).toMatchObject({ candidate_type: "relay", available_outgoing_kbps: 3000 });
    expect(both.path).not.toHaveProperty("protocol");
    const unanswered = pair("srflx", { currentRoundTripTime: 0, responsesReceived: 0 });
    expect(frame(unanswered).server).toEqual(server);
    const media = { type: "remote-inbound-rtp", id: "r", kind: "audio", roundTripTime: 0.03 };
    expect(frame([...unanswered, media]).server?.rtt_ms).toBe(30);
  });

  it("counts what is sent up to the far end's last report on it", () => {
    const call = new Call();
    const sums = (packetsSent: number, timestamp: number, packetsLost: number) => {
      const sent = {
        type: "outbound-rtp",
        id: "o",
        kind: "audio",
        packetsSent,
        timestamp: packetsSent,
      };
      const said = { type: "remote-inbound-rtp", id: "r", localId: "o", kind: "audio" };
      const unreported = { ...sent, id: "u", kind: "video" };
      const { send } = call.frame([
        report([sent, unreported, { ...said, timestamp, packetsLost }]),
      ]);
      return [send?.audio_packets_sent, send?.audio_packets_lost, send?.video_packets_sent];
    };
    expect(sums(100, 1, 0)).toEqual([100, 0, 100]);
    expect(sums(200, 1, 0)).toEqual([100, 0, 200]);
    expect(sums(300, 2, 60)).toEqual([300, 60, 300]);
    expect(sums(400, 2, 60)).toEqual([300, 60, 400]);
  });

  it("counts what limits a track once for all of its layers", () => {
    const layer = (id: string, frameHeight: number, cpu: number, framesSent: number) => ({
      ...{ type: "outbound-rtp", kind: "video", id, mid: "1", frameHeight, framesSent },
      framesPerSecond: frameHeight / 10,
      qualityLimitationDurations: { none: 90, cpu, bandwidth: 0, other: 0 },
    });
    const call = new Call();
    call.frame([report([layer("s", 180, 1, 5), layer("l", 720, 2, 5)])]);
    const { send } = call.frame([report([layer("s", 180, 4, 9), layer("l", 720, 4.5, 5)])]);
    expect(send).toMatchObject({
      quality_limitation_durations: { cpu: 5000, bandwidth: 0, other: 0 },
      frame_height: 180,
      frames_per_second: 18,
    });
  });

  it("leaves out what no frame may have", () => {
    const bad = { jitter: -1, packetsLost: Number.NaN, totalSamplesReceived: 1e300 };
    expect(new Call().peer([mic({ packetsReceived: 1, ...bad })]).audio).toEqual({
      packets_received: 1,
    });
    const peers = new Map(
      Array.from({ length: 300 }, (_, at) => [`p${at}`, { present: true }] as const),
    );
    expect(new Call().frame([], { peers }).peers).toHaveLength(256);
  });

  it.each([
    ["Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "firefox"],
    ["Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0 Safari/537.36", "chrome"],
    ["Mozilla/5.0 Chrome/143.0.0.0 Safari/537.36 Edg/143.0.0.0", "chrome"],
    ["Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 Version/18.1 Safari/605.1.15", "safari"],
    ["Mozilla/5.0 (iPhone) AppleWebKit/605.1.15 CriOS/143.0 Mobile/15E148 Safari/604.1", "safari"],
    ["node", "other"],
  ])("calls the browser of %s %s", (userAgent, platform) => {
    expect(platformOf(userAgent)).toBe(platform);
  });
});
