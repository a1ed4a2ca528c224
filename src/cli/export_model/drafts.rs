//! Files that appear together and whole, or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why files were not written.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    #[error("{0} is there already; say --force to replace it, or name another directory")]
    There(String),
    #[error("cannot write {file}: {cause}; free some space, check your rights, or name another directory")]
    Io { file: String, cause: io::Error },
}

/// Files under temporary names; those that are not published are removed.
pub struct Drafts {
    folder: PathBuf,
    /// Temporary and final name.
    files: Vec<(PathBuf, PathBuf)>,
    force: bool,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DraftError {
    let file = path.display().to_string();
    move |cause| DraftError::Io { file, cause }
}

impl Drafts {
    /// Makes the folder where it is missing.
    ///
    /// # Errors
    /// [`DraftError::There`] when one of `names` is there and may not be replaced.
    pub fn new(folder: &Path, names: &[&str], force: bool) -> Result<Drafts, DraftError> {
        let drafts = Drafts { folder: folder.to_owned(), files: Vec::new(), force };
        names.iter().try_for_each(|name| drafts.check(&folder.join(name)))?;
        fs::create_dir_all(folder).map_err(failed(folder))?;
        Ok(drafts)
    }

    fn check(&self, path: &Path) -> Result<(), DraftError> {
        // A link that leads nowhere is there too.
        let there = fs::symlink_metadata(path).is_ok();
        if there && !self.force { Err(DraftError::There(path.display().to_string())) } else { Ok(()) }
    }

    /// Writes a file under a temporary name, for its owner alone (mode 0600), down to the disk.
    ///
    /// # Errors
    /// [`DraftError::Io`].
    pub fn write(&mut self, name: &str, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), DraftError> {
        let path = self.folder.join(name);
        let draft = self.folder.join(format!(".{name}.{}.draft", std::process::id()));
        self.files.push((draft.clone(), path.clone()));
        let written = || {
            let file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
            let mut output = BufWriter::new(file);
            content(&mut output)?;
            output.flush()?;
            output.get_ref().sync_all()
        };
        written().map_err(failed(&path))
    }

    /// Gives all files their names.
    ///
    /// # Errors
    /// [`DraftError`]; files that were not named yet stay away.
    pub fn publish(self) -> Result<(), DraftError> {
        self.files.iter().try_for_each(|(_, path)| self.check(path))?;
        self.files.iter().try_for_each(|(draft, path)| fs::rename(draft, path).map_err(failed(path)))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed(&self.folder))
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        for (draft, _) in &self.files {
            // What cannot be removed has got its name, was not made, or its disk is gone.
            let _ = fs::remove_file(draft);
        }
    }
}
