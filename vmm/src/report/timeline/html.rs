//! The timeline as one page that needs nothing else: no network, no file beside it.

use super::Timeline;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script in parts: each uses what those before it define, and calls what those after it do.
const SCRIPT: &str = concat!(
    "\"use strict\";\n(() => {\n",
    include_str!("page/model.js"),
    include_str!("page/draw.js"),
    include_str!("page/panel.js"),
    include_str!("page/control.js"),
    "})();\n"
);

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
