/**
 * The VideoRoom of Janus, with `janus-gateway`.
 *
 * A handle of the library has a connection, but knows neither participants nor subscriptions: those
 * are in the messages that the application exchanges with the plugin, over several handles. One of
 * a publisher hears who is in the room; those of subscribers say which of their media are received,
 * and from whom. So this reads the messages of all handles as they pass, then derives everything
 * from what they have said so far.
 *
 * Invariant: nothing is thrown into the library or the application, and each message and request
 * passes as it is.
 */
import type { JanusJS } from "janus-gateway";
import type { CallHealth, Media } from "../health.js";
import { safely } from "./safely.js";

/** Who publishes; a participant may have several feeds, such as one more for a screen. */
export interface Feed {
  id: string | number;
  display?: string | undefined;
  metadata?: unknown;
}

/** One medium of a feed. */
export interface Stream {
  mid: string;
  type: string;
  description?: string | undefined;
}

export interface RoomOptions {
  /** Whose a feed is: the participant's id, or nothing if it is nobody's. By default its `id`. */
  peerOf?: (feed: Feed) => string | null | undefined;
  /** Whether a video is a shared screen: by default, whether its description is `screen`. */
  isScreen?: (stream: Stream, feed: Feed) => boolean;
}

/** A room that is reported. */
export interface WatchedRoom {
  /** Reports one more handle. Call it as soon as there is one, before it joins the room. */
  watch(handle: JanusJS.PluginHandle): void;
  /** Forgets the room and all handles. */
  stop(): void;
}

/** The streams of a feed by `mid`, and whether something is sent. */
type Streams = Map<string, Stream & { on: boolean }>;

/** A stream that is received; its `mid` is the feed's. */
interface Subscription extends Stream {
  feed: Feed;
  paused: boolean;
}

/** What the messages of a handle have said. */
interface Known {
  pc?: RTCPeerConnection | undefined;
  /** The own feed, once it has joined. */
  own?: Feed | undefined;
  published: Streams;
  /** By the `mid` of the handle's connection. */
  subscriptions: Map<string, Subscription>;
  paused: boolean;
  /** Gives the handle its own members back. */
  release(): void;
}

/** The library calls these members of a handle, but declares them only as callbacks. */
type Handle = JanusJS.PluginHandle &
  Required<Pick<JanusJS.PluginCallbacks, "onmessage" | "iceState" | "oncleanup">>;

// biome-ignore lint/suspicious/noExplicitAny: messages are what the library passes on
type Message = Record<string, any>;

const MEDIA = ["audio", "video", "screen"] as const;

/**
 * Reports a room: its connections, who is in it, what they publish, and what of it is wanted. All
 * handles of the room go to `watch`: those of publishers, and those of subscribers.
 */
