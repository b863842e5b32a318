/**
 * Reports the health of a call.
 *
 * An application must report what its users hear and see without its calls ever suffering from the
 * report. So this looks at connections every few seconds, keeps all trouble of its own to itself,
 * and hands frames to a queue of their own.
 *
 * Invariant: no method throws, blocks, or leaves a timer or a listener behind after `end`.
 */
import { Connection, type WatchOptions } from "./connection.js";
import { encodeFrame, type Frame, type Join, type JoinFailure } from "./frame.js";
import { identifierOf, isIdentifier, random } from "./identifier.js";
import {
  type CallState,
  type ConnectionReport,
  type Context,
  type PeerState,
  platformOf,
  toFrame,
} from "./mapping.js";
import { Sender, type Token } from "./sender.js";

/** Frames that follow each other quickly, since a call mostly fails as it begins. */
const QUICK_FRAMES = 10;
const QUICK = 1_000;

/** The usual time between frames, the shortest and the longest, in milliseconds. */
const USUAL = 5_000;
const SHORTEST = 1_000;
const LONGEST = 10_000;

export interface ServerOptions {
  /** Where the client is connected to, such as `https://sfu-1.example.com`. */
  url: string;
  /** `webrtc` by default. */
  type?: "webrtc" | "websocket" | "webtransport" | "other";
}

export interface CallHealthOptions {
  /** The address of `callsight ingest`. */
  endpoint: string;
  /** The token of the call, or what fetches one. A function is called again when one expires. */
  token: Token;
  meetingId: string;
  peerId: string;
  /** The media server. None in a call without a server. */
  server?: ServerOptions;
  /** The application's release, such as `web-2.14.0`. */
  app?: string;
  /** Only for a token with a session of its own; by default the participant's id and a random part. */
  sessionId?: string;
  /** Milliseconds between frames: 5,000 by default, at least 1,000 and at most 10,000. */
  interval?: number;
  /** Hears each problem of the report itself, such as a refused token. By default `console.warn`. */
  onError?: (problem: string) => void;
}

/** Media of a participant that are on, or wanted. What is absent stays as it was. */
export interface Media {
  audio?: boolean;
  video?: boolean;
  screen?: boolean;
}

export class CallHealth {
  readonly #options: CallHealthOptions;
  readonly #sender: Sender;
  readonly #connections = new Map<RTCPeerConnection, Connection>();
  readonly #events = new AbortController();
  readonly #ids = new Map<string, string>();
  /** By the application's own ids. */
  readonly #peers = new Map<string, PeerState>();
  #own: Media = {};
  #server: ServerOptions | undefined;
  #join: (Join & { since: number }) | undefined;
  #session = "";
  #call: CallState | undefined;
  #last: Frame | undefined;
  #watched = 0;
  #hidden = false;
  #started = false;
  #looking = false;
  #again = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ended: Promise<void> | undefined;
  #problem = "";

  constructor(options: CallHealthOptions) {
    const { meetingId, peerId } = options;
    this.#options = { ...options, meetingId: `${meetingId}`, peerId: `${peerId}` };
    this.#server = options.server;
    this.#sender = new Sender(`${options.endpoint}`, options.token, (text) => this.#warn(text));
  }

