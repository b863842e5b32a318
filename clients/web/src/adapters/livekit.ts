/**
 * The rooms of `livekit-client`.
 *
 * A room keeps its peer connections to itself and replaces them when it reconnects. It knows whose
 * each track is, who is muted and which tile is out of sight, and says so in some twenty events,
 * which it delays, repeats or omits while it reconnects. So an event is only a reason to look: then
 * everything is derived anew from what the room is, once per task.
 *
 * Invariant: nothing is thrown into the room or the application, and no listener is left behind.
 */
import type {
  DisconnectReason,
  RemoteParticipant,
  RemoteTrackPublication,
  Room,
  RoomEventCallbacks,
  Track,
  TrackPublication,
} from "livekit-client";
import type { JoinFailure } from "../frame.js";
import type { CallHealth, Media } from "../health.js";
import { safely } from "./safely.js";

/** After which there may be something new. */
const EVENTS: readonly (keyof RoomEventCallbacks)[] = [
  "connectionStateChanged",
  "signalConnected",
  "participantConnected",
  "participantDisconnected",
  "trackPublished",
  "trackUnpublished",
  "trackSubscribed",
  "trackUnsubscribed",
  "trackMuted",
  "trackUnmuted",
  "trackSubscriptionStatusChanged",
  "trackSubscriptionPermissionChanged",
  "localTrackPublished",
  "localTrackUnpublished",
];

/** Why an attempt to join was given up, where the room says it. The compiler checks the numbers. */
const ABORTED: DisconnectReason.CLIENT_INITIATED = 1;
const NOT_ALLOWED: DisconnectReason.USER_REJECTED = 12;
const UNKNOWN: DisconnectReason.UNKNOWN_REASON = 0;

type Engine = Room["engine"];
type Source = `${Track.Source}`;

const SCREEN: readonly Source[] = ["screen_share", "screen_share_audio"];

/**
 * Reports a room: its connections, who is in it and muted, what is wanted, and how joining goes.
 * Call it before `room.connect`, once per room and `CallHealth`. The result stops it.
 */
export function watchRoom(health: CallHealth, room: Room): () => void {
  const watched = new Set<RTCPeerConnection>();
  const present = new Set<string>();
  const publications = new Set<RemoteTrackPublication>();
  let engine: Engine | undefined;
  let due = false;
  let stopped = false;
  // Of the attempt to join.
  let signalled = false;
  let reached = false;

  const options = {
    peerOf: (track: MediaStreamTrack) => ownerOf(room, track),
    isScreen: (track: MediaStreamTrack) => {
      const source = sourceOf(room, track);
      return source ? SCREEN.includes(source) : "displaySurface" in track.getSettings();
    },
  };

  // The room is in order only when it has returned from what emits the event.
  const soon = () => {
    if (due) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      if (!stopped) safely(look);
    });
  };
  // Connections are closed before the room says that joining has failed.
  const closing = () => {
    const pcs = [...watched];
    reached ||= pcs.some(({ iceConnectionState: ice }) => /^(connected|completed)$/.test(ice));
  };
  const stateChanged = () => safely(() => began(`${room.state}`));
  const disconnected = (reason?: DisconnectReason) =>
    safely(() => health.failed(failure(reason, signalled, reached)));
  const connecting = () => {
    signalled = true;
  };

  function began(state: `${Room["state"]}`): void {
    if (state === "connected") health.joined();
    if (state !== "connecting") return;
    [signalled, reached] = [false, false];
    health.join();
  }

  function look(): void {
    hook(room.engine);
    connections();
    // Meanwhile the room has nobody in it, though they are still in the call.
    if (room.state === ("reconnecting" satisfies `${Room["state"]}`)) return;
    const all = [...room.remoteParticipants.values()];
    for (const participant of all) said(participant);
    for (const identity of present) {
      if (room.remoteParticipants.has(identity)) continue;
      health.left(identity);
      present.delete(identity);
    }
    listen(new Set(all.flatMap((one) => [...one.trackPublications.values()])));
    const own = [...room.localParticipant.trackPublications.values()];
    health.state({ audio: on(own, "audio").length > 0, video: on(own, "video").length > 0 });
  }

  /** The engine makes connections, and is replaced itself after a disconnect. */
  function hook(now: Engine | undefined): void {
    if (now === engine) return;
    engine?.off("transportsCreated", soon).off("closing", closing);
    engine = now?.on("transportsCreated", soon).on("closing", closing);
  }

  function connections(): void {
    const { publisher, subscriber } = engine?.pcManager ?? {};
    // The getter `pc` would make a new connection where one was closed.
    // biome-ignore lint/complexity/useLiteralKeys: the compiler finds a private member only so
    const pcs = [publisher, subscriber].map((transport) => transport?.["_pc"]).filter(Boolean);
    for (const pc of watched) if (!pcs.includes(pc)) forget(pc);
    for (const pc of pcs) {
      if (watched.has(pc)) continue;
      watched.add(pc);
      health.watch(pc, options);
    }
  }

  function forget(pc: RTCPeerConnection): void {
    watched.delete(pc);
    health.unwatch(pc);
  }

  function said({ identity, trackPublications }: RemoteParticipant): void {
    const enabled: Media = {};
    const wanted: Media = {};
    for (const medium of ["audio", "video", "screen"] as const) {
      const published = on([...trackPublications.values()], medium);
      enabled[medium] = published.length > 0;
      wanted[medium] = published.length === 0 || published.some(isWanted);
    }
    present.add(identity);
    health.peer(identity, enabled);
    health.want(identity, wanted);
  }

  /** Only a publication itself says that it was enabled, disabled, hidden or shown. */
  function listen(now: ReadonlySet<RemoteTrackPublication>): void {
    for (const publication of publications) {
      if (now.has(publication)) continue;
      publication.off("updateSettings", soon);
      publications.delete(publication);
    }
    for (const publication of now) {
      if (publications.has(publication)) continue;
      publication.on("updateSettings", soon);
      publications.add(publication);
    }
  }

  safely(() => {
    for (const event of EVENTS) room.on(event, soon);
    room.on("connectionStateChanged", stateChanged);
    room.on("signalConnected", connecting);
    room.on("disconnected", disconnected);
    began(`${room.state}`);
    look();
  });

  return () =>
    safely(() => {
      if (stopped) return;
      stopped = true;
      for (const event of EVENTS) room.off(event, soon);
      room.off("connectionStateChanged", stateChanged);
      room.off("signalConnected", connecting);
      room.off("disconnected", disconnected);
      hook(undefined);
      listen(new Set());
      for (const pc of watched) forget(pc);
      // What nobody updates any more would be missed for ever.
      for (const identity of present) health.left(identity);
    });
}

