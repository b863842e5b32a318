/**
 * The transports of `mediasoup-client`.
 *
 * A transport keeps its peer connection to itself, and has consumers but no participants: only the
 * application knows whose they are. So this takes the connection from the transport's handler, and
 * asks the application about each consumer. One that is paused is not wanted: whether its sender
 * was muted or its tile is out of sight, nobody misses it.
 *
 * Invariant: nothing is thrown into the transport or the application, and no listener is left
 * behind.
 */
import type { types } from "mediasoup-client";
import type { CallHealth, Media } from "../health.js";
import { safely } from "./safely.js";

type Consumer = types.Consumer;
type Producer = types.Producer;

export interface TransportOptions {
  /** Whose a consumer is: the participant's id, or nothing while nobody knows. */
  peerOf: (consumer: Consumer) => string | null | undefined;
  /** Whether a video is a shared screen: by default, whether `appData.screen` is true. */
  isScreen?: (media: Consumer | Producer) => boolean;
}

const EVENTS = ["pause", "resume", "close"] as const;

/**
 * Reports a transport: its connection, whose its consumers are, and which of them are wanted. Call
 * it for each transport as soon as there is one. The result stops it, and so does closing it.
 */
export function watchTransport(
  health: CallHealth,
  transport: types.Transport,
  { peerOf, isScreen = ({ appData }) => appData.screen === true }: TransportOptions,
): () => void {
  /** With whose they are, as far as it is known. */
  const consumers = new Map<Consumer, string | undefined>();
  const producers = new Set<Producer>();
  let pc: RTCPeerConnection | undefined;

  const options = {
    peerOf: (track: MediaStreamTrack) => {
      const consumer = [...consumers.keys()].find((one) => one.track.id === track.id);
      if (!consumer) return undefined;
      // An application may learn whose it is only after the transport has announced it.
      if (consumers.get(consumer) !== ownerOf(consumer)) changed();
      return consumers.get(consumer);
    },
    isScreen: (track: MediaStreamTrack) => {
      const all = [...consumers.keys(), ...producers];
      const media = all.find((one) => one.track?.id === track.id);
      return (media !== undefined && isScreen(media)) || "displaySurface" in track.getSettings();
    },
  };

  const ownerOf = (consumer: Consumer) => peerOf(consumer) || consumers.get(consumer);

  const mediumOf = (consumer: Consumer): keyof Media => {
    if (consumer.kind === "audio") return "audio";
    return isScreen(consumer) ? "screen" : "video";
  };

  const changed = () =>
    safely(() => {
      for (const consumer of consumers.keys()) consumers.set(consumer, ownerOf(consumer));
      for (const consumer of consumers.keys()) want(consumer);
      for (const consumer of consumers.keys()) if (consumer.closed) forget(consumer);
    });

  /** Of several cameras, one that is wanted suffices. What is closed is no reason to pause. */
  function want(consumer: Consumer): void {
    const peer = consumers.get(consumer);
    if (peer === undefined) return;
    const medium = mediumOf(consumer);
    const open = [...consumers].filter(
      ([one, its]) => its === peer && !one.closed && mediumOf(one) === medium,
    );
    const wanted = open.length === 0 || open.some(([{ paused }]) => !paused);
    health.want(peer, { [medium]: wanted });
  }

  const consumed = (consumer: Consumer) => {
    consumers.set(consumer, undefined);
    for (const event of EVENTS) consumer.observer.on(event, changed);
    changed();
  };
  const forget = (consumer: Consumer) => {
    consumers.delete(consumer);
    for (const event of EVENTS) consumer.observer.off(event, changed);
  };
  const produced = (producer: Producer) => {
    producers.add(producer);
    producer.observer.on("close", unproduced);
  };
  const unproduced = () => {
    for (const producer of producers) if (producer.closed) disown(producer);
  };
  const disown = (producer: Producer) => {
    producers.delete(producer);
    producer.observer.off("close", unproduced);
  };

  const stop = () =>
    safely(() => {
      transport.observer.off("newconsumer", consumed).off("newproducer", produced);
      transport.observer.off("close", stop);
      for (const consumer of consumers.keys()) forget(consumer);
      for (const producer of producers) disown(producer);
      if (pc) health.unwatch(pc);
      pc = undefined;
    });

  safely(() => {
    pc = (transport.handler as { _pc?: RTCPeerConnection })._pc;
    if (!pc) {
      throw new Error(`no connection in a ${transport.handler.name}: pass it to health.watch`);
    }
    transport.observer.on("newconsumer", consumed).on("newproducer", produced);
    transport.observer.on("close", stop);
    // biome-ignore lint/complexity/useLiteralKeys: the compiler finds a private member only so
    for (const consumer of transport["_consumers"].values()) consumed(consumer);
    // biome-ignore lint/complexity/useLiteralKeys: likewise
    for (const producer of transport["_producers"].values()) produced(producer);
    health.watch(pc, options);
  });
  return stop;
}
