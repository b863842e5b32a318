//! Errors as reports and logs show them: in one line, with their causes.

use std::error::Error;
use std::iter;

/// An error and its sources, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    crate::config::one_line(&chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}
