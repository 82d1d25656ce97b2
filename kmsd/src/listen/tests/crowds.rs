//! Real users who hold connections, and others who come after them.

use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::*;

/// Holds as many connections as its second argument says, prints a line, and when it is told to, whether the first of
/// them is closed.
const HOLDER: &str = "use Socket; $| = 1; for (1..$ARGV[1]) { socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die $!; \
    connect($s, sockaddr_un($ARGV[0])) or die $!; push @s, $s; } \
    print \"held\\n\"; <STDIN>; vec($r, fileno($s[0]), 1) = 1; \
    print select($r, undef, undef, 20) ? \"closed\" : \"open\";";

struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Holder {
    /// Connections of a user, in the user namespace that `prefix` makes.
    fn new(running: &Running, uid: &str, count: &str, prefix: &[&str]) -> Self {
        let mut child = Command::new("setpriv")
            .args(["--reuid", uid, "--regid", uid, "--clear-groups"])
            .args(prefix)
            .args([
                "/usr/bin/perl",
                "-e",
                HOLDER,
                running.path.to_str().unwrap(),
                count,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut line = [0; 5];
        let held = output.read_exact(&mut line).is_ok();
        assert!(held, "skip: no namespaces, or the holder failed");
        let input = child.stdin.take();
        Self {
            child,
            input,
            output,
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn asks(running: &Running, uid: &str) -> String {
    let script = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die $!; \
        connect(S, sockaddr_un($ARGV[0])) or die $!; syswrite(S, $ARGV[1]); print while <S>;";
    let request = String::from_utf8(http("KmsdLocal.GetCallerIdentity", b"{}")).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", uid, "--regid", uid, "--clear-groups"])
        .args([
            "/usr/bin/perl",
            "-e",
            script,
            running.path.to_str().unwrap(),
            &request,
        ])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Four places for users, two for each of them.
fn crowded() -> Option<Running> {
    if own_uid() != 0 {
        println!("skipped: not root");
        return None;
    }
    let limits = Limits {
        connections: 8,
        per_user: 8,
        idle: Duration::from_secs(60),
        head: Duration::from_secs(60),
        ..quick()
    };
    let running = start_with(limits, |config| config.socket_mode = "0666".into());
    let dir = running.path.parent().unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    Some(running)
}

#[test]
fn a_few_users_cannot_take_all_connections() {
    let Some(running) = crowded() else { return };
    let mut first = Holder::new(&running, "4321", "2", &[]);
    let second = Holder::new(&running, "4322", "2", &[]);
    let text = asks(&running, "4323");
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    // Its place was free again; now it holds one, which the other of the two gave up.
    let third = Holder::new(&running, "4323", "1", &[]);
    let text = asks(&running, "4324");
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    drop((second, third));
    let mut said = String::new();
    drop(first.input.take());
    first.output.read_to_string(&mut said).unwrap();
    assert_eq!(
        said, "closed",
        "the connection that was idle for the longest time"
    );
}

#[test]
fn other_user_namespaces_take_no_places_of_users() {
    let Some(running) = crowded() else { return };
    let unshare = ["/usr/bin/unshare", "--user"];
    let works = Command::new("setpriv")
        .args(["--reuid", "4321", "--regid", "4321", "--clear-groups"])
        .args(unshare)
        .arg("/bin/true")
        .status()
        .unwrap();
    if !works.success() {
        println!("skipped: no user namespaces here");
        return;
    }
    let inside = Holder::new(&running, "4321", "4", &unshare);
    // All of its own places are free outside.
    let outside = Holder::new(&running, "4321", "1", &[]);
    let text = asks(&running, "4321");
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    drop((inside, outside));
}
