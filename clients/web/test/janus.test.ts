import type { JanusJS } from "janus-gateway";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type RoomOptions, type WatchedRoom, watchRoom } from "../src/adapters/janus.js";
import { CallHealth } from "../src/health.js";

/** What a browser gives janus-gateway, as far as it is used here. */
class Connection extends EventTarget {
  static readonly all: Connection[] = [];
  connectionState = "new";
  iceConnectionState = "new";
  localDescription = null;
  oniceconnectionstatechange: (() => void) | null = null;
  transceivers: { mid: string; sender: object; receiver: { track: MediaStreamTrack } }[] = [];

  constructor() {
    super();
    Connection.all.push(this);
  }

  /** Receives a track, or sends one. */
  add(mid: string, received: MediaStreamTrack, sent?: MediaStreamTrack) {
    this.transceivers.push({ mid, sender: { track: sent ?? null }, receiver: { track: received } });
  }

  checking() {
    this.iceConnectionState = "checking";
    this.oniceconnectionstatechange?.();
  }

  getTransceivers = () => this.transceivers;
  getReceivers = () => this.transceivers.map(({ receiver }) => receiver);
  getStats = async () => [];
  setRemoteDescription = async () => {};
  setLocalDescription = async () => {};
  createAnswer = async () => ({ type: "answer", sdp: "v=0" });
  close() {}
}

class Track extends EventTarget {
  readonly id = crypto.randomUUID();
  constructor(
    readonly kind: string,
    readonly settings = {},
  ) {
    super();
  }
  getSettings = () => this.settings;
}

const track = (kind: string, settings = {}) =>
  new Track(kind, settings) as unknown as MediaStreamTrack;

/** The server, which is not real: it accepts every request and says what the test says. */
class Server extends EventTarget {
  static current: Server;
  readyState = 1;
  handles = 0;
  readonly requests: object[] = [];

  constructor() {
    super();
    Server.current = this;
    queueMicrotask(() => this.dispatchEvent(new Event("open")));
  }

  send(text: string) {
    const { janus, transaction, body } = JSON.parse(text);
    if (body) this.requests.push(body);
    if (janus === "attach") this.handles += 1;
    const id = janus === "attach" ? this.handles : 7;
    this.say({ janus: janus === "message" ? "ack" : "success", transaction, data: { id } });
  }

  say(message: object) {
    this.dispatchEvent(new MessageEvent("message", { data: JSON.stringify(message) }));
  }

  close() {}
}

/** What was told to a `CallHealth`. */
class Told {
  readonly watched = new Map<
    object,
    { peerOf(t: object): unknown; isScreen(t: object): boolean }
  >();
  readonly peers: Record<string, object> = {};
  readonly wanted: Record<string, object> = {};
  calls = 0;
  watch = (pc: object, options: never) => this.watched.set(pc, options);
  unwatch = (pc: object) => this.watched.delete(pc);
  peer = (id: string, media: object) => {
    this.calls += 1;
    this.peers[id] = media;
  };
  want = (id: string, media: object) => {
    this.calls += 1;
    this.wanted[id] = media;
  };
  left = (id: string) => {
    delete this.peers[id];
    delete this.wanted[id];
  };
}

const ON = { audio: true, video: true, screen: true };
const MIC = { type: "audio", mindex: 0, mid: "0", codec: "opus" };
const CAMERA = { type: "video", mindex: 1, mid: "1", codec: "vp8" };
const SCREEN = { type: "video", mindex: 2, mid: "2", codec: "vp8", description: "screen" };

/** A stream of a subscription as Janus 1.1.2 describes it. */
const from = (feed: string | number, mid: string, stream: typeof MIC | typeof SCREEN) => ({
  type: stream.type,
  active: true,
  mindex: Number(mid),
  mid,
  ready: false,
  send: true,
  feed_id: feed,
  feed_mid: stream.mid,
  ...("description" in stream && { feed_description: stream.description }),
  codec: stream.codec,
});

const settled = () => new Promise((done) => setTimeout(done));

/** A handle, and what the server says to it. */
interface End {
  handle: JanusJS.PluginHandle;
  heard: object[];
  hears(data: object, jsep?: object): Promise<void>;
  connects(): Promise<Connection>;
}

