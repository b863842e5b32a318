import {
  DisconnectReason,
  JoinResponse,
  ParticipantInfo,
  ParticipantInfo_State,
  ServerInfo,
  TrackInfo,
  TrackSource,
  TrackType,
} from "@livekit/protocol";
import { decode } from "@msgpack/msgpack";
import {
  ConnectionError,
  LocalTrackPublication,
  Room,
  type RoomOptions,
  setLogLevel,
} from "livekit-client";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { watchRoom } from "../src/adapters/livekit.js";
import { CallHealth } from "../src/health.js";

/** What a browser gives livekit-client, as far as it is used here. */
class Connection extends EventTarget {
  static readonly all: Connection[] = [];
  connectionState = "new";
  iceConnectionState = "new";
  signalingState = "stable";
  localDescription = null;
  onconnectionstatechange: (() => void) | null = null;
  ontrack: ((event: object) => void) | null = null;
  readonly receivers: object[] = [];
  readonly listeners = new Set<unknown>();

  constructor() {
    super();
    Connection.all.push(this);
  }

  override addEventListener(type: string, listener: () => void, options: { signal: AbortSignal }) {
    super.addEventListener(type, listener, options);
    this.listeners.add(listener);
    options.signal.addEventListener("abort", () => this.listeners.delete(listener));
  }

  become(state: string, ice = state) {
    this.iceConnectionState = ice;
    this.connectionState = state;
    this.onconnectionstatechange?.();
    this.dispatchEvent(new Event("connectionstatechange"));
  }

  receive(track: MediaStreamTrack, participant: string) {
    this.receivers.push({ track });
    const stream = Object.assign(new EventTarget(), {
      id: `${participant}|${track.id}`,
      getTracks: () => [track],
    });
    this.ontrack?.({ track, streams: [stream], receiver: { track } });
  }

  close() {
    this.signalingState = "closed";
    this.become("closed");
  }

  createDataChannel() {
    return Object.assign(new EventTarget(), { close: () => {} });
  }

  addTransceiver() {}
  setConfiguration() {}
  getSenders = () => [];
  getTransceivers = () => [];
  getReceivers = () => this.receivers;
  getStats = async () =>
    (this.receivers as { track: MediaStreamTrack }[]).map(({ track }, at) => ({
      id: `in-${at}`,
      type: "inbound-rtp",
      kind: track.kind,
      trackIdentifier: track.id,
      packetsReceived: 7,
      framesDecoded: 7,
      timestamp: Date.now(),
    }));
}

class Track extends EventTarget {
  enabled = true;
  readyState = "live";
  muted = false;
  constructor(
    readonly kind: string,
    readonly id: string,
  ) {
    super();
  }
  getSettings = () => ({});
  getConstraints = () => ({});
  stop() {}
}

const track = (kind: string, id: string) => new Track(kind, id) as unknown as MediaStreamTrack;

const MIC = new TrackInfo({ sid: "TR_mic", type: TrackType.AUDIO, source: TrackSource.MICROPHONE });
const CAMERA = new TrackInfo({ sid: "TR_cam", type: TrackType.VIDEO, source: TrackSource.CAMERA });
const SCREEN = new TrackInfo({
  sid: "TR_screen",
  type: TrackType.VIDEO,
  source: TrackSource.SCREEN_SHARE,
});
const SOUND = new TrackInfo({
  sid: "TR_sound",
  type: TrackType.AUDIO,
  source: TrackSource.SCREEN_SHARE_AUDIO,
});

function bo(tracks: TrackInfo[], state = ParticipantInfo_State.ACTIVE) {
  return new ParticipantInfo({ sid: "PA_bo", identity: "bo", state, tracks });
}

const muted = (info: TrackInfo) => new TrackInfo({ ...info, muted: true });

/** `SignalConnectionState.CONNECTED`, which the package does not export. */
const CONNECTED = 1;

/** The one end that is not real: what the server answers, and what is sent to it. */
function serve(room: Room, others: ParticipantInfo[]) {
  const signal = Object.getPrototypeOf(room.engine.client);
  vi.spyOn(signal, "sendRequest").mockResolvedValue(undefined);
  vi.spyOn(signal, "close").mockResolvedValue(undefined);
  vi.spyOn(signal, "currentState", "get").mockReturnValue(CONNECTED);
  return vi.spyOn(signal, "join").mockImplementation(
    async () =>
      new JoinResponse({
        room: { sid: "RM_1", name: "standup" },
        participant: { sid: "PA_ana", identity: "ana" },
        otherParticipants: others,
        serverInfo: new ServerInfo({ version: "1.9.0" }),
        subscriberPrimary: true,
      }),
  );
}

