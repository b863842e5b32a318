//! Callsight tells the people who run video calls how those calls feel, while it happens and afterwards.

pub mod frame;
pub mod publish;
pub mod simulate;
pub mod subject;
