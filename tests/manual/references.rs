//! The parts of pages that are written from the types: `<!-- generated: NAME -->` to `<!-- end -->`.

use super::{check, common, root};
use clap::CommandFactory;
use serde_json::Value;
use stalemate::arch::tlb::FILLS;
use stalemate::audit;
use stalemate::cli::Cli;
use stalemate::compare;
use stalemate::executor::Backend;
use stalemate::fuzz;
use stalemate::inject::forms::{DELAY, FORMS, POINTS, SITES};
use stalemate::kernel::steps::Guest;
use stalemate::oracle::{RuleId, Violation, rules};
use stalemate::report::{self, picture};
use stalemate::runner::Runner;
use stalemate::scenario::{self, CPUS, POLICIES, Selection, VERBS};
use stalemate::schedule::HOLD_POINTS;
use stalemate_shared::layout::{self, COLOURS};
use std::fmt::Write;

const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end -->";

/// A table of two columns, the first in code.
fn table(heads: [&str; 2], rows: impl Iterator<Item = (String, String)>) -> String {
    let mut out = format!("| {} | {} |\n|---|---|\n", heads[0], heads[1]);
    for (name, what) in rows {
        // A bar would end the cell.
        let _ = writeln!(out, "| `{}` | {} |", name.replace('|', "\\|"), what.replace('|', "\\|"));
    }
    out
}

fn pairs<'a>(
    rows: impl Iterator<Item = (&'a str, &'a str)>,
) -> impl Iterator<Item = (String, String)> {
    rows.map(|(name, what)| (name.to_owned(), what.to_owned()))
}

/// A generated part by its name.
fn part(name: &str) -> String {
    match name {
        "verbs" => {
            let form = |verb: &scenario::Verb| format!("{} {}", verb.name, verb.form);
            let rows = VERBS.iter();
            table(
                ["verb", "what it does"],
                rows.map(|verb| (form(verb).trim_end().to_owned(), verb.help.to_owned())),
            )
        }
        "keys" => keys(),
        "cpus" => {
            table(["name", "it has"], CPUS.iter().map(|cpu| (cpu.name.to_owned(), cpu.has())))
        }
        "policies" => table(
            ["policy", "what it does"],
            pairs(POLICIES.iter().map(|&(_, name, help)| (name, help))),
        ),
        "pages" => pages(),
        "fills" => table(
            ["fill", "the TLB holds"],
            pairs(FILLS.iter().map(|&(_, name, help)| (name, help))),
        ),
        "holds" => table(
            ["point", "the CPU is held when"],
            pairs(HOLD_POINTS.iter().map(|&(name, _, help)| (name, help))),
        ),
        "faults" => faults(),
        "rules" => {
            let mut out = "| rule | it says |\n|---|---|\n".to_owned();
            for rule in rules::abouts() {
                let _ = writeln!(out, "| [`{0}`]({0}.md) | {1} |", rule.name, rule.statement);
            }
            out
        }
        "commands" => commands(),
        "schemas" => schemas(),
        "action" => action(),
        _ => match name.strip_prefix("rule ") {
            Some(rule) => about(rule.parse().expect("a rule")),
            None => panic!("no part is called `{name}`"),
        },
    }
}

/// What steps may name, from the layout of the guest's memory.
fn pages() -> String {
    let range = |letter: char, count: u64| format!("`{letter}0`..`{letter}{}`", count - 1);
    let letter = |number: usize| (b'A' + number as u8 - 1) as char;
    let mut out = table(["name", "is"], std::iter::empty());
    let rows = [
        (range('u', layout::USER_PAGE_COUNT), "user pages".to_owned()),
        (
            range('v', layout::USER_TABLE_PAGE_COUNT),
            "user pages on a page table of their own".to_owned(),
        ),
        (range('h', layout::USER_LARGE_PAGE_COUNT), "user pages of 2 MiB".to_owned()),
        (range('k', layout::KERNEL_PAGE_COUNT), "kernel pages".to_owned()),
        (format!("`A`..`{}`", letter(layout::MM_COUNT)), "address spaces".to_owned()),
        (format!("`cpu0`..`cpu{}`", layout::MAX_CPUS - 1), "CPUs".to_owned()),
        (
            format!("`{}`", COLOURS.join("`, `")),
            format!("frames; the first {} name frames of 2 MiB too", layout::LARGE_COLOURS),
        ),
    ];
    for (name, what) in rows {
        let _ = writeln!(out, "| {name} | {what} |");
    }
    out
}

