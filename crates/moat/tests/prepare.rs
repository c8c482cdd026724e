//! Environments, built for real: in the sandbox, over the proxy, from an index of the test's own whose `pip` is hostile,
//! and from a real index where there is one.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{User, each_user};

/// What stands in the place of pip: it tells what it can reach, and installs one module.
const HOSTILE_PIP: &str = r##"
import os, socket, sys
def tried(name, action):
    try:
        print("tried", name, "got", repr(action())[:200], flush=True)
    except BaseException as error:
        print("tried", name, "failed", type(error).__name__, flush=True)
def connect(address):
    with socket.create_connection(address, timeout=3):
        return "connected"
def fetch(target):
    with socket.create_connection(("127.0.0.1", 8080), timeout=3) as s:
        s.sendall(("GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target).encode())
        return s.recv(100).split(b"\r\n")[0]
target = os.path.dirname(os.path.dirname(sys.executable))
tried("shadow", lambda: open("/etc/shadow").read())
tried("home", lambda: os.listdir("/root"))
tried("state", lambda: os.listdir("/run/moat/state"))
tried("others", lambda: [e for e in os.listdir("/run/moat/environments") if not target.endswith(e)])
tried("sibling", lambda: os.mkdir(target + "x"))
tried("usr", lambda: open("/usr/bin/evil", "w"))
tried("processes", lambda: sorted(p for p in os.listdir("/proc") if p.isdigit() and int(p) > 400))
tried("internet", lambda: connect(("198.51.100.7", 443)))
tried("host", lambda: connect(("127.0.0.1", HOST_PORT)))
tried("dns", lambda: socket.getaddrinfo("pypi.org", 443))
tried("proxy-other", lambda: fetch("http://169.254.169.254/metadata/instance"))
tried("proxy-path", lambda: fetch("/simple/../secret"))
tried("root", lambda: os.setuid(0))
tried("namespace", lambda: __import__("ctypes").CDLL(None, use_errno=True).unshare(0x10000000))
print("environment", sorted(k for k in os.environ if "PIP" in k or "PROXY" in k.upper() or "TOKEN" in k), flush=True)
site = [p for p in sys.path if p.startswith(target) and p.endswith("site-packages")][0]
open(site + "/installed.py", "w").write("WORKS = 42\n")
script = target + "/bin/tool"
open(script, "w").write("#!%s\nimport installed; print(installed.WORKS)\n" % sys.executable)
os.chmod(script, 0o755)
sys.exit(EXIT_CODE)
"##;

/// An index on this machine's loopback that serves the given files and remembers what it was asked.
struct Index {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Index {
    fn start(exit_code: i32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let main =
            HOSTILE_PIP.replace("HOST_PORT", &address.port().to_string()).replace("EXIT_CODE", &exit_code.to_string());
        let wheel = zip("pip/__main__.py", main.as_bytes());
        let name = "pip-25.0.1-py3-none-any.whl";
        let page = format!(
            r#"{{"meta": {{"api-version": "1.0"}}, "name": "pip", "files": [{{"filename": "{name}", "url": "/w/{name}", "hashes": {{"sha256": "{}"}}}}]}}"#,
            sha256(&wheel)
        );
        let files = BTreeMap::from([("/simple/pip/".to_owned(), page.into_bytes()), (format!("/w/{name}"), wheel)]);
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), &files, &log);
            }
        });
        Self { address, asked }
    }

    fn url(&self) -> String {
        format!("http://{}/simple", self.address)
    }
}

fn answer(stream: TcpStream, files: &BTreeMap<String, Vec<u8>>, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(&stream).lines();
    let target = lines.next().unwrap_or_else(|| Ok(String::new()))?.split(' ').nth(1).unwrap_or_default().to_owned();
    while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
    asked.lock().unwrap().push(target.clone());
    let (status, body) = files.get(&target).map_or(("404 Not Found", &b""[..]), |b| ("200 OK", b));
    write!(&stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    (&stream).write_all(body)
}

/// A zip archive with one file, not compressed.
fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    python(
        "import sys, zipfile, io; b = io.BytesIO(); z = zipfile.ZipFile(b, 'w'); z.writestr(sys.argv[1], sys.stdin.buffer.read()); z.close(); sys.stdout.buffer.write(b.getvalue())",
        name,
        content,
    )
}

fn sha256(content: &[u8]) -> String {
    let code = "import sys, hashlib; sys.stdout.write(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())";
    String::from_utf8(python(code, "", content)).unwrap()
}

fn python(code: &str, argument: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(interpreter().unwrap())
        .args(["-I", "-c", code, argument])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    out.stdout
}

/// An interpreter that environments can be built with.
fn interpreter() -> Option<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/bin"];
    let minors = (9..20).rev().flat_map(|minor| folders.map(|f| Path::new(f).join(format!("python3.{minor}"))));
    minors.into_iter().find(|p| p.exists())
}

