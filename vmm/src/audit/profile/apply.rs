//! A profile and a kernel: addresses for symbols, distances for members, and what of it the kernel has not.

use super::Profile;
use super::raw::{Promise, RawAddress, RawArea, RawField, RawPrimitive, RawValue};
use super::versions::{Version, Versions, of_banner};
use crate::arch::addr::Gva;
use crate::event::{FlushId, FlushKind};
use crate::kernel::free::{Descriptors, Does, Hooks, KernelImage, LazyCpus, Marks, PerCpu, Value};
use crate::symbols::Symbols;
use crate::symbols::btf::Btf;
use serde::Serialize;
use toml::Spanned;

/// Linux says its version here.
const BANNER: &str = "linux_banner";

/// One line of a profile, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(inline)]
pub struct Line {
    /// Its number in the file.
    pub line: usize,
    /// The symbol that it is about.
    pub symbol: String,
    /// What it says of that.
    pub what: &'static str,
    /// How often the function was called; none for what is no function, or not this kernel's.
    pub calls: Option<u64>,
    /// How often a call has returned; none for what has no deadline at its return.
    pub returns: Option<u64>,
    /// What is wrong with it; none where it did what it is there for.
    pub missing: Option<String>,
    #[serde(skip)]
    function: Option<usize>,
}

/// A profile as it is used for a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its file.
    pub file: String,
    /// Its lines that are true of this kernel's version.
    pub lines: Vec<Line>,
    /// Why none of it is used.
    pub unused: Option<String>,
}

/// What a profile is applied to.
struct Target<'a> {
    symbols: &'a Symbols,
    kernel: &'a KernelImage,
    btf: Option<Btf<'a>>,
    version: Option<Version>,
}

type Resolved<T> = Result<T, String>;

impl Profile {
    /// What the profile says of one kernel.
    #[must_use]
    pub fn apply(
        &self,
        kernel: &KernelImage,
        symbols: &Symbols,
        command_line: &str,
        cpus: u8,
    ) -> (Hooks, Applied) {
        let mut applied = Applied { file: self.file.clone(), ..Applied::default() };
        let has = |word: &String| command_line.split_whitespace().any(|has| has == word);
        if symbols.address(&self.raw.symbol).is_none() {
            applied.unused = Some(format!("the kernel has no symbol `{}`", self.raw.symbol));
        } else if let Some(word) = self.raw.command_line.iter().find(|word| !has(word)) {
            applied.unused = Some(format!("it needs `{word}` on the command line"));
        }
        if applied.unused.is_some() {
            return (Hooks::default(), applied);
        }
        let banner = symbols.address(BANNER).and_then(|at| kernel.bytes_at(at, 64));
        let target = Target {
            symbols,
            kernel,
            btf: Btf::read(&kernel.elf),
            version: banner.and_then(of_banner),
        };
        let mut hooks = Hooks::default();
        self.memory(&target, &mut hooks, &mut applied);
        if cpus == 1 {
            // Nobody is left out of a shootdown, so that its own flushes are judged as any.
            hooks.lazy = None;
        }
        self.functions(&target, cpus, &mut hooks, &mut applied);
        (hooks, applied)
    }

