//! The report as JUnit XML, as CI systems read it: a suite for each scenario, a case for each run.
//! Neither times nor dates are in it: two runs of one input give the same bytes.

use super::{Results, details, difference, what_is_real};
use crate::ink::Ink;
use crate::runner::RunResult;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// The XML.
#[must_use]
pub fn junit(results: &Results<'_>) -> String {
    let mut report = Report::new("stalemate");
    for scenario in results.scenarios {
        let mut suite = TestSuite::new(scenario.name.clone());
        suite.add_property(("file", scenario.file.as_str()));
        suite.add_property(("summary", scenario.summary.as_str()));
        suite.add_property(("executor", results.executor().as_str()));
        suite.add_property(("what is real", what_is_real(results.executors).as_str()));
        for result in results.of(scenario) {
            suite.add_test_case(case(results, &scenario.name, result));
        }
        if !suite.test_cases.is_empty() {
            report.add_test_suite(suite);
        }
    }
    for skipped in results.skipped {
        let name = &skipped.scenario.name;
        let mut suite = TestSuite::new(name.clone());
        let mut status = TestCaseStatus::skipped();
        status.set_message(format!("the kernel lacks {}", skipped.reason));
        let mut case = TestCase::new("not run", status);
        case.set_classname(name.as_str());
        suite.add_test_case(case);
        report.add_test_suite(suite);
    }
    // Writing to a String cannot fail.
    report.to_string().unwrap_or_default()
}

fn case(results: &Results<'_>, scenario: &str, result: &RunResult) -> TestCase {
    let status = match results.difference_of(result) {
        Some(found) => failure("difference", "the executors differ", &difference(results, found)),
        None if result.as_expected => TestCaseStatus::success(),
        None => {
            let text = details(results, result, Ink::Plain);
            failure(&kind(result), text.lines().next().unwrap_or_default(), &text)
        }
    };
    let mut case = TestCase::new(result.title(), status);
    case.set_classname(scenario);
    if result.is_caught() {
        case.set_system_out(format!("caught, as expected: {}", kind(result)));
    }
    case
}

/// The rules that spoke, or the outcome.
fn kind(result: &RunResult) -> String {
    let rules: Vec<String> = result.rules().iter().map(ToString::to_string).collect();
    if rules.is_empty() { result.outcome.to_string() } else { rules.join(" and ") }
}

fn failure(kind: &str, message: &str, text: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_type(kind).set_message(message).set_description(text);
    status
}
