// The page: who is in the call, what the sliders do to their networks, and what Callsight says of it.
import { MediaServer } from "./server.js";

const PEOPLE = { ana: "Ana", ben: "Ben" };
const DIRECTIONS = { up: "Upload", down: "Download" };
const SLIDERS = {
  delay: { label: "delay", max: 500, step: 10, unit: "ms" },
  loss: { label: "loss", max: 50, step: 1, unit: "%" },
};
const ALERTS_EVERY = 2000;
const CONNECTED_WITHIN = 10_000;
const NO_NETWORK =
  "No connection. Browsers make no calls on a machine without any network: connect it to one. The Internet is not needed.";

const $ = (selector, within = document) => within.querySelector(selector);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function ask(path, method = "GET", body = undefined) {
  const headers = body && { "Content-Type": "application/json" };
  const response = await fetch(`api/${path}`, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `the demo answers ${response.status}`);
  return answer;
}

const setup = await ask("setup");
const people = new Map();
const server = new MediaServer((name, lost) => people.get(name).lost(lost));

/** A participant's card: their page, their network, and what they can do. */
class Person {
  #name;
  #other;
  #card = $("#person").content.cloneNode(true).firstElementChild;
  #buttons = {};
  #frame;
  #client;
  #wanted = true;

  constructor(name) {
    this.#name = name;
    this.#other = Object.keys(PEOPLE).find((other) => other !== name);
    this.#card.id = name;
    $("h3", this.#card).textContent = PEOPLE[name];
    this.#paths();
    const other = PEOPLE[this.#other];
    this.#toggle("mute", "Mute", (on) => this.#mute(on));
    this.#toggle("hide", `Hide ${other}`, (on) => this.#hide(on));
    this.#toggle("listen", `Hear ${other}`, (on) => this.#client.listen(on));
    this.#toggle("camera", "Use my camera", (on) => this.#client.useCamera(on));
    this.#button("leave", "Leave", () => this.#leave());
    this.#button("crash", "Crash", () => this.#crash());
    this.#button("join", "Join", () => this.join());
    this.#say("not in the call");
    this.#enable();
    $("#people").append(this.#card);
  }

  get inCall() {
    return this.#client !== undefined;
  }

  // ---- what the person can do ----

  #button(name, text, act) {
    const button = make("button", { type: "button", textContent: text });
    button.dataset.act = name;
    button.addEventListener("click", () => this.#safely(act));
    this.#buttons[name] = button;
    $(".buttons", this.#card).append(button);
    return button;
  }

  #toggle(name, text, act) {
    const button = this.#button(name, text, async () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      await act(on);
      button.setAttribute("aria-pressed", on);
    });
    button.setAttribute("aria-pressed", false);
  }

  async #safely(act) {
    try {
      this.#complain("");
      await act();
    } catch (error) {
      this.#complain(explain(error));
    }
  }

  #enable() {
    for (const [name, button] of Object.entries(this.#buttons)) {
      const shown = (name === "join") !== this.inCall;
      button.hidden = !shown;
      if (!shown && button.ariaPressed) button.setAttribute("aria-pressed", false);
    }
    this.#card.classList.toggle("out", !this.inCall);
  }

  #say(status) {
    $(".status", this.#card).textContent = status;
  }

