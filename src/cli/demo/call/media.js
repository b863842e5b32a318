// Pictures and sounds that need no camera and no microphone.

const SIZE = [480, 270], PER_SECOND = 20;
// Notes in hertz, of which each participant plays a few again and again.
const NOTES = { ana: [262, 330, 392, 330], ben: [196, 247, 294, 220] };
const NOTE_SECONDS = 0.4;
const HUES = { ana: 210, ben: 20 };

/** A stream with a picture that moves all the time, so that a freeze shows, and soft notes. */
export function generated(name) {
  const picture = drawn(name), sound = played(name);
  return {
    tracks: [...sound.stream.getAudioTracks(), ...picture.stream.getVideoTracks()],
    stop() {
      picture.stop();
      sound.stop();
    },
  };
}

function drawn(name) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = SIZE;
  const pen = canvas.getContext("2d");
  const draw = () => {
    const [width, height] = SIZE, seconds = performance.now() / 1000;
    const sky = pen.createLinearGradient(0, 0, width, height);
    sky.addColorStop(0, `hsl(${HUES[name]} 55% 42%)`);
    sky.addColorStop(1, `hsl(${HUES[name] + 40} 60% 24%)`);
    pen.fillStyle = sky;
    pen.fillRect(0, 0, width, height);
    for (let ring = 0; ring < 3; ring++) {
      const turn = seconds * (0.6 + 0.25 * ring) + ring * 2;
      pen.fillStyle = `hsl(${HUES[name] + 60 * ring} 80% 70% / 45%)`;
      pen.beginPath();
      pen.arc(width / 2 + (150 - 30 * ring) * Math.cos(turn), height / 2 + 70 * Math.sin(turn * 1.3), 34 - 7 * ring, 0, 7);
      pen.fill();
    }
    pen.fillStyle = "#fff";
    pen.textAlign = "center";
    pen.font = "600 54px system-ui, sans-serif";
    pen.fillText(name[0].toUpperCase() + name.slice(1), width / 2, height / 2 + 8);
    pen.font = "22px ui-monospace, monospace";
    pen.fillText(new Date().toISOString().slice(11, 21), width / 2, height / 2 + 44);
  };
  draw();
  const timer = setInterval(draw, 1000 / PER_SECOND);
  const stream = canvas.captureStream(PER_SECOND);
  return { stream, stop: () => { clearInterval(timer); end(stream); } };
}

function played(name) {
  const context = new AudioContext();
  const tone = new OscillatorNode(context, { type: "triangle" });
  const volume = new GainNode(context, { gain: 0 });
  const out = new MediaStreamAudioDestinationNode(context);
  tone.connect(volume).connect(out);
  tone.start();
  let next = context.currentTime, note = 0;
  const play = () => {
    // A second ahead, so that a busy page does not stutter.
    for (; next < context.currentTime + 1; next += NOTE_SECONDS) {
      tone.frequency.setValueAtTime(NOTES[name][note++ % NOTES[name].length], next);
      volume.gain.setTargetAtTime(0.18, next, 0.02);
      volume.gain.setTargetAtTime(0.06, next + NOTE_SECONDS / 2, 0.08);
    }
  };
  play();
  const timer = setInterval(play, 500);
  // Browsers let a page play only after a click or a key.
  void context.resume();
  return { stream: out.stream, stop: () => { clearInterval(timer); end(out.stream); void context.close(); } };
}

function end(stream) {
  for (const track of stream.getTracks()) track.stop();
}
