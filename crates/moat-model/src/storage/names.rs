//! Names of accounts, containers and blobs: what they may look like, and what of a blob's path may not be
//! taken for more than it says.

/// Longest blob name, in characters.
pub const BLOB_NAME_CHARS_MAX: usize = 1_024;

/// 3 to 24 lower-case letters and digits.
pub fn is_account(name: &str) -> bool {
    (3..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// 3 to 63 lower-case letters, digits and single hyphens between them; or one of the names that start with `$`.
pub fn is_container(name: &str) -> bool {
    if matches!(name, "$root" | "$web" | "$logs") {
        return true;
    }
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| edge(b) || b == b'-')
        && !name.contains("--")
        && name.bytes().next().is_some_and(edge)
        && name.bytes().next_back().is_some_and(edge)
}

/// A blob name that means one place to everybody who reads it: no `.` or `..` segments, which some clients and
/// every file system would resolve, no control characters and no backslash.
pub fn is_blob(name: &str) -> bool {
    !name.is_empty()
        && name.chars().count() <= BLOB_NAME_CHARS_MAX
        && !name.chars().any(|c| c.is_control() || c == '\\')
        && !name.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// The first `depth` segments of `path`, if there is something below them and no segment is empty or climbs:
/// how a directory's signature finds its directory in a request.
pub fn directory(path: &str, depth: usize) -> Option<&str> {
    let (end, _) = path.match_indices('/').nth(depth.checked_sub(1)?)?;
    let (directory, below) = (path.get(..end)?, path.get(end + 1..)?);
    let plain = |text: &str| text.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    // A listing of the directory itself has nothing below, one of a folder in it may end in a slash.
    let below_is_plain = below.is_empty() || plain(below.strip_suffix('/').unwrap_or(below));
    (plain(directory) && below_is_plain).then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_azures() {
        for good in ["abc", "a-b-c", "azureml-blobstore-0a1b", "$root", "123"] {
            assert!(is_container(good), "{good}");
        }
        for bad in ["", "ab", "A-b-c", "-abc", "abc-", "a--b", "a_b", "$other", "ünü", &"a".repeat(64)] {
            assert!(!is_container(bad), "{bad}");
        }
        assert!(is_account("moatstor1") && !is_account("Moat") && !is_account("m-1") && !is_account("ab"));
        assert!(is_blob("a/b.txt") && is_blob("a//b") && is_blob("..a/b..") && is_blob("a b+%41"));
        for bad in ["", "..", "a/../b", "./a", "a/.", "a\\b", "a\u{0}", &"x".repeat(1_025)] {
            assert!(!is_blob(bad), "{bad}");
        }
    }

    #[test]
    fn a_directory_is_found_only_in_a_plain_path() {
        assert_eq!(directory("runs/r1/log.txt", 2), Some("runs/r1"));
        assert_eq!(directory("runs/r1/", 2), Some("runs/r1"));
        assert_eq!(directory("runs/r1/outputs/", 2), Some("runs/r1"));
        for outside in [
            "runs/r1",
            "runs/r12",
            "runs",
            "",
            "runs//r1/x",
            "runs/r1//x",
            "runs/r1/../r2",
            "runs/r1/./x",
            "/runs/r1/x",
            "runs/r1//",
            "runs/r1/a//",
        ] {
            assert_eq!(directory(outside, 2), None, "{outside}");
        }
        assert_eq!(directory("a/b", 0), None);
    }
}
