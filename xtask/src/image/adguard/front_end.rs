//! AdGuard Home's web front end: its client directory, built with the npm packages that its lock file has the checksums of.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::source::Source;
use crate::command::{capture, program};
use crate::workspace;

/// The file that says how its parts are named.
const NAMES: &str = "webpack.common.js";

/// Fills `directory` with the pages. Of packages' own scripts none is run.
pub fn build(source: &Source, directory: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(workspace::cache())?;
    let root = source.unpack(work.path())?;
    let client = root.join("client");
    ensure!(client.is_dir(), "the module has no directory client");
    let names = client.join(NAMES);
    let text = fs::read_to_string(&names).with_context(|| format!("there is no {NAMES}"))?;
    fs::write(&names, named_by_content(&text)?)?;

    for arguments in [
        &["ci", "--ignore-scripts", "--no-audit", "--no-fund"][..],
        &["run", "build-prod"],
    ] {
        let mut npm = program("npm");
        npm.current_dir(&client)
            .env("npm_config_cache", workspace::cache().join("npm"))
            .env("npm_config_update_notifier", "false")
            .args(arguments);
        capture(&mut npm).context("npm, of Node 18 or newer")?;
    }
    let pages = root.join("build/static");
    ensure!(
        pages.join("index.html").exists(),
        "its build made no index.html"
    );
    let mut copy = program("cp");
    copy.args(["--recursive", "--no-target-directory"])
        .args([&pages, directory]);
    capture(&mut copy).map(drop)
}

/// Style sheets have a hash of the whole build in their names, paths of files among it. It is to be of their content, as
/// scripts have it already: then it does not matter where they are built.
fn named_by_content(text: &str) -> Result<String> {
    let named = text.replace("[hash].css", "[contenthash].css");
    ensure!(
        named != text && !named.contains("[hash]"),
        "{NAMES} names its parts in another way than it did"
    );
    Ok(named)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn style_sheets_are_named_by_what_is_in_them() {
        let named = named_by_content("a: '[name].[hash].css', b: '[id].[hash].css'").unwrap();
        assert_eq!(
            named,
            "a: '[name].[contenthash].css', b: '[id].[contenthash].css'"
        );
    }

    #[test]
    fn another_way_of_naming_them_is_noticed() {
        assert!(named_by_content("a: '[name].[fullhash].css'").is_err());
        assert!(named_by_content("a: '[hash].css', b: '[hash].png'").is_err());
    }
}
