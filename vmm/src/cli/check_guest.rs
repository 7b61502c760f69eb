//! `stalemate check-guest`: what of a kernel of the user's own is as it must be, and what is not.

use super::failure::{EXIT_OK, EXIT_UNEXPECTED, Failure};
use super::input;
use super::terminal::Terminal;
use crate::arch::addr::Gva;
use crate::executor::Backend;
use crate::kernel::steps::escapes::{self, Escape};
use crate::kernel::steps::{Abilities, BootError, Guest};
use crate::report::counted;
use crate::runner::{Runner, Seen};
use crate::scenario::{self, CPUS, RunConfig, Selection};
use stalemate_shared::layout::{IMAGE, IMAGE_END};
use stalemate_shared::note::kernel;
use stalemate_shared::page::Page;
use stalemate_shared::step::Op;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Instructions that do not trap of which each is shown.
const SHOWN: usize = 20;

/// Arguments of `check-guest`.
#[derive(Debug, clap::Args)]
pub struct CheckGuestArgs {
    /// The kernel: an ELF file, as docs/guest.md says
    #[arg(value_name = "ELF")]
    file: PathBuf,
}

/// Says what of the kernel is as it must be; exits with 1 where it comes to no first step.
pub fn run(args: &CheckGuestArgs, terminal: &mut Terminal<'_>) -> Result<u8, Failure> {
    let guest = input::guest(&args.file)?;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}: an image that can be loaded", args.file.display());
    image(&mut out, &guest);
    code(&mut out, &guest);
    let boots = boots(&mut out, &guest)?;
    applies(&mut out, &guest, &args.file)?;
    terminal.write(&out)?;
    Ok(if boots { EXIT_OK } else { EXIT_UNEXPECTED })
}

/// A fact, under its name.
fn line(out: &mut String, name: &str, what: &str) {
    let _ = writeln!(out, "  {name:<11} {what}");
}

/// Size, entry, symbols and what the note says.
fn image(out: &mut String, guest: &Guest) {
    let image = guest.image();
    let kib = |bytes: u64| bytes.div_ceil(1024);
    let (used, most) = (kib(image.loaded_size()), kib(IMAGE_END - IMAGE));
    line(out, "size", &format!("{used} KiB of {most}, at guest-physical {IMAGE:#x}"));
    let entry =
        guest.symbols().locate(Gva(image.entry())).symbol.filter(|name| !name.contains('+'));
    let entry = entry.map(|name| format!(", {name}")).unwrap_or_default();
    line(out, "entry", &format!("{:#x}{entry}", image.entry()));
    let symbols = guest.symbols();
    let names = match symbols.count() {
        0 => "none: reports will have addresses; link without -s".to_owned(),
        count => counted(count, "symbol", "symbols"),
    };
    let lines = match symbols.has_lines() {
        true => "with lines",
        false => "no lines: compile with -g, and reports name them",
    };
    line(out, "symbols", &format!("{names}, {lines}"));
    match image.abilities() {
        None => {
            line(out, "note", "none: taken for a kernel that does all that the built-in guest does")
        }
        Some(abilities) => note(out, abilities),
    }
}

