// The media server of the call, in the page: it passes on to each participant what the other one sends.
//
// With a server, what a participant sends and what they receive are paths of their own, as in most
// calls: only so can anybody tell one's uplink from the other's downlink.

/** Ends of connections that agree on one address of the emulated network, whatever they gather. */
export async function meetAt(connection, description, { host, port }) {
  await connection.setRemoteDescription({ type: description.type, sdp: withoutCandidates(description.sdp) });
  const candidate = `candidate:1 1 udp 2122260223 ${host} ${port} typ host`;
  await connection.addIceCandidate({ candidate, sdpMid: "0", sdpMLineIndex: 0 });
}

const withoutCandidates = (sdp) => sdp.replace(/^a=(candidate|end-of-candidates).*\r?\n/gm, "");

export class MediaServer {
  #legs = new Map();
  #changed;

  /** `changed` hears when a participant's connection is lost, and when it is there again. */
  constructor(changed) {
    this.#changed = changed;
  }

  /** Answers a participant's offer. */
  async answer(name, offer, at) {
    this.leave(name);
    const connection = new RTCPeerConnection();
    const leg = { connection, tracks: {}, senders: {}, paused: {}, players: [], lost: false };
    this.#legs.set(name, leg);
    connection.onconnectionstatechange = () => {
      const lost = /^(disconnected|failed)$/.test(connection.connectionState);
      if (lost === leg.lost) return;
      leg.lost = lost;
      void this.#connect();
      this.#changed(name, lost);
    };
    connection.ontrack = ({ track, transceiver }) => {
      transceiver.direction = "sendrecv";
      leg.tracks[track.kind] = track;
      leg.senders[track.kind] = transceiver.sender;
      // Chromium decodes what it plays, and nothing else.
      const player = document.createElement(track.kind);
      Object.assign(player, { srcObject: new MediaStream([track]), muted: true, autoplay: true });
      leg.players.push(player);
    };
    await meetAt(connection, offer, at);
    await connection.setLocalDescription();
    await this.#connect();
    return { type: "answer", sdp: withoutCandidates(connection.localDescription.sdp) };
  }

  /** Whether a participant asks for the other's medium. */
  async want(name, kind, wanted) {
    const leg = this.#legs.get(name);
    if (!leg) return;
    leg.paused[kind] = !wanted;
    await this.#connect();
  }

  leave(name) {
    const leg = this.#legs.get(name);
    if (!leg) return;
    this.#legs.delete(name);
    leg.connection.onconnectionstatechange = null;
    leg.connection.close();
    for (const player of leg.players) player.srcObject = null;
    void this.#connect();
  }

  /** Sends to each what the other one sends, and to one who is alone nothing. */
  async #connect() {
    for (const [name, leg] of this.#legs) {
      const other = [...this.#legs].find(([to]) => to !== name)?.[1];
      for (const [kind, sender] of Object.entries(leg.senders)) {
        const none = leg.paused[kind] || !other || other.lost;
        const track = none ? null : (other.tracks[kind] ?? null);
        if (sender.track !== track) await sender.replaceTrack(track);
      }
    }
  }
}
