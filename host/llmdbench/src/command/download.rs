//! `download`: a model from the hub into a folder, in the layout of the hub's own cache. What step 04 runs in a
//! cluster, where the image that it is told to use is that of this program.

use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::printer::Printer;
use crate::run_dir;
use crate::secrets::Secrets;
use clap::Args;
use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONTENT_LENGTH, RANGE};
use secrecy::ExposeSecret;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// The hub, where HF_ENDPOINT names no other.
const HUB: &str = "https://huggingface.co";
/// The hub's own name for the newest version of a model.
const REVISION: &str = "main";
/// A hub that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// How often the progress of a big file is told.
const EVERY: Duration = Duration::from_secs(10);

/// Options of `download`.
#[derive(Debug, Args)]
#[command(after_help = "The hub is that of HF_ENDPOINT, the token that of HF_TOKEN.")]
pub(crate) struct DownloadArgs {
    /// The id of the model: org/name
    model: String,
    /// The folder, as servers have it in HF_HOME
    folder: PathBuf,
}

/// Downloads what is not there yet, and goes on where it was interrupted.
pub(crate) fn run(args: &DownloadArgs, printer: &Printer) -> Result<Exit> {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let secrets = Secrets { api_key: variable("HF_TOKEN").map(Into::into), ..Secrets::default() };
    printer.redact(secrets.redaction());
    let client = Client::builder()
        .timeout(SILENCE)
        .build()
        .map_err(|error| Error::unexpected("cannot set up HTTP").because(error))?;
    let url = variable("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned());
    let hub =
        Hub { client, url: url.trim_end_matches('/').to_owned(), secrets, model: &args.model };
    let (commit, files) = hub.list()?;
    let cache = Cache::new(&args.folder, &args.model, &commit);
    for (index, file) in files.iter().enumerate() {
        let number = format!("{} of {} files: {}", index + 1, files.len(), file.name);
        let path = cache.snapshot.join(&file.name);
        if path.exists() {
            printer.step(&format!("{number} is there"));
            continue;
        }
        hub.fetch(&commit, file, &path, &|state| printer.step(&format!("{number}{state}")))?;
    }
    cache.finish(&commit)?;
    printer.step(&format!("{} is in {}", args.model, cache.snapshot.display()));
    Ok(Exit::Ok)
}

/// A model on the hub.
struct Hub<'a> {
    client: Client,
    url: String,
    secrets: Secrets,
    model: &'a str,
}