    /// What it says of memory.
    fn memory(&self, target: &Target<'_>, hooks: &mut Hooks, applied: &mut Applied) {
        let mut add = |at, symbol: &str, what, missing: Option<String>| {
            let (line, symbol) = (self.line(&at), symbol.to_owned());
            applied.lines.push(Line {
                line,
                symbol,
                what,
                calls: None,
                returns: None,
                missing,
                function: None,
            });
        };
        for it in self.raw.current.iter().filter(|it| target.is_of(it.get_ref().kernels.as_ref())) {
            let (at, it) = (it.span(), it.get_ref());
            let place = target.per_cpu(&it.percpu, it.field.as_ref());
            hooks.current = place.as_ref().ok().copied().or(hooks.current);
            add(at, &it.percpu, "the current task", place.err());
        }
        let mark = self.raw.mark.as_ref();
        if let Some(it) = mark.filter(|it| target.is_of(it.get_ref().kernels.as_ref())) {
            let (at, it) = (it.span(), it.get_ref());
            let place = target.per_cpu(&it.percpu, it.field.as_ref());
            let slots = *it.slots.get_ref();
            hooks.marks = place.as_ref().ok().map(|&mask| Marks::new(mask, slots));
            add(at, &it.percpu, "marks of user PCIDs", place.err());
        }
        let lazy = self.raw.lazy.as_ref();
        if let Some(it) = lazy.filter(|it| target.is_of(it.get_ref().kernels.as_ref())) {
            let (at, it) = (it.span(), it.get_ref());
            let place = target.per_cpu(&it.percpu, it.field.as_ref());
            hooks.lazy = place.as_ref().ok().map(|&word| LazyCpus::new(word));
            add(at, &it.percpu, "whether a CPU is lazy", place.err());
        }
        let descriptors = self.raw.descriptors.as_ref();
        if let Some(it) = descriptors.filter(|it| target.is_of(it.get_ref().kernels.as_ref())) {
            let (at, it) = (it.span(), it.get_ref());
            let base = target.address(&it.base);
            let size = *it.size.get_ref();
            hooks.descriptors = base.as_ref().ok().map(|&base| Descriptors { base, size });
            add(at, &it.base, "descriptors of frames", base.err());
        }
        let mut area = |it: &Spanned<RawArea>, what| {
            let (at, it) = (it.span(), it.get_ref());
            let start = target.start(it.start.get_ref());
            let symbol = match it.start.get_ref() {
                RawAddress::At(address) => Gva(*address).to_string(),
                RawAddress::ValueOf(symbol) => symbol.clone(),
            };
            let found = start.as_ref().ok().copied();
            add(at, &symbol, what, start.err());
            found.map(|start| (start, Gva(start.0.saturating_add(*it.size.get_ref()))))
        };
        let is_of = |it: &&Spanned<RawArea>| target.is_of(it.get_ref().kernels.as_ref());
        if let Some(it) = self.raw.direct_map.as_ref().filter(is_of) {
            hooks.direct_map = area(it, "all memory").unwrap_or_default();
        }
        for it in self.raw.stale_by_design.iter().filter(is_of) {
            hooks.wait_for_reuse.extend(area(it, "stale by design, until it is mapped anew"));
        }
    }

    /// What it says of functions.
    fn functions(&self, target: &Target<'_>, cpus: u8, hooks: &mut Hooks, applied: &mut Applied) {
        let mut add = |at, symbol: &str, what, does: Resolved<Does>| {
            let address = target.address(symbol);
            let function = address.and_then(|at| Ok(hooks.add(at, does?)));
            let line = self.line(&at);
            let (function, missing) = (function.as_ref().ok().copied(), function.err());
            let symbol = symbol.to_owned();
            let (calls, returns) = (None, None);
            applied.lines.push(Line { line, symbol, what, calls, returns, missing, function });
        };
        let raw = &self.raw;
        for it in raw.primitive.iter().filter(|it| target.is_of(it.get_ref().kernels.as_ref())) {
            let does = match it.get_ref().one_cpu && cpus > 1 {
                true => Err("its promise is one of its own CPU, and there are several".to_owned()),
                false => target.primitive(it.get_ref()),
            };
            add(it.span(), &it.get_ref().symbol, "a flush primitive", does);
        }
        for it in raw.frees.iter().filter(|it| target.is_of(it.get_ref().kernels.as_ref())) {
            let of = it.get_ref();
            let page = target.value(&of.page);
            let order = of.order.as_ref().map(|order| target.value(order)).transpose();
            let does = page.and_then(|page| Ok(Does::Frees { page, order: order? }));
            add(it.span(), &of.symbol, "gives frames back", does);
        }
        for it in raw.operation_ends.iter().filter(|it| target.is_of(it.get_ref().kernels.as_ref()))
        {
            add(it.span(), &it.get_ref().symbol, "ends an operation", Ok(Does::OperationEnds));
        }
    }
}

