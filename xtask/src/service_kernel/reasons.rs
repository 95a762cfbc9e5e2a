//! Whether docs/kernel.md is true: it has the score, and a reason for each recommendation that is not followed.

use anyhow::{Result, ensure};

use super::checker::Verdict;

/// The section whose table has the reasons.
const SECTION: &str = "## Recommendations that are not taken";

/// Fails if the file has another score, or not exactly a reason for each failure.
pub fn check(verdict: &Verdict) -> Result<()> {
    compare(verdict, &super::documentation()?)
}

fn compare(verdict: &Verdict, documentation: &str) -> Result<()> {
    let explained = explained(documentation);
    let missing: Vec<_> = verdict
        .failed
        .iter()
        .map(String::as_str)
        .filter(|name| !explained.contains(name))
        .collect();
    let needless: Vec<_> = explained
        .into_iter()
        .filter(|name| !verdict.failed.iter().any(|failed| failed == name))
        .collect();
    ensure!(
        missing.is_empty(),
        "docs/kernel.md gives no reason why these recommendations are not taken: {}",
        missing.join(", ")
    );
    ensure!(
        needless.is_empty(),
        "docs/kernel.md gives a reason for what is as recommended: {}",
        needless.join(", ")
    );
    ensure!(
        documentation.contains(&verdict.score()),
        "docs/kernel.md does not have the score: {}",
        verdict.score()
    );
    Ok(())
}

/// The options in the first cells of the section's table.
fn explained(documentation: &str) -> Vec<&str> {
    documentation
        .lines()
        .skip_while(|line| *line != SECTION)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .flat_map(|(names, _)| names.split('`').skip(1).step_by(2))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const DOCUMENTATION: &str = "\
Score: 7 OK, 3 FAIL

| `not`, | here |

## Recommendations that are not taken

| option | why |
|---|---|
| `CONFIG_LSM`, `CONFIG_SECURITY_SELINUX` | there is `no` policy |
| `pti` | the CPU says |

## Next

| `other` | table |
";

    fn verdict(failed: &[&str]) -> Verdict {
        Verdict {
            followed: 7,
            failed: failed.iter().map(|&name| name.to_owned()).collect(),
            failures: 3,
        }
    }

    #[test]
    fn each_failure_has_its_reason_and_nothing_else_has() {
        let all = ["CONFIG_LSM", "CONFIG_SECURITY_SELINUX", "pti"];
        compare(&verdict(&all), DOCUMENTATION).unwrap();

        let missing = compare(&verdict(&[&all[..], &["iommu"]].concat()), DOCUMENTATION);
        assert!(missing.unwrap_err().to_string().ends_with("taken: iommu"));
        let needless = compare(&verdict(&all[..2]), DOCUMENTATION);
        assert!(
            needless
                .unwrap_err()
                .to_string()
                .ends_with("recommended: pti")
        );
    }

    #[test]
    fn another_score_is_an_error() {
        let all = ["CONFIG_LSM", "CONFIG_SECURITY_SELINUX", "pti"];
        let other = DOCUMENTATION.replace("7 OK", "8 OK");
        assert!(compare(&verdict(&all), &other).is_err());
    }
}
