// Two ends of a call in one page, over loopback. Each sends audio, a camera and a shared screen.

// Painted all the time: a still screen sends nothing.
function screen() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [320, 180];
  const pen = canvas.getContext("2d");
  let turn = 0;
  setInterval(() => {
    pen.fillStyle = `hsl(${(turn += 7) % 360} 80% 50%)`;
    pen.fillRect(0, 0, 320, 180);
  }, 50);
  return canvas.captureStream(20);
}

async function share(connection) {
  const camera = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  for (const stream of [camera, screen()]) {
    for (const track of stream.getTracks()) connection.addTrack(track, stream);
  }
  connection.ontrack = ({ track }) => {
    const player = document.body.appendChild(document.createElement(track.kind));
    Object.assign(player, { srcObject: new MediaStream([track]), muted: true, autoplay: true });
  };
}

// Both ends add their tracks in the same order, so the screen is the last one of both.
export function isScreen(connection) {
  return (track) => {
    const last = connection.getTransceivers().at(-1);
    return [last?.sender.track, last?.receiver.track].includes(track);
  };
}

export async function negotiate(caller, callee) {
  await caller.setLocalDescription();
  await callee.setRemoteDescription(caller.localDescription);
  await callee.setLocalDescription();
  await caller.setRemoteDescription(callee.localDescription);
}

export async function ends() {
  const [caller, callee] = [new RTCPeerConnection(), new RTCPeerConnection()];
  for (const [from, to] of [[caller, callee], [callee, caller]]) {
    from.onicecandidate = ({ candidate }) => candidate && to.addIceCandidate(candidate);
    await share(from);
  }
  return [caller, callee];
}
