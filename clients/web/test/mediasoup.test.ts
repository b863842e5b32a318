import { Device, FakeHandler, testFakeParameters, type types } from "mediasoup-client";
import { Chrome74 } from "mediasoup-client/handlers/Chrome74";
import { Chrome111 } from "mediasoup-client/handlers/Chrome111";
import { Firefox120 } from "mediasoup-client/handlers/Firefox120";
import { Safari12 } from "mediasoup-client/handlers/Safari12";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type TransportOptions, watchTransport } from "../src/adapters/mediasoup.js";
import { CallHealth } from "../src/health.js";

/** A connection as `CallHealth` sees it; the package's `FakeHandler` has none. */
class Connection extends EventTarget {
  connectionState = "connected";
  iceConnectionState = "connected";
  localDescription = null;
  receivers: { track: MediaStreamTrack }[] = [];
  getReceivers = () => this.receivers;
  getTransceivers = () => [];
  getStats = async () => [];
}

/** What was told to a `CallHealth`. */
class Told {
  readonly watched = new Map<
    object,
    { peerOf(t: object): unknown; isScreen(t: object): boolean }
  >();
  readonly wanted: Record<string, object> = {};
  watch = (pc: object, options: never) => this.watched.set(pc, options);
  unwatch = (pc: object) => this.watched.delete(pc);
  want = (id: string, media: object) => {
    this.wanted[id] = { ...this.wanted[id], ...media };
  };
}

class Track extends EventTarget {
  readonly id = crypto.randomUUID();
  enabled = true;
  readyState = "live";
  constructor(
    readonly kind: string,
    readonly settings = {},
  ) {
    super();
  }
  getSettings = () => this.settings;
  stop() {}
}

const track = (kind: string, settings = {}) =>
  new Track(kind, settings) as unknown as MediaStreamTrack;

async function transportOf(direction: "Send" | "Recv", pc: Connection | undefined) {
  const fake = FakeHandler.createFactory(testFakeParameters);
  const handlerFactory: types.HandlerFactory = {
    ...fake,
    factory: (options) => Object.assign(fake.factory(options), pc && { _pc: pc }),
  };
  const device = new Device({ handlerFactory });
  await device.load({
    routerRtpCapabilities: testFakeParameters.generateRouterRtpCapabilities(),
  });
  const remote = testFakeParameters.generateTransportRemoteParameters();
  const transport = device[`create${direction}Transport`](remote);
  transport.on("connect", (_, done) => done());
  transport.on("produce", (_, done) => done({ id: crypto.randomUUID() }));
  return transport;
}

type Mime = "audio/opus" | "video/VP8";

async function consume(transport: types.Transport, codecMimeType: Mime, appData: types.AppData) {
  const { id, producerId, kind, rtpParameters } =
    testFakeParameters.generateConsumerRemoteParameters({ codecMimeType });
  return transport.consume({
    id: id as string,
    producerId: producerId as string,
    kind: kind as types.MediaKind,
    rtpParameters: rtpParameters as types.RtpParameters,
    appData,
  });
}

const byAppData: TransportOptions = { peerOf: ({ appData }) => appData.peerId as string };

async function receiving(options = byAppData) {
  const pc = new Connection();
  const transport = await transportOf("Recv", pc);
  const told = new Told();
  const stop = watchTransport(told as unknown as CallHealth, transport, options);
  return { pc, transport, told, stop, options: told.watched.get(pc) };
}

let warned: ReturnType<typeof vi.spyOn>;

beforeEach(() => {
  warned = vi.spyOn(console, "warn").mockImplementation(() => {});
});

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