/** What was told to a `CallHealth`: the calls, and their outcome by participant. */
class Told {
  readonly calls: string[] = [];
  readonly peers = new Map<string, object>();
  readonly wanted = new Map<string, object>();
  readonly watched = new Map<
    object,
    { peerOf(t: object): unknown; isScreen(t: object): boolean }
  >();
  own = {};
  join = () => this.calls.push("join");
  joined = () => this.calls.push("joined");
  failed = (reason: string) => this.calls.push(`failed ${reason}`);
  watch = (pc: object, options: never) => this.watched.set(pc, options);
  unwatch = (pc: object) => this.watched.delete(pc);
  peer = (id: string, media: object) => this.peers.set(id, media);
  want = (id: string, media: object) => this.wanted.set(id, media);
  state = (own: object) => {
    this.own = own;
  };
  left = (id: string) => {
    this.calls.push(`left ${id}`);
    this.peers.delete(id);
  };
}

const pass = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

function start(options: RoomOptions = {}) {
  const room = new Room({ singlePeerConnection: false, ...options });
  const told = new Told();
  const stop = watchRoom(told as unknown as CallHealth, room);
  return { room, told, stop };
}

/** Connects a room in which Bo is; the subscriber's connection is the second. */
async function connected(tracks: TrackInfo[], options: RoomOptions = {}) {
  const { room, told, stop } = start(options);
  const join = serve(room, [bo(tracks)]);
  const connecting = room.connect("wss://example.com", "token");
  await pass();
  const [publisher, subscriber] = Connection.all as [Connection, Connection];
  subscriber.become("connected");
  await pass(100);
  await connecting;
  const update = (...infos: ParticipantInfo[]) => {
    room.engine.client.onParticipantUpdate?.(infos as never);
    return pass();
  };
  return { room, told, stop, join, publisher, subscriber, update };
}

let warned: ReturnType<typeof vi.spyOn>;

beforeEach(() => {
  setLogLevel("silent");
  vi.useFakeTimers();
  Connection.all.length = 0;
  vi.stubGlobal("RTCPeerConnection", Connection);
  vi.stubGlobal("MediaStreamTrack", Track);
  warned = vi.spyOn(console, "warn").mockImplementation(() => {});
});

