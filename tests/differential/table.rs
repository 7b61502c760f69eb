//! `docs/interpreter.md`: what is covered, from the tables that the test itself uses.

use crate::generate::Generator;
use crate::sequence::left_out;
use iced_x86::Code;
use stalemate::executor::interp::is_supported;
use std::collections::BTreeMap;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/interpreter.md");
const INTRODUCTION: &str = include_str!("interpreter.md");

fn table() -> String {
    let mut rows = BTreeMap::<String, Vec<(String, String)>>::new();
    let mut forms = 0;
    let mut missing = Vec::new();
    for code in Code::values().filter(|code| is_supported(*code)) {
        let info = code.op_code();
        if let Some(reason) = left_out(code) {
            missing.push(format!("* `{}`: {reason}", info.instruction_string()));
            continue;
        }
        let mut prefixes = Vec::new();
        if info.can_use_lock_prefix() {
            prefixes.push("LOCK");
        }
        if info.can_use_repne_prefix() {
            prefixes.extend(["REPE", "REPNE"]);
        } else if info.can_use_rep_prefix() {
            prefixes.push("REP");
        }
        forms += 1;
        rows.entry(format!("{:?}", code.mnemonic()).to_uppercase())
            .or_default()
            .push((info.instruction_string().to_string(), prefixes.join(", ")));
    }
    let mut text = INTRODUCTION.to_string();
    text.push_str(&format!(
        "\n## Covered forms\n\n{} mnemonics, {forms} forms, written as iced-x86 writes them.\n\n\
         | mnemonic | operand forms | prefixes |\n|---|---|---|\n",
        rows.len()
    ));
    for (mnemonic, forms) in rows {
        let prefixes = forms[0].1.clone();
        let mut names: Vec<_> = forms.into_iter().map(|(form, _)| format!("`{form}`")).collect();
        names.dedup();
        text.push_str(&format!("| {mnemonic} | {} | {prefixes} |\n", names.join("<br>")));
    }
    text.push_str("\n## Executed, but in no random sequence\n\n");
    text.push_str(&missing.join("\n"));
    text.push('\n');
    text
}

#[test]
fn the_documented_forms_are_those_that_are_covered() {
    let table = table();
    if std::env::var_os("STALEMATE_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(FILE, &table).expect("docs can be written");
    }
    let found = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        found == table,
        "docs/interpreter.md is out of date: STALEMATE_BLESS=1 cargo test -p stalemate --test \
         differential the_documented_forms"
    );
}

#[test]
fn every_supported_form_is_generated_or_left_out_for_a_reason() {
    let generator = Generator::new();
    for code in Code::values().filter(|code| is_supported(*code)) {
        assert!(
            generator.codes().contains(&code) || left_out(code).is_some() || generator.lacks(code),
            "{code:?}"
        );
    }
}
