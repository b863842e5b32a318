//! Callsight tells the people who run video calls how those calls feel, while it happens and afterwards.

#[cfg(test)]
mod cli {
    mod frame;
}
pub mod frame;
pub mod subject;
