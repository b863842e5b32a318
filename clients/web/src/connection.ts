/**
 * One connection that is watched.
 *
 * A statistic names tracks and transceivers, but not whose they are, nor how often ICE restarted.
 * The application knows the first, and the connection's events show the second.
 *
 * Invariant: whatever the application's functions throw stays here.
 */
import type { ConnectionReport, Medium } from "./mapping.js";

export interface WatchOptions {
  /** Whose a received track is: the participant's id, or nothing while nobody knows. */
  peerOf?: (track: MediaStreamTrack) => string | null | undefined;
  /** Whether a video track, own or received, is a shared screen. By default, what the browser says. */
  isScreen?: (track: MediaStreamTrack) => boolean;
}

/** A report in which received tracks are still the application's, not identifiers. */
export type RawReport = Omit<ConnectionReport, "received"> & {
  received: { track: string; peer: string; screen: boolean }[];
};

export class Connection {
  /** It has been connected by ICE, whatever came later. */
  reached = false;
  options: WatchOptions;
  readonly #pc: RTCPeerConnection;
  readonly #id: string;
  readonly #events = new AbortController();
  #fragment: string | undefined;
  #restarts = 0;

  constructor(pc: RTCPeerConnection, id: string, options: WatchOptions, changed: () => void) {
    this.#pc = pc;
    this.#id = id;
    this.options = options;
    const look = () => {
      this.#look();
      changed();
    };
    const { signal } = this.#events;
    for (const event of ["signalingstatechange", "iceconnectionstatechange"]) {
      pc.addEventListener(event, () => this.#look(), { signal });
    }
    pc.addEventListener("connectionstatechange", look, { signal });
    this.#look();
  }

  get state(): RTCPeerConnectionState {
    return this.#pc.connectionState;
  }

  #look(): void {
    if (/^(connected|completed)$/.test(this.#pc.iceConnectionState)) this.reached = true;
    const fragment = /^a=ice-ufrag:(.*)$/m.exec(this.#pc.localDescription?.sdp ?? "")?.[1];
    if (fragment && this.#fragment && fragment !== this.#fragment) this.#restarts += 1;
    this.#fragment = fragment ?? this.#fragment;
  }

  /** What it measures now. One that can't say is as one that does not grow. */
  async report(): Promise<RawReport> {
    this.#look();
    const received = this.#received();
    const sent = this.#sent();
    const stats = await this.#pc.getStats().catch(() => []);
    return { connection: this.#id, iceRestarts: this.#restarts, stats, received, sent };
  }

  #received(): RawReport["received"] {
    return this.#pc.getReceivers().flatMap(({ track }) => {
      const peer = attempt(() => this.options.peerOf?.(track));
      const known = peer !== undefined && peer !== null && peer !== "";
      return known ? [{ track: track.id, peer: `${peer}`, screen: this.#isScreen(track) }] : [];
    });
  }

  #sent(): Map<string, Medium> {
    const sent = new Map<string, Medium>();
    for (const { mid, sender } of this.#pc.getTransceivers()) {
      if (mid !== null && sender.track) sent.set(mid, this.#medium(sender.track));
    }
    return sent;
  }

  /** Whether the own microphone or camera is on: a live track that is sent and enabled. */
  sends(medium: Medium): boolean {
    return this.#pc.getTransceivers().some(({ sender: { track }, currentDirection }) => {
      const sent = /^send/.test(currentDirection ?? "");
      if (!sent || !track?.enabled || track.readyState !== "live") return false;
      return this.#medium(track) === medium;
    });
  }

  #medium(track: MediaStreamTrack): Medium {
    if (this.#isScreen(track)) return "screen";
    return track.kind === "audio" ? "audio" : "video";
  }

  #isScreen(track: MediaStreamTrack): boolean {
    const { isScreen } = this.options;
    const says = isScreen && attempt(() => isScreen(track));
    return says ?? "displaySurface" in track.getSettings();
  }

  close(): void {
    this.#events.abort();
  }
}

function attempt<T>(call: () => T): T | undefined {
  try {
    return call();
  } catch (error) {
    console.warn(`callsight: ${error}`);
    return undefined;
  }
}
