//! An exporter's own account of a region's frames, for soak too.

use crate::kit::callsight::Callsight;
use crate::kit::scrape::Scrape;

/// What an exporter says became of the messages of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) received: u64,
    pub(crate) redelivered: u64,
    pub(crate) folded: u64,
    pub(crate) repeated: u64,
    pub(crate) rejected: u64,
    pub(crate) refused: u64,
    pub(crate) missed: u64,
    pub(crate) letters_stored: u64,
    pub(crate) letters_lost: u64,
}

impl Account {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is whole")]
    pub(crate) fn of(scrape: &Scrape, region: &str) -> Self {
        let count = |name: &str| scrape.sum(&format!("callsight_{name}_total"), &[("region", region)]) as u64;
        Self {
            received: count("frames_received"),
            redelivered: count("frames_redelivered"),
            folded: count("frames_folded"),
            repeated: count("frames_repeated"),
            rejected: count("frames_rejected"),
            refused: count("frames_refused"),
            missed: count("frames_missed"),
            letters_stored: count("dead_letters"),
            letters_lost: count("dead_letters_lost"),
        }
    }

    /// Messages of the stream that were read, each counted once.
    pub(crate) fn taken(&self) -> u64 {
        self.folded + self.repeated + self.rejected + self.refused
    }

    /// Messages of the stream of which nothing is to be expected any more, unless a letter waits.
    pub(crate) fn settled(&self) -> u64 {
        self.taken() + self.missed
    }

    /// Whether each rejected message has its letter, stored or lost.
    pub(crate) fn letters_settled(&self) -> bool {
        self.letters_stored + self.letters_lost == self.rejected
    }
}

/// The sequence after which an exporter's process began to read a region, from its log.
pub(crate) fn began_after(exporter: &Callsight, region: &str) -> Option<u64> {
    let log = exporter.process().output();
    let region = format!("region={region}");
    let of_region = |line: &&str| line.split_ascii_whitespace().any(|word| word == region);
    // While it can't, it logs why it is not consuming, without a sequence.
    let after = log.lines().filter(of_region).filter(|line| line.contains(" consuming"));
    let after = after.filter_map(|line| line.split("after=").nth(1)).next()?;
    Some(after.split_ascii_whitespace().next().unwrap().parse().unwrap())
}