fn conda(user: &User, lines: &[&str]) -> String {
    let mut text = "dependencies:\n- pip:\n".to_owned();
    for line in lines {
        writeln!(text, "  - {line}").unwrap();
    }
    let path = user.home().join("conda.yml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn environments(user: &User) -> PathBuf {
    user.state().join("default/data/environments")
}

fn log_of_build(user: &User) -> String {
    let logs = std::fs::read_dir(environments(user)).unwrap().flatten().map(|e| e.path());
    let logs = logs.filter(|p| p.extension().is_some_and(|x| x == "log"));
    logs.map(|p| std::fs::read_to_string(p).unwrap()).collect()
}

#[test]
fn a_hostile_build_reaches_nothing_but_its_own_folder() {
    if interpreter().is_none() {
        eprintln!("SKIPPED: no python3.9 or newer in /usr/bin or /usr/local/bin");
        return;
    }
    each_user(|user| {
        let index = Index::start(0);
        user.up(&["--package-index", &index.url()]);
        let ran = user.run(&["prepare", "-o", "json", &conda(user, &["anything"])]).succeeded();
        let log = log_of_build(user);
        for what in ["shadow", "home", "state", "sibling", "usr", "internet", "host", "dns", "root"] {
            assert!(log.contains(&format!("tried {what} failed")), "{what}: {log}");
        }
        assert!(log.contains("tried processes got []") && log.contains("tried others got []"), "{log}");
        assert!(log.contains("tried namespace got -1"), "{log}");
        for what in ["proxy-other", "proxy-path"] {
            assert!(log.contains(&format!("tried {what} got b'HTTP/1.1 40")), "{what}: {log}");
        }
        assert!(log.contains("environment ['PIP_CONFIG_FILE']"), "{log}");
        let asked = index.asked.lock().unwrap().clone();
        assert!(asked.iter().all(|t| t == "/simple/pip/" || t.starts_with("/w/")), "{asked:?}");

        // What it made is there under its hash, whole, and the same is not built twice: not after a restart either.
        let hash = ran.out.split('"').find(|t| t.len() == 40).unwrap().to_owned();
        let folder = environments(user).join(&hash);
        let script = std::fs::read_to_string(folder.join("bin/tool")).unwrap();
        assert!(script.starts_with(&format!("#!/run/moat/environments/{hash}/bin/python")), "{script}");
        assert!(!folder.join(".build").exists());
        user.run(&["down"]).succeeded();
        user.up(&[]);
        user.run(&["prepare", &conda(user, &["anything"])]).succeeded();
        assert_eq!(index.asked.lock().unwrap().len(), asked.len(), "nothing is asked for again");
        assert!(user.run(&["status"]).succeeded().out.contains("1 environments"));
    });
}

#[test]
fn a_build_that_fails_leaves_its_words_and_nothing_else() {
    if interpreter().is_none() {
        eprintln!("SKIPPED: no python3.9 or newer in /usr/bin or /usr/local/bin");
        return;
    }
    let user = User::new(None);
    let index = Index::start(3);
    user.up(&["--package-index", &index.url()]);
    user.run(&["prepare", &conda(&user, &["anything"])]).failed_saying(&["exit code 3", "tried namespace"]);
    let left: Vec<PathBuf> = std::fs::read_dir(environments(&user)).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.iter().all(|p| p.extension().is_some_and(|x| x == "log")), "{left:?}");
    let asked = index.asked.lock().unwrap().len();
    user.run(&["prepare", &conda(&user, &["anything"])]).failed_saying(&["exit code 3"]);
    assert!(index.asked.lock().unwrap().len() > asked, "who asks again is not told an old failure");
    user.run(&["prepare", &conda(&user, &["git+https://host/x"])])
        .failed_saying(&["git+https://host/x", "version control"]);
}

#[test]
fn numpy_comes_from_a_real_index() {
    let user = User::new(None);
    if interpreter().is_none() {
        eprintln!("SKIPPED: no python3.9 or newer in /usr/bin or /usr/local/bin");
        return;
    }
    let index = std::env::var("MOAT_PACKAGE_INDEX").unwrap_or_else(|_| "https://pypi.org/simple".to_owned());
    user.up(&["--package-index", &index]);
    let ran = user.run(&["prepare", &conda(&user, &["numpy"])]);
    if ran.err.contains("could not be reached") || ran.err.contains("has no address") {
        eprintln!("SKIPPED: the package index {index} cannot be reached from here");
        return;
    }
    let ran = ran.succeeded();
    let hash = ran.out.split(' ').find(|t| t.len() == 40).unwrap();
    let library = environments(&user).join(hash).join("lib");
    let site = std::fs::read_dir(library).unwrap().flatten().next().unwrap().path().join("site-packages");
    assert!(site.join("numpy/__init__.py").exists() && site.join("numpy/__pycache__").exists());
}
