//! Files that are read whole: configurations, and files that keys name. Checks use the open descriptor,
//! so they judge the file that was read.

use std::{
    fs::{self, File, FileType, Metadata},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use zeroize::Zeroizing;

/// Key files above this size are refused.
const LONGEST_KEY: u64 = 4096;

/// Why a file cannot be used, without its path; becomes `found` of a [`Problem`](super::Problem).
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("a file that cannot be read: {}", in_words(.0))]
    Io(#[from] io::Error),
    /// A pipe or a device, for example: reading it could block for ever.
    #[error("{0}, not a file")]
    NotAFile(&'static str),
    #[error("a file of {length} bytes, more than {limit}")]
    TooLong { length: u64, limit: u64 },
    /// UTF-16, which Windows editors write.
    #[error("UTF-16, or bytes that are no text: save it as UTF-8")]
    NotUtf8Encoding,
    #[error("a byte that is not UTF-8")]
    NoText,
}

impl FileError {
    /// What to do; empty if the error says it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Io(_) => "Check its path, owner and mode",
            Self::NotAFile(_) => "Put a file there, or name another path",
            Self::TooLong { .. } => "Check its path",
            Self::NotUtf8Encoding => "",
            Self::NoText => "Check its encoding",
        }
    }
}

/// Reads a file's content, up to `limit` bytes.
pub(super) fn read_small_file(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read(path, limit).map(|(bytes, _)| bytes)
}

/// Reads a key file: its text, and its owner and mode.
pub(super) fn read_key_file(path: &Path) -> Result<(Zeroizing<String>, KeyFileAccess), FileError> {
    let (bytes, file) = read(path, LONGEST_KEY)?;
    // Skip the byte order mark that some editors write.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let (text, guard) = (text_of(bytes).map_err(|(error, _)| error)?, KeyFileAccess::of(&file));
    Ok((Zeroizing::new(text.to_owned()), guard))
}

/// The bytes as text; an error comes with its byte offset.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, (FileError, usize)> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err((FileError::NotUtf8Encoding, 0));
    }
    // No text contains a zero byte, but in UTF-16 every second byte of most texts is one.
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err((FileError::NotUtf8Encoding, at));
    }
    std::str::from_utf8(bytes).map_err(|error| (FileError::NoText, error.valid_up_to()))
}

/// Opening a pipe would wait for its writer, so the path's type is checked first; the check that counts
/// is on the open file.
fn read(path: &Path, limit: u64) -> Result<(Zeroizing<Vec<u8>>, Metadata), FileError> {
    is_file(fs::metadata(path)?.file_type())?;
    let file = File::open(path)?;
    let meta = file.metadata()?;
    is_file(meta.file_type())?;
    if meta.len() > limit {
        return Err(FileError::TooLong { length: meta.len(), limit });
    }
    // Allocated at once: a growing buffer leaves copies of secrets in memory.
    let room = usize::try_from(meta.len()).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes, meta))
}

fn is_file(found: FileType) -> Result<(), FileError> {
    if found.is_file() {
        return Ok(());
    }
    Err(FileError::NotAFile(match found {
        _ if found.is_dir() => "a directory",
        _ if found.is_fifo() => "a named pipe",
        _ if found.is_socket() => "a socket",
        _ => "a device",
    }))
}

/// Describes a system error. A lack of file descriptors is not blamed on the file.
fn in_words(error: &io::Error) -> String {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => format!(
            "{error}: nothing is wrong with the file, more files have to be allowed (ulimit -n, \
             LimitNOFILE=)"
        ),
        _ => error.to_string(),
    }
}

/// Who can read and change a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyFileAccess {
    mode: u32,
    owner: u32,
}

/// The verdict on a key file's access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyFileVerdict {
    Fine,
    Odd(String),
    Refused { found: String, allowed: &'static str, advice: &'static str },
}

impl KeyFileAccess {
    fn of(file: &Metadata) -> Self {
        Self { mode: file.mode() & 0o777, owner: file.uid() }
    }

    /// `own`: the user id of this process.
    pub(super) fn judge(self, own: u32) -> KeyFileVerdict {
        let Self { mode, owner } = self;
        if mode & 0o006 != 0 {
            return KeyFileVerdict::Refused {
                found: format!("a key file open to every user of this machine (mode {mode:03o})"),
                allowed: "mode 600 or 400",
                advice: "chmod 600 it; in Kubernetes set the secret volume's defaultMode to 0400",
            };
        }
        if owner != 0 && owner != own {
            // Root may be inspecting a service that runs as its own user.
            return if own == 0 {
                KeyFileVerdict::Odd(format!(
                    "belongs to user {owner}, who can replace the key; chown it to root, unless \
                     that is the service's user"
                ))
            } else {
                KeyFileVerdict::Refused {
                    found: format!("a key file of user {owner}, who can replace the key"),
                    allowed: "a file of root or of the service's user",
                    advice: "chown it to one of them",
                }
            };
        }
        // Kubernetes mounts secrets for root and the pod's group.
        let odd = if owner == 0 { 0o020 } else { 0o060 };
        if mode & odd != 0 {
            return KeyFileVerdict::Odd(format!(
                "is open to its group (mode {mode:03o}); chmod 600 it"
            ));
        }
        KeyFileVerdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c11_a_key_file_is_roots_or_the_services_and_roots_may_be_read_by_its_group() {
        let word =
            |mode: u32, owner: u32, own: u32| match (KeyFileAccess { mode, owner }).judge(own) {
                KeyFileVerdict::Fine => "fine",
                KeyFileVerdict::Odd(_) => "odd",
                KeyFileVerdict::Refused { .. } => "refused",
            };
        for (mode, owner, own, expected) in [
            (0o400, 7, 7, "fine"),
            (0o600, 0, 7, "fine"),
            (0o440, 0, 7, "fine"),
            (0o440, 0, 0, "fine"),
            (0o460, 0, 7, "odd"),
            (0o420, 0, 7, "odd"),
            (0o440, 7, 7, "odd"),
            (0o660, 7, 7, "odd"),
            (0o400, 8, 7, "refused"),
            (0o440, 8, 7, "refused"),
            (0o400, 8, 0, "odd"),
            (0o444, 7, 7, "refused"),
            (0o602, 0, 0, "refused"),
            (0o644, 8, 0, "refused"),
        ] {
            assert_eq!(word(mode, owner, own), expected, "{mode:o} {owner} {own}");
        }
    }

    #[test]
    fn d8_what_is_short_is_not_blamed_on_the_file() {
        let said = |code: i32| in_words(&io::Error::from_raw_os_error(code));
        assert!(said(24).contains("ulimit -n") && said(23).contains("ulimit -n"), "{}", said(24));
        assert!(!said(13).contains("ulimit"));
    }
}
