//! Who gets in, what they may do there, and what they can't break.

mod permissions;