fn faults() -> String {
    let mut out = table(["fault", "what it does"], pairs(FORMS.iter().copied()));
    let names = |names: Vec<&str>| format!("`{}`", names.join("`, `"));
    let _ = writeln!(
        out,
        "\nSITE is one of {}; POINT is one of {}; PAGE is a test page.\n\n{DELAY}",
        names(SITES.iter().map(|(name, _)| *name).collect()),
        names(POINTS.iter().map(|(name, _)| *name).collect()),
    );
    out
}

/// The keys of a scenario file, from its schema.
fn keys() -> String {
    let schema = scenario::schema();
    let mut out = "| key | what it says |\n|---|---|\n".to_owned();
    rows(&mut out, &schema, &schema, "");
    out
}

fn rows(out: &mut String, schema: &Value, of: &Value, prefix: &str) {
    let Some(properties) = of["properties"].as_object() else { return };
    for (name, property) in properties {
        let key = format!("{prefix}{name}");
        let help = property["description"].as_str().unwrap_or("see below");
        let _ = writeln!(out, "| `{key}` | {} |", help.replace('\n', " "));
        let inner = [&property["$ref"], &property["items"]["$ref"], &property["anyOf"][0]["$ref"]];
        let Some(inner) = inner.iter().find_map(|reference| reference.as_str()) else { continue };
        let name = inner.trim_start_matches("#/$defs/");
        // A condition is told once.
        if name != "RawWhen" || key == "verdict.when" {
            rows(out, schema, &schema["$defs"][name], &format!("{key}."));
        }
    }
}

/// What a rule says of itself, its picture, and how to see it violated.
fn about(rule: RuleId) -> String {
    let about = rule.about();
    let mut out = format!(
        "{}\n\nSource: {}.\n\n![{} violated]({}.svg)\n",
        about.statement, about.source, about.name, about.name
    );
    if about.is_cost || about.is_of_audits() {
        out = format!("{}\n\nSource: {}.\n", about.statement, about.source);
    }
    if about.is_of_audits() {
        let _ = writeln!(
            out,
            "\nIt judges kernels that run freely, under `stalemate audit`.\n\nWhat to try: {}.",
            about.hint
        );
        return out;
    }
    // What the command line injects no file expects.
    let injects = about.violated_by.contains("--inject") && !about.is_cost;
    let code = if injects { " # exits with 1" } else { "" };
    let _ = writeln!(
        out,
        "\nThis violates it:\n\n```sh\nstalemate run {}\n```\n\nThis comes close and does not:\n\n\
         ```sh\nstalemate run {}\n```\n\nWhat to try: {}.",
        format_args!("{}{code}", about.violated_by),
        about.near_miss,
        about.hint
    );
    out
}

fn commands() -> String {
    let mut out = String::new();
    let mut cli = Cli::command().term_width(90);
    let mut all = vec![cli.render_long_help().to_string()];
    for command in cli.get_subcommands_mut() {
        let name = format!("stalemate {}", command.get_name());
        let mut command = command.clone().bin_name(name).term_width(90);
        all.push(command.render_long_help().to_string());
    }
    for help in all {
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        let usage = help.iter().find_map(|line| line.strip_prefix("Usage: ")).expect("a usage");
        let name: Vec<&str> =
            usage.split(' ').take_while(|word| !word.starts_with(['[', '<'])).collect();
        let _ =
            writeln!(out, "## `{}`\n\n```text\n{}\n```\n", name.join(" "), help.join("\n").trim());
    }
    out
}

