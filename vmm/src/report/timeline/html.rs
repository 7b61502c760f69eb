//! The timeline as one page that needs nothing else: no network, no file beside it.

use super::Timeline;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page.
#[must_use]
pub fn html(timeline: &Timeline) -> String {
    // No text of a scenario may look like markup: in JSON, `<` stands in strings only.
    let data = serde_json::to_string(timeline).unwrap_or_default().replace('<', "\\u003c");
    // What is put in is not looked at again: a scenario may be called `{{data}}`.
    let parts = PAGE.split("{{").flat_map(|part| part.split("}}"));
    let filled = parts.map(|part| match part {
        "title" => escaped(&timeline.scenario),
        "style" => STYLE.to_owned(),
        "script" => SCRIPT.to_owned(),
        "data" => data.clone(),
        text => text.to_owned(),
    });
    filled.collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
