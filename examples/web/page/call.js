// A call between all who have joined, each connected to each, and its report to Callsight.
import { CallHealth } from "./callsight.js";

const form = document.getElementById("join");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  call(Object.fromEntries(new FormData(form)));
});

const post = (path, body) => fetch(path, { method: "POST", body: JSON.stringify(body) });

async function call(asked) {
  form.hidden = true;
  const joined = await post("/join", asked);
  const { key, endpoint, meetingId, peerId } = await joined.json();

  // Reports what this page hears and sees, as `peerId` in `meetingId`.
  const health = new CallHealth({
    endpoint,
    meetingId,
    peerId,
    token: async () => (await post(`/token?key=${key}`)).text(),
    app: "example-1.0.0",
  });
  health.join();

  const say = (message) => post(`/say?key=${key}`, message);
  let camera;
  try {
    camera = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 320 } });
  } catch (error) {
    // Whoever has no microphone can't join, and Callsight counts it.
    health.failed("media");
    throw error;
  }

  /** The connection to each of the others, by their ids. */
  const connections = new Map();

  function connect(peer, polite) {
    const connection = new RTCPeerConnection();
    connections.set(peer, connection);
    // All tracks of this connection are the same participant's.
    health.watch(connection, { peerOf: () => peer });
    for (const track of camera.getTracks()) connection.addTrack(track, camera);
    connection.ontrack = ({ streams }) => show(peer, streams[0]);
    connection.onicecandidate = ({ candidate }) => candidate && say({ to: peer, candidate });
    connection.onnegotiationneeded = async () => {
      // Who has come later calls; afterwards both may.
      if (!polite && !connection.remoteDescription) return;
      await connection.setLocalDescription();
      say({ to: peer, description: connection.localDescription });
    };
    connection.oniceconnectionstatechange = () => {
      if (connection.iceConnectionState === "failed") connection.restartIce();
    };
    return Object.assign(connection, { polite });
  }

  async function described(from, description) {
    const connection = connections.get(from) ?? connect(from, false);
    const collides = description.type === "offer" && connection.signalingState !== "stable";
    if (collides && !connection.polite) return;
    await connection.setRemoteDescription(description);
    if (description.type === "answer") return;
    await connection.setLocalDescription();
    say({ to: from, description: connection.localDescription });
    told();
  }

  function show(peer, stream) {
    if (document.getElementById(peer)) return;
    const tile = document.getElementById("others").appendChild(document.createElement("figure"));
    const player = document.createElement("video");
    Object.assign(player, { srcObject: stream, autoplay: true });
    const hide = Object.assign(document.createElement("button"), { textContent: "Hide" });
    hide.onclick = () => {
      player.hidden = !player.hidden;
      // What is not shown is not missed.
      health.want(peer, { video: !player.hidden });
    };
    tile.id = peer;
    tile.append(player, document.createElement("br"), peer, " ", hide);
  }

  function left(peer) {
    connections.get(peer)?.close();
    connections.delete(peer);
    document.getElementById(peer)?.remove();
    health.left(peer);
  }

  /** Tells the others what is on: of a medium that is muted nobody expects anything. */
  function told() {
    const on = (kind) => camera.getTracks().some((track) => track.kind === kind && track.enabled);
    say({ media: { audio: on("audio"), video: on("video") } });
  }

  // Messages are dealt with one after another.
  let dealt = Promise.resolve();
  const messages = new EventSource(`/messages?key=${key}`);
  messages.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    dealt = dealt.then(() => deal(message)).catch(console.error);
  };

  async function deal({ here, from, description, candidate, media, left: who }) {
    for (const peer of here ?? []) connect(peer, true);
    if (description) await described(from, description);
    if (candidate) await connections.get(from)?.addIceCandidate(candidate);
    if (media) health.peer(from, media);
    if (who) left(who);
    if (here) told();
  }

  function toggle(kind) {
    for (const track of camera.getTracks()) if (track.kind === kind) track.enabled = !track.enabled;
    told();
  }
  document.getElementById("microphone").onclick = () => toggle("audio");
  document.getElementById("camera").onclick = () => toggle("video");
  document.getElementById("leave").onclick = async () => {
    messages.close();
    for (const peer of [...connections.keys()]) left(peer);
    await health.end();
    location.reload();
  };
  document.getElementById("own").hidden = false;
}
