//! `If-Match` and `If-None-Match`: the client's guard against lost updates.

use moat_arm::ApiError;

use crate::world::World;

/// Refuses with 412 unless the headers hold for `current` (the etag of what exists, if anything).
pub(crate) fn check(w: &World<'_>, current: Option<&str>) -> Result<(), ApiError> {
    let failed = |why: String| Err(ApiError::new(412, "PreconditionFailed", why));
    if let Some(wanted) = w.request.if_match.as_deref() {
        match current {
            None => {
                return failed("Precondition failed: If-Match was given and the resource does not exist.".to_owned());
            }
            Some(tag) if !any_matches(wanted, tag) => {
                return failed(format!("Precondition failed: If-Match is '{wanted}' and the current etag is '{tag}'."));
            }
            Some(_) => {}
        }
    }
    if let Some(unwanted) = w.request.if_none_match.as_deref()
        && let Some(tag) = current
        && any_matches(unwanted, tag)
    {
        return failed(format!("Precondition failed: If-None-Match is '{unwanted}' and the current etag is '{tag}'."));
    }
    Ok(())
}

/// Weak comparison of a list of tags, or `*`.
fn any_matches(list: &str, tag: &str) -> bool {
    let bare = |t: &str| t.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    list.split(',').any(|t| t.trim() == "*" || bare(t) == bare(tag))
}
