//! What minivmm cannot do is said when the VM is evaluated.

use std::{collections::BTreeMap, fs};

use anyhow::{Result, ensure};

use crate::{
    Test,
    nix::{World, root},
};

pub const TESTS: &[Test] = &[Test {
    name: "refused::each_option_that_is_not_passed_on_is_refused_with_its_sentence",
    run: sentences,
}];

fn sentences(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let directory = root().join("nix/tests");
    let text = fs::read_to_string(directory.join("refused.txt"))?;
    let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        let (name, sentence) = line.split_once(": ").unwrap_or_default();
        expected.entry(name).or_default().push(sentence);
    }
    let cases = directory.join("refused.nix");
    let names = nix.eval(&format!("builtins.attrNames (import {})", cases.display()))?;
    ensure!(
        names == serde_json::json!(expected.keys().collect::<Vec<_>>()),
        "refused.nix has {names}"
    );
    for (name, expected) in expected {
        let said = nix.refusal(&format!(
            "e.runner {{ imports = [ (import {}).{name} ]; microvm.hypervisor = \"minivmm\"; }}",
            cases.display()
        ))?;
        let sentences = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- "));
        let sentences: Vec<_> = sentences.collect();
        ensure!(
            sentences == expected && said.contains("MicroVM a cannot run on minivmm:"),
            "{name}: {said}"
        );
    }
    Ok(())
}
