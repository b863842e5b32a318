/**
 * From `getStats()` to a frame.
 *
 * Browsers restart their counters with every connection and track, and each has statistics that
 * others lack. Yet two clients that see the same must report the same, and no honest call may look
 * bad. So this is the mapping of docs/frame.md, field by field, as a pure function: from what the
 * connections measure, what the application says, and what was remembered, to a frame and what to
 * remember.
 *
 * Invariant: from frame to frame of a session, no counter decreases.
 */
import {
  type Audio,
  type Frame,
  type Join,
  MAX_PEERS,
  type Path,
  type Peer,
  type Send,
  type Video,
} from "./frame.js";

/** How long a medium may be missing before it is reported, in milliseconds. */
const MISSING_AFTER = 5_000;

/** One statistic of a report. */
// biome-ignore lint/suspicious/noExplicitAny: each type of statistics has other members
export type Stat = Record<string, any>;

/** A report as `getStats()` returns it, or a dump of one: a list, or an object by id. */
export type StatsReport = Iterable<Stat> | { values(): Iterable<Stat> } | Record<string, Stat>;

export type Medium = "audio" | "video" | "screen";

/** What one connection measures, and whose its tracks are. */
export interface ConnectionReport {
  /** Tells the connections apart, the same in every frame. The oldest comes first. */
  connection: string;
  stats: StatsReport;
  /** Whose each received track is, by its id. A track of nobody known is not reported. */
  received: ReadonlyMap<string, { peerId: string; screen?: boolean }>;
  /** What each sent track is, by the `mid` of its transceiver. */
  sent: ReadonlyMap<string, Medium>;
  /** How often the connection has restarted ICE. */
  iceRestarts: number;
}

/** What the application says about a medium of a peer. */
export interface MediumState {
  /** Published and not muted; derived from packets if nobody says it. */
  enabled?: boolean | undefined;
  /** Absent is true. */
  wanted?: boolean | undefined;
  /** Off or unwanted at any time since the previous frame. */
  paused?: boolean;
}

export interface PeerState extends Partial<Record<Medium, MediumState>> {
  /** In the call, even if no track of the peer's is received. */
  present?: boolean;
  /** Has left since the previous frame. */
  left?: boolean;
}

/** What no statistic tells. Ids are identifiers already. */
export interface Context {
  meetingId: string;
  sessionId: string;
  peerId: string;
  /** A clock that never jumps, in milliseconds: `performance.now()`. */
  now: number;
  /** `Date.now()`. */
  sentAt: number;
  /** False if the page was hidden at any time since the previous frame. */
  visible?: boolean;
  /** The own microphone and camera. */
  audio?: boolean | undefined;
  video?: boolean | undefined;
  server?: { url: string; type: string } | undefined;
  app?: string | undefined;
  platform?: string | undefined;
  peers?: ReadonlyMap<string, PeerState>;
  join?: Join | undefined;
}

/** What is remembered from frame to frame. */
export interface CallState {
  seq: number;
  /** The highest values of each entry, by connection and id. */
  entries: Map<string, Counters>;
  /** Counters of the session. */
  sums: Counters;
  peers: Map<string, Record<Medium, Observed>>;
}

interface Counters {
  [name: string]: number;
}

interface Observed {
  sums: Counters;
  /** When packets last came. */
  receivedAt?: number;
  /** Since when it could be missed; a medium that is off or grows begins anew. */
  since?: number;
  /** Whether it was on and wanted in the previous frame. */
  on?: boolean;
}

/** Counters of a medium by field, and the statistic that they add up. */
const RECEIVED = {
  packets_received: "packetsReceived",
  packets_lost: "packetsLost",
};
const AUDIO = {
  ...RECEIVED,
  total_samples: "totalSamplesReceived",
  concealed_samples: "concealedSamples",
  silent_concealed_samples: "silentConcealedSamples",
  concealment_events: "concealmentEvents",
  inserted_samples_for_deceleration: "insertedSamplesForDeceleration",
  removed_samples_for_acceleration: "removedSamplesForAcceleration",
  packets_discarded: "packetsDiscarded",
};
const VIDEO = {
  ...RECEIVED,
  frames_decoded: "framesDecoded",
  frames_dropped: "framesDropped",
  freeze_count: "freezeCount",
  total_freezes_duration_ms: "totalFreezesDuration",
  nack_count: "nackCount",
  pli_count: "pliCount",
};