describe("a transport of mediasoup-client", () => {
  it.each([
    ["Chrome111", Chrome111],
    ["Chrome74", Chrome74],
    ["Firefox120", Firefox120],
    ["Safari12", Safari12],
  ])("has its connection watched, in %s", async (_, handler) => {
    const made: object[] = [];
    vi.stubGlobal("MediaStream", class {});
    vi.stubGlobal(
      "RTCPeerConnection",
      class extends Connection {
        constructor() {
          super();
          made.push(this);
        }
        close() {}
      },
    );
    const handlerFactory: types.HandlerFactory = {
      ...FakeHandler.createFactory(testFakeParameters),
      factory: handler.createFactory({}).factory,
    };
    const device = new Device({ handlerFactory });
    await device.load({
      routerRtpCapabilities: testFakeParameters.generateRouterRtpCapabilities(),
    });
    const remote = testFakeParameters.generateTransportRemoteParameters();
    const transport = device.createRecvTransport(remote);
    const told = new Told();
    watchTransport(told as unknown as CallHealth, transport, byAppData);
    expect(made).toHaveLength(1);
    expect([...told.watched.keys()]).toEqual(made);
    transport.close();
    expect(told.watched.size).toBe(0);
  });

  it("says to watch the connection oneself where it finds none", async () => {
    const told = new Told();
    const transport = await transportOf("Recv", undefined);
    watchTransport(told as unknown as CallHealth, transport, byAppData)();
    expect(warned).toHaveBeenCalledWith(expect.stringMatching("pass it to health.watch"));
    expect(told.watched.size).toBe(0);
  });

  it("knows whose a track is, and which is a screen", async () => {
    const { transport, options } = await receiving();
    const mic = await consume(transport, "audio/opus", { peerId: "bo" });
    const camera = await consume(transport, "video/VP8", { peerId: "eve" });
    const screen = await consume(transport, "video/VP8", { peerId: "eve", screen: true });
    const tracks = [mic, camera, screen].map((one) => one.track);
    expect(tracks.map((one) => options?.peerOf(one))).toEqual(["bo", "eve", "eve"]);
    expect(tracks.map((one) => options?.isScreen(one))).toEqual([false, false, true]);
    expect(options?.peerOf(track("audio"))).toBeUndefined();
    camera.close();
    expect(options?.peerOf(camera.track)).toBeUndefined();
  });

  it("says that nobody misses what is paused, and asks for it again", async () => {
    const { transport, told } = await receiving();
    const mic = await consume(transport, "audio/opus", { peerId: "bo" });
    const camera = await consume(transport, "video/VP8", { peerId: "bo" });
    const screen = await consume(transport, "video/VP8", { peerId: "bo", screen: true });
    expect(told.wanted).toEqual({ bo: { audio: true, video: true, screen: true } });
    camera.pause();
    expect(told.wanted).toEqual({ bo: { audio: true, video: false, screen: true } });
    camera.resume();
    mic.pause();
    screen.pause();
    expect(told.wanted).toEqual({ bo: { audio: false, video: true, screen: false } });
    // Of two cameras, one suffices; one that is closed no longer counts.
    const second = await consume(transport, "video/VP8", { peerId: "bo" });
    camera.pause();
    expect(told.wanted.bo).toMatchObject({ video: true });
    second.close();
    expect(told.wanted.bo).toMatchObject({ video: false });
    camera.close();
    mic.close();
    expect(told.wanted).toEqual({ bo: { audio: true, video: true, screen: false } });
  });

  it("takes up consumers that were there before, and owners that are known later", async () => {
    const pc = new Connection();
    const transport = await transportOf("Recv", pc);
    const camera = await consume(transport, "video/VP8", {});
    camera.pause();
    const owners = new Map<string, string>();
    const told = new Told();
    const peerOf = ({ id }: types.Consumer) => owners.get(id);
    watchTransport(told as unknown as CallHealth, transport, { peerOf });
    const options = told.watched.get(pc);
    expect(options?.peerOf(camera.track)).toBeUndefined();
    owners.set(camera.id, "bo");
    expect(options?.peerOf(camera.track)).toBe("bo");
    expect(told.wanted).toEqual({ bo: { video: false } });
    owners.clear();
    camera.close();
    expect(told.wanted).toEqual({ bo: { video: true } });
  });

  it("knows own screens by appData, an option, or the browser", async () => {
    const pc = new Connection();
    const transport = await transportOf("Send", pc);
    const [camera, screen, shared] = [track("video"), track("video"), track("video")];
    await transport.produce({ track: camera });
    const told = new Told();
    watchTransport(told as unknown as CallHealth, transport, byAppData);
    const producer = await transport.produce({ track: screen, appData: { screen: true } });
    const isScreen = told.watched.get(pc)?.isScreen as (one: MediaStreamTrack) => boolean;
    expect([camera, screen].map(isScreen)).toEqual([false, true]);
    await producer.replaceTrack({ track: shared });
    expect([screen, shared].map(isScreen)).toEqual([false, true]);
    producer.close();
    expect(isScreen(shared)).toBe(false);
    expect(isScreen(track("video", { displaySurface: "window" }))).toBe(true);

    watchTransport(told as unknown as CallHealth, transport, {
      ...byAppData,
      isScreen: (media) => media.track === camera,
    });
    expect(told.watched.get(pc)?.isScreen(camera)).toBe(true);
  });

  it("leaves nothing behind when it is stopped", async () => {
    const { transport, told, stop, options } = await receiving();
    const camera = await consume(transport, "video/VP8", { peerId: "bo" });
    expect(camera.observer.listenerCount("pause")).toBe(1);
    stop();
    stop();
    for (const { observer } of [camera, transport]) expect(observer.eventNames()).toEqual([]);
    expect(told.watched.size).toBe(0);
    camera.pause();
    expect(told.wanted).toEqual({ bo: { video: true } });
    expect(options?.peerOf(camera.track)).toBeUndefined();
  });

  it("throws nothing into the transport, whatever the application does", async () => {
    const { transport } = await receiving({
      peerOf: () => {
        throw new Error("not now");
      },
    });
    const camera = await consume(transport, "video/VP8", {});
    camera.pause();
    expect(warned).toHaveBeenCalledWith("callsight: Error: not now");
    expect(camera.paused).toBe(true);
  });

  it("is known to a real CallHealth", async () => {
    vi.stubGlobal("fetch", async () => new Response(null, { status: 204 }));
    const pc = new Connection();
    const transport = await transportOf("Recv", pc);
    const options = { endpoint: "https://h.example", token: "t", meetingId: "m", peerId: "ana" };
    const health = new CallHealth(options);
    const asked = vi.fn(() => "bo");
    const stop = watchTransport(health, transport, { peerOf: asked });
    const { track } = await consume(transport, "audio/opus", {});
    pc.receivers = [{ track }];
    asked.mockClear();
    health.join();
    await vi.waitFor(() => expect(asked).toHaveBeenCalled());
    stop();
    await health.end();
  });
});
