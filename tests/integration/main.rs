//! Callsight with real servers and tools: nats-server, Prometheus, promtool, clients in Python.
//!
//! A test fetches the tools that it needs, and fails if it can't: nothing is skipped. `./dev test
//! NAME` runs some of the tests, and so does `cargo test --test integration NAME`.

// The attributes tell clippy that helpers are test code; for the compiler they are redundant.
#[cfg(test)]
mod applications;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod chart;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod dashboards;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod detection;
#[cfg(test)]
mod exactly_once;
#[cfg(test)]
mod getstats;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod ingest;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod lifetimes;
#[cfg(test)]
mod missed;
#[cfg(test)]
mod prometheus;
#[cfg(test)]
mod publish;
#[cfg(test)]
mod regions;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod rollout;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod security;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod supervision;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod topology;
#[cfg(test)]
mod triage;
#[cfg(test)]
mod videocall;
