//! The timeline as one page that needs nothing else: no network, no file beside it.

use super::Timeline;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page.
#[must_use]
pub fn html(timeline: &Timeline) -> String {
    // `</script>` must not end the data early.
    let data = serde_json::to_string(timeline).unwrap_or_default().replace("</", "<\\/");
    PAGE.replace("{{title}}", &escaped(&timeline.scenario))
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
        .replace("{{data}}", &data)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
