//! Reports of audits for programs, and their schemas.

use super::scripts::{Lacks, tasks};
use super::{audited, campaign_of, with_subject};
use crate::common::schema::errors;
use serde_json::{Value, json as value};
use stalemate::audit::{self, About, Baseline, Kinds, Plan, Report};

#[test]
fn a_report_is_as_its_schema_says() {
    let schema = audit::schema();
    let (lacking, _) = audited(&tasks(Lacks::Flush), &[]);
    let (clean, campaign) = with_subject(&tasks(Lacks::Nothing), &[], |subject| {
        campaign_of(subject, Plan { kinds: Kinds::Each, begins: None, jobs: 1 })
    });
    let (not_fired, _) = audited(&tasks(Lacks::Nothing), &["drop invlpg#99"]);
    let key = lacking.findings[0].key.to_string();
    let known = format!("[[known]]\nkey = \"{key}\"\nreason = \"x\"");
    let compared = Baseline::parse(&known).expect("a baseline").compare(&lacking.findings, 0);
    let reports = [
        Report { compared: Some(&compared), ..Report::from(&lacking) },
        Report { campaign: Some(&campaign), ..Report::from(&clean) },
        Report::from(&not_fired),
    ];
    for report in reports {
        let json = audit::json(&report);
        assert_eq!(errors(&schema, &json), [""; 0]);
        assert_eq!(
            (&json["schema"], &json["verdict"]),
            (&audit::SCHEMA_VERSION.into(), &report.audited.verdict().word().into(),)
        );
    }
    let json = audit::json(&reports[0]);
    let finding = &json["findings"][0];
    assert_eq!((&finding["key"], &finding["change"]), (&key.into(), &"write-protect".into()));
    assert_eq!(json["baseline"]["known"][0]["reason"], "x");
    assert_eq!(json["baseline"]["new"].as_array().map(Vec::len), Some(1));
    for (at, wrong) in [
        ("/findings/0/grade", value!("sure")),
        ("/findings/0/rule", value!("stale")),
        ("/schema", value!(2)),
        ("/coverage/0/counts/stores", value!(-1)),
        ("/end", value!("over")),
        ("/verdict", Value::Null),
    ] {
        let mut broken = json.clone();
        *broken.pointer_mut(at).expect(at) = wrong;
        assert!(!errors(&schema, &broken).is_empty(), "{at}: the schema can refuse");
    }
}

#[test]
fn the_profile_that_is_built_in_is_as_the_schema_of_profiles_says() {
    let schema = audit::profile_schema();
    let text = include_str!("../../../profiles/linux.toml");
    let profile: Value = toml::from_str(text).expect("TOML");
    assert_eq!(errors(&schema, &profile), [""; 0]);
    for (at, wrong) in [
        ("/primitive/0/start", value!("rdx9")),
        ("/primitive/0/promises", value!("a lot")),
        ("/primitive/0/space/field", value!(-8)),
        ("/mark/slots", value!(0)),
        ("/direct_map/start", value!({ "value": "page_offset_base" })),
    ] {
        let mut broken = profile.clone();
        *broken.pointer_mut(at).expect(at) = wrong;
        assert!(!errors(&schema, &broken).is_empty(), "{at}: the schema can refuse");
    }
    let mut broken = profile.clone();
    broken["primitives"] = value!([]);
    assert!(!errors(&schema, &broken).is_empty(), "the schema can refuse");
}

/// A page without what stands between tags.
fn tags(page: &str) -> Vec<&str> {
    let tags = page.split('<').skip(1).filter_map(|part| part.split_once('>'));
    tags.map(|(tag, _)| tag.split(' ').next().unwrap_or_default()).collect()
}

#[test]
fn the_page_shows_each_finding_with_its_window_and_both_tables() {
    let (lacking, _) = audited(&tasks(Lacks::Flush), &[]);
    let about = About { kernel: "a <b>kernel</b>", command: "audit --cmdline \"</code>&\"" };
    let page = audit::html(&Report::from(&lacking), about);
    assert!(page.contains("<span class=\"badge bad\" id=\"verdict\">violation</span>"));
    assert!(page.contains("<h1>a &lt;b&gt;kernel&lt;/b&gt;</h1>"), "{page}");
    assert!(page.contains("audit --cmdline &quot;&lt;/code&gt;&amp;&quot;"), "{page}");
    let tags = tags(&page);
    let count = |name: &str| tags.iter().filter(|tag| **tag == name).count();
    assert_eq!(count("article"), lacking.findings.len());
    // Its store and its deadline at least, in a picture of its own.
    assert_eq!(count("svg"), lacking.findings.len());
    assert!(count("circle") >= 2 * lacking.findings.len());
    for finding in &lacking.findings {
        assert!(page.contains(&format!("<dd>{}</dd>", finding.key)), "{}", finding.key);
        assert!(page.contains(&finding.due), "{}", finding.due);
    }
    let rows = lacking.coverage.rows.len() + 1 + audit::RULES.len() + lacking.sites.len();
    // Each table has a row of names.
    assert_eq!(count("tr"), rows + 3);
    for name in ["html", "body", "article", "dl", "dd", "ul", "table", "tr", "td", "svg", "text"] {
        assert_eq!(count(name), count(&format!("/{name}")), "{name}");
    }
    // It needs nothing else, and runs nothing.
    assert!(!page.contains("src=") && !page.contains("http") && count("script") == 0);
    let (clean, _) = audited(&tasks(Lacks::Nothing), &[]);
    let page = audit::html(&Report::from(&clean), about);
    assert!(page.contains("<span class=\"badge\" id=\"verdict\">clean</span>"), "{page}");
    assert!(!page.contains("<article"));
}
