//! virtiofsd's command line.

use rustix::process::{Resource, getegid, geteuid, getrlimit};

use super::share::{Ids, Options};

/// The options that make a share of `source`. `--tag` is not among them: the configuration space is ours.
pub(super) fn arguments(source: &str, listener: i32, options: &Options, ids: Ids) -> Vec<String> {
    let mut words: Vec<String> = [
        "--fd",
        &listener.to_string(),
        "--shared-dir",
        source,
        "--sandbox",
        "namespace",
        "--seccomp",
        "kill",
        "--cache",
        options.cache.option(),
        // open_by_handle_at(2) needs a capability of the initial user namespace.
        "--inode-file-handles=never",
    ]
    .map(str::to_owned)
    .into();
    for (wanted, option) in [
        (options.read_only, "--readonly"),
        (options.xattr, "--xattr"),
        (options.writeback, "--writeback"),
        (options.mmap, "--allow-mmap"),
        (options.direct_io, "--allow-direct-io"),
    ] {
        if wanted {
            words.push(option.to_owned());
        }
    }
    if options.threads > 0 {
        words.push(format!("--thread-pool-size={}", options.threads));
    }
    if ids == Ids::Squash {
        words.extend(
            ["uid", "gid"].map(|kind| format!("--translate-{kind}=squash-guest:0:0:4294967295")),
        );
    }
    words
}

/// What a user's virtiofsd gets besides: it is root of a user namespace in which only that user exists.
pub(super) fn users_own() -> [String; 3] {
    // virtiofsd cannot raise the hard limit and would complain that it tried.
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    [
        format!("--uid-map=:0:{}:1:", geteuid().as_raw()),
        format!("--gid-map=:0:{}:1:", getegid().as_raw()),
        format!("--rlimit-nofile={}", files.min(1_000_000)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtiofsd::Cache;

    fn line(options: &Options, ids: Ids) -> String {
        arguments("/srv", 7, options, ids).join(" ")
    }

    #[test]
    fn every_option_has_its_word() {
        let plain = line(&Options::default(), Ids::Host);
        assert_eq!(
            plain,
            "--fd 7 --shared-dir /srv --sandbox namespace --seccomp kill --cache auto \
             --inode-file-handles=never"
        );
        let all = Options {
            read_only: true,
            ids: None,
            xattr: true,
            cache: Cache::Never,
            writeback: true,
            mmap: true,
            direct_io: true,
            threads: 4,
        };
        assert_eq!(
            line(&all, Ids::Squash).replace("--cache never", "--cache auto"),
            format!(
                "{plain} --readonly --xattr --writeback --allow-mmap --allow-direct-io \
                 --thread-pool-size=4 --translate-uid=squash-guest:0:0:4294967295 \
                 --translate-gid=squash-guest:0:0:4294967295"
            )
        );
    }
}