  async join() {
    const name = this.#name;
    this.#say("joining");
    const network = await ask("join", "POST", { participant: name });
    const at = (port) => ({ host: network.host, port: network[port] });
    this.#frame = await page(name, $(".screen", this.#card));
    const client = this.#frame.contentWindow.enter(
      {
        name,
        other: this.#other,
        otherName: PEOPLE[this.#other],
        meeting: setup.meeting,
        endpoint: setup.endpoint,
        token: async () => (await ask("token", "POST", { participant: name })).token,
        onError: (problem) => this.#complain(problem),
      },
      (state) => client === this.#client && this.#connected(state),
    );
    this.#client = client;
    setTimeout(() => client === this.#client && !client.connected && this.#complain(NO_NETWORK), CONNECTED_WITHIN);
    this.#wanted = true;
    this.#enable();
    await client.join((offer) => server.answer(name, offer, at("server_port")), at("participant_port"));
    const other = people.get(this.#other);
    if (other.inCall) client.arrived(other.media());
    else client.left();
    this.#tell();
  }

  /** Tells the other one that this one is there. */
  #tell() {
    const other = people.get(this.#other);
    if (!other.inCall) return;
    other.#client.arrived(this.media());
    other.#client.show(other.#wanted);
  }

  #connected(state) {
    this.#say(STATES[state] ?? state);
    if (state === "connected") this.#complain("");
  }

  #complain(problem) {
    $(".problem", this.#card).textContent = problem;
  }

  /** What signalling says of this participant. */
  media() {
    return { audio: this.#buttons.mute.getAttribute("aria-pressed") !== "true", video: true };
  }

  #mute(muted) {
    this.#client.mute(muted);
    people.get(this.#other).#client?.peer({ audio: !muted, video: true });
  }

  async #hide(hidden) {
    this.#wanted = !hidden;
    this.#client.show(!hidden);
    await server.want(this.#name, "video", !hidden);
  }

  async #leave() {
    const client = this.#client;
    this.#client = undefined;
    this.#enable();
    this.#say("leaving");
    people.get(this.#other).#client?.left();
    await client.leave();
    server.leave(this.#name);
    this.#gone("has left");
  }

  #crash() {
    this.#client.crash();
    this.#client = undefined;
    this.#enable();
    // Nobody is told: the server notices when the connection is lost.
    this.#gone("has crashed");
  }

  #gone(status) {
    this.#frame?.remove();
    this.#frame = undefined;
    this.#say(status);
  }

  /** The server has lost the connection, or found it again. */
  lost(lost) {
    if (lost) people.get(this.#other).#client?.left();
    else this.#tell();
  }

  // ---- the network ----

  #paths() {
    for (const [direction, title] of Object.entries(DIRECTIONS)) {
      const path = make("fieldset", {}, make("legend", { textContent: title }));
      for (const [kind, { label, max, step, unit }] of Object.entries(SLIDERS)) {
        const slider = make("input", { type: "range", min: 0, max, step, value: 0 });
        slider.dataset.path = `${direction} ${kind}`;
        const value = make("output", { textContent: `0 ${unit}` });
        slider.addEventListener("input", () => {
          value.textContent = `${slider.value} ${unit}`;
          slider.setAttribute("aria-valuetext", value.textContent);
          slider.classList.toggle("on", slider.value > 0);
          this.#impair();
        });
        path.append(make("label", {}, make("span", { textContent: label }), slider, value));
      }
      $(".paths", this.#card).append(path);
    }
  }

  #pending;
  /** Sends the sliders, one request at a time, and the latest values last. */
  #impair() {
    if (this.#pending === "again") return;
    if (this.#pending) {
      this.#pending = "again";
      return;
    }
    this.#pending = "once";
    const of = (direction, kind) => Number($(`[data-path="${direction} ${kind}"]`, this.#card).value);
    const path = (direction) => ({ delay_ms: of(direction, "delay"), loss: of(direction, "loss") / 100 });
    void this.#safely(async () => {
      try {
        await ask("network", "PUT", { participant: this.#name, up: path("up"), down: path("down") });
      } finally {
        const again = this.#pending === "again";
        this.#pending = undefined;
        if (again) this.#impair();
      }
    });
  }

  /** A page that was loaded again has all sliders at zero. */
  restore() {
    this.#impair();
  }
}

const STATES = {
  new: "joining",
  connecting: "joining",
  connected: "in the call",
  disconnected: "connection interrupted",
  failed: "connection lost",
};

/** Opens a participant's page. */
function page(name, place) {
  const frame = make("iframe", { src: "participant", title: `${PEOPLE[name]}'s page`, allow: "autoplay; camera; microphone" });
  return new Promise((ready) => {
    const hear = ({ source, origin, data }) => {
      if (source !== frame.contentWindow || origin !== location.origin || data !== "ready") return;
      window.removeEventListener("message", hear);
      ready(frame);
    };
    window.addEventListener("message", hear);
    place.replaceChildren(frame);
  });
}

const REASONS = {
  NotAllowedError: "The browser was not allowed to use camera and microphone.",
  NotFoundError: "There is no camera or no microphone.",
  NotReadableError: "Another program uses the camera or the microphone.",
};
const explain = (error) =>
  REASONS[error?.name] ?? (error?.name === "TypeError" ? "The demo does not answer: is it still running?" : String(error?.message ?? error));

// ---- alerts ----

async function showAlerts() {
  const list = $("#alerts ul");
  try {
    const { alerts } = await ask("alerts");
    const firing = (alert) => alert.state === "firing";
    alerts.sort((one, other) => firing(other) - firing(one));
    const lines = alerts.map((alert) => {
      const line = make("li", {}, make("b", { textContent: alert.labels.alertname }));
      line.dataset.state = firing(alert) ? alert.labels.severity : "pending";
      line.append(make("span", { className: "state", textContent: firing(alert) ? "firing" : "pending" }));
      line.append(make("span", { textContent: alert.annotations.summary }));
      return line;
    });
    show(list, lines.length > 0 ? lines : [make("li", { className: "quiet", textContent: "No alert." })]);
  } catch (error) {
    show(list, [make("li", { className: "quiet", textContent: explain(error) })]);
  }
  setTimeout(showAlerts, ALERTS_EVERY);
}

/** A reader of screens is told of what changes, and of nothing else. */
function show(list, lines) {
  const texts = (items) => [...items].map((item) => `${item.dataset.state} ${item.textContent}`).join("\n");
  if (texts(list.children) !== texts(lines)) list.replaceChildren(...lines);
}

// ---- the beginning ----

$("#triage a").href = setup.triage;
$("#triage iframe").src = setup.triage;
for (const name of Object.keys(PEOPLE)) people.set(name, new Person(name));
for (const person of people.values()) person.restore();
$("#start").addEventListener("click", async () => {
  $("#start").disabled = true;
  $("#problem").textContent = "";
  try {
    for (const person of people.values()) if (!person.inCall) await person.join();
    $("#start").hidden = true;
  } catch (error) {
    $("#problem").textContent = explain(error);
    $("#start").disabled = false;
  }
});
void showAlerts();
