//! The health frame as others see it: the specification, its limits, and what holds for every
//! frame.

// Cargo compiles this for tests alone in any case; clippy lets helpers unwrap only where it is
// said.
#[cfg(test)]
mod doc;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod message;
#[cfg(test)]
mod packet;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod vectors;
