//! `kmsctl fs extract`.

use std::path::Path;

use kmsfs::extract::{self, Extracted, Options};
use kmsfs::mount::lock::LowerLock;
use kmsfs::volume::RecordFile;

use super::check::write;
use super::offline::KeySource;
use super::progress::Progress;
use crate::Context;
use crate::exit::{Exit, Failure};

pub(super) fn run(
    lower: &Path,
    destination: &Path,
    options: Options,
    source: &KeySource,
    report: Option<&Path>,
    context: &Context,
) -> Result<Exit, Failure> {
    let lower = lower
        .canonicalize()
        .map_err(|error| Failure::local(lower.display(), &error))?;
    let local = |error: std::io::Error| Failure::local(destination.display(), &error);
    std::fs::create_dir_all(destination).map_err(local)?;
    let destination = destination.canonicalize().map_err(local)?;
    if destination.starts_with(&lower) {
        return Err(Failure::new(
            Exit::FileSystem,
            format!("{} lies in the encrypted directory", destination.display()),
        )
        .next("Name a directory somewhere else."));
    }
    let _lock = LowerLock::take_after_unmount(&lower)
        .map_err(|error| Failure::new(Exit::FileSystem, error.to_string()))?;
    let record = RecordFile::in_directory(&lower)
        .and_then(|record| record.read())
        .map_err(|error| Failure::new(Exit::FileSystem, error.to_string()))?;
    let source = source.open(record.clone(), context)?;
    let progress = Progress::start();
    let done = extract::extract(
        &lower,
        &destination,
        &source.keys,
        &record,
        options,
        &mut |counts| progress.show(counts),
    );
    progress.end();
    let done = done.map_err(|error| Failure::local(lower.display(), &error))?;
    if let Some(file) = report {
        write(file, &done)?;
    }
    context.output.print(human(&done), &done)?;
    Ok(if done.losses.is_empty() {
        Exit::Success
    } else {
        Exit::Partial
    })
}

fn human(done: &Extracted) -> String {
    let mut text = String::new();
    for loss in &done.losses {
        text.push_str(&format!("LOST {loss}\n"));
    }
    let counts = &done.counts;
    text.push_str(&format!(
        "{}: {} directories, {} files, {} links, {} others, {} bytes of content, {} of them written now\n",
        done.destination.display(),
        counts.directories,
        counts.files,
        counts.symlinks,
        counts.others,
        counts.bytes,
        done.written
    ));
    text.push_str(&match done.losses.len() {
        0 => "Everything was read.".to_owned(),
        count => format!("{count} losses, listed above. Everything else was read."),
    });
    text
}