impl Hub<'_> {
    /// The newest commit, and its files.
    fn list(&self) -> Result<(String, Vec<Listed>)> {
        let url = format!("{}/api/models/{}/revision/{REVISION}?blobs=true", self.url, self.model);
        let unusable = || Error::new(Exit::Standup, format!("{url} does not list a model's files"));
        let text = self.get(&url, 0)?.text().map_err(|error| unusable().because(error))?;
        let about: Value =
            serde_json::from_str(&text).map_err(|error| unusable().because(error))?;
        let commit = about["sha"].as_str().filter(|commit| is_within(commit));
        let files = about["siblings"].as_array().into_iter().flatten();
        match (commit, files.map(Listed::of).collect::<Option<Vec<_>>>()) {
            (Some(commit), Some(files)) if !files.is_empty() => Ok((commit.to_owned(), files)),
            _ => Err(unusable()),
        }
    }

    /// Downloads a file; what an earlier try left of it is gone on with. It has its name only when it is what the hub
    /// says that it is.
    fn fetch(&self, commit: &str, file: &Listed, to: &Path, tell: &dyn Fn(&str)) -> Result<()> {
        let name = &file.name;
        let failed = |error: std::io::Error| {
            Error::new(Exit::Standup, format!("failed to download {name}")).because(error)
        };
        let part = PathBuf::from(format!("{}.part", to.display()));
        run_dir::make(part.parent().unwrap_or(to))?;
        let has = fs::metadata(&part).map_or(0, |about| about.len());
        let (length, sum) = self.load(commit, file, &part, has, tell)?;
        let unchecked = match (&file.content, sum.map(Sum::end)) {
            (Some(content), Some(found)) if !content.is(&found) => {
                fs::remove_file(&part).map_err(failed)?;
                if has > 0 {
                    tell(": what an earlier download left of it is broken; it is downloaded anew");
                    return self.fetch(commit, file, to, tell);
                }
                let (kind, wanted) = content.told();
                let what = format!("{name} is not what the model hub says that it is");
                return Err(Error::new(Exit::Standup, what)
                    .cause(format!("its {kind} is {found}, and {wanted} was wanted"))
                    .hint("nothing of it was kept: run it again; what lies between here and the hub, or a mirror (HF_ENDPOINT), may break files"));
            }
            (Some(_), _) => "",
            (None, _) => "; the hub has no checksum of it",
        };
        fs::rename(&part, to).map_err(failed)?;
        tell(&format!(", {}{unchecked}", size(length)));
        Ok(())
    }

    /// Downloads what is missing of a file of which there are so many bytes. Gives its length, and its checksum where
    /// the hub has one to compare it with.
    fn load(
        &self,
        commit: &str,
        file: &Listed,
        part: &Path,
        mut has: u64,
        tell: &dyn Fn(&str),
    ) -> Result<(u64, Option<Sum>)> {
        let name = &file.name;
        let failed = |error: std::io::Error| {
            Error::new(Exit::Standup, format!("failed to download {name}")).because(error)
        };
        let url = format!("{}/{}/resolve/{commit}/{name}", self.url, self.model);
        let mut answer = self.get(&url, has)?;
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            answer = self.get(&url, 0)?;
        }
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            has = 0;
        }
        let length =
            answer.headers().get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
        let whole = length.map(|length: u64| format!(" of {}", size(has + length)));
        let whole = whole.unwrap_or_default();
        let mut sum = file.content.as_ref().map(Content::sum);
        let mut buffer = vec![0; 1 << 20];
        if let (Some(sum), true) = (&mut sum, has > 0) {
            let mut before = File::open(part).map_err(failed)?;
            loop {
                interrupt::check()?;
                match before.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    read => sum.add(&buffer[..read]),
                }
            }
        }
        let mut out = OpenOptions::new();
        let out = out.create(true).write(true).truncate(has == 0).append(has > 0);
        let mut out = out.open(part).map_err(failed)?;
        let mut told = Instant::now();
        loop {
            interrupt::check()?;
            let read = answer.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            out.write_all(&buffer[..read]).map_err(failed)?;
            if let Some(sum) = &mut sum {
                sum.add(&buffer[..read]);
            }
            has += read as u64;
            if told.elapsed() >= EVERY {
                told = Instant::now();
                tell(&format!(": {}{whole}", size(has)));
            }
        }
        out.sync_all().map_err(failed)?;
        Ok((has, sum))
    }

    /// Asks the hub; what stands in the file before `from` is left out. A token does not go where a redirect leads.
    fn get(&self, url: &str, from: u64) -> Result<Response> {
        let mut request = self.client.get(url);
        if let Some(token) = &self.secrets.api_key {
            request = request.bearer_auth(token.expose_secret());
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let answer = request.send().map_err(|error| {
            Error::new(Exit::Standup, format!("the model hub does not answer at {url}"))
                .because(error)
                .hint("HF_ENDPOINT names another hub or a mirror")
        })?;
        let status = answer.status();
        if status.is_success() || (from > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE) {
            return Ok(answer);
        }
        let said = answer.headers().get("x-error-message").and_then(|text| text.to_str().ok());
        let said = said.map(str::to_owned);
        let said =
            said.unwrap_or_else(|| answer.text().unwrap_or_default().chars().take(300).collect());
        let error = |what: String| Error::new(Exit::Standup, what).cause(said.clone());
        Err(match status.as_u16() {
            401 | 403 => error(format!("the model hub refuses `{}`: {status}", self.model)).hint(
                "accept the model's licence on its page, and set a token that may read it (HF_TOKEN)",
            ),
            404 => error(format!("the model hub has no `{}`: {url} answers {status}", self.model))
                .hint("check the model's id; of what is private a token that may read it must be set (HF_TOKEN)"),
            _ => error(format!("{url} answers {status}")),
        })
    }
}

/// A file of a model, as the hub lists it.
struct Listed {
    name: String,
    /// None: the hub does not say.
    content: Option<Content>,
}

/// What the hub says of a file's content.
enum Content {
    /// Of what lies in its store of large files.
    Sha256(String),
    /// Of what lies in git itself, of so many bytes.
    Blob(String, u64),
}

/// A checksum in the making.
enum Sum {
    Sha256(Sha256),
    Sha1(Sha1),
}