fn note(out: &mut String, abilities: &Abilities) {
    let steps = (0..64).filter_map(|number| Op::try_from(number).ok());
    let steps: Vec<String> =
        steps.filter(|&op| abilities.does(op)).map(scenario::step_name).collect();
    line(out, "version", &format!("{}, which is spoken", abilities.version));
    line(out, "steps", &steps.join(" "));
    let kinds = [
        (Page::User(0), "u"),
        (Page::Large(0), "h"),
        (Page::Table(0), "v"),
        (Page::Kernel(0), "k"),
    ];
    let named = |(page, name): (Page, &str)| {
        let at = abilities.addresses.address(page);
        if at == page.address() { name.to_owned() } else { format!("{name} at {at:#x}") }
    };
    let kinds: Vec<String> =
        kinds.into_iter().filter(|(page, _)| abilities.maps(*page)).map(named).collect();
    line(out, "pages", &kinds.join(" "));
    let features = [
        (kernel::PCID, "PCIDs"),
        (kernel::PTI, "page-table isolation"),
        (kernel::NO_PTI, "one root for both modes"),
        (kernel::GLOBAL, "global kernel pages"),
        (kernel::INTERRUPTS, "interrupts at any instruction"),
        (kernel::POLICIES, "the built-in guest's policies"),
        (kernel::MISTAKES, "its mistakes"),
    ];
    let features: Vec<&str> =
        features.into_iter().filter(|(bit, _)| abilities.has(*bit)).map(|(_, name)| name).collect();
    line(out, "features", &features.join(", "));
    let cpus = counted(usize::from(abilities.cpus), "CPU", "CPUs");
    let spaces = counted(abilities.spaces, "address space", "address spaces");
    let memory = abilities.memory >> 20;
    line(out, "has", &format!("{cpus}, {spaces}, {memory} MiB of memory"));
}

/// What the loader's check of forms finds.
fn code(out: &mut String, guest: &Guest) {
    let found = escapes::find(guest.image().bytes());
    if found.is_empty() {
        return line(out, "code", "whatever is privileged traps, as far as branches lead");
    }
    let what = counted(found.len(), "instruction escapes", "instructions escape");
    line(out, "code", &format!("{what} the VMM: refused on KVM, executed exactly on interp"));
    for Escape { at, instruction, why } in found.iter().take(SHOWN) {
        let _ = writeln!(out, "    `{instruction}` at {} {why}", guest.symbols().locate(*at));
    }
    if found.len() > SHOWN {
        let _ = writeln!(out, "    and {} more", found.len() - SHOWN);
    }
}

/// Whether it comes to its first step on each processor of the default suite; says so.
fn boots(out: &mut String, guest: &Guest) -> Result<bool, Failure> {
    let base = scenario::parse("boot", "boot.toml", "summary = \"boot\"\nsteps = \"user nop\"\n")?;
    let cpus: Vec<_> = CPUS.into_iter().filter(|cpu| cpu.default).collect();
    let selection = Selection { abilities: guest.abilities(), ..Selection::of(&cpus) };
    let mut runner = Runner::new(guest, &Backend::interp());
    let mut printed = String::new();
    let mut came: BTreeMap<(bool, String), Vec<String>> = BTreeMap::new();
    for config in base.configs(&selection) {
        let RunConfig { cpu, pti, .. } = config;
        let name = format!("{} {}", cpu.name, if pti { "pti" } else { "nopti" });
        let what = match runner.boot(&config) {
            Ok((seen, text)) => {
                printed = text;
                (true, as_asked(&seen, pti))
            }
            Err(BootError::Guest { stop, vcpu, printed: text }) => {
                printed = text;
                let at = guest.symbols().locate(vcpu.rip());
                (false, format!("{stop}, at {at}"))
            }
            Err(error) => return Err(Failure::host(&error)),
        };
        came.entry(what).or_default().push(name);
    }
    for ((boots, what), on) in &came {
        let name = if *boots { "boots" } else { "STOPS" };
        line(out, name, &format!("on {}: {what}", on.join(", ")));
    }
    for text in printed.lines() {
        line(out, "printed", text);
    }
    Ok(!came.is_empty() && came.keys().all(|(boots, _)| *boots))
}

/// What it was seen to be at its first step, where it is what was asked.
fn as_asked(seen: &Seen, pti: bool) -> String {
    match seen.isolated() == pti {
        true => seen.to_string(),
        false => format!("{seen}; runs will be `not-as-asked`"),
    }
}

/// How much of the built-in suite it can run.
fn applies(out: &mut String, guest: &Guest, path: &Path) -> Result<(), Failure> {
    let suite = scenario::suite()?;
    let can = suite.iter().filter(|one| one.lacks(&guest.abilities()).is_none()).count();
    let path = crate::report::quoted(&path.display().to_string());
    let all = suite.len();
    line(out, "scenarios", &format!("{can} of {all}; `stalemate list --guest {path}` has them"));
    Ok(())
}
