use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const ALLOW: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}]}"#;
const DENY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"kms:ScheduleKeyDeletion","Resource":"*"}]}"#;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.write("users/alice/read.json", ALLOW);
        tree.write("guard-rails/no-deletion.json", DENY);
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn files(&self) -> PolicyFiles {
        PolicyFiles::new(self.0.path())
    }

    /// What is said about the tree.
    fn faults(&self) -> String {
        self.files().read().unwrap_err().to_string()
    }
}

#[test]
fn every_kind_is_read() {
    let tree = Tree::new();
    tree.write("groups/staff/a.json", ALLOW);
    tree.write("units/getty@tty1.service/b.json", ALLOW);
    tree.write("roles/backup/c.json", DENY);
    tree.write("roles/backup/d.json", ALLOW);
    // What editors and people leave behind.
    tree.write("roles/backup/.c.json.swp", "x");
    tree.write("roles/backup/c.json~", "x");
    tree.write("README", "x");
    assert_eq!(tree.files().read().unwrap().count(), (5, 1));
}

#[test]
fn no_directory_is_an_empty_one_unless_it_was_there() {
    let tree = Tree::new();
    let place = tree.path("later");
    let files = PolicyFiles::new(&place);
    assert_eq!(files.read().unwrap().count(), (0, 0));
    fs::create_dir(&place).unwrap();
    assert_eq!(files.read().unwrap().count(), (0, 0));
    fs::remove_dir(&place).unwrap();
    let text = files.read().unwrap_err().to_string();
    assert!(text.contains("later: is gone"), "{text}");
}

#[test]
fn what_is_wrong_is_named_all_of_it() {
    let tree = Tree::new();
    tree.write(
        "users/alice/bad.json",
        r#"{"Statement":[{"Effect":"Maybe"}]}"#,
    );
    tree.write("users/bob.json", ALLOW);
    tree.write("user/alice/x.json", ALLOW);
    tree.write("roles/a b/x.json", ALLOW);
    tree.write("units/a?.service/x.json", ALLOW);
    tree.write("groups/staff/x y.json", ALLOW);
    tree.write("guard-rails/deeper/x.json", DENY);
    tree.write("guard-rails/large.json", &" ".repeat(70_000));
    symlink("/etc/passwd", tree.path("guard-rails/link.json")).unwrap();
    let text = tree.faults();
    for expected in [
        "alice/bad.json: Statement",
        "bob.json: belongs into a directory",
        "user: is none of users, groups",
        "a b: is not a name that an identity can have",
        "a?.service: is not a name that an identity can have",
        "x y.json: is not a name that a policy can have",
        "deeper: a directory is not expected here",
        "large.json: is longer than 65536 bytes",
        "link.json: must be a file, not a symbolic link",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn principals_do_not_belong_into_these_policies() {
    let tree = Tree::new();
    let text = ALLOW.replace(r#""Effect""#, r#""Principal":"*","Effect""#);
    tree.write("guard-rails/wrong.json", &text);
    let text = tree.faults();
    assert!(
        text.contains("wrong.json: Statement[0].Principal"),
        "{text}"
    );
}

#[test]
fn what_others_can_write_is_refused() {
    for (name, mode) in [
        ("users/alice/read.json", 0o664),
        ("users/alice/read.json", 0o646),
        ("users/alice", 0o775),
        ("guard-rails", 0o777),
        (".", 0o757),
    ] {
        let tree = Tree::new();
        fs::set_permissions(tree.path(name), fs::Permissions::from_mode(mode)).unwrap();
        let text = tree.faults();
        assert!(
            text.contains("must belong to root"),
            "{name} {mode:o}: {text}"
        );
    }
    let tree = Tree::new();
    tree.write("open/policies/guard-rails/a.json", DENY);
    let open = tree.path("open");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let files = PolicyFiles::new(tree.path("open/policies"));
    let text = files.read().unwrap_err().to_string();
    assert!(text.contains("open: must belong to root"), "{text}");
    // Nobody can replace what is root's in a directory such as /tmp.
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(files.read().unwrap().count(), (0, 1));
}

#[test]
fn what_belongs_to_others_is_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    for name in ["users/alice/read.json", "users/alice", "guard-rails", "."] {
        let tree = Tree::new();
        std::os::unix::fs::chown(tree.path(name), Some(4321), None).unwrap();
        let text = tree.faults();
        assert!(text.contains("must belong to root"), "{name}: {text}");
    }
}

#[test]
fn a_change_is_noticed_when_it_has_settled() {
    let tree = Tree::new();
    let files = tree.files();
    files.read().unwrap();
    files.have_changed();
    assert!(!files.have_changed());
    tree.write("users/alice/more.json", ALLOW);
    assert!(!files.have_changed(), "it may still be written");
    assert!(files.have_changed());
    assert!(files.have_changed(), "until it is read");
    let first = files.read().unwrap();
    assert!(!files.have_changed());
    // Other content of the same length, and another owner's mode.
    tree.write(
        "users/alice/more.json",
        &ALLOW.replace("Decrypt", "Encrypt"),
    );
    files.have_changed();
    assert!(files.have_changed());
    assert!(!files.read().unwrap().same(&first));
    fs::remove_file(tree.path("users/alice/more.json")).unwrap();
    files.have_changed();
    assert!(files.have_changed());
    assert_eq!(files.read().unwrap().count(), (1, 1));
}
