//! Files that are opened before anything runs, since nothing can be opened afterwards, and get their names
//! when they are whole.

use crate::cli::failure::{EXIT_HOST, Failure};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that is to be written.
#[derive(Debug)]
pub struct Output {
    /// As the command line names it.
    pub shown: PathBuf,
    place: Place,
}

/// Where it goes.
#[derive(Debug)]
enum Place {
    /// Beside the file, and renamed when it is whole: what was there stays until then.
    Beside { part: Part, whole: PathBuf },
    /// Into what is no regular file, such as a pipe.
    There(File),
}

/// A file with a name of its own, which it loses unless it is renamed.
#[derive(Debug)]
struct Part {
    file: File,
    path: PathBuf,
}

impl Part {
    /// The `number`th of this process in `folder`.
    fn new(folder: &Path, number: usize) -> io::Result<Self> {
        let path = folder.join(format!(".stalemate.{}.{number}.part", std::process::id()));
        // Of a process that had this number and was killed; most often there is none.
        let _ = fs::remove_file(&path);
        // For writing alone, which is all that a confined process may.
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { file, path })
    }

    fn save(mut self, text: &str, whole: &Path) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        fs::rename(&self.path, whole)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It is not there if it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens the outputs that are requested.
pub fn open<const N: usize>(
    all: [Option<&Path>; N],
    inputs: &[&Path],
) -> Result<[Option<Output>; N], Failure> {
    let mut seen: Vec<PathBuf> = Vec::new();
    let inputs: Vec<PathBuf> = inputs.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let mut opened = [const { None }; N];
    for (number, path) in all.into_iter().enumerate() {
        let Some(path) = path else { continue };
        let error = |what: &str| Failure::usage(format!("{}: {what}", path.display()));
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // Through a symbolic link: what it leads to is what changes.
        let whole = path
            .canonicalize()
            .or_else(|_| Ok(folder.canonicalize()?.join(path.file_name().unwrap_or_default())));
        let whole = whole.map_err(|why: io::Error| error(&why.to_string()))?;
        let is_file = whole.is_file() || !whole.exists();
        if whole.is_dir() {
            return Err(error("a directory"));
        }
        if inputs.contains(&whole) {
            return Err(error("this output is an input too"));
        }
        if is_file && seen.contains(&whole) {
            return Err(error("two outputs go to this file"));
        }
        let place = if is_file { beside(&whole, number) } else { there(&whole) };
        let place = place.map_err(|why| error(&why.to_string()))?;
        opened[number] = Some(Output { shown: path.to_owned(), place });
        seen.push(whole);
    }
    Ok(opened)
}

fn beside(whole: &Path, number: usize) -> io::Result<Place> {
    let part = Part::new(whole.parent().unwrap_or(Path::new("/")), number)?;
    if let Ok(before) = fs::metadata(whole) {
        part.file.set_permissions(before.permissions())?;
    }
    Ok(Place::Beside { part, whole: whole.to_owned() })
}

fn there(whole: &Path) -> io::Result<Place> {
    Ok(Place::There(OpenOptions::new().write(true).open(whole)?))
}

impl Output {
    /// Where it will be renamed, if it will.
    pub fn folder(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Beside { whole, .. } => whole.parent().map(Path::to_owned),
            Place::There(_) => None,
        }
    }

    /// The file, for what is written bit by bit; [`Output::done`] gives it its name.
    pub fn file(&self) -> &File {
        match &self.place {
            Place::Beside { part, .. } => &part.file,
            Place::There(file) => file,
        }
    }

    /// All of it has been written to [`Output::file`], or why not.
    pub fn done(self, written: io::Result<()>) -> Result<(), Failure> {
        let Self { shown, place } = self;
        let written = written.and_then(|()| match place {
            Place::Beside { part, whole } => part.save("", &whole),
            Place::There(_) => Ok(()),
        });
        written.map_err(|error| late(&shown, &error))
    }

    /// Writes it.
    pub fn save(self, text: &str) -> Result<(), Failure> {
        let Self { shown, place } = self;
        let written = match place {
            Place::Beside { part, whole } => part.save(text, &whole),
            Place::There(mut file) => file.write_all(text.as_bytes()),
        };
        written.map_err(|error| late(&shown, &error))
    }
}

/// A folder for files whose names nobody knows yet.
#[derive(Debug)]
pub struct Folder {
    shown: PathBuf,
    path: PathBuf,
}

impl Folder {
    /// Makes it where it is not there, and tries whether files can be made in it.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let tried = || {
            fs::create_dir_all(path)?;
            let whole = path.canonicalize()?;
            Part::new(&whole, 0)?;
            Ok(whole)
        };
        let whole = tried()
            .map_err(|error: io::Error| Failure::usage(format!("{}: {error}", path.display())))?;
        Ok(Self { shown: path.to_owned(), path: whole })
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Writes a file of this name; the path to show for it.
    pub fn save(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let shown = self.shown.join(name);
        let saved =
            Part::new(&self.path, 0).and_then(|part| part.save(text, &self.path.join(name)));
        saved.map_err(|error| late(&shown, &error))?;
        Ok(shown)
    }
}

/// What was writable when it was opened, and is not any more.
fn late(shown: &Path, error: &io::Error) -> Failure {
    Failure::of(EXIT_HOST, format!("{}: {error}", shown.display()))
}
