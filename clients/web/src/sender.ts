/**
 * Brings frames to `callsight ingest`.
 *
 * The network that is reported on is the one that carries the report, so requests fail when they
 * matter most. Frames wait in a bounded queue and are sent one after another; what may be sent
 * again, and when, is docs/ingest.md's. Counters are cumulative, so the oldest frame is dropped
 * first.
 *
 * Invariant: one request at a time, and nothing, not even a timer, once the last frame is answered.
 */

/** Frames that wait: five minutes of them. */
const QUEUE = 60;

/** How long an answer may take, in milliseconds; the server gives itself 5 s for the stream. */
const ANSWER_WITHIN = 15_000;

/** The longest wait, in milliseconds: longer, and the server has forgotten the session. */
const LONGEST_WAIT = 120_000;

/** The wait after the first failure without `Retry-After`, and the longest such wait. */
const FIRST_WAIT = 1_000;
const LAST_WAIT = 30_000;

export type Token = string | (() => string | Promise<string>);

/** What became of a request: it is done with the frame, or to be sent again after a time. */
type Outcome = { done: true } | { again: number };

const DONE: Outcome = { done: true };

export class Sender {
  readonly #url: string;
  readonly #token: Token;
  readonly #report: (problem: string) => void;
  readonly #queue: Uint8Array<ArrayBuffer>[] = [];
  readonly #stop = new AbortController();
  #current: string | undefined;
  #failures = 0;
  #sending = false;
  #hidden = false;

  /** `report` hears what is wrong. */
  constructor(endpoint: string, token: Token, report: (problem: string) => void) {
    this.#url = endpoint.replace(/(\/v1\/frames)?\/*$/, "/v1/frames");
    this.#token = token;
    this.#report = report;
    if (typeof token === "string") this.#current = token;
  }

  /** Sends a frame after those that wait. If `hidden`, the page may go before the answer. */
  push(frame: Uint8Array<ArrayBuffer>, hidden: boolean): void {
    if (this.#queue.length >= QUEUE) this.#queue.shift();
    this.#queue.push(frame);
    this.#hidden = hidden;
    if (!this.#sending) void this.#drain();
  }

  /** Sends the last frame at once, in place of all that wait: it has their counters. */
  async last(frame: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#queue.length = 0;
    this.#stop.abort();
    const outcome = await this.#post(frame, true);
    // A token may have expired during the call.
    if ("again" in outcome && this.#current === undefined) await this.#post(frame, true);
  }

  async #drain(): Promise<void> {
    this.#sending = true;
    while (this.#queue.length > 0) {
      const frame = this.#queue[0] as Uint8Array<ArrayBuffer>;
      const outcome = await this.#post(frame, this.#hidden, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
      if ("again" in outcome) {
        await this.#wait(outcome.again);
        if (this.#stop.signal.aborted) return;
      } else if (this.#queue[0] === frame) {
        this.#queue.shift();
      }
    }
    this.#sending = false;
  }

  #wait(milliseconds: number): Promise<void> {
    return new Promise((done) => {
      const timer = setTimeout(done, Math.min(milliseconds, LONGEST_WAIT));
      this.#stop.signal.addEventListener("abort", () => {
        clearTimeout(timer);
        done();
      });
    });
  }

  /** One request. Without `stop` it has no deadline: the page may be gone by then. */
  async #post(
    frame: Uint8Array<ArrayBuffer>,
    keepalive: boolean,
    stop?: AbortSignal,
  ): Promise<Outcome> {
    const late = new AbortController();
    const abort = () => late.abort();
    const timer = stop && setTimeout(abort, ANSWER_WITHIN);
    stop?.addEventListener("abort", abort);
    try {
      // Nothing is waited for if there is a token: a page that goes has no time.
      this.#current ??= await (this.#token as () => string | Promise<string>)();
      const token = this.#current;
      const response = await fetch(this.#url, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/msgpack" },
        body: frame,
        keepalive,
        credentials: "omit",
        cache: "no-store",
        referrerPolicy: "no-referrer",
        signal: late.signal,
      });
      return await this.#judge(response);
    } catch (error) {
      if (!stop?.aborted) this.#report(`no answer of ${this.#url}: ${error}`);
      return this.#later();
    } finally {
      clearTimeout(timer);
      stop?.removeEventListener("abort", abort);
    }
  }

  async #judge(response: Response): Promise<Outcome> {
    const { status } = response;
    if (response.ok) {
      this.#failures = 0;
      return DONE;
    }
    const { reason, detail } = await response.json().catch(() => ({}));
    this.#report(`${this.#url} answers ${status} ${reason ?? ""}: ${detail ?? "no detail"}`);
    if (status === 401 && typeof this.#token === "function") {
      this.#current = undefined;
      // The first new token is tried at once.
      return this.#failures++ === 0 ? { again: 0 } : this.#later();
    }
    if (reason === "stream_rejected") return DONE;
    if (status === 429 || status >= 500 || reason === "incomplete") {
      const after = retryAfter(response.headers.get("Retry-After"));
      if (after === undefined) return this.#later();
      // Clients that were turned away together do not come back together.
      return { again: after + Math.random() * 1000 };
    }
    return DONE;
  }

  #later(): Outcome {
    const longest = Math.min(FIRST_WAIT * 2 ** this.#failures++, LAST_WAIT);
    return { again: longest * (0.5 + Math.random() / 2) };
  }
}

/** In milliseconds, of seconds or a date. */
function retryAfter(value: string | null): number | undefined {
  if (value === null) return undefined;
  const after = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return after >= 0 ? after : undefined;
}
