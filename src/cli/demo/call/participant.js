// One participant's page: what an application for calls has of its own, and the browser client.
import { CallHealth } from "./callsight.js";
import { generated } from "./media.js";
import { meetAt } from "./server.js";

const VIDEO_BITS = 500_000;
const $ = (id) => document.getElementById(id);

class Participant {
  #me;
  #health;
  #connection = new RTCPeerConnection();
  #source;
  #senders = {};
  #muted = false;
  #own = false;

  /** `me` says who this is and where everything is; `changed` hears the state of the connection. */
  constructor(me, changed) {
    this.#me = me;
    this.#health = new CallHealth({
      endpoint: me.endpoint,
      token: me.token,
      meetingId: me.meeting,
      peerId: me.name,
      server: { url: "https://media-server.demo" },
      app: "demo-1.0",
      // Whoever moves a slider waits for what it does.
      interval: 2000,
      onError: me.onError,
    });
    this.#connection.onconnectionstatechange = () => changed(this.#connection.connectionState);
    this.#connection.ontrack = () => this.#show();
  }

  get connected() {
    return this.#connection.connectionState === "connected";
  }

  /** Connects to the media server, which `signal` answers for. */
  async join(signal, at) {
    const connection = this.#connection;
    this.#source = generated(this.#me.name);
    for (const track of this.#source.tracks) {
      this.#senders[track.kind] = connection.addTransceiver(track, { direction: "sendrecv" }).sender;
    }
    this.#health.join();
    this.#health.watch(connection, { peerOf: () => this.#me.other });
    await connection.setLocalDescription();
    await meetAt(connection, await signal(connection.localDescription), at);
    await this.#limit();
    this.#show();
  }

  async #limit() {
    const parameters = this.#senders.video.getParameters();
    for (const encoding of parameters.encodings ?? []) encoding.maxBitrate = VIDEO_BITS;
    await this.#senders.video.setParameters(parameters);
  }

  #show() {
    const received = this.#connection.getReceivers().map(({ track }) => track);
    $("other").srcObject = new MediaStream(received);
    $("own").srcObject = new MediaStream(this.#source.tracks.filter(({ kind }) => kind === "video"));
  }

  mute(muted) {
    this.#muted = muted;
    for (const track of this.#source.tracks) if (track.kind === "audio") track.enabled = !muted;
  }

  /** Shows the other one's video, or asks for it no longer. */
  show(video) {
    this.#health.want(this.#me.other, { video });
    $("other").classList.toggle("hidden", !video);
    this.#notice(video ? "" : `${this.#me.otherName}'s video is hidden`);
  }

  listen(heard) {
    $("other").muted = !heard;
  }

  /** Sends the own camera and microphone, or generated media. */
  async useCamera(camera) {
    if (camera === this.#own) return;
    const before = this.#source;
    if (camera) {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 480, height: 270 } });
      this.#source = { tracks: stream.getTracks(), stop: () => stream.getTracks().forEach((track) => track.stop()) };
    } else {
      this.#source = generated(this.#me.name);
    }
    this.#own = camera;
    this.mute(this.#muted);
    for (const track of this.#source.tracks) await this.#senders[track.kind].replaceTrack(track);
    before.stop();
    this.#show();
  }

  /** Signalling says what the other one publishes. */
  peer(media) {
    this.#health.peer(this.#me.other, media);
  }

  left() {
    this.#health.left(this.#me.other);
    this.#notice(`${this.#me.otherName} is not in the call`);
  }

  arrived(media) {
    this.peer(media);
    this.#notice("");
  }

  #notice(text) {
    $("notice").textContent = text;
  }

  async leave() {
    await this.#health.end();
    this.#connection.close();
    this.#source?.stop();
  }

  /** Stops everything at once, as a browser does that is killed: not even the last frame is sent. */
  crash() {
    window.fetch = () => new Promise(() => {});
  }
}

window.enter = (me, changed) => new Participant(me, changed);
window.parent.postMessage("ready", location.origin);