function failure(
  reason: DisconnectReason | undefined,
  signalled: boolean,
  reached: boolean,
): JoinFailure {
  if (reason === ABORTED) return "aborted";
  if (reason === NOT_ALLOWED) return "unauthorized";
  // Without a reason it was the media, once there was signalling. Else the server said why.
  const media = signalled && (reason === undefined || reason === UNKNOWN);
  if (!media) return "signaling";
  return reached ? "dtls" : "ice";
}

/** Publications of the medium that are not muted. The sound of a screen is nobody's microphone. */
function on<T extends TrackPublication>(publications: T[], medium: keyof Media): T[] {
  return publications.filter(({ kind, source, isMuted }) => {
    const screen = SCREEN.includes(source);
    const is = kind === (medium === "audio" ? "audio" : "video");
    return is && screen === (medium === "screen") && !isMuted;
  });
}

function isWanted(publication: RemoteTrackPublication): boolean {
  const { isDesired, isEnabled, permissionStatus, track } = publication;
  const allowed = `${permissionStatus}` === "allowed";
  // An adaptive stream begins only when it is attached to an element.
  const adaptive = track !== undefined && "isAdaptiveStream" in track && track.isAdaptiveStream;
  return isDesired && isEnabled && allowed && !(adaptive && track.attachedElements.length === 0);
}

function ownerOf(room: Room, { id }: MediaStreamTrack): string | undefined {
  for (const { identity, trackPublications } of room.remoteParticipants.values()) {
    for (const { track, source } of trackPublications.values()) {
      if (track?.mediaStreamTrack.id !== id) continue;
      // It would hide that the microphone is not heard.
      return source === "screen_share_audio" ? undefined : identity;
    }
  }
  return undefined;
}

function sourceOf(room: Room, { id }: MediaStreamTrack): Source | undefined {
  for (const participant of [room.localParticipant, ...room.remoteParticipants.values()]) {
    for (const { track, source } of participant.trackPublications.values()) {
      if (track?.mediaStreamTrack.id === id) return source;
    }
  }
  return undefined;
}
