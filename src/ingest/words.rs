//! Closed sets of words, each a label of a metric and a field of an answer.

macro_rules! words {
    ($(#[$doc:meta])+ $vis:vis $name:ident { $($word:ident = $text:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($word,)+ }

        impl $name {
            /// All of them, in their order.
            $vis const ALL: &'static [Self] = &[$(Self::$word),+];

            /// The word.
            $vis const fn label(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }
        }
    };
}
pub(super) use words;
