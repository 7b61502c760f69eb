//! Names and source lines of guest addresses: of an image with its own symbols and DWARF, or of a
//! kernel whose symbols are had apart.

pub mod btf;
pub mod kallsyms;
pub mod system_map;

use crate::arch::addr::Gva;
use crate::ink::one_line;
use addr2line::Context;
use gimli::{Dwarf, EndianArcSlice, RunTimeEndian, SectionId};
use object::{Object, ObjectSection, ObjectSymbol};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A guest address as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Location {
    /// The address.
    pub address: Gva,
    /// Demangled symbol and offset, where there is one.
    pub symbol: Option<String>,
    /// Source file and line, where known.
    pub line: Option<String>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.symbol {
            Some(symbol) => write!(f, "{symbol}")?,
            None => write!(f, "{}", self.address)?,
        }
        match &self.line {
            Some(line) => write!(f, " at {line}"),
            None => Ok(()),
        }
    }
}

/// The name of a symbol as people write it: demangled, without a hash, and a method by its type, not
/// by its trait: `a::Type::method` for `<a::Type as b::Trait>::method`.
#[must_use]
pub fn demangled(symbol: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(symbol));
    let by_type = name.strip_prefix('<').and_then(|rest| {
        let (of, rest) = rest.split_once(" as ")?;
        Some(format!("{of}::{}", rest.split_once(">::")?.1))
    });
    one_line(&by_type.unwrap_or(name))
}

/// A kernel's symbol: its address, its kind as `nm` has it, its name.
pub type KernelSymbol = (u64, char, String);

type Reader = EndianArcSlice<RunTimeEndian>;

/// The symbols of one image.
pub struct Symbols {
    by_address: BTreeMap<u64, (String, u64)>,
    by_name: BTreeMap<String, u64>,
    /// Whether each size reaches to the next symbol, so that what lies beyond it is in no function.
    sizes_are_ends: bool,
    /// The line table, which is read as far as it is needed.
    lines: Option<Mutex<Context<Reader>>>,
}

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Symbols").field("count", &self.by_name.len()).finish_non_exhaustive()
    }
}

impl Symbols {
    fn empty() -> Self {
        Self {
            by_address: BTreeMap::new(),
            by_name: BTreeMap::new(),
            sizes_are_ends: false,
            lines: None,
        }
    }