/// The inputs and outputs of the action.
fn action() -> String {
    let text = std::fs::read_to_string(root().join("action.yml")).expect("an action");
    let mut out = String::new();
    for (section, heading) in [("inputs", "input"), ("outputs", "output")] {
        let (_, lines) = text.split_once(&format!("\n{section}:\n")).expect("a section");
        let lines = lines.lines().take_while(|line| line.starts_with(' '));
        let _ = writeln!(out, "| {heading} | |\n|---|---|");
        for line in lines {
            let key = line.trim_start_matches(' ');
            match (line.len() - key.len(), key.split_once(": ")) {
                (2, _) => _ = write!(out, "| `{}` | ", key.trim_end_matches(':')),
                (4, Some(("description", ">-"))) => (),
                (4, Some(("description", what))) => out += what,
                (4, Some(("default", "\"\""))) => out += " |\n",
                (4, Some(("default", value))) => _ = writeln!(out, "; `{value}` by default |"),
                (4, Some(("value", _))) => out += " |\n",
                (6, _) if out.ends_with("| ") => out += key,
                (6, _) => _ = write!(out, " {key}"),
                _ => panic!("what is `{line}`?"),
            }
        }
        out.push('\n');
    }
    out
}

/// The schemas, by the names of their files.
fn all_schemas() -> [(&'static str, Value); 8] {
    [
        ("audit.schema.json", audit::schema()),
        ("compare.schema.json", compare::schema()),
        ("faults.schema.json", report::score_schema()),
        ("fuzz-zoo.schema.json", fuzz::zoo::schema()),
        ("fuzz.schema.json", fuzz::schema()),
        ("profile.schema.json", audit::profile_schema()),
        ("report.schema.json", report::schema()),
        ("scenario.schema.json", scenario::schema()),
    ]
}

fn schemas() -> String {
    let mut out = String::new();
    for (name, schema) in all_schemas() {
        let title = schema["title"].as_str().expect("a title");
        let what = schema["description"].as_str().expect("a description").replace('\n', " ");
        let _ = writeln!(out, "## {title}\n\n[`{name}`]({name}). {what}\n");
        fields(&mut out, &schema, &schema);
        for (name, part) in schema["$defs"].as_object().into_iter().flatten() {
            if !part["properties"].is_null() {
                let _ = writeln!(out, "### `{name}`\n");
                fields(&mut out, &schema, part);
            }
        }
    }
    out
}

/// A table of what an object of a schema has, and what the objects in it have.
fn fields(out: &mut String, schema: &Value, of: &Value) {
    let mut rows = Vec::new();
    collect(&mut rows, schema, of, "");
    *out += "| field | it is | |\n|---|---|---|\n";
    for [name, kind, what] in rows {
        let _ = writeln!(out, "| `{name}` | {kind} | {what} |");
    }
    out.push('\n');
}

fn collect(rows: &mut Vec<[String; 3]>, schema: &Value, of: &Value, prefix: &str) {
    for (name, property) in of["properties"].as_object().into_iter().flatten() {
        let name = format!("{prefix}{name}");
        let what = property["description"].as_str();
        let what = what.unwrap_or_else(|| panic!("`{name}` has no description")).replace('\n', " ");
        rows.push([name.clone(), kind(schema, property), what]);
        inner(rows, schema, property, name);
    }
}

/// What is inside of a field: objects, or arrays of them.
fn inner(rows: &mut Vec<[String; 3]>, schema: &Value, of: &Value, name: String) {
    match of["items"].is_null() {
        false => inner(rows, schema, &of["items"], name + "[]"),
        true => {
            let choices = of["anyOf"].as_array().into_iter().flatten();
            choices.chain([of]).for_each(|of| collect(rows, schema, of, &format!("{name}.")));
        }
    }
}

/// The type of a field, in words.
fn kind(schema: &Value, of: &Value) -> String {
    let or = |kinds: Vec<String>| kinds.join(" or ");
    if let Some(reference) = of["$ref"].as_str() {
        let name = reference.trim_start_matches("#/$defs/");
        let part = &schema["$defs"][name];
        return if part["properties"].is_null() {
            kind(schema, part)
        } else {
            format!("[`{name}`](#{name})")
        };
    }
    if let Some(value) = of.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = of["enum"].as_array() {
        return or(values.iter().map(|value| format!("`{value}`")).collect());
    }
    let choices = ["anyOf", "oneOf"].iter().find_map(|which| of[which].as_array());
    if let Some(choices) = choices {
        return or(choices.iter().map(|choice| kind(schema, choice)).collect());
    }
    match &of["type"] {
        Value::String(name) if name == "array" => {
            format!("array of {}", kind(schema, &of["items"]))
        }
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            or(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        _ => "any".to_owned(),
    }
}

/// The page with its generated parts as they ought to be, and how many there are.
pub fn with_references(text: &str) -> (String, usize) {
    let mut rest = text;
    let mut out = String::new();
    let mut parts = 0;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(" -->\n").expect("a name");
        let (_, after) = after.split_once(END).expect("an end");
        let _ = write!(out, "{before}{BEGIN}{name} -->\n{}{END}", part(name));
        rest = after;
        parts += 1;
    }
    (out + rest, parts)
}

/// The first violation of this rule in the run that the rule names.
fn violation(runner: &mut Runner, rule: RuleId) -> Violation {
    let words = common::words(rule.about().violated_by);
    let value = |name: &str| {
        let pairs = words.windows(2).filter(|pair| pair[0] == name);
        pairs.map(|pair| pair[1].as_str()).collect::<Vec<_>>()
    };
    let mut all = scenario::suite().expect("scenarios");
    all.extend(scenario::zoo().expect("the zoo"));
    let scenario = all.iter().find(|scenario| scenario.name == words[0]).expect("a scenario");
    let cpu = CPUS.iter().find(|cpu| Some(&cpu.name) == value("--cpu").first()).expect("a CPU");
    let policy = value("--policy")
        .first()
        .map(|name| POLICIES.iter().find(|(_, known, _)| known == name).expect("a policy").0);
    let inject = value("--inject").iter().map(|fault| fault.parse().expect("a fault")).collect();
    let selection = Selection { policy, inject, ..Selection::of(&[*cpu]) };
    let runs = scenario.runs(&selection);
    let mut found =
        runs.iter().flat_map(|run| runner.run(run, None).expect("the host works").violations);
    found.find(|violation| violation.rule == rule).expect("a violation")
}

#[test]
fn every_rule_has_its_page_and_its_picture() {
    let guest = Guest::builtin();
    let mut runner = Runner::new(&guest, &Backend::interp());
    for rule in rules::abouts() {
        let page = root().join(format!("docs/rules/{}.md", rule.name));
        let text = std::fs::read_to_string(&page).expect("a page");
        assert!(text.contains(&format!("{BEGIN}rule {} -->", rule.name)), "{}", rule.name);
        if !rule.is_cost && !rule.is_of_audits() {
            let svg = picture(&violation(&mut runner, RuleId(rule)), guest.symbols());
            check(&page.with_extension("svg"), &svg);
        }
    }
}

#[test]
fn the_schemas_are_those_of_the_types() {
    for (name, schema) in all_schemas() {
        let text = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
        check(&root().join("docs").join(name), &text);
    }
}

#[test]
fn the_schema_of_scenario_files_holds() {
    let schema = scenario::schema();
    let mut all = scenario::suite().expect("scenarios");
    all.extend(scenario::zoo().expect("the zoo"));
    for scenario in all {
        let mut value: Value = toml::from_str(&scenario.source).expect("TOML");
        let errors = crate::common::schema::errors(&schema, &value);
        assert!(errors.is_empty(), "{}: {errors:?}", scenario.name);
        value["kernel"]["policy"] = "splt".into();
        assert!(
            !crate::common::schema::errors(&schema, &value).is_empty(),
            "the schema can refuse"
        );
    }
}
