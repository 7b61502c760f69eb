//! The model of the processor and the oracle, as `vmm/model/src` has them, with a switch at each
//! condition and at each place that `replaced.rs` names: `build.rs` writes this copy.
//!
//! The environment variable `STALEMATE_WRONG` makes one wrong choice: `NUMBER=true` and
//! `NUMBER=false` hold a condition to be so, `NUMBER=wrong` takes what a row of `replaced.rs` says.
#![forbid(unsafe_code)]
#![allow(unused_parens, unused_braces, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/model/lib.rs"));

pub mod wrong {
    //! The switch, and all that it can make wrong.

    use std::sync::LazyLock;

    include!(concat!(env!("OUT_DIR"), "/choices.rs"));

    /// A place where a wrong choice can be made. Its number is its index in [`PLACES`].
    #[derive(Clone, Copy, Debug)]
    pub struct Place {
        /// The file, below `vmm/model/src`.
        pub file: &'static str,
        /// The function, and the source text of the condition; or the name of a replacement.
        pub name: &'static str,
        /// What may be chosen there: `true` and `false`, or `wrong`.
        pub choices: &'static [&'static str],
    }

    static CHOSEN: LazyLock<Option<(usize, String)>> = LazyLock::new(|| {
        let choice = std::env::var("STALEMATE_WRONG").ok()?;
        let (number, what) = choice.split_once('=')?;
        Some((number.parse().ok()?, what.to_owned()))
    });

    /// What is chosen at `place`.
    fn chosen(place: usize) -> Option<&'static str> {
        let (number, what) = CHOSEN.as_ref()?;
        (*number == place).then_some(what)
    }

    /// The value of the condition at `place`, or what it is held to be.
    #[must_use]
    pub fn holds(place: usize, value: bool) -> bool {
        match chosen(place) {
            Some("true") => true,
            Some("false") => false,
            _ => value,
        }
    }

    /// Whether the replacement at `place` is chosen.
    #[must_use]
    pub fn is(place: usize) -> bool {
        chosen(place) == Some("wrong")
    }
}
