//! Chromium, for tests of what is made for a browser.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The browser, or why there is none. With STALEMATE_REQUIRE_CHROMIUM=1 that is a failure.
pub fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
        let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let mut all =
            directories.iter().flat_map(|directory| names.map(|name| directory.join(name)));
        all.find(|candidate| candidate.is_file())
    });
    let required = std::env::var_os("STALEMATE_REQUIRE_CHROMIUM").is_some_and(|value| value == "1");
    match found {
        None if required => panic!("Chromium is required here, and none is on the path"),
        None => crate::common::say("SKIP: no Chromium on the path"),
        Some(_) => {}
    }
    found
}

/// The browser without a window, with a profile of its own.
pub fn headless(browser: &Path, profile: &Path) -> Command {
    let mut command = Command::new(browser);
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
        .args(["--disable-background-networking", "--window-size=1400,900"])
        .arg(format!("--user-data-dir={}", profile.display()));
    command
}

/// An attribute of the document's root element.
pub fn attribute(document: &str, name: &str) -> String {
    let html = document.split_once("<html").expect("a page").1.split_once('>').expect("a page").0;
    let value = html.split_once(&format!("{name}=\"")).map(|(_, rest)| rest.split_once('"'));
    let value = value.flatten().map_or("", |(value, _)| value);
    value.replace("&gt;", ">").replace("&lt;", "<").replace("&quot;", "\"").replace("&amp;", "&")
}
