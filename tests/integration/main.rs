//! Callsight against the real things: nats-server, Prometheus, promtool, clients in Python.
//!
//! `./dev tools` fetches them and `./dev test` runs all of this. A tool that is missing fails the tests that need it,
//! with the command that fetches it: nothing is skipped.

// The attribute says nothing new to the compiler, and tells clippy that helpers are test code too.
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod chaos;
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
mod kit;
#[cfg(test)]
mod lifetimes;
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
