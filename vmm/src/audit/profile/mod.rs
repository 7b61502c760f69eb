//! Profiles: what is known of a kernel's functions and memory, as a file that is typed and checked. Each
//! line has its reason, and the versions that it is true of.

mod apply;
mod raw;
mod schema;
mod versions;

pub use apply::{Applied, Line};
pub use schema::schema as profile_schema;

use crate::kernel::free::MOST_FUNCTIONS;
use crate::scenario::{Diagnostic, explain};
use raw::{Promise, RawPrimitive, RawProfile};
use std::ops::Range;
use toml::Spanned;
use versions::Versions;

/// The most slots for ASIDs that a mask of them has bits for.
const MOST_SLOTS: u16 = 62;
/// The profile of Linux that is built in.
const LINUX: (&str, &str) = ("profiles/linux.toml", include_str!("../../../profiles/linux.toml"));

/// A profile.
#[derive(Clone, Debug)]
pub struct Profile {
    file: String,
    text: String,
    raw: RawProfile,
}

impl Profile {
    /// The one that is built in: Linux's.
    ///
    /// # Errors
    /// Never: a test reads it.
    pub fn built_in() -> Result<Self, Diagnostic> {
        Self::parse(LINUX.0, LINUX.1)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first error in it.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostic> {
        let raw = toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let (message, help) =
                explain(error.message(), "profiles/linux.toml is the profile that is built in");
            Diagnostic::at(file, text, span.start, span.end, message, help)
        })?;
        let profile = Self { file: file.to_owned(), text: text.to_owned(), raw };
        profile.check()?;
        Ok(profile)
    }

    /// Its file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The number of the line that a place in the file is on.
    fn line(&self, at: &Range<usize>) -> usize {
        self.text[..at.start.min(self.text.len())].matches('\n').count() + 1
    }

    fn error(&self, at: Range<usize>, message: &str, help: &str) -> Diagnostic {
        Diagnostic::at(&self.file, &self.text, at.start, at.end, message, help)
    }

    fn check(&self) -> Result<(), Diagnostic> {
        let raw = &self.raw;
        if raw.summary.get_ref().trim().is_empty() {
            return Err(self.error(
                raw.summary.span(),
                "the summary is empty",
                "say in one line what kernels it is of",
            ));
        }
        for current in &raw.current {
            let current = current.get_ref();
            self.reasoned(current.kernels.as_ref(), &current.why)?;
        }
        if let Some(mark) = &raw.mark {
            let it = mark.get_ref();
            self.reasoned(it.kernels.as_ref(), &it.why)?;
            if !(1..=MOST_SLOTS).contains(it.slots.get_ref()) {
                let help = format!("give how many slots for ASIDs a CPU has: 1 to {MOST_SLOTS}");
                return Err(self.error(it.slots.span(), "no CPU has so many slots", &help));
            }
        }
        for primitive in &raw.primitive {
            let it = primitive.get_ref();
            self.reasoned(it.kernels.as_ref(), &it.why)?;
            self.arguments(primitive.span(), it)?;
        }
        if let Some(descriptors) = &raw.descriptors {
            let it = descriptors.get_ref();
            self.reasoned(it.kernels.as_ref(), &it.why)?;
            self.not_zero(&it.size)?;
        }
        for frees in &raw.frees {
            let it = frees.get_ref();
            self.reasoned(it.kernels.as_ref(), &it.why)?;
            if raw.descriptors.is_none() {
                return Err(self.error(
                    it.page.span(),
                    "a frame's descriptor, and nothing says where descriptors are",
                    "add a table [descriptors] with `base`, `size` and `why`",
                ));
            }
        }
        let functions = raw.primitive.len() + raw.frees.len() + raw.operation_ends.len();
        if functions > MOST_FUNCTIONS {
            let message = format!("{functions} functions are too many");
            let help = format!("name {MOST_FUNCTIONS} at most");
            return Err(self.error(raw.summary.span(), &message, &help));
        }
        for ends in &raw.operation_ends {
            self.reasoned(ends.get_ref().kernels.as_ref(), &ends.get_ref().why)?;
        }
        for area in raw.stale_by_design.iter().chain(&raw.direct_map) {
            let it = area.get_ref();
            self.reasoned(it.kernels.as_ref(), &it.why)?;
            self.not_zero(&it.size)?;
        }
        Ok(())
    }

    fn reasoned(
        &self,
        kernels: Option<&Spanned<String>>,
        why: &Spanned<String>,
    ) -> Result<(), Diagnostic> {
        if why.get_ref().trim().is_empty() {
            let help = "say what in the kernel makes it true";
            return Err(self.error(why.span(), "this line has no reason", help));
        }
        match kernels {
            Some(kernels) if Versions::parse(kernels.get_ref()).is_none() => Err(self.error(
                kernels.span(),
                "these are no kernel versions",
                "write a range, either end of which may be left out: \"6.1..6.12\", \"6.2..\"; or one \
                 version, \"6.1\"",
            )),
            _ => Ok(()),
        }
    }

    fn not_zero(&self, size: &Spanned<u64>) -> Result<(), Diagnostic> {
        match size.get_ref() {
            0 => Err(self.error(size.span(), "a size of 0", "give the size in bytes")),
            _ => Ok(()),
        }
    }

    /// Whether a primitive has the arguments that its promise is about.
    fn arguments(&self, at: Range<usize>, it: &RawPrimitive) -> Result<(), Diagnostic> {
        let has = [&it.space, &it.start, &it.end];
        let (wanted, help) = match it.promises {
            Promise::Range => ([true; 3], "a `range` has `space`, `start` and `end`"),
            Promise::KernelRange => ([false, true, true], "a `kernel-range` has `start` and `end`"),
            Promise::KernelPageHere => ([false, true, false], "a `kernel-page-here` has `start`"),
            Promise::Everything => ([false; 3], "`everything` has no arguments"),
        };
        for ((has, wanted), name) in has.into_iter().zip(wanted).zip(["space", "start", "end"]) {
            match has {
                None if wanted => {
                    let message = format!("`{}` is given no `{name}`", it.symbol);
                    return Err(self.error(at, &message, help));
                }
                Some(value) if !wanted => {
                    let message = format!("`{}` promises nothing about a `{name}`", it.symbol);
                    return Err(self.error(value.span(), &message, help));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
