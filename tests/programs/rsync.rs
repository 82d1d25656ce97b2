//! rsync -aHAX, in and out again: nothing is left to transfer the second time.

use std::fs;
use std::path::Path;

use kms_tests::require::output_of;

use crate::{MODES, Volume, command, machine_can, shell};

/// What rsync would transfer; nothing when both are the same.
fn transferred(from: &Path, to: &Path, more: &[&str]) -> String {
    let mut rsync = command("rsync");
    rsync
        .args(["-aHAX", "--numeric-ids", "--itemize-changes", "--delete"])
        .args(more);
    // With a slash: what is in it.
    output_of(rsync.arg(from.join("")).arg(to.join("")))
}

#[test]
fn transfers_nothing_the_second_time() {
    if !machine_can() {
        return;
    }
    for mode in MODES {
        let mut volume = Volume::new(mode);
        let (source, back) = (volume.world.path("source"), volume.world.path("back"));
        fs::create_dir(&source).unwrap();
        shell(
            &source,
            "for n in $(seq 300); do mkdir -p d$((n % 11))/e$((n % 3))
                 head -c $((n * 97 % 9000)) /dev/urandom > d$((n % 11))/e$((n % 3))/$n; done
             ln d1/e1/1 hard; ln d1/e1/1 d2/hard; ln -s d1/e1/1 soft; ln -s /nowhere dangling; mkfifo pipe; mknod null c 1 3
             chown 1234:99 d1/e1/1; chmod 6711 d2/e2/2; chmod 1755 d3; chmod 2750 d4; touch -d 1960-01-02 d5/e2/5
             setfattr -n user.a -v b d1/e1/1; setfattr -n trusted.a -v c d2; setfacl -m u:77:rwx d3; setfacl -d -m g:88:rwx d4
             touch -h -d 2002-02-02 soft; touch -d 1999-09-09T09:09:09.123456789 d6; truncate -s 3M sparse; : > empty",
        );
        let to = volume.point().join("copy");
        assert!(transferred(&source, &to, &[]).lines().count() > 300);
        assert_eq!(transferred(&source, &to, &[]), "", "by size and time");
        volume.remount();
        assert_eq!(
            transferred(&source, &to, &["--checksum"]),
            "",
            "by content, after a remount"
        );
        transferred(&to, &back, &[]);
        assert_eq!(
            transferred(&source, &back, &["--checksum"]),
            "",
            "there and back"
        );

        // In place and by parts, as backups of large files are made.
        let large = source.join("large");
        shell(&source, "head -c 3000000 /dev/urandom > large");
        transferred(&source, &to, &["--inplace"]);
        shell(
            &source,
            "printf changed | dd of=large bs=1 seek=1234567 conv=notrunc status=none; echo end >> large",
        );
        let changed = transferred(&source, &to, &["--inplace", "--no-whole-file"]);
        assert!(changed.contains("large"), "{changed}");
        assert!(fs::read(&large).unwrap() == fs::read(to.join("large")).unwrap());
        assert_eq!(transferred(&source, &to, &["--checksum"]), "");
        volume.end();
    }
}
