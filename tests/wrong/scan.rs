//! What counts as a condition of a source file.

include!("conditions.rs");

/// The texts of the conditions, in the order in which they begin.
fn conditions(source: &str) -> Vec<&str> {
    let scan = Scan { source, tokens: tokens(source) };
    scan.conditions().into_iter().map(|one| source[one.start..one.end].trim()).collect()
}

#[test]
fn conjunctions_disjunctions_and_comparisons_are_conditions() {
    let source = "let a = b && c.is_some() || d != 3;";
    assert_eq!(conditions(source), ["b", "c.is_some()", "d != 3"]);
    let source = "if x & 1 == 0 { f(y < z) } else if w { }";
    assert_eq!(conditions(source), ["x & 1 == 0", "y < z", "w"]);
    let source = "match a { Some(b) if b.c() => d >= e, _ => !f }";
    assert_eq!(conditions(source), ["b.c()", "d >= e"]);
}

#[test]
fn closures_of_filters_and_functions_that_say_yes_or_no_are_conditions() {
    let source = "a.iter().filter(|b| b.c()).any(is_d)";
    assert_eq!(conditions(source), ["b.c()", "is_d"]);
    assert_eq!(conditions("fn a(&self) -> bool { self.b }"), ["self.b"]);
    assert_eq!(conditions("f(matches!(a, B | C))"), ["matches!(a, B | C)"]);
}

#[test]
fn patterns_references_generics_and_texts_are_none() {
    let source = "if let Some(a) = b && c { }";
    assert_eq!(conditions(source), ["c"]);
    assert!(conditions("let a: Vec<&&str> = b::<C>(|| d, &&e);").is_empty());
    assert!(conditions("let a = \"b && c == d\"; // e || f\nlet g = '<';").is_empty());
    assert!(conditions("while let Some(a) = b.next() { c() }").is_empty());
}