impl Target<'_> {
    /// Whether a line is true of this kernel's version; where that is not known, one that is true of all.
    fn is_of(&self, kernels: Option<&Spanned<String>>) -> bool {
        let Some(kernels) = kernels else { return true };
        let versions = Versions::parse(kernels.get_ref());
        versions.zip(self.version).is_some_and(|(versions, version)| versions.contains(version))
    }

    fn address(&self, symbol: &str) -> Resolved<Gva> {
        self.symbols.address(symbol).ok_or_else(|| format!("the kernel has no symbol `{symbol}`"))
    }

    fn offset(&self, field: &RawField) -> Resolved<u64> {
        match field {
            RawField::Offset(bytes) => Ok(*bytes),
            RawField::Member(of, member) => {
                let btf = self.btf.as_ref().ok_or("the kernel's image has no types (.BTF)")?;
                btf.offset(of, member)
                    .ok_or_else(|| format!("the kernel has no member `{of}.{member}`"))
            }
        }
    }

    fn per_cpu(&self, symbol: &str, field: Option<&Spanned<RawField>>) -> Resolved<PerCpu> {
        let base = self.address(symbol)?;
        let offset = field.map_or(Ok(0), |field| self.offset(field.get_ref()))?;
        Ok(PerCpu::at(base.0.wrapping_add(offset)))
    }

    fn value(&self, value: &Spanned<RawValue>) -> Resolved<Value> {
        Ok(match value.get_ref() {
            RawValue::Register(register) => Value::Register(*register),
            RawValue::Field(at) => {
                Value::Field { register: at.register, offset: self.offset(&at.field)? }
            }
        })
    }

    fn primitive(&self, it: &RawPrimitive) -> Resolved<Does> {
        let value = |value: &Option<Spanned<RawValue>>| {
            value.as_ref().map(|value| self.value(value)).transpose()
        };
        let kind = match it.promises {
            Promise::Range => FlushKind::Range,
            Promise::KernelRange => FlushKind::KernelRange,
            Promise::KernelPageHere => FlushKind::OneKernelHere,
            Promise::Everything => FlushKind::All,
        };
        let (space, start, end) = (value(&it.space)?, value(&it.start)?, value(&it.end)?);
        Ok(Does::Flush { kind, space, start, end })
    }

    fn start(&self, address: &RawAddress) -> Resolved<Gva> {
        match address {
            RawAddress::At(address) => Ok(Gva(*address)),
            RawAddress::ValueOf(symbol) => {
                let bytes = self.kernel.bytes_at(self.address(symbol)?, 8);
                let value = bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
                value
                    .map(Gva)
                    .ok_or_else(|| format!("the image has no value for the variable `{symbol}`"))
            }
        }
    }
}

impl Applied {
    /// Fills in what a run has shown of the functions.
    pub(in crate::audit) fn ran(&mut self, hooks: &Hooks) {
        for line in &mut self.lines {
            let Some(function) = line.function.and_then(|number| hooks.functions().get(number))
            else {
                continue;
            };
            line.calls = Some(function.calls);
            let returns = matches!(function.does, Does::Flush { .. });
            line.returns = returns.then_some(function.returns);
            line.missing = match function.calls {
                0 => Some("it was not called in this run".to_owned()),
                calls if function.unclear > 0 => Some(format!(
                    "of {} of its {calls} calls it could not be told what they were of",
                    function.unclear
                )),
                calls if returns && function.returns == 0 => {
                    Some(format!("it was called {calls} times and never returned"))
                }
                _ => None,
            };
        }
    }

    /// The line that a flush is a call of.
    #[must_use]
    pub fn line_of_flush(&self, flush: FlushId, hooks: &Hooks) -> Option<&Line> {
        let number = hooks.function_of(flush);
        number.and_then(|number| self.lines.iter().find(|line| line.function == Some(number)))
    }

    /// The line about the function that begins at an address.
    #[must_use]
    pub fn line_at(&self, at: Gva, hooks: &Hooks) -> Option<&Line> {
        self.lines.iter().find(|line| {
            let function = line.function.and_then(|number| hooks.functions().get(number));
            function.is_some_and(|function| function.at == at)
        })
    }
}