afterEach(() => {
  expect(warned).not.toHaveBeenCalled();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

describe("a room of livekit-client", () => {
  it("has both connections watched, and whoever is in it reported", async () => {
    const { told, publisher, subscriber } = await connected([MIC, muted(CAMERA)]);
    expect([...told.watched.keys()]).toEqual([publisher, subscriber]);
    expect(told.calls).toEqual(["join", "joined"]);
    expect(told.peers.get("bo")).toEqual({ audio: true, video: false, screen: false });
    expect(told.wanted.get("bo")).toEqual({ audio: true, video: true, screen: true });
    expect(told.own).toEqual({ audio: false, video: false });
  });

  it("says who is muted, publishes and leaves", async () => {
    const { told, update } = await connected([MIC]);
    await update(bo([muted(MIC)]));
    expect(told.peers.get("bo")).toEqual({ audio: false, video: false, screen: false });
    await update(bo([MIC]));
    expect(told.peers.get("bo")).toEqual({ audio: true, video: false, screen: false });
    await update(bo([MIC, CAMERA, SCREEN]));
    expect(told.peers.get("bo")).toEqual({ audio: true, video: true, screen: true });
    await update(bo([CAMERA]));
    expect(told.peers.get("bo")).toEqual({ audio: false, video: true, screen: false });
    await update(bo([SOUND]));
    expect(told.peers.get("bo")).toEqual({ audio: false, video: false, screen: false });
    await update(bo([]));
    await update(bo([], ParticipantInfo_State.DISCONNECTED));
    expect([...told.peers.keys(), told.calls.at(-1)]).toEqual(["left bo"]);
  });

  it("says whether the own microphone is on, and which own track is a screen", async () => {
    const { room, told, publisher } = await connected([]);
    const publish = (info: TrackInfo, kind: string) => {
      const published = { mediaStreamTrack: track(kind, info.sid), on: () => {}, off: () => {} };
      const own = new LocalTrackPublication(kind as never, info as never);
      own.track = published as never;
      room.localParticipant.trackPublications.set(info.sid, own);
      room.emit("localTrackPublished", own, room.localParticipant);
      return own;
    };
    const mic = publish(MIC, "audio");
    publish(SCREEN, "video");
    await pass();
    expect(told.own).toEqual({ audio: true, video: false });
    const options = told.watched.get(publisher);
    const sent = ["TR_mic", "TR_screen", "TR_other"].map((id) => track("video", id));
    expect(sent.map((one) => options?.isScreen(one))).toEqual([false, true, false]);
    Object.defineProperty(mic, "isMuted", { value: true });
    room.localParticipant.emit("trackMuted", mic);
    await pass();
    expect(told.own).toEqual({ audio: false, video: false });
    room.localParticipant.trackPublications.clear();
  });

  it("knows whose a track is, and which is a screen", async () => {
    const { told, subscriber } = await connected([MIC, CAMERA, SCREEN, SOUND]);
    const received = ["TR_mic", "TR_cam", "TR_screen", "TR_sound"].map((id) =>
      track(/mic|sound/.test(id) ? "audio" : "video", id),
    );
    for (const one of received) subscriber.receive(one, "PA_bo");
    const options = told.watched.get(subscriber);
    // The sound of a screen would hide that the microphone is not heard.
    expect(received.map((one) => options?.peerOf(one))).toEqual(["bo", "bo", "bo", undefined]);
    expect(received.map((one) => options?.isScreen(one))).toEqual([false, false, true, true]);
    expect(options?.peerOf(track("audio", "TR_other"))).toBeUndefined();
  });

  it("says what is not wanted: unsubscribed, disabled, not permitted", async () => {
    const { room, told, subscriber } = await connected([MIC, CAMERA]);
    subscriber.receive(track("video", "TR_cam"), "PA_bo");
    const publication = room.remoteParticipants.get("bo")?.trackPublications.get("TR_cam");
    const video = async () => {
      await pass();
      return (told.wanted.get("bo") as { video: boolean }).video;
    };
    expect(await video()).toBe(true);
    publication?.setEnabled(false);
    expect(await video()).toBe(false);
    publication?.setEnabled(true);
    expect(await video()).toBe(true);
    publication?.setSubscribed(false);
    expect(await video()).toBe(false);
    publication?.setSubscribed(true);
    expect(await video()).toBe(true);
    publication?.setAllowed(false);
    expect(await video()).toBe(false);
    expect(told.wanted.get("bo")).toMatchObject({ audio: true, screen: true });
  });

  it("follows an adaptive stream in and out of sight", async () => {
    const { room, told, subscriber } = await connected([CAMERA], { adaptiveStream: true });
    subscriber.receive(track("video", "TR_cam"), "PA_bo");
    await pass();
    expect(told.wanted.get("bo")).toMatchObject({ video: false });
    const video = room.remoteParticipants.get("bo")?.trackPublications.get("TR_cam")?.videoTrack;
    if (!video) throw new Error("the track was not subscribed");
    video.attachedElements.push({} as HTMLMediaElement);
    const element = {
      element: {},
      visible: true,
      pictureInPicture: false,
      visibilityChangedAt: undefined,
      width: () => 320,
      height: () => 180,
      handleResize: () => {},
      handleVisibilityChanged: () => {},
      observe: () => {},
      stopObserving: () => {},
    };
    (video as unknown as { observeElementInfo(info: object): void }).observeElementInfo(element);
    await pass();
    expect(told.wanted.get("bo")).toMatchObject({ video: true });
    element.visible = false;
    element.handleVisibilityChanged();
    await pass();
    expect(told.wanted.get("bo")).toMatchObject({ video: false });
  });

  it("goes on with new connections after a full reconnect, in which nobody leaves", async () => {
    const { room, told, publisher, subscriber } = await connected([MIC]);
    room.engine.reconnect();
    await pass(1_000);
    expect(room.state).toBe("reconnecting");
    expect(room.remoteParticipants.size).toBe(1);
    const again = Connection.all.slice(2);
    expect(again).toHaveLength(2);
    expect([...told.watched.keys()]).toEqual(again);
    expect([publisher, subscriber].map(({ connectionState }) => connectionState)).toEqual([
      "closed",
      "closed",
    ]);
    again[1]?.become("connected");
    await pass(3_000);
    expect(room.state).toBe("connected");
    expect(told.calls).not.toContain("left bo");
    expect(told.peers.get("bo")).toMatchObject({ audio: true });
  });

  it("forgets everything when the room is left, and begins anew with it", async () => {
    const { room, told, join } = await connected([MIC]);
    await room.disconnect();
    await pass();
    expect(told.watched.size + told.peers.size).toBe(0);
    void room.connect("wss://example.com", "token");
    await pass();
    expect(join).toHaveBeenCalledTimes(2);
    expect([...told.watched.keys()]).toEqual(Connection.all.slice(2));
    Connection.all[3]?.become("connected");
    await pass(100);
    expect(told.calls.slice(0, 2)).toEqual(["join", "joined"]);
    expect(told.calls.slice(-2)).toEqual(["join", "joined"]);
    expect(told.peers.get("bo")).toMatchObject({ audio: true });
    await room.disconnect();
    join.mockRejectedValue(ConnectionError.timeout("too late"));
    const failed = expect(room.connect("wss://example.com", "token")).rejects.toThrow();
    await pass(60_000);
    await failed;
    expect(told.calls.slice(-2)).toEqual(["join", "failed signaling"]);
  });

  it.each([
    ["unauthorized", ConnectionError.notAllowed("no", 401)],
    ["signaling", ConnectionError.serverUnreachable("no")],
    ["signaling", ConnectionError.timeout("too late")],
    ["signaling", ConnectionError.leaveRequest("no", DisconnectReason.ROOM_DELETED)],
  ])("says that joining failed: %s", async (reason, error) => {
    const { room, told } = start();
    serve(room, []).mockRejectedValue(error);
    const failed = expect(
      room.connect("wss://a.example", "t", { maxRetries: 0 }),
    ).rejects.toThrow();
    await pass(60_000);
    await failed;
    expect(told.calls).toEqual(["join", `failed ${reason}`]);
  });

  it.each([
    ["ice", "checking"],
    ["dtls", "connected"],
  ])("says that media failed: %s", async (reason, ice) => {
    const { room, told } = start();
    serve(room, []);
    const failed = expect(room.connect("wss://b.example", "t")).rejects.toThrow();
    await pass();
    Connection.all[1]?.become("connecting", ice);
    await pass(60_000);
    await failed;
    expect(told.calls).toEqual(["join", `failed ${reason}`]);
    expect(told.watched.size).toBe(0);
  });

  it("says that the user has given up", async () => {
    const { room, told } = start();
    serve(room, []);
    const failed = expect(room.connect("wss://c.example", "t")).rejects.toThrow();
    await pass();
    await room.disconnect();
    await failed;
    expect(told.calls).toEqual(["join", "failed aborted"]);
  });

  it("leaves nothing behind when it is stopped", async () => {
    const listeners = (room: Room) =>
      [room, room.engine].map((one) => {
        const emitter = one as unknown as NodeJS.EventEmitter;
        return emitter.eventNames().map((name) => [name, emitter.listenerCount(name)]);
      });
    const { room, told, stop, update } = await connected([MIC, CAMERA]);
    const publication = room.remoteParticipants.get("bo")?.trackPublications.get("TR_cam");
    expect(publication?.listenerCount("updateSettings")).toBe(2);
    const timers = vi.getTimerCount();
    stop();
    stop();
    expect(publication?.listenerCount("updateSettings")).toBe(1);
    expect(listeners(room)).toEqual(listeners(new Room()));
    expect(told.watched.size + told.peers.size).toBe(0);
    expect(vi.getTimerCount()).toBe(timers);
    await update(bo([muted(MIC)]));
    expect(told.peers.size).toBe(0);
  });

  it("throws nothing into the room, even if its internals are others", async () => {
    const { room, told, update } = await connected([MIC]);
    Object.defineProperty(room, "remoteParticipants", {
      get: () => {
        throw new Error("renamed");
      },
    });
    room.emit("participantConnected", undefined as never);
    await pass();
    expect(warned).toHaveBeenCalledWith("callsight: Error: renamed");
    warned.mockClear();
    expect(told.peers.size).toBe(1);
    expect(update).toBeTypeOf("function");
  });

  it("makes frames of a real CallHealth", async () => {
    const sent: unknown[][] = [];
    vi.stubGlobal("fetch", async (_: string, { body }: RequestInit) => {
      sent.push(decode(body as Uint8Array) as unknown[]);
      return new Response(null, { status: 204 });
    });
    const room = new Room({ singlePeerConnection: false });
    serve(room, [bo([MIC, CAMERA])]);
    const options = { endpoint: "https://h.example", token: "t", meetingId: "m", peerId: "ana" };
    const health = new CallHealth(options);
    const stop = watchRoom(health, room);
    void room.connect("wss://d.example", "t");
    await pass();
    const subscriber = Connection.all[1] as Connection;
    subscriber.become("connected");
    await pass(100);
    subscriber.receive(track("audio", "TR_mic"), "PA_bo");
    room.remoteParticipants.get("bo")?.trackPublications.get("TR_cam")?.setSubscribed(false);
    await pass(8_000);
    // No packet has come for five seconds, though the microphone is on; the camera is not wanted.
    const text = JSON.stringify(sent.at(-1));
    expect(text).toContain('["bo",false,true,true,true,');
    expect(text).toContain(",null,true,false]");
    stop();
    await health.end();
    expect(Connection.all.flatMap(({ listeners }) => [...listeners])).toEqual([]);
  });
});
