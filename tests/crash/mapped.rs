//! Writing through shared mappings, in a process of its own: when the lower file system is cut off, a page that
//! cannot be read is a SIGBUS.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Maps, writes and syncs what each line of its input says.
const SCRIPT: &str = "
import mmap, os, sys
for line in sys.stdin:
    path, offset, content = line.split('\\t')
    offset, content = int(offset), bytes.fromhex(content)
    file = os.open(path, os.O_RDWR)
    with mmap.mmap(file, 0) as memory:
        memory[offset : offset + len(content)] = content
        memory.flush()
    os.close(file)
    print('done', flush=True)
";

/// The process that maps.
pub(crate) struct Mapper {
    child: Child,
    replies: BufReader<ChildStdout>,
}

impl Mapper {
    pub(crate) fn start() -> io::Result<Mapper> {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take();
        let output = output.ok_or_else(|| io::Error::other("no pipe"))?;
        Ok(Mapper {
            child,
            replies: BufReader::new(output),
        })
    }

    /// Writes within a file; durable on return.
    pub(crate) fn write(&mut self, path: &Path, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let content = data_encoding::HEXLOWER.encode(bytes);
        let line = format!("{}\t{offset}\t{content}\n", path.display());
        let input = self.child.stdin.as_mut();
        let input = input.ok_or_else(|| io::Error::other("no pipe"))?;
        input.write_all(line.as_bytes())?;
        input.flush()?;
        let mut reply = String::new();
        self.replies.read_line(&mut reply)?;
        if reply == "done\n" {
            Ok(())
        } else {
            Err(io::Error::other("the mapping process ended"))
        }
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
