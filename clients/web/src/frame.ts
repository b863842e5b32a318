/**
 * The health frame, version 1, as docs/frame.md specifies it, and its compact form.
 *
 * A browser on a mobile network must save bytes, so frames travel as arrays whose positions are the
 * keys. A position is declared once, in a layout below, which a test compares with the document.
 *
 * Invariant: a frame that is encoded has at most {@link MAX_BYTES} bytes.
 */
import { encode as messagePack } from "@msgpack/msgpack";

export interface Frame {
  v: 1;
  meeting_id: string;
  session_id: string;
  peer_id: string;
  seq: number;
  sent_at_ms: number;
  ended?: boolean;
  server?: Server;
  audio_enabled?: boolean;
  video_enabled?: boolean;
  tab_visible?: boolean;
  peers: Peer[];
  client?: Client;
  path?: Path;
  send?: Send;
  join?: Join;
}

export interface Server {
  url: string;
  type: string;
  rtt_ms?: number;
}

export interface Peer {
  peer_id: string;
  can_listen: boolean;
  can_see: boolean;
  audio_enabled: boolean;
  video_enabled: boolean;
  audio?: Audio;
  video?: Video;
  audio_wanted?: boolean;
  video_wanted?: boolean;
  screen?: Video;
}

export interface Audio {
  buffer_ms?: number;
  target_ms?: number;
  packets_awaiting_decode?: number;
  jitter_ms?: number;
  packets_received?: number;
  packets_lost?: number;
  total_samples?: number;
  concealed_samples?: number;
  silent_concealed_samples?: number;
  neteq?: Record<string, number>;
  concealment_events?: number;
  inserted_samples_for_deceleration?: number;
  removed_samples_for_acceleration?: number;
  packets_discarded?: number;
}

export interface Video {
  fps?: number;
  frames_buffered?: number;
  bitrate_kbps?: number;
  frames_decoded?: number;
  frames_dropped?: number;
  freeze_count?: number;
  packets_received?: number;
  packets_lost?: number;
  total_freezes_duration_ms?: number;
  frame_height?: number;
  nack_count?: number;
  pli_count?: number;
}

export interface Client {
  app?: string;
  platform?: string;
}

export interface Path {
  candidate_type?: string;
  protocol?: string;
  available_outgoing_kbps?: number;
  ice_restarts?: number;
}

export interface Send {
  rtt_ms?: number;
  audio_packets_sent?: number;
  audio_packets_lost?: number;
  video_packets_sent?: number;
  video_packets_lost?: number;
  frames_per_second?: number;
  frame_height?: number;
  bitrate_kbps?: number;
  quality_limitation_durations?: { cpu?: number; bandwidth?: number; other?: number };
  nack_count?: number;
  pli_count?: number;
}

export interface Join {
  state: "joining" | "joined" | "failed";
  setup_ms?: number;
  reason?: JoinFailure;
}

/** Why an attempt to join failed. */
export type JoinFailure =
  | "ice"
  | "dtls"
  | "signaling"
  | "unauthorized"
  | "media"
  | "timeout"
  | "aborted";

/** The longest frame that is accepted. */
export const MAX_BYTES = 65_536;

/** The most peers that a frame may have. */
export const MAX_PEERS = 256;

/** The keys of a map in the order of their positions; an inner map has its own layout beside it. */
export type Layout = readonly (string | readonly [string, Layout])[];

const SERVER: Layout = ["url", "type", "rtt_ms"];
const NETEQ: Layout = [
  "normal",
  "merge",
  "expand",
  "accelerate",
  "fast_accelerate",
  "preemptive_expand",
  "comfort_noise",
  "dtmf",
  "undefined",
];
const AUDIO: Layout = [
  "buffer_ms",
  "target_ms",
  "packets_awaiting_decode",
  "jitter_ms",
  "packets_received",
  "packets_lost",
  "total_samples",
  "concealed_samples",
  "silent_concealed_samples",
  ["neteq", NETEQ],
  "concealment_events",
  "inserted_samples_for_deceleration",
  "removed_samples_for_acceleration",
  "packets_discarded",
];
const VIDEO: Layout = [
  "fps",
  "frames_buffered",
  "bitrate_kbps",
  "frames_decoded",
  "frames_dropped",
  "freeze_count",
  "packets_received",
  "packets_lost",
  "total_freezes_duration_ms",
  "frame_height",
  "nack_count",
  "pli_count",
];
const PEER: Layout = [
  "peer_id",
  "can_listen",
  "can_see",
  "audio_enabled",
  "video_enabled",
  ["audio", AUDIO],
  ["video", VIDEO],
  "audio_wanted",
  "video_wanted",
  ["screen", VIDEO],
];
const CLIENT: Layout = ["app", "platform"];
const PATH: Layout = ["candidate_type", "protocol", "available_outgoing_kbps", "ice_restarts"];
const LIMITATION: Layout = ["cpu", "bandwidth", "other"];
const SEND: Layout = [
  "rtt_ms",
  "audio_packets_sent",
  "audio_packets_lost",
  "video_packets_sent",
  "video_packets_lost",
  "frames_per_second",
  "frame_height",
  "bitrate_kbps",
  ["quality_limitation_durations", LIMITATION],
  "nack_count",
  "pli_count",
];
const JOIN: Layout = ["state", "setup_ms", "reason"];

export const FRAME: Layout = [
  "v",
  "meeting_id",
  "session_id",
  "peer_id",
  "seq",
  "sent_at_ms",
  "ended",
  ["server", SERVER],
  "audio_enabled",
  "video_enabled",
  "tab_visible",
  ["peers", PEER],
  ["client", CLIENT],
  ["path", PATH],
  ["send", SEND],
  ["join", JOIN],
];

function compact(value: unknown, layout: Layout): unknown {
  if (value === undefined) return undefined;
  if (Array.isArray(value)) return value.map((item) => compact(item, layout));
  const map = value as Record<string, unknown>;
  const row = layout.map((at) => (typeof at === "string" ? map[at] : compact(map[at[0]], at[1])));
  while (row.length > 0 && row.at(-1) === undefined) row.pop();
  return row;
}

/** The message of a frame, in the compact form. Peers beyond what a frame can hold are left out. */
export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  for (let peers = frame.peers.slice(0, MAX_PEERS); ; peers = peers.slice(0, peers.length / 2)) {
    const bytes = messagePack(compact({ ...frame, peers }, FRAME));
    if (bytes.length <= MAX_BYTES || peers.length === 0) return bytes;
  }
}