async function end(janus: JanusJS.Janus, room: WatchedRoom, more = {}): Promise<End> {
  const heard: object[] = [];
  const handle = await new Promise<JanusJS.PluginHandle>((success, error) =>
    janus.attach({
      plugin: "janus.plugin.videoroom",
      success,
      error,
      onmessage: (message) => void heard.push(message),
      ...more,
    }),
  );
  room.watch(handle);
  const sender = handle.getId();
  const hears = async (data: object, jsep?: object) => {
    const plugindata = { plugin: handle.getPlugin(), data };
    Server.current.say({ janus: "event", sender, plugindata, jsep });
    await settled();
  };
  const connects = async () => {
    handle.createAnswer({ jsep: { type: "offer", sdp: "v=0" } });
    await settled();
    const pc = Connection.all.at(-1) as Connection;
    pc.checking();
    await settled();
    return pc;
  };
  return { handle, heard, hears, connects };
}

async function call(options?: RoomOptions) {
  // For the compiler it is no ES module, since its package.json does not say so.
  const { default: Janus } = (await import("janus-gateway")) as unknown as typeof JanusJS & {
    default: typeof JanusJS.Janus;
  };
  const janus = await new Promise<JanusJS.Janus>((done, error) => {
    const dependencies = Janus.useDefaultDependencies({
      adapter: { browserDetails: { browser: "chrome", version: 140 } },
    });
    Janus.init({ dependencies });
    const made: JanusJS.Janus = new Janus({
      server: "ws://janus.example",
      success: () => done(made),
      error,
    });
  });
  const told = new Told();
  const room = watchRoom(told as unknown as CallHealth, options);
  const publisher = await end(janus, room);
  const subscriber = await end(janus, room);
  const joined = { videoroom: "joined", room: "standup", id: "ana", private_id: 1 };
  await publisher.hears({ ...joined, publishers: [] });
  return { janus, told, room, publisher, subscriber };
}

/** What the room says about who publishes. */
const published = (id: string | number, streams: object[], more = {}) => ({
  videoroom: "event",
  room: "standup",
  publishers: [{ id, streams, ...more }],
});

const received = (...streams: object[]) => ({ videoroom: "updated", room: "standup", streams });

let warned: ReturnType<typeof vi.spyOn>;

beforeEach(() => {
  warned = vi.spyOn(console, "warn").mockImplementation(() => {});
  vi.stubGlobal("window", { addEventListener: () => {}, RTCPeerConnection: Connection });
  vi.stubGlobal("navigator", { platform: "" });
  vi.stubGlobal("RTCPeerConnection", Connection);
  vi.stubGlobal("RTCRtpSender", class {});
  vi.stubGlobal("WebSocket", Server);
  Connection.all.length = 0;
});

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

