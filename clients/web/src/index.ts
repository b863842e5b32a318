/** Reports what a video call feels like: health frames of any `RTCPeerConnection` for Callsight. */
export type { WatchOptions } from "./connection.js";
export { encodeFrame, type Frame, type JoinFailure } from "./frame.js";
export { CallHealth, type CallHealthOptions, type Media, type ServerOptions } from "./health.js";
export { hiddenIdentifierOf, identifierOf } from "./identifier.js";
export {
  type CallState,
  type ConnectionReport,
  type Context,
  type MediumState,
  type PeerState,
  platformOf,
  type StatsReport,
  toFrame,
} from "./mapping.js";
export type { Token } from "./sender.js";
