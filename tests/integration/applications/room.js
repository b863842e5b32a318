// A page of an application: one participant of a VideoRoom, with `janus-gateway` as its
// documentation shows it. The test calls what is on `page`.

import { CallHealth } from "callsight";
import { watchRoom } from "callsight/janus";
import Janus from "janus-gateway";
import adapter from "webrtc-adapter";

const asked = new URLSearchParams(location.search);
const [server, endpoint, peerId] = ["janus", "endpoint", "peer"].map((name) => asked.get(name));
const room = "standup";

const promised = (call) => new Promise((success, error) => call({ success, error }));

const health = new CallHealth({
  endpoint,
  token: async () => (await fetch(`/token/${peerId}`)).text(),
  meetingId: room,
  peerId,
  server: { url: new URL(server).origin },
  interval: 1000,
  onError: (problem) => page.problems.push(problem),
});
const watched = watchRoom(health);

const page = {
  problems: [],
  // By participant and medium, the `mid` of what is received.
  received: {},

  // Stops asking for a video, as for a tile that is out of sight.
  pause(peer) {
    page.subscriber.send({
      message: { request: "configure", mid: page.received[peer].video, send: false },
    });
  },

  unsubscribe(peer) {
    page.subscriber.send({ message: { request: "unsubscribe", streams: [{ feed: peer }] } });
  },

  // Sends nothing any more, of which Janus tells nobody.
  silence() {
    for (const mid of ["0", "1"]) {
      page.publisher.send({ message: { request: "configure", mid, send: false } });
    }
  },

  leave() {
    watched.stop();
    const gone = promised((both) => page.janus.destroy({ cleanupHandles: true, ...both }));
    return Promise.all([health.end(), gone]);
  },
};
window.page = page;

async function answer(handle, jsep) {
  const answered = await promised((both) => handle.createAnswer({ jsep, ...both }));
  handle.send({ message: { request: "start" }, jsep: answered });
}

function attach(onmessage, more) {
  return promised(({ error, success }) => {
    let handle;
    page.janus.attach({
      plugin: "janus.plugin.videoroom",
      error,
      onmessage: (message, jsep) => onmessage(handle, message, jsep),
      success: (attached) => {
        handle = attached;
        watched.watch(handle);
        success(handle);
      },
      ...more,
    });
  });
}

// A handle that receives.
function subscriber() {
  const heard = (handle, { streams = [] }, jsep) => {
    for (const { feed_id, type, mid } of streams) {
      if (feed_id === undefined) continue;
      page.received[feed_id] = { ...page.received[feed_id], [type]: mid };
    }
    if (jsep) void answer(handle, jsep);
  };
  const onremotetrack = (track, _mid, on) => {
    if (!on) return;
    const player = document.body.appendChild(document.createElement(track.kind));
    Object.assign(player, { srcObject: new MediaStream([track]), muted: true, autoplay: true });
  };
  return attach(heard, { onremotetrack });
}

// Over one connection, or, if the test says so, over one for each feed.
const each = asked.has("each");
const subscribers = new Map();

async function subscribe(publishers) {
  const join = { request: "join", ptype: "subscriber", room };
  const streams = publishers.map(({ id }) => ({ feed: id }));
  for (const one of each ? streams : []) {
    const handle = await subscriber();
    subscribers.set(one.feed, handle);
    handle.send({ message: { ...join, streams: [one] } });
  }
  if (each || streams.length === 0) return;
  const request = page.subscribed ? { request: "subscribe" } : join;
  page.subscribed = true;
  page.subscriber.send({ message: { ...request, streams } });
}

async function publish() {
  const small = { width: 160, height: 120, frameRate: 5 };
  const tracks = [
    { type: "audio", capture: true },
    { type: "video", capture: small },
  ];
  const jsep = await promised((both) => page.publisher.createOffer({ tracks, ...both }));
  page.publisher.send({ message: { request: "publish" }, jsep });
}

health.join();
await new Promise((callback) => {
  const dependencies = Janus.useDefaultDependencies({ adapter });
  Janus.init({ debug: ["warn", "error"], dependencies, callback });
});
await promised((both) => {
  page.janus = new Janus({ server, iceServers: [], ...both });
});
page.subscriber = await subscriber();
page.publisher = await attach((handle, message, jsep) => {
  if (message.videoroom === "joined") void publish();
  void subscribe(message.publishers ?? []);
  subscribers.get(message.leaving)?.detach();
  if (jsep) handle.handleRemoteJsep({ jsep });
});
page.publisher.send({ message: { request: "join", ptype: "publisher", room, id: peerId } });