describe("a VideoRoom of janus-gateway", () => {
  it("has the connections of all handles watched, from the first to the last", async () => {
    const { told, publisher, subscriber } = await call();
    expect(told.watched.size).toBe(0);
    const pcs = [await publisher.connects(), await subscriber.connects()];
    expect([...told.watched.keys()]).toEqual(pcs);
    // A handle that hangs up may connect again.
    subscriber.handle.hangup();
    await settled();
    expect([...told.watched.keys()]).toEqual(pcs.slice(0, 1));
    const again = await subscriber.connects();
    expect([...told.watched.keys()]).toEqual([pcs[0], again]);
    publisher.handle.detach();
    subscriber.handle.detach({ noRequest: true });
    await settled();
    expect(told.watched.size).toBe(0);
  });

  it("says who is in the room, what they publish, and who leaves", async () => {
    const { told, publisher } = await call();
    await publisher.hears({ videoroom: "event", joining: { id: "zoe", display: "Zoe" } });
    await publisher.hears(published("bo", [MIC, CAMERA]));
    await publisher.hears(published("eve", [MIC, { ...CAMERA, disabled: true }, SCREEN]));
    await publisher.hears(published("none", [MIC], { dummy: true }));
    const off = { audio: false, video: false, screen: false };
    expect(told.peers).toEqual({
      zoe: off,
      bo: { audio: true, video: true, screen: false },
      eve: { audio: true, video: false, screen: true },
    });
    const moderation = { videoroom: "event", id: "bo", mid: "0" };
    await publisher.hears({ ...moderation, moderation: "muted" });
    expect(told.peers.bo).toEqual({ audio: false, video: true, screen: false });
    await publisher.hears({ ...moderation, moderation: "unmuted" });
    expect(told.peers.bo).toMatchObject({ audio: true });
    await publisher.hears({ videoroom: "event", unpublished: "bo" });
    expect(told.peers.bo).toEqual(off);
    await publisher.hears({ videoroom: "event", leaving: "bo" });
    await publisher.hears({ videoroom: "event", kicked: "eve" });
    expect(Object.keys(told.peers)).toEqual(["zoe"]);
    await publisher.hears({ videoroom: "event", leaving: "ok" });
    expect(told.peers).toEqual({});
    expect(publisher.heard).toHaveLength(11);
  });

  it("knows whose a track is, and which is a screen, in one subscription or several", async () => {
    const { janus, told, room, publisher, subscriber } = await call();
    await publisher.hears(published("bo", [MIC, CAMERA]));
    await publisher.hears(published(5, [CAMERA, SCREEN]));
    await subscriber.hears(received(from("bo", "0", MIC), from("bo", "1", CAMERA)));
    const other = await end(janus, room);
    await other.hears({ ...received(from(5, "0", CAMERA), from(5, "1", SCREEN)), id: 5 });
    const all = [track("audio"), track("video"), track("video"), track("video")];
    const both = await subscriber.connects();
    both.add("0", all[0] as MediaStreamTrack);
    both.add("1", all[1] as MediaStreamTrack);
    const one = await other.connects();
    one.add("0", all[2] as MediaStreamTrack);
    one.add("1", all[3] as MediaStreamTrack);
    const known = (pc: object) => told.watched.get(pc) as { peerOf: never; isScreen: never };
    const [first, second] = [known(both), known(one)];
    expect(all.slice(0, 2).map(first.peerOf)).toEqual(["bo", "bo"]);
    expect(all.slice(2).map(second.peerOf)).toEqual(["5", "5"]);
    expect(all.slice(2).map(second.isScreen)).toEqual([false, true]);
    expect(all.slice(2).map(first.peerOf)).toEqual([undefined, undefined]);
    // Another feed takes the place of one.
    await subscriber.hears({
      ...received(from(5, "1", CAMERA)),
      videoroom: "event",
      switched: "ok",
    });
    expect(all.slice(0, 2).map(first.peerOf)).toEqual([undefined, "5"]);
  });

  it("says what is not wanted: not subscribed, paused, or unsubscribed", async () => {
    const { told, publisher, subscriber } = await call();
    await publisher.hears(published("bo", [MIC, CAMERA]));
    expect(told.wanted.bo).toEqual({ audio: false, video: false, screen: true });
    await subscriber.hears(received(from("bo", "0", MIC), from("bo", "1", CAMERA)));
    expect(told.wanted.bo).toEqual(ON);
    const { handle } = subscriber;
    const ask = async (message: { request: string; [more: string]: unknown }) => {
      handle.send({ message });
      await settled();
      return told.wanted.bo;
    };
    const unwanted = { ...ON, video: false };
    expect(await ask({ request: "configure", mid: "1", send: false })).toEqual(unwanted);
    expect(await ask({ request: "configure", mid: "1", substream: 0 })).toEqual(unwanted);
    expect(await ask({ request: "configure", streams: [{ mid: "1", send: true }] })).toEqual(ON);
    expect(await ask({ request: "pause" })).toEqual({ audio: false, video: false, screen: true });
    expect(await ask({ request: "start" })).toEqual(ON);
    expect(Server.current.requests).toHaveLength(5);
    await subscriber.hears(received({ ...from("bo", "0", MIC), send: false }));
    expect(told.wanted.bo).toEqual({ audio: false, video: false, screen: true });
    const gone = { type: "audio", active: false, mindex: 0, mid: "0", ready: false, send: true };
    await subscriber.hears(received(gone, from("bo", "1", CAMERA)));
    expect(told.wanted.bo).toEqual({ ...ON, audio: false });
    await subscriber.hears({ videoroom: "event", left: "ok" });
    expect(told.wanted.bo).toMatchObject({ video: false });
    // A publisher that pauses itself changes nothing of what it wants.
    const before = told.calls;
    publisher.handle.send({ message: { request: "configure", mid: "1", send: false } });
    await settled();
    expect(told.calls).toBe(before);
  });

  it("misses what a connection that broke down does not bring any more", async () => {
    const { told, publisher, subscriber } = await call();
    await publisher.hears(published("bo", [MIC]));
    await subscriber.hears(received(from("bo", "0", MIC)));
    await subscriber.connects();
    Server.current.say({
      janus: "hangup",
      sender: subscriber.handle.getId(),
      reason: "ICE failed",
    });
    await settled();
    expect(told.watched.size).toBe(0);
    expect(told.wanted.bo).toEqual(ON);
    subscriber.handle.detach();
    await settled();
    expect(told.wanted.bo).toMatchObject({ audio: false });
  });

  it("joins the feeds of a participant, and leaves out own ones and those of nobody", async () => {
    const { janus, told, room, publisher } = await call({
      peerOf: ({ display }) => display?.replace(" (screen)", ""),
      isScreen: (_, { display }) => display?.endsWith("(screen)") ?? false,
    });
    const screen = await end(janus, room);
    await screen.hears({ videoroom: "joined", id: 12, publishers: [] });
    const own = published(12, [CAMERA], { display: "ana (screen)" });
    for (const one of [publisher, screen]) await one.hears(own);
    await publisher.hears(published(1, [MIC, CAMERA], { display: "bo" }));
    await publisher.hears(published(2, [CAMERA], { display: "bo (screen)" }));
    await publisher.hears(published(3, [MIC]));
    expect(told.peers).toEqual({ bo: ON });
    await publisher.hears({ videoroom: "event", leaving: 1 });
    expect(told.peers).toEqual({ bo: { audio: false, video: false, screen: true } });
    screen.handle.detach();
    await settled();
    expect(Object.keys(told.peers)).toEqual(["bo", "ana"]);
    publisher.handle.detach();
    await settled();
    expect(told.peers).toEqual({});
  });

  it("knows own screens by their description, or by the browser", async () => {
    const { told, publisher } = await call();
    await publisher.hears({ videoroom: "event", configured: "ok", streams: [CAMERA, SCREEN] });
    const pc = await publisher.connects();
    const sent = [track("video"), track("video"), track("video", { displaySurface: "window" })];
    for (const [at, one] of sent.entries()) pc.add(`${at + 1}`, track("video"), one);
    const isScreen = told.watched.get(pc)?.isScreen as never;
    expect(sent.map(isScreen)).toEqual([false, true, true]);
  });

  it("says nothing twice, so that the application may know more", async () => {
    const { told, publisher } = await call();
    await publisher.hears(published("bo", [MIC, CAMERA]));
    const before = told.calls;
    told.peer("bo", { audio: false });
    await publisher.hears(published("bo", [MIC, CAMERA]));
    await publisher.hears({ videoroom: "talking", id: "bo" });
    expect(told.peers.bo).toEqual({ audio: false });
    expect(told.calls).toBe(before + 1);
  });

  it("leaves nothing behind when it is stopped", async () => {
    const { janus, told, room } = await call();
    const names = ["onmessage", "iceState", "oncleanup", "send"] as const;
    const one = await end(janus, { watch: () => {}, stop: () => {} });
    const members = one.handle as unknown as Record<string, unknown>;
    const before = names.map((name) => members[name]);
    room.watch(one.handle);
    room.watch(one.handle);
    expect(names.map((name) => members[name] === before[names.indexOf(name)])).not.toContain(true);
    await one.hears({ videoroom: "joined", id: "ana", publishers: [{ id: "bo", streams: [MIC] }] });
    await one.connects();
    expect([told.watched.size, Object.keys(told.peers)]).toEqual([1, ["bo"]]);
    // What another one has put in the place of a member stays.
    const theirs = () => {};
    members.iceState = theirs;
    room.stop();
    room.stop();
    expect(names.map((name) => members[name])).toEqual([before[0], theirs, before[2], before[3]]);
    expect([told.watched.size, told.peers, told.wanted]).toEqual([0, {}, {}]);
    await one.hears(published("eve", [MIC]));
    expect(told.peers).toEqual({});
  });

  it("throws nothing into the library, and passes on what the application throws", async () => {
    const { janus, room, publisher, told } = await call({
      peerOf: () => {
        throw new Error("not now");
      },
    });
    await publisher.hears(published("bo", [MIC]));
    await publisher.hears({ videoroom: "event", publishers: [{ streams: 7 }] });
    expect(warned).toHaveBeenCalledWith("callsight: Error: not now");
    expect(publisher.heard).toHaveLength(3);
    expect(told.calls).toBe(0);
    const broken = await end(janus, room, {
      onmessage: () => {
        throw new Error("the application's");
      },
    });
    const { onmessage } = broken.handle as JanusJS.PluginCallbacks;
    expect(() => onmessage?.({})).toThrow("the application's");
  });

  it("is known to a real CallHealth", async () => {
    vi.stubGlobal("fetch", async () => new Response(null, { status: 204 }));
    const options = { endpoint: "https://h.example", token: "t", meetingId: "m", peerId: "ana" };
    const health = new CallHealth(options);
    const asked = vi.fn(() => "bo");
    const { janus } = await call();
    const room = watchRoom(health, { peerOf: asked });
    const subscriber = await end(janus, room);
    await subscriber.hears({ ...received(from("bo", "0", MIC)), videoroom: "attached" });
    const pc = await subscriber.connects();
    pc.add("0", track("audio"));
    asked.mockClear();
    health.join();
    await vi.waitFor(() => expect(asked).toHaveBeenCalledWith({ id: "bo", display: undefined }));
    room.stop();
    await health.end();
  });
});