impl Listed {
    /// None: this is no file of a model.
    fn of(file: &Value) -> Option<Self> {
        let name = file["rfilename"].as_str().filter(|name| is_within(name))?.to_owned();
        let large = &file["lfs"];
        let content = match (large["sha256"].as_str(), file["blobId"].as_str()) {
            (Some(sum), _) => Some(Content::Sha256(sum.to_owned())),
            // A large file's blob is that of its pointer.
            (None, Some(id)) if large.is_null() => {
                file["size"].as_u64().map(|size| Content::Blob(id.to_owned(), size))
            }
            _ => None,
        };
        Some(Self { name, content })
    }
}

impl Content {
    fn sum(&self) -> Sum {
        match self {
            Self::Sha256(_) => Sum::Sha256(Sha256::new()),
            // What git calls a file goes over its length, too.
            Self::Blob(_, size) => Sum::Sha1(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }

    /// The kind of checksum, and the one that is wanted.
    fn told(&self) -> (&str, &str) {
        match self {
            Self::Sha256(sum) => ("SHA-256", sum),
            Self::Blob(id, _) => ("id as a git blob", id),
        }
    }

    fn is(&self, found: &str) -> bool {
        self.told().1.eq_ignore_ascii_case(found)
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Sha1(sum) => sum.update(bytes),
        }
    }

    fn end(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(sum) => hex(&sum.finalize()),
            Self::Sha1(sum) => hex(&sum.finalize()),
        }
    }
}

/// Where a model lies in a folder.
struct Cache {
    folder: PathBuf,
    /// `hub/models--ORG--NAME`.
    model: PathBuf,
    /// `snapshots/COMMIT` in it.
    snapshot: PathBuf,
    /// `models/ID`: a link to the snapshot, for those who do not know the cache.
    link: PathBuf,
}

impl Cache {
    fn new(folder: &Path, model: &str, commit: &str) -> Self {
        let own = folder.join("hub").join(format!("models--{}", model.replace('/', "--")));
        Self {
            folder: folder.to_owned(),
            snapshot: own.join("snapshots").join(commit),
            model: own,
            link: folder.join("models").join(model),
        }
    }

    /// Makes the snapshot the one that servers find.
    fn finish(&self, commit: &str) -> Result<()> {
        run_dir::write(&self.model.join("refs").join(REVISION), commit.as_bytes())?;
        if self.link.is_dir() && !self.link.is_symlink() {
            // Somebody has put a model there.
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            Error::new(Exit::Standup, format!("failed to link {}", self.link.display()))
                .because(error)
        };
        run_dir::make(self.link.parent().unwrap_or(&self.folder))?;
        if self.link.is_symlink() {
            fs::remove_file(&self.link).map_err(failed)?;
        }
        std::os::unix::fs::symlink(self.target(), &self.link).map_err(failed)
    }

    /// The snapshot, seen from the link: wherever the volume is mounted, it leads there.
    fn target(&self) -> PathBuf {
        let below = |path: &Path| path.strip_prefix(&self.folder).map(Path::to_owned);
        let (Ok(link), Ok(snapshot)) = (below(&self.link), below(&self.snapshot)) else {
            return self.snapshot.clone();
        };
        let up = link.components().skip(1).map(|_| Component::ParentDir);
        up.collect::<PathBuf>().join(snapshot)
    }
}

/// Whether a name leads to a place within its folder.
fn is_within(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=1_048_575 => format!("{bytes} bytes"),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_lies_where_servers_look() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "org/name", "abc");
        run_dir::write(&cache.snapshot.join("config.json"), b"{}").unwrap();
        // Twice is fine.
        for _ in 0..2 {
            cache.finish("abc").unwrap();
        }
        let hub = folder.path().join("hub/models--org--name");
        assert_eq!(fs::read_to_string(hub.join("refs/main")).unwrap(), "abc");
        assert!(hub.join("snapshots/abc/config.json").exists());
        let link = folder.path().join("models/org/name");
        let leads_to = fs::read_link(&link).unwrap();
        assert_eq!(leads_to, Path::new("../../hub/models--org--name/snapshots/abc"));
        assert!(link.join("config.json").exists());
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let check = |name: &str, expected: bool| assert_eq!(is_within(name), expected, "{name}");
        check("original/params.json", true);
        for name in ["", "/etc/passwd", "../x", "a/../../x"] {
            check(name, false);
        }
    }
}
