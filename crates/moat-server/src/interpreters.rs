//! The Python interpreters that jobs see: those of the system's own folders, asked for their version once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use moat_model::environment::Interpreter;

/// Where the sandbox of a job has programs, and a person installs them.
const FOLDERS: [&str; 2] = ["/usr/local/bin", "/usr/bin"];
/// What a sandbox sees whole: an interpreter needs its library too.
const VISIBLE: &str = "/usr";
/// Prints version and the folder of the library.
const ASK: &str = "import sys; print(*sys.version_info[:3]); print(sys.base_prefix)";
/// An interpreter starts in some 20 ms; one that does not answer is none.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Every `python3.N` that works, newest first; of two with one version the first found.
pub(crate) fn find() -> Vec<Interpreter> {
    let mut found: Vec<Interpreter> =
        FOLDERS.iter().flat_map(|f| named(Path::new(f))).filter_map(|p| ask(&p)).collect();
    found.sort_by_key(|i| std::cmp::Reverse(i.version));
    found.dedup_by_key(|i| i.version);
    found
}

fn named(folder: &Path) -> Vec<PathBuf> {
    let minor = |name: &str| name.strip_prefix("python3.").and_then(|n| n.parse::<u32>().ok());
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_str().and_then(minor).is_some())
        .map(|e| e.path())
        .collect();
    paths.sort();
    paths
}

fn ask(path: &Path) -> Option<Interpreter> {
    if !std::fs::canonicalize(path).ok()?.starts_with(VISIBLE) {
        return None;
    }
    let mut child = Command::new(path)
        .args(["-I", "-S", "-c", ASK])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let started = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if started.elapsed() > ANSWER_TIME_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let text = String::from_utf8(child.wait_with_output().ok()?.stdout).ok()?;
    read(&text, path)
}

fn read(text: &str, path: &Path) -> Option<Interpreter> {
    let (version, library) = text.trim().split_once('\n')?;
    let mut numbers = version.split(' ').map(|n| n.parse().ok());
    let version = [numbers.next()??, numbers.next()??, numbers.next()??];
    Path::new(library).starts_with(VISIBLE).then_some(Interpreter { version, path: path.to_str()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let at = |text: &str| read(text, Path::new("/usr/bin/python3.11")).map(|i| i.to_string());
        assert_eq!(at("3 11 2\n/usr\n").as_deref(), Some("3.11.2"));
        assert_eq!(at("3 11 2\n/opt/python\n"), None, "its library would not be seen");
        assert_eq!(at("3 11\n/usr\n"), None);
        assert_eq!(at(""), None);
    }

    #[test]
    fn what_is_found_works() {
        let found = find();
        assert!(found.iter().all(|i| i.version[0] == 3 && i.path.contains("/python3.")), "{found:?}");
        assert!(found.windows(2).all(|w| w[0].version > w[1].version), "newest first: {found:?}");
    }
}
