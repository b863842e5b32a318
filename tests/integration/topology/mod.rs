//! Two regions and the bridge between them, from the files of `jetstream/`.

mod bridge;
mod configs;
mod leaf;
mod power;
mod streams;