export function watchRoom(
  health: CallHealth,
  {
    peerOf = ({ id }) => `${id}`,
    isScreen = ({ description }) => description === "screen",
  }: RoomOptions = {},
): WatchedRoom {
  const handles = new Map<Handle, Known>();
  const feeds = new Map<string, { feed: Feed; streams: Streams }>();
  /** What was said of each participant last. */
  const said = new Map<string, { enabled: string; wanted: string }>();
  let due = false;

  // A handle gets its connection from what the application does about a message.
  const soon = () => {
    if (due) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      safely(look);
    });
  };

  function look(): void {
    for (const [handle, known] of handles) {
      if (handle.detached) forget(handle);
      else connect(handle, known);
    }
    const enabled = new Map<string, Media>();
    for (const { feed, streams } of feeds.values()) {
      const media = of(enabled, whose(feed), { audio: false, video: false, screen: false });
      for (const stream of streams.values()) if (stream.on) media[mediumOf(stream, feed)] = true;
    }
    const received = new Map<string, Media>();
    for (const { subscriptions, paused } of handles.values()) {
      for (const subscription of subscriptions.values()) {
        const media = of(received, whose(subscription.feed), {});
        media[mediumOf(subscription, subscription.feed)] ||= !paused && !subscription.paused;
      }
    }
    const present = new Set([...enabled.keys(), ...received.keys()]);
    for (const peer of present) say(peer, enabled.get(peer), received.get(peer));
    for (const peer of said.keys()) if (!present.has(peer)) left(peer);
  }

  /** Only what has changed: an application may know of mutes that Janus does not announce. */
  function say(peer: string, enabled?: Media, received: Media = {}): void {
    const wanted: Media = {};
    for (const medium of MEDIA) wanted[medium] = received[medium] ?? enabled?.[medium] === false;
    const before = said.get(peer);
    const now = { enabled: JSON.stringify(enabled ?? {}), wanted: JSON.stringify(wanted) };
    said.set(peer, now);
    if (enabled && now.enabled !== before?.enabled) health.peer(peer, enabled);
    if (now.wanted !== before?.wanted) health.want(peer, wanted);
  }

  function left(peer: string): void {
    said.delete(peer);
    health.left(peer);
  }

  /** Nobody's is also an own feed, as of a screen: the handles of one page hear of each other. */
  function whose(feed: Feed): string | undefined {
    const own = [...handles.values()].some((known) => known.own?.id === feed.id);
    return own ? undefined : peerOf(feed) || undefined;
  }

  function mediumOf(stream: Stream, feed: Feed): keyof Media {
    if (stream.type === "audio") return "audio";
    return isScreen(stream, feed) ? "screen" : "video";
  }

  function connect({ webrtcStuff }: Handle, known: Known): void {
    const pc = webrtcStuff.pc ?? undefined;
    if (pc === known.pc) return;
    if (known.pc) health.unwatch(known.pc);
    known.pc = pc;
    if (!pc) return;
    const midOf = ({ id }: MediaStreamTrack) => {
      const transceiver = pc
        .getTransceivers()
        .find(({ sender, receiver }) => receiver.track.id === id || sender.track?.id === id);
      return transceiver?.mid ?? "";
    };
    health.watch(pc, {
      peerOf: (track) => {
        const subscription = known.subscriptions.get(midOf(track));
        return subscription && whose(subscription.feed);
      },
      isScreen: (track) => {
        const mid = midOf(track);
        const subscription = known.subscriptions.get(mid);
        if (subscription) return isScreen(subscription, subscription.feed);
        const stream = known.published.get(mid);
        const says = stream !== undefined && known.own !== undefined && isScreen(stream, known.own);
        return says || "displaySurface" in track.getSettings();
      },
    });
  }

  /** What the plugin says. */
  function hear(known: Known, message: Message): void {
    const { videoroom, id, mid, streams, publishers, attendees, joining } = message;
    if (videoroom === "joined") known.own = { id, display: message.display };
    for (const one of [publishers, attendees, joining].flat()) if (one && !one.dummy) announce(one);
    if (Array.isArray(streams)) {
      // A publisher hears of its own streams, a subscriber of those that it receives.
      if (known.own) known.published = streamsOf(streams);
      else subscribed(known, streams);
    }
    feeds.get(`${message.unpublished}`)?.streams.clear();
    feeds.delete(`${message.leaving}`);
    feeds.delete(`${message.kicked}`);
    const moderated = message.moderation && feeds.get(`${id}`)?.streams.get(mid);
    if (moderated) moderated.on = message.moderation !== "muted";
    if (message.left === "ok") known.subscriptions.clear();
    if (message.leaving === "ok" || videoroom === "destroyed") outside(known);
  }

  function announce({ id, display, metadata, streams = [] }: Message): void {
    feeds.set(`${id}`, { feed: { id, display, metadata }, streams: streamsOf(streams) });
  }

  function subscribed({ subscriptions }: Known, streams: Message[]): void {
    subscriptions.clear();
    for (const { mid, type, send, feed_id: id, ...from } of streams) {
      // One that is no longer used has no feed.
      if (id === undefined) continue;
      const { feed } = feeds.get(`${id}`) ?? { feed: { id, display: from.feed_display } };
      const [feedMid, description] = [`${from.feed_mid}`, from.feed_description];
      const paused = send === false;
      subscriptions.set(mid, { type, feed, mid: feedMid, description, paused });
    }
  }

  /** What the plugin is asked for: its answer says only that a pause was granted. */
  function ask(known: Known, { request, mid, send, streams }: Message): void {
    if (request === "pause") known.paused = true;
    if (request === "start") known.paused = false;
    if (request !== "configure") return;
    for (const one of [{ mid, send }, streams].flat()) {
      const subscription = known.subscriptions.get(one?.mid);
      if (subscription && typeof one.send === "boolean") subscription.paused = !one.send;
    }
  }

  /** Who is no longer in the room hears nothing of it. */
  function outside(known: Known): void {
    known.own = undefined;
    if (![...handles.values()].some(({ own }) => own)) feeds.clear();
  }

  function watch(handle: Handle): void {
    if (handles.has(handle)) return;
    const passed = (note: (known: Known, message: Message) => void, message: Message) => {
      const known = handles.get(handle);
      if (known) safely(() => note(known, message));
      soon();
    };
    const { onmessage, iceState, oncleanup, send } = handle;
    const own = { onmessage, iceState, oncleanup, send };
    const ours: typeof own = {
      onmessage: (message, jsep) => {
        passed(hear, message);
        onmessage.call(handle, message, jsep);
      },
      iceState: (state) => {
        soon();
        iceState.call(handle, state);
      },
      oncleanup: () => {
        soon();
        oncleanup.call(handle);
      },
      send: (request) => {
        passed(ask, request.message);
        send.call(handle, request);
      },
    };
    const release = () => {
      for (const name of ["onmessage", "iceState", "oncleanup", "send"] as const) {
        // Another one may have taken its place meanwhile.
        if (handle[name] === ours[name]) Object.assign(handle, { [name]: own[name] });
      }
    };
    Object.assign(handle, ours);
    handles.set(handle, { published: new Map(), subscriptions: new Map(), paused: false, release });
    soon();
  }

  function forget(handle: Handle): void {
    const known = handles.get(handle);
    handles.delete(handle);
    known?.release();
    if (known?.pc) health.unwatch(known.pc);
    if (known?.own) outside(known);
  }

  return {
    watch: (handle) => safely(() => watch(handle as Handle)),
    stop: () =>
      safely(() => {
        for (const handle of handles.keys()) forget(handle);
        for (const peer of said.keys()) left(peer);
      }),
  };
}

/** The media of a participant, or such that nobody reads. */
function of(all: Map<string, Media>, peer: string | undefined, media: Media): Media {
  if (peer === undefined) return media;
  const known = all.get(peer) ?? media;
  all.set(peer, known);
  return known;
}

function streamsOf(streams: Message[]): Streams {
  const known = streams.map(({ mid, type, description, disabled, moderated }) => {
    const on = disabled !== true && moderated !== true;
    return [mid, { mid, type, description, on }] as const;
  });
  return new Map(known.filter(([, { type }]) => type === "audio" || type === "video"));
}