  /** Watches a connection until it is closed. Watched again, it gets the new options. */
  watch(pc: RTCPeerConnection, options: WatchOptions = {}): void {
    this.#safely(() => {
      const known = this.#connections.get(pc);
      if (known) {
        known.options = options;
        return;
      }
      const changed = () => this.#safely(() => this.#connected());
      this.#watched += 1;
      this.#connections.set(pc, new Connection(pc, `${this.#watched}`, options, changed));
      this.#connected();
      this.#start();
    });
  }

  /** Forgets a connection, but not what it has counted. */
  unwatch(pc: RTCPeerConnection): void {
    this.#connections.get(pc)?.close();
    this.#connections.delete(pc);
  }

  /** What a participant publishes and has not muted, as signalling says. */
  peer(peerId: string, media: Media = {}): void {
    this.#say(peerId, media, "enabled");
  }

  /** What this client asks for: nobody misses what is not wanted. */
  want(peerId: string, media: Media): void {
    this.#say(peerId, media, "wanted");
  }

  /** A participant has left the call: what their media miss as they end is nobody's fault. */
  left(peerId: string): void {
    const paused = { paused: true };
    this.#peers.set(`${peerId}`, { audio: paused, video: paused, screen: paused, left: true });
  }

  #say(peerId: string, media: Media, what: "enabled" | "wanted"): void {
    this.#safely(() => {
      // Ids may be numbers to an application that has no types.
      const id = `${peerId}`;
      const peer = this.#peers.get(id) ?? {};
      peer.left = false;
      this.#peers.set(id, peer);
      if (what === "enabled") peer.present = true;
      for (const medium of ["audio", "video", "screen"] as const) {
        const on = media[medium];
        if (on === undefined) continue;
        const said = peer[medium] ?? {};
        peer[medium] = { ...said, [what]: on, paused: said.paused === true || !on };
      }
    });
  }

  /** The own microphone and camera, if not as their tracks say, and the server after a move. */
  state({ server, ...media }: { audio?: boolean; video?: boolean; server?: ServerOptions }): void {
    this.#own = { ...this.#own, ...media };
    this.#server = server ?? this.#server;
  }

  /** An attempt to join begins. A connection that is connected completes it. */
  join(): void {
    this.#safely(() => {
      this.#join = { state: "joining", since: performance.now() };
      if (this.#started) void this.#look();
      else this.#start();
    });
  }

  /** The attempt has succeeded. */
  joined(): void {
    this.#settle("joined");
  }

  /** The attempt is given up. Without a reason, the connections tell `ice` from `dtls`. */
  failed(reason?: JoinFailure): void {
    this.#settle("failed", reason ?? this.#cause());
  }

  #settle(state: "joined" | "failed", reason?: JoinFailure): void {
    this.#safely(() => {
      if (this.#join?.state !== "joining") return;
      const { since } = this.#join;
      const join = { state, since, setup_ms: performance.now() - since };
      this.#join = reason === undefined ? join : { ...join, reason };
      void this.#look();
    });
  }

  #cause(): JoinFailure | undefined {
    const failed = [...this.#connections.values()].find(({ state }) => state === "failed");
    return failed && (failed.reached ? "dtls" : "ice");
  }

  #connected(): void {
    if ([...this.#connections.values()].some(({ state }) => state === "connected")) this.joined();
  }

  /** Sends the last frame. Nothing is reported afterwards. Resolves when it was answered. */
  end(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  async #end(): Promise<void> {
    clearTimeout(this.#timer);
    this.#events.abort();
    for (const pc of this.#connections.keys()) this.unwatch(pc);
    try {
      if (!this.#last) return;
      // Without new statistics, so that it leaves at once, even from a page that goes.
      const { frame } = toFrame([], this.#call, this.#context());
      const { peers } = this.#last;
      await this.#sender.last(encodeFrame({ ...this.#last, ...frame, peers, ended: true }));
    } catch (error) {
      this.#warn(`${error}`);
    }
  }

  #start(): void {
    if (this.#started || this.#ended) return;
    this.#started = true;
    const { signal } = this.#events;
    globalThis.document?.addEventListener(
      "visibilitychange",
      () => {
        this.#hidden ||= document.hidden;
        // A hidden page may be stopped without another event.
        void this.#look();
      },
      { signal },
    );
    globalThis.window?.addEventListener("pagehide", () => void this.end(), { signal });
    this.#hidden = globalThis.document?.hidden ?? false;
    void this.#look();
  }

  /** Makes a frame now, and the next one in a while. */
  async #look(): Promise<void> {
    if (!this.#started || this.#ended) return;
    // One that is being made may have missed what has changed.
    this.#again = this.#looking;
    if (this.#looking) return;
    this.#looking = true;
    clearTimeout(this.#timer);
    try {
      const frame = await this.#frame();
      if (frame && !this.#ended) this.#sender.push(encodeFrame(frame), frame.tab_visible === false);
    } catch (error) {
      this.#warn(`${error}`);
    }
    this.#looking = false;
    if (this.#ended) return;
    if (this.#again) void this.#look();
    else this.#timer = setTimeout(() => void this.#look(), this.#pause());
  }

  #pause(): number {
    const { interval = USUAL } = this.#options;
    const usual = Math.min(Math.max(interval || USUAL, SHORTEST), LONGEST);
    return (this.#call?.seq ?? 0) < QUICK_FRAMES ? QUICK : usual;
  }

  async #frame(): Promise<Frame | undefined> {
    for (const [pc, { state }] of this.#connections) if (state === "closed") this.unwatch(pc);
    const connections = [...this.#connections.values()];
    const raw = await Promise.all(connections.map((connection) => connection.report()));
    const tracks = raw.flatMap(({ received }) => received.map(({ peer }) => peer));
    const { meetingId, peerId } = this.#options;
    for (const text of new Set([meetingId, peerId, ...this.#peers.keys(), ...tracks])) {
      if (!this.#ids.has(text)) this.#ids.set(text, await identifierOf(text));
    }
    if (this.#ended || !this.#named()) return undefined;
    const reports: ConnectionReport[] = raw.map((report) => ({
      ...report,
      received: new Map(
        report.received.map(({ track, peer, screen }) => [
          track,
          { peerId: this.#ids.get(peer) as string, screen },
        ]),
      ),
    }));
    const { frame, state } = toFrame(reports, this.#call, this.#context());
    this.#call = state;
    this.#last = frame;
    this.#hidden = globalThis.document?.hidden ?? false;
    for (const [id, peer] of this.#peers) {
      if (peer.left) this.#peers.delete(id);
      for (const medium of Object.values(peer))
        if (typeof medium === "object") medium.paused = false;
    }
    return frame;
  }

  /** Gives the session its id. */
  #named(): boolean {
    const { sessionId, peerId } = this.#options;
    this.#session ||= sessionId ?? `${this.#ids.get(peerId)}:${random()}`;
    if (isIdentifier(this.#session)) return true;
    this.#warn(`no session id of at most 128 bytes: use a peerId of at most 103 bytes`);
    return false;
  }

  #context(): Context {
    const { meetingId, peerId, app } = this.#options;
    const connections = [...this.#connections.values()];
    const own = (medium: "audio" | "video") =>
      this.#own[medium] ??
      (connections.length > 0 ? connections.some((one) => one.sends(medium)) : undefined);
    const peers = [...this.#peers].flatMap(([text, peer]) => {
      const id = this.#ids.get(text);
      return id === undefined ? [] : [[id, peer] as const];
    });
    const context: Context = {
      meetingId: this.#ids.get(meetingId) as string,
      sessionId: this.#session,
      peerId: this.#ids.get(peerId) as string,
      now: performance.now(),
      sentAt: Date.now(),
      audio: own("audio"),
      video: own("video"),
      server: this.#server && { url: this.#server.url, type: this.#server.type ?? "webrtc" },
      app,
      platform: platformOf(globalThis.navigator?.userAgent ?? ""),
      peers: new Map(peers),
      join: this.#joinNow(),
    };
    if (globalThis.document) context.visible = !(this.#hidden || document.hidden);
    return context;
  }

  #joinNow(): Join | undefined {
    if (!this.#join) return undefined;
    const { since, ...join } = this.#join;
    return { setup_ms: performance.now() - since, ...join };
  }

  #safely(call: () => void): void {
    try {
      if (!this.#ended) call();
    } catch (error) {
      this.#warn(`${error}`);
    }
  }

  /** Reports a problem, but not again while it lasts. */
  #warn(problem: string): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    try {
      const { onError = (text: string) => console.warn(`callsight: ${text}`) } = this.#options;
      onError(problem);
    } catch {
      // The application's own handler has failed, and is the only one to tell.
    }
  }
}