/** Counters that a pause of the sender raises, though nothing is wrong. */
const RAISED_BY_PAUSES = new Set([
  "concealed_samples",
  "silent_concealed_samples",
  "concealment_events",
  "freeze_count",
  "total_freezes_duration_ms",
]);

/** The largest values that are accepted. A larger one is no measurement, and left out. */
const MAX_MS = 600_000;
const MAX_FPS = 10_000;
const MAX_HEIGHT = 65_535;
const MAX_KBPS = 10_000_000;
const MAX_COUNT = 10_000_000_000_000;

/** A statistic with its growth since the previous frame. */
class Entry {
  readonly #before: Counters;
  readonly #after: Counters;

  constructor(
    readonly stat: Stat,
    readonly from: ConnectionReport,
    entries: Map<string, Counters>,
  ) {
    const key = `${from.connection} ${stat.id}`;
    const before = entries.get(key) ?? {};
    const packets = stat.packetsReceived ?? stat.packetsSent;
    const restarted = packets < Math.max(before.packetsReceived ?? 0, before.packetsSent ?? 0);
    this.#before = restarted ? {} : before;
    this.#after = { ...this.#before };
    entries.set(key, this.#after);
    // Only now is the time of the statistic known to belong to what has grown since.
    if (typeof stat.timestamp === "number") this.#after.timestamp = stat.timestamp;
  }

  /** Whether the statistic is another than in the previous frame. */
  get isNew(): boolean {
    const { timestamp } = this.stat;
    return timestamp === undefined || timestamp !== this.#before.timestamp;
  }

  /** By how much a counter has grown. One that decreases, as losses do, grows from its highest. */
  grown(name: string, value: unknown = this.stat[name]): number | undefined {
    if (typeof value !== "number" || !Number.isFinite(value)) return undefined;
    const highest = this.#before[name] ?? 0;
    this.#after[name] = Math.max(value, highest);
    return this.#after[name] - highest;
  }

  /** The growth per millisecond, absent in the first frame. */
  rate(name: string): number | undefined {
    const known = name in this.#before;
    const growth = this.grown(name);
    const elapsed = this.stat.timestamp - (this.#before.timestamp ?? Number.NaN);
    return known && growth !== undefined && elapsed > 0 ? growth / elapsed : undefined;
  }
}

/** Makes a frame of the reports of all connections. The previous state stays as it is. */
export function toFrame(
  reports: readonly ConnectionReport[],
  previous: CallState | undefined,
  context: Context,
): { frame: Frame; state: CallState } {
  const state: CallState = previous
    ? structuredClone(previous)
    : { seq: 0, entries: new Map(), sums: {}, peers: new Map() };
  state.seq += 1;
  const connections = reports.map((report) => new Connection(report, state.entries));
  const { rtt, path } = network(connections, state.sums);
  const frame = known({
    v: 1,
    meeting_id: context.meetingId,
    session_id: context.sessionId,
    peer_id: context.peerId,
    seq: state.seq,
    sent_at_ms: context.sentAt,
    server: context.server && known({ ...context.server, rtt_ms: rtt }),
    audio_enabled: context.audio,
    video_enabled: context.video,
    tab_visible: context.visible,
    peers: peers(connections, state, context),
    client: known({ app: context.app, platform: context.platform }),
    path,
    send: sending(connections, state.sums),
    join: context.join,
  });
  return { frame: frame as Frame, state };
}

/** The statistics of a connection by type. */
class Connection {
  readonly #stats: Stat[];
  readonly #entries: Entry[];
  readonly pair: Stat | undefined;

  constructor(
    readonly report: ConnectionReport,
    entries: Map<string, Counters>,
  ) {
    this.#stats = list(report.stats);
    const media = this.#stats.filter(({ type }) => /bound-rtp$/.test(type));
    this.#entries = media.map((stat) => new Entry(stat, report, entries));
    const transports = this.of("transport");
    const selected = transports.map((stat) => stat.selectedCandidatePairId).find(Boolean);
    const pairs = this.of("candidate-pair");
    this.pair = selected
      ? pairs.find((pair) => pair.id === selected)
      : (pairs.find((pair) => pair.selected) ??
        pairs.find((pair) => pair.nominated && pair.state === "succeeded"));
  }

  of(type: string): Stat[] {
    return this.#stats.filter((stat) => stat.type === type);
  }

  media(type: "inbound-rtp" | "outbound-rtp" | "remote-inbound-rtp"): Entry[] {
    return this.#entries.filter(({ stat }) => stat.type === type);
  }

  /** In seconds: of the selected pair, else the longest of the media. */
  get roundTrip(): number | undefined {
    const { currentRoundTripTime, responsesReceived } = this.pair ?? {};
    const measured = responsesReceived === undefined || responsesReceived > 0;
    if (measured && typeof currentRoundTripTime === "number") return currentRoundTripTime;
    return largest(this.media("remote-inbound-rtp"), "roundTripTime");
  }
}

function list(stats: StatsReport): Stat[] {
  if ("values" in stats && typeof stats.values === "function") return [...stats.values()];
  return Symbol.iterator in stats ? [...(stats as Iterable<Stat>)] : Object.values(stats);
}

function network(
  connections: Connection[],
  sums: Counters,
): { rtt: number | undefined; path: Path | undefined } {
  let main = connections[0];
  for (const connection of connections) {
    if ((connection.roundTrip ?? -1) > (main?.roundTrip ?? -1)) main = connection;
  }
  const candidate = main
    ?.of("local-candidate")
    .find((stat) => stat.id === main?.pair?.localCandidateId);
  const sending = connections.filter((connection) =>
    connection.of("outbound-rtp").some((stat) => stat.packetsSent > 0),
  );
  for (const { report } of connections) {
    // A connection's restarts grow like any counter, so that they outlive it.
    const key = `ice_restarts ${report.connection}`;
    add(sums, "ice_restarts", report.iceRestarts - (sums[key] ?? 0));
    sums[key] = report.iceRestarts;
  }
  const path = known({
    candidate_type: candidate?.candidateType,
    protocol: candidate?.candidateType === "relay" ? candidate.relayProtocol : candidate?.protocol,
    available_outgoing_kbps: float(
      sum(sending.map(({ pair }) => pair?.availableOutgoingBitrate)),
      0.001,
      MAX_KBPS,
    ),
    ice_restarts: count(sums.ice_restarts),
  });
  return { rtt: float(main?.roundTrip, 1000, MAX_MS), path };
}

function sending(connections: Connection[], sums: Counters): Send | undefined {
  const outbound = connections.flatMap((connection) => connection.media("outbound-rtp"));
  const remote = connections.flatMap((connection) => connection.media("remote-inbound-rtp"));
  // The far end reports every few seconds. Packets that it has not reported on must not count as
  // sent without a loss, nor its report as the loss of the few sent since the previous frame.
  const reports = new Map(remote.map((entry) => [reported(entry, "localId"), entry]));
  for (const entry of outbound) {
    if (reports.get(reported(entry, "id"))?.isNew ?? true) {
      add(sums, `${entry.stat.kind}_packets_sent`, entry.grown("packetsSent"));
    }
    add(sums, "nack_count", entry.grown("nackCount"));
    add(sums, "pli_count", entry.grown("pliCount"));
  }
  for (const entry of remote) {
    add(sums, `${entry.stat.kind}_packets_lost`, entry.grown("packetsLost"));
  }
  // Layers of a track are limited together.
  const limited = new Map<string, Counters>();
  for (const entry of outbound) {
    const track = `${entry.from.connection} ${entry.stat.mid ?? entry.stat.mediaSourceId ?? entry.stat.id}`;
    const most = limited.get(track) ?? {};
    for (const reason of ["cpu", "bandwidth", "other"]) {
      const growth = entry.grown(reason, entry.stat.qualityLimitationDurations?.[reason]);
      if (growth !== undefined) most[reason] = Math.max(growth, most[reason] ?? 0);
    }
    limited.set(track, most);
  }
  for (const track of limited.values()) {
    for (const reason in track) add(sums, reason, track[reason]);
  }
  let camera: Stat | undefined;
  for (const entry of outbound) {
    const { stat, from } = entry;
    const sent = from.sent.get(stat.mid) === "video" && entry.grown("framesSent");
    if (sent && (stat.frameHeight ?? 0) > (camera?.frameHeight ?? -1)) camera = stat;
  }
  return known({
    rtt_ms: float(largest(remote, "roundTripTime"), 1000, MAX_MS),
    audio_packets_sent: count(sums.audio_packets_sent),
    audio_packets_lost: count(sums.audio_packets_lost),
    video_packets_sent: count(sums.video_packets_sent),
    video_packets_lost: count(sums.video_packets_lost),
    frames_per_second: float(camera?.framesPerSecond, 1, MAX_FPS),
    frame_height: count(camera?.frameHeight, 1, MAX_HEIGHT),
    bitrate_kbps: bitrate(outbound, "bytesSent"),
    quality_limitation_durations: known({
      cpu: count(sums.cpu, 1000),
      bandwidth: count(sums.bandwidth, 1000),
      other: count(sums.other, 1000),
    }),
    nack_count: count(sums.nack_count),
    pli_count: count(sums.pli_count),
  });
}

function reported({ from, stat }: Entry, id: "id" | "localId"): string {
  return `${from.connection} ${stat[id]}`;
}

function peers(connections: Connection[], state: CallState, context: Context): Peer[] {
  const tracks = new Map<string, Record<Medium, Entry[]>>();
  const of = (peerId: string) => {
    const own = tracks.get(peerId) ?? { audio: [], video: [], screen: [] };
    tracks.set(peerId, own);
    return own;
  };
  for (const [peerId, said] of context.peers ?? []) if (said.present) of(peerId);
  for (const entry of connections.flatMap((connection) => connection.media("inbound-rtp"))) {
    const owner = entry.from.received.get(entry.stat.trackIdentifier);
    if (!owner) continue;
    const medium = entry.stat.kind === "audio" ? "audio" : owner.screen ? "screen" : "video";
    of(owner.peerId)[medium].push(entry);
  }
  return [...tracks].slice(0, MAX_PEERS).map(([peerId, own]) => {
    const remembered = state.peers.get(peerId) ?? {
      audio: { sums: {} },
      video: { sums: {} },
      screen: { sums: {} },
    };
    state.peers.set(peerId, remembered);
    const said = context.peers?.get(peerId) ?? {};
    const seen = (medium: Medium) =>
      observe(remembered[medium], own[medium], medium, said[medium] ?? {}, context);
    const [audio, video] = [seen("audio"), seen("video"), seen("screen")] as const;
    return known({
      peer_id: peerId,
      can_listen: !audio.missing,
      can_see: !video.missing,
      audio_enabled: audio.enabled,
      video_enabled: video.enabled,
      audio: hearing(own.audio, remembered.audio.sums),
      video: seeing(own.video, remembered.video.sums),
      audio_wanted: said.audio?.wanted,
      video_wanted: said.video?.wanted,
      screen: seeing(own.screen, remembered.screen.sums),
    }) as Peer;
  });
}

/** Adds up a medium's counters, and judges whether it is missing. */
function observe(
  past: Observed,
  entries: Entry[],
  medium: Medium,
  said: MediumState,
  { now, visible }: Context,
): { enabled: boolean; missing: boolean } {
  const grew = (name: string) => entries.some((entry) => (entry.grown(name) ?? 0) > 0);
  if (grew("packetsReceived")) past.receivedAt = now;
  const recent = past.receivedAt !== undefined && now - past.receivedAt < MISSING_AFTER;
  const enabled = said.enabled ?? recent;
  const on = enabled && said.wanted !== false;
  const paused = !on || said.paused === true || visible === false || past.on === false;
  past.on = on;
  for (const [field, name] of Object.entries(medium === "audio" ? AUDIO : VIDEO)) {
    const dropped = paused && RAISED_BY_PAUSES.has(field);
    for (const entry of entries) {
      const growth = entry.grown(name);
      add(past.sums, field, dropped && growth !== undefined ? 0 : growth);
    }
  }
  if (paused || grew(medium === "audio" ? "packetsReceived" : "framesDecoded")) past.since = now;
  past.since ??= now;
  return { enabled, missing: now - past.since >= MISSING_AFTER };
}

function hearing(entries: Entry[], sums: Counters): Audio | undefined {
  // Each packet's delay, added up over packets that were emitted.
  const emitted = sum(entries.map((entry) => entry.grown("jitterBufferEmittedCount")));
  const delay = (name: string) => {
    const total = sum(entries.map((entry) => entry.grown(name)));
    return total !== undefined && emitted ? float(total / emitted, 1000, MAX_MS) : undefined;
  };
  return known({
    ...counts(sums, AUDIO),
    buffer_ms: delay("jitterBufferDelay"),
    target_ms: delay("jitterBufferTargetDelay"),
    jitter_ms: float(largest(entries, "jitter"), 1000, MAX_MS),
  });
}

function seeing(entries: Entry[], sums: Counters): Video | undefined {
  return known({
    ...counts(sums, VIDEO),
    total_freezes_duration_ms: count(sums.total_freezes_duration_ms, 1000),
    fps: float(sum(entries.map((entry) => entry.rate("framesDecoded"))), 1000, MAX_FPS),
    bitrate_kbps: bitrate(entries, "bytesReceived"),
    frame_height: count(largest(entries, "frameHeight"), 1, MAX_HEIGHT),
  });
}

function counts(sums: Counters, fields: object): Record<string, number | undefined> {
  return Object.fromEntries(Object.keys(fields).map((field) => [field, count(sums[field])]));
}

function add(sums: Counters, field: string, growth: number | undefined): void {
  if (growth !== undefined) sums[field] = (sums[field] ?? 0) + growth;
}

function bitrate(entries: Entry[], name: string): number | undefined {
  // Bytes per millisecond, eight bits each, are kilobits per second.
  return float(sum(entries.map((entry) => entry.rate(name))), 8, MAX_KBPS);
}

function sum(values: unknown[]): number | undefined {
  const numbers = values.filter((value) => typeof value === "number");
  return numbers.length > 0 ? numbers.reduce((total, value) => total + value, 0) : undefined;
}

function largest(entries: Entry[], name: string): number | undefined {
  const values = entries.map((entry) => entry.stat[name]).filter(Number.isFinite);
  return values.length > 0 ? Math.max(...values) : undefined;
}

function float(value: unknown, factor: number, max: number): number | undefined {
  if (typeof value !== "number") return undefined;
  const scaled = value * factor;
  return scaled >= 0 && scaled <= max ? scaled : undefined;
}

function count(value: unknown, factor = 1, max = MAX_COUNT): number | undefined {
  const scaled = float(value, factor, max);
  return scaled === undefined ? undefined : Math.round(scaled);
}

/** A map without its absent values; absent if it has no other. */
function known<T extends object>(map: T): Known<T> | undefined {
  const entries = Object.entries(map).filter(([, value]) => value !== undefined);
  return entries.length > 0 ? (Object.fromEntries(entries) as Known<T>) : undefined;
}

/** A map whose keys are there only with a value. */
type Known<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined>;
};

/** The word for a browser, by its `navigator.userAgent`. */
export function platformOf(userAgent: string): string {
  const browsers = ["Firefox", "Chrome", "Safari"];
  const found = browsers.find((browser) => userAgent.includes(`${browser}/`));
  return found?.toLowerCase() ?? "other";
}
