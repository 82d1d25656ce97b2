//! git: many commits, clones of every kind, gc, and fsck of all of them before and after a kill and a remount.

use kms_tests::require;

use crate::{MODES, Volume, machine_can, shell};

const SETTINGS: &str = "
    export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
    export GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@example.org
    git config --global init.defaultBranch main
    git config --global gc.auto 0
    git config --global core.fsync all
";

fn sh(volume: &Volume, script: &str) -> String {
    shell(volume.point(), &format!("{SETTINGS}{script}"))
}

#[test]
fn commits_clones_and_collects() {
    if !machine_can() {
        return;
    }
    crate::command("git");
    let commits = if require::full() { 1_000 } else { 60 };
    for mode in MODES {
        let mut volume = Volume::new(mode);
        sh(
            &volume,
            &format!(
                "git init -q work; cd work
                 for n in $(seq {commits}); do
                     mkdir -p d$((n % 9)); seq $n $((n * 7)) > d$((n % 9))/file$((n % 23))
                     ln -sfn file$((n % 23)) d$((n % 9))/link; chmod $((n % 2 * 111 + 644)) d$((n % 9))/file$((n % 23))
                     git add -A; git commit -q -m \"commit $n\"
                     [ $((n % 20)) != 0 ] || {{ git branch b$n; git tag -a -m t t$n; git repack -q -d; }}
                 done
                 git fsck --full --strict --no-progress"
            ),
        );
        sh(
            &volume,
            "git clone -q work linked; git clone -q --no-hardlinks work copied; git clone -q \"file://$PWD/work\" sent
             git clone -q --bare work bare.git; git -C copied checkout -q -b side HEAD~20
             echo more > copied/more; git -C copied add more; git -C copied commit -q -m more
             git -C copied push -q origin side; git -C linked pull -q; git -C linked merge -q origin/side -m merged
             git -C work gc -q --aggressive --prune=now; git -C work worktree add -q ../tree b20; git -C linked stash list",
        );
        let all = "for r in work linked copied sent bare.git tree; do
                git -C $r fsck --full --strict --no-progress; git -C $r rev-list --all --objects | wc -l; done
             for r in work linked copied sent tree; do git -C $r status --porcelain; git -C $r diff --stat; done";
        let before = sh(&volume, all);
        assert!(
            before
                .lines()
                .all(|line| line.trim().parse::<u64>().is_ok()),
            "{before}"
        );
        volume.kill();
        volume.mount();
        assert_eq!(sh(&volume, all), before, "after a kill of kmsfs");
        volume.remount();
        assert_eq!(sh(&volume, all), before, "after a remount");
        volume.end();
    }
}
