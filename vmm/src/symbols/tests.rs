//! What becomes of a kernel's list of symbols.

use super::*;

const TEXT: u64 = 0xffff_ffff_8100_0000;

fn kernel() -> Symbols {
    let symbols = [
        (0x1000, 'A', "per_cpu"),
        (0x2000, 't', "per_cpu_text"),
        (TEXT, 'T', "_text"),
        (TEXT, 'T', "_stext"),
        (TEXT + 0x10, 't', "twice"),
        (TEXT + 0x30, 'T', "twice"),
        (TEXT + 0x40, 'W', "last_of_text"),
        (TEXT + 0x60, 'D', "data"),
        (TEXT + 0x80, 't', "exit"),
    ];
    let symbols = symbols.map(|(address, kind, name)| (address, kind, name.to_owned()));
    Symbols::of_kernel(&symbols)
}

#[test]
fn a_function_of_a_kernel_ends_at_the_next_symbol() {
    let symbols = kernel();
    let function = |offset| {
        symbols
            .function_at(Gva(TEXT + offset))
            .map(|(name, _, end)| (name.to_owned(), end.0 - TEXT))
    };
    assert_eq!(function(0x0f), Some(("_text".to_owned(), 0x10)));
    assert_eq!(function(0x5f), Some(("last_of_text".to_owned(), 0x60)));
    assert_eq!(function(0x60), None, "data is no function");
    assert_eq!(function(0x80), None, "where the last one ends is not known");
}

#[test]
fn names_of_a_kernel_are_found_the_global_ones_first() {
    let symbols = kernel();
    assert_eq!(symbols.address("twice"), Some(Gva(TEXT + 0x30)));
    assert_eq!(symbols.address("_stext"), Some(Gva(TEXT)));
    assert_eq!(symbols.address("per_cpu"), Some(Gva(0x1000)));
    assert_eq!(symbols.address("data"), Some(Gva(TEXT + 0x60)));
    assert_eq!(symbols.address("none"), None);
}

#[test]
fn only_what_is_in_a_kernels_function_has_its_name() {
    let symbols = kernel();
    let symbol = |address| symbols.locate(Gva(address)).symbol;
    assert_eq!(symbol(TEXT).as_deref(), Some("_text"));
    assert_eq!(symbol(TEXT + 0x11).as_deref(), Some("twice+0x1"));
    assert_eq!(symbol(TEXT + 0x80).as_deref(), Some("exit"));
    for address in [0x1000, 0x2000, 0x7fff_ffff_f000, 0xffff_8880_0000_0000, TEXT - 1] {
        assert_eq!(symbol(address), None, "{address:#x} is in no function");
    }
    for offset in [0x60, 0x70, 0x81, 0x4000_0000] {
        assert_eq!(symbol(TEXT + offset), None, "{offset:#x} is beyond the function");
    }
}

#[test]
fn a_symbol_below_this_guests_own_kernel_is_a_symbol() {
    let below = stalemate_shared::layout::KERNEL_BASE - 0x1000;
    let symbols = Symbols::of_kernel(&[
        (below, 'T', "below".to_owned()),
        (below + 0x10, 'T', "behind".to_owned()),
    ]);
    assert_eq!(symbols.locate(Gva(below + 1)).symbol.as_deref(), Some("below+0x1"));
}

#[test]
fn a_symbol_of_the_user_half_names_nothing() {
    let mut symbols = Symbols::empty();
    symbols.by_address.insert(0x1000, ("user".to_owned(), 0x10));
    for address in [0x1000, 0x1008, TEXT] {
        assert_eq!(symbols.locate(Gva(address)).symbol, None, "{address:#x}");
    }
}
