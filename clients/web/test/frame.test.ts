import { decode } from "@msgpack/msgpack";
import { describe, expect, it } from "vitest";
import { encodeFrame, FRAME, type Frame, type Layout, MAX_BYTES } from "../src/frame.js";
import { json, table } from "./vectors.js";

interface Vector {
  name: string;
  hex: string;
  canonical: string | null;
  json: Frame;
}

function inner(layout: Layout, ...path: string[]): Layout {
  return path.reduce((at, key) => {
    const found = at.find((item) => typeof item !== "string" && item[0] === key);
    return (found as readonly [string, Layout])[1];
  }, layout);
}

describe("the compact form", () => {
  it.each([
    ["### Frame", FRAME],
    ["### Server", inner(FRAME, "server")],
    ["### Peer", inner(FRAME, "peers")],
    ["### Audio", inner(FRAME, "peers", "audio")],
    ["### NetEQ", inner(FRAME, "peers", "audio", "neteq")],
    ["### Video", inner(FRAME, "peers", "screen")],
    ["### Client", inner(FRAME, "client")],
    ["### Path", inner(FRAME, "path")],
    ["### Send", inner(FRAME, "send")],
    ["### Quality limitation", inner(FRAME, "send", "quality_limitation_durations")],
    ["### Join", inner(FRAME, "join")],
  ])("has the positions of the table %s", (heading, layout) => {
    const rows = table(heading).filter(([position]) => /^\d+$/.test(position ?? ""));
    expect(rows.length).toBeGreaterThan(1);
    expect(layout.map((item) => (typeof item === "string" ? item : item[0]))).toEqual(
      rows.map(([, key]) => key?.replaceAll("`", "")),
    );
  });

  const compact = json<Vector[]>("spec/vectors/frames.json").filter(
    ({ canonical }) => canonical === "compact",
  );
  it.each(compact)("writes the vector: $name", ({ hex, json }) => {
    expect(decode(encodeFrame(json))).toEqual(decode(Buffer.from(hex, "hex")));
  });
  it("is tried with every vector", () => expect(compact.length).toBeGreaterThan(4));

  it("leaves out peers that no frame can hold", () => {
    const peer = (id: string) => ({
      peer_id: id.padEnd(128, "x"),
      can_listen: true,
      can_see: true,
      audio_enabled: true,
      video_enabled: true,
      audio: { packets_received: 2 ** 40, packets_lost: 2 ** 40, total_samples: 2 ** 40 },
      video: Object.fromEntries(
        ["packets_received", "packets_lost", "frames_decoded", "frames_dropped", "freeze_count"]
          .concat(["total_freezes_duration_ms", "nack_count", "pli_count", "fps", "bitrate_kbps"])
          .map((key) => [key, 2 ** 40]),
      ),
    });
    const base = { v: 1, meeting_id: "m", session_id: "a:1", peer_id: "a", seq: 1, sent_at_ms: 1 };
    const peers = Array.from({ length: 400 }, (_, at) => peer(`p${at}`));
    const bytes = encodeFrame({ ...base, peers } as Frame);
    expect(bytes.length).toBeLessThanOrEqual(MAX_BYTES);
    const few = peers.map(({ peer_id, ...rest }, at) => ({
      ...rest,
      peer_id: `p${at}`,
      video: {},
    }));
    const decoded = decode(encodeFrame({ ...base, peers: few } as Frame)) as unknown[];
    expect(decoded[11]).toHaveLength(256);
  });
});