    /// Reads an image's symbols and line table; what cannot be read is left out.
    #[must_use]
    pub fn new(image: &[u8]) -> Self {
        let mut symbols = Self::empty();
        let Ok(file) = object::File::parse(image) else { return symbols };
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if name.is_empty() || symbol.is_undefined() {
                continue;
            }
            let name = demangled(name);
            symbols.by_name.insert(name.clone(), symbol.address());
            if symbol.kind() == object::SymbolKind::Text {
                let entry = symbols.by_address.entry(symbol.address());
                // A label inside a function never hides the function that begins there.
                let known = entry.or_insert_with(|| (name.clone(), symbol.size()));
                if symbol.size() > known.1 {
                    *known = (name, symbol.size());
                }
            }
        }
        symbols.lines = Self::context(&file).map(Mutex::new);
        symbols
    }

    /// A kernel's symbols, without lines. A function ends where the next symbol begins, whatever
    /// kind that is; of the last one no end is known. Of symbols at one address the first names
    /// the function; of symbols of one name a global one is found before those of single files.
    #[must_use]
    pub fn of_kernel(symbols: &[KernelSymbol]) -> Self {
        let mut this = Self { sizes_are_ends: true, ..Self::empty() };
        let mut begins = symbols.iter().map(|&(address, _, _)| address).collect::<Vec<_>>();
        begins.sort_unstable();
        for &(address, kind, ref name) in symbols {
            let is_text = matches!(kind, 'T' | 't' | 'W' | 'w');
            if is_text && Gva(address).is_kernel() {
                let next = begins.get(begins.partition_point(|&begin| begin <= address));
                let size = next.map_or(0, |next| next - address);
                this.by_address.entry(address).or_insert_with(|| (demangled(name), size));
            }
        }
        for global in [true, false] {
            for (address, kind, name) in symbols {
                if kind.is_ascii_uppercase() == global {
                    this.by_name.entry(demangled(name)).or_insert(*address);
                }
            }
        }
        this
    }

    /// The same with the line table of an image, if it has one.
    #[must_use]
    pub fn with_lines_of(mut self, image: &[u8]) -> Self {
        let file = object::File::parse(image).ok();
        self.lines = file.and_then(|file| Self::context(&file)).map(Mutex::new);
        self
    }

    fn context(file: &object::File<'_>) -> Option<Context<Reader>> {
        let load = |id: SectionId| -> Result<Reader, gimli::Error> {
            let data = file.section_by_name(id.name()).and_then(|section| section.data().ok());
            Ok(EndianArcSlice::new(data.unwrap_or_default().into(), RunTimeEndian::Little))
        };
        Context::from_dwarf(Dwarf::load(load).ok()?).ok()
    }

    fn lines(&self) -> Option<MutexGuard<'_, Context<Reader>>> {
        // Whoever panicked has changed nothing in it but what it remembers.
        Some(self.lines.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The address of the symbol named `name`.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<Gva> {
        self.by_name.get(name).copied().map(Gva)
    }

    /// Begin and end of each function whose path contains `part`.
    pub fn functions<'s>(&'s self, part: &'s str) -> impl Iterator<Item = (Gva, Gva)> + 's {
        self.by_address
            .iter()
            .filter(move |(_, (name, size))| *size > 0 && name.contains(part))
            .map(|(&start, &(_, size))| (Gva(start), Gva(start + size)))
    }

    /// How many it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// Whether it has a line table.
    #[must_use]
    pub fn has_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// The function that `address` is in, its begin and end.
    #[must_use]
    pub fn function_at(&self, address: Gva) -> Option<(&str, Gva, Gva)> {
        let (&start, (name, size)) = self.by_address.range(..=address.0).next_back()?;
        (address.0 < start + size).then_some((name, Gva(start), Gva(start + size)))
    }

    /// The functions that were inlined at `address`, innermost first, and the one that they were
    /// inlined into, each with its file and line.
    #[must_use]
    pub fn inlined(&self, address: Gva) -> Vec<(String, String)> {
        let found = self.lines().and_then(|lines| {
            let mut frames = lines.find_frames(address.0).skip_all_loads().ok()?;
            let mut all = Vec::new();
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| name.demangle().ok());
                let name = name.map_or_else(String::new, |name| name.into_owned());
                let at = frame
                    .location
                    .and_then(|at| Some(format!("{}:{}", one_line(at.file?), at.line?)));
                all.push((name, at.unwrap_or_default()));
            }
            Some(all)
        });
        found.unwrap_or_default()
    }

    /// The symbol that `address` is at or after, and how far. Only the kernel's half has symbols.
    fn nearest(&self, address: Gva) -> Option<(&str, u64)> {
        let (&begin, (name, size)) = self.by_address.range(..=address.0).next_back()?;
        let offset = address.0 - begin;
        let is_in = !self.sizes_are_ends || offset == 0 || offset < *size;
        (Gva(begin).is_kernel() && is_in).then_some((name, offset))
    }

    /// Where `address` is.
    #[must_use]
    pub fn locate(&self, address: Gva) -> Location {
        let at = address.0;
        let symbol = self.nearest(address).map(|(name, offset)| match offset {
            0 => name.to_owned(),
            offset => format!("{name}+{offset:#x}"),
        });
        let line = self.lines().and_then(|lines| {
            // Of what was inlined here the outermost is the symbol's own line.
            let mut frames = lines.find_frames(at).skip_all_loads().ok()?;
            let mut outermost = None;
            while let Ok(Some(frame)) = frames.next() {
                outermost = frame.location.or(outermost);
            }
            let location = outermost?;
            Some(format!("{}:{}", one_line(location.file?), location.line?))
        });
        Location { address, symbol, line }
    }
}

#[cfg(test)]
mod tests;
