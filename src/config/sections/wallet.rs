//! The wallet: who signs (a local key or AWS KMS), and where the key is.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::super::{
    InvalidPrivateKey, LoadMode, Place, PrivateKey, Problem, Wallet, Warning,
    files::{KeyFileAccess, KeyFileVerdict, read_key_file},
    keys::Key,
    sources::Layer,
    values::{Value, has_quotes, show_shape},
};
use super::{CheckedValue, Checker, ProblemNoted};

impl Checker<'_> {
    /// The seed's priority: a private key, else AWS KMS. Among private keys: `private_key` or
    /// `private_key_file`, whichever comes from the stronger source, else the credential.
    pub(super) fn wallet(&mut self) -> Result<Wallet, ProblemNoted> {
        let aws = self.aws_kms();
        let private_key = self.private_key();
        let aws_given = self.raw.get(Key::AwsKeyId).map(|given| given.place.clone());
        match (private_key?, aws?) {
            (Some(key), _) => {
                if let Some(place) = aws_given {
                    self.raw.warnings.push(Warning {
                        place,
                        key: Some(Key::AwsKeyId.name().to_owned()),
                        message: "is not used: a private key is given too, and comes first"
                            .to_owned(),
                    });
                }
                Ok(Wallet::PrivateKey(key))
            }
            (None, Some(wallet)) => Ok(wallet),
            (None, None) => {
                let place = self.whole_file();
                self.raw.problems.push(Problem {
                    place,
                    key: None,
                    found: "no wallet".to_owned(),
                    allowed: "one of private_key, private_key_file, a systemd credential, \
                              aws_kms_config.key_id"
                        .to_owned(),
                    advice: format!(
                        "Set {} or {}, or the key in a file",
                        self.variable_for(Key::PrivateKeyText),
                        self.variable_for(Key::AwsKeyId)
                    ),
                });
                Err(ProblemNoted)
            }
        }
    }

    fn aws_kms(&mut self) -> CheckedValue<Wallet> {
        let key_id = self.word(Key::AwsKeyId, 2048, "a key's id, alias/name or ARN", |c| {
            c.is_ascii_alphanumeric() || matches!(c, '/' | ':' | '-' | '_' | '.' | '+' | '=' | '@')
        });
        let region = self.region(Key::AwsRegion);
        let endpoint = self.url(Key::AwsEndpoint, &["http", "https"]);
        let (key_id, region, endpoint) = (key_id?, region?, endpoint?);
        Ok(key_id.map(|key_id| Wallet::AwsKms { key_id, region, endpoint }))
    }

    fn private_key(&mut self) -> CheckedValue<PrivateKey> {
        let inline = self.raw.get(Key::PrivateKeyText).map(|given| given.layer);
        let file = self.raw.get(Key::PrivateKeyFile).map(|given| given.layer);
        match (inline, file) {
            (Some(inline), Some(file)) if inline == file => Err(self.note_bad(
                Key::PrivateKeyFile,
                "private_key beside private_key_file".to_owned(),
                "one of the two",
                "Keep private_key_file; a file of its own is easier to protect",
            )),
            (Some(inline), file) if file.is_none_or(|file| file < inline) => self.inline_key(),
            (_, Some(_)) => self.key_file(),
            (_, None) => self.credential(),
        }
    }

    fn inline_key(&mut self) -> CheckedValue<PrivateKey> {
        let Some(given) = self.raw.get(Key::PrivateKeyText).cloned() else { return Ok(None) };
        let Value::Text(text) = &given.value else {
            let found = show_shape(&given.value).to_owned();
            return Err(self.note_bad(
                Key::PrivateKeyText,
                found,
                "64 hex digits in quotes, with or without 0x",
                "",
            ));
        };
        let key = self.judge_key(text.expose(), &given.place, Key::PrivateKeyText.name())?;
        if let (Layer::File, Place::File { path, .. }) = (given.layer, &given.place)
            && !key.is_publicly_known()
            && fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
        {
            self.raw.warnings.push(Warning {
                place: given.place.clone(),
                key: Some(Key::PrivateKeyText.name().to_owned()),
                message:
                    "stands in a file that every user of this machine can read; chmod 600 it, \
                          or use private_key_file"
                        .to_owned(),
            });
        }
        Ok(Some(key))
    }

    fn key_file(&mut self) -> CheckedValue<PrivateKey> {
        let key = Key::PrivateKeyFile;
        let Some(path) = self.path(key)? else { return Ok(None) };
        let (text, guard) = match read_key_file(&path) {
            Ok(read) => read,
            Err(error) => {
                let found = format!("{}: {error}", path.display());
                let allowed = "a readable file with 64 hex digits, with or without 0x";
                return Err(self.note_bad(key, found, allowed, error.advice()));
            }
        };
        let in_credentials =
            self.source.credentials_directory.as_deref().is_some_and(|dir| path.starts_with(dir));
        // systemd protects the credentials directory.
        if !in_credentials {
            self.key_guard(&path, guard)?;
        }
        let place = Place::file(&path);
        self.judge_key(&text, &place, key.name()).map(Some)
    }

    /// Checks owner and mode: a key file may be readable by its owner only, who is root or the
    /// service's user.
    fn key_guard(&mut self, path: &Path, guard: KeyFileAccess) -> Result<(), ProblemNoted> {
        match guard.judge(rustix::process::geteuid().as_raw()) {
            KeyFileVerdict::Fine => Ok(()),
            KeyFileVerdict::Odd(message) => {
                self.raw.warnings.push(Warning {
                    place: Place::file(path),
                    key: Some(Key::PrivateKeyFile.name().to_owned()),
                    message,
                });
                Ok(())
            }
            KeyFileVerdict::Refused { found, allowed, advice } => {
                Err(self.note_bad(Key::PrivateKeyFile, found, allowed, advice))
            }
        }
    }

    /// `$CREDENTIALS_DIRECTORY/<stem>.private_key`; under `start` also the bare `private_key`.
    fn credential(&mut self) -> CheckedValue<PrivateKey> {
        let Some(directory) = &self.source.credentials_directory else { return Ok(None) };
        let own = self.source.stem().map(|stem| directory.join(format!("{stem}.private_key")));
        let bare = (self.source.mode == LoadMode::Start).then(|| directory.join("private_key"));
        // `exists` returns false for a path that cannot be inspected; such a credential must not be
        // skipped.
        let present = |path: &PathBuf| path.try_exists().unwrap_or(true);
        let Some(path) = own.into_iter().chain(bare).find(present) else { return Ok(None) };
        let place = Place::file(&path);
        match read_key_file(&path) {
            Ok((text, _)) => self.judge_key(&text, &place, "private_key").map(Some),
            Err(error) => {
                self.raw.problems.push(Problem {
                    place,
                    key: Some("private_key".to_owned()),
                    found: error.to_string(),
                    allowed: "a readable credential with 64 hex digits".to_owned(),
                    advice: "Check LoadCredential= of the unit and the file it names".to_owned(),
                });
                Err(ProblemNoted)
            }
        }
    }

    fn judge_key(
        &mut self,
        text: &str,
        place: &Place,
        name: &str,
    ) -> Result<PrivateKey, ProblemNoted> {
        if has_quotes(text.trim()) {
            self.raw.problems.push(Problem {
                place: place.clone(),
                key: Some(name.to_owned()),
                found: "a key that stands in quotes".to_owned(),
                allowed: "the key itself".to_owned(),
                advice: "Remove the quotes".to_owned(),
            });
            return Err(ProblemNoted);
        }
        match PrivateKey::parse(text) {
            Ok(key) => {
                if key.is_publicly_known() {
                    self.raw.warnings.push(Warning {
                        place: place.clone(),
                        key: Some(name.to_owned()),
                        message: format!(
                            "is a PUBLICLY KNOWN development key (address {}): anyone can spend \
                             its funds and sign as this node; never use it outside a local test",
                            key.address()
                        ),
                    });
                }
                Ok(key)
            }
            Err(error) => {
                let advice = match error {
                    InvalidPrivateKey::Placeholder | InvalidPrivateKey::Empty => "Fill in the key",
                    InvalidPrivateKey::NotHex(_) | InvalidPrivateKey::Length(_) => {
                        "Compare it with the key's source: digits may be lost or doubled"
                    }
                    InvalidPrivateKey::Zero | InvalidPrivateKey::NotBelowOrder => {
                        "No such key exists; make a new one"
                    }
                };
                self.raw.problems.push(Problem {
                    place: place.clone(),
                    key: Some(name.to_owned()),
                    found: error.to_string(),
                    allowed: "64 hex digits, with or without 0x, of a number from 1 to the order \
                              of secp256k1 - 1"
                        .to_owned(),
                    advice: advice.to_owned(),
                });
                Err(ProblemNoted)
            }
        }
    }
}
