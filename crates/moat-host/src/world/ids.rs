//! Which users the world has: the id maps of its user namespace.
//!
//! Three cases. Root: 0 is root outside (so that only root may enter), 1.. are ids that own nothing on the host; what
//! talks to clients runs as one of those. Ordinary user with a range in /etc/subuid and `newuidmap`: 0 is that user,
//! 1.. the range. Ordinary user without: 0 is that user and there is nobody else.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Gid, Pid, Uid, User};

use super::error::WorldError;

/// Ids beside 0 that a world wants: enough for sshd, package managers and a user per job.
pub const RANGE_LENGTH: u32 = 65_536;
/// First id of the range when root has no line in /etc/subuid: where distributions begin to hand them out.
const RANGE_START_DEFAULT: u32 = 100_000;

/// Inside user of the API server.
pub const SERVER_ID: u32 = 1_000;
/// Inside user of the helper.
pub const HELPER_ID: u32 = 1_001;
/// Inside user of the node agents and what they run.
pub const AGENT_ID: u32 = 2_000;

/// What was mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdMap {
    /// 0 to the caller, `1..=length` to `start..`.
    Range {
        /// First id outside.
        start: u32,
        /// How many.
        length: u32,
    },
    /// 0 to the caller and nothing else.
    Single,
}

impl IdMap {
    /// The id outside of inside `id`, where it is not 0.
    pub fn outside(self, id: u32) -> Option<u32> {
        match self {
            IdMap::Range { start, length } if (1..=length).contains(&id) => Some(start + id - 1),
            _ => None,
        }
    }
}

/// Maps the one user and group of this process's new user namespace: `inside` to what the process is outside.
///
/// The files for that belong to whoever may dump the process, so it can be dumped for this moment.
pub(crate) fn map_own(inside: u32, outside: (Uid, Gid)) -> Result<(), WorldError> {
    let dumpable = |on| nix::sys::prctl::set_dumpable(on).map_err(WorldError::step("opening the id maps"));
    let map = |file: &str, text: String| std::fs::write(file, text).map_err(|source| WorldError::IdMap { source });
    dumpable(true)?;
    map("/proc/self/setgroups", "deny".to_owned())?;
    map("/proc/self/uid_map", format!("{inside} {} 1", outside.0))?;
    map("/proc/self/gid_map", format!("{inside} {} 1", outside.1))?;
    dumpable(false)
}

/// What to map, before the namespace exists. `ranges` are uid and gid.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    uid: IdMap,
    gid: IdMap,
}

impl Wish {
    /// Looks at who calls and at /etc/subuid and /etc/subgid.
    pub fn of_caller() -> Self {
        let user = Uid::effective();
        let name = User::from_uid(user).ok().flatten().map(|user| user.name);
        let range = |file: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            match subordinate_range(&text, name.as_deref(), user.as_raw()) {
                Some((start, length)) => IdMap::Range { start, length: length.min(RANGE_LENGTH) },
                None if user.is_root() => IdMap::Range { start: RANGE_START_DEFAULT, length: RANGE_LENGTH },
                None => IdMap::Single,
            }
        };
        let wish = Wish { uid: range("/etc/subuid"), gid: range("/etc/subgid") };
        match (wish.uid, wish.gid) {
            (IdMap::Range { length: a, .. }, IdMap::Range { length: b, .. }) if a.min(b) >= AGENT_ID => wish,
            _ => Wish { uid: IdMap::Single, gid: IdMap::Single },
        }
    }

    /// Writes the maps of `child`'s new user namespace and says which were taken.
    pub fn write(self, child: Pid) -> Result<(IdMap, IdMap), WorldError> {
        let refused = match (self.uid, self.gid) {
            (IdMap::Single, _) | (_, IdMap::Single) => None,
            _ if Uid::effective().is_root() => {
                match self.write_as_root(child) {
                    Ok(()) => return Ok((self.uid, self.gid)),
                    // Root of a container may not have those ids; its own id alone still works.
                    Err(error) => Some(error.to_string()),
                }
            }
            _ => match self.write_by_program(child) {
                Ok(()) => return Ok((self.uid, self.gid)),
                Err(why) => Some(why),
            },
        };
        if let Some(why) = refused {
            tracing::debug!(why, "no range of ids for this world; everything in it runs as one user");
        }
        write_single(child).map_err(|source| WorldError::IdMap { source })?;
        Ok((IdMap::Single, IdMap::Single))
    }

    fn write_as_root(self, child: Pid) -> std::io::Result<()> {
        let proc = Path::new("/proc").join(child.to_string());
        std::fs::write(proc.join("uid_map"), map_text(Uid::effective().as_raw(), self.uid))?;
        std::fs::write(proc.join("gid_map"), map_text(Gid::effective().as_raw(), self.gid))
    }

    fn write_by_program(self, child: Pid) -> Result<(), String> {
        for (program, own, map) in
            [("newuidmap", Uid::effective().as_raw(), self.uid), ("newgidmap", Gid::effective().as_raw(), self.gid)]
        {
            let text = map_text(own, map);
            let output = Command::new(program)
                .arg(child.to_string())
                .args(text.split_whitespace())
                .output()
                .map_err(|error| format!("{program}: {error}"))?;
            if !output.status.success() {
                return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            }
        }
        Ok(())
    }
}

fn map_text(own: u32, map: IdMap) -> String {
    let mut text = format!("0 {own} 1\n");
    if let IdMap::Range { start, length } = map {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "1 {start} {length}");
    }
    text
}

fn write_single(child: Pid) -> std::io::Result<()> {
    let proc = Path::new("/proc").join(child.to_string());
    std::fs::write(proc.join("uid_map"), map_text(Uid::effective().as_raw(), IdMap::Single))?;
    // Without a privileged writer the kernel wants setgroups off before it takes a group map.
    std::fs::write(proc.join("setgroups"), "deny")?;
    std::fs::write(proc.join("gid_map"), map_text(Gid::effective().as_raw(), IdMap::Single))
}

/// The first line of a subuid(5) text for this user with a usable range: `(start, length)`.
fn subordinate_range(text: &str, name: Option<&str>, id: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if Some(owner) != name && owner.parse() != Ok(id) {
            return None;
        }
        let start: u32 = fields.next()?.parse().ok()?;
        let length: u32 = fields.next()?.parse().ok()?;
        (start > 0 && length > 0 && start.checked_add(length).is_some()).then_some((start, length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subuid_lines_by_name_and_by_number() {
        let text = "# comment\nann:100000:65536\n1001:300000:1000\nbad:x:1\n";
        assert_eq!(subordinate_range(text, Some("ann"), 5), Some((100_000, 65_536)));
        assert_eq!(subordinate_range(text, Some("bob"), 1001), Some((300_000, 1_000)));
        assert_eq!(subordinate_range(text, Some("bad"), 7), None);
        assert_eq!(subordinate_range("ann:4294967295:2", Some("ann"), 1), None);
    }

    #[test]
    fn inside_one_is_the_first_of_the_range() {
        let map = IdMap::Range { start: 100_000, length: 10 };
        assert_eq!(map.outside(1), Some(100_000));
        assert_eq!(map.outside(10), Some(100_009));
        assert_eq!(map.outside(11), None);
        assert_eq!(map.outside(0), None);
        assert_eq!(IdMap::Single.outside(1), None);
    }
}
