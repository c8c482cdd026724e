//! Every call but public discovery passes here first.

use moat_arm::ApiError;
use moat_control::Principal;

use super::reply::Reply;
use super::request::Call;
use crate::reconcile::desk;
use crate::server::Server;
use crate::token::{Audience, Denied};

/// Who calls, or the refusal to send. Not a run: its token is good for nothing but its own run, so only services
/// that check which run it is ask by [`principal_or_run`].
pub(crate) async fn principal(server: &Server, call: &Call, audience: Audience) -> Result<Principal, Reply> {
    let principal = principal_or_run(server, call, audience).await?;
    match &principal.run {
        None => Ok(principal),
        Some(scope) => Err(Reply::error(ApiError::new(
            403,
            "AuthorizationFailed",
            format!(
                "The token of run '{}' is good for that run's own records at the Machine Learning endpoint, and for nothing at `{}`.",
                scope.run, call.host
            ),
        ))),
    }
}

/// Who calls, a run of a job included. The caller must hold every answer against [`Principal::run`].
pub(crate) async fn principal_or_run(server: &Server, call: &Call, audience: Audience) -> Result<Principal, Reply> {
    let now = server.clock.now();
    let judged = server.authority.authenticate(call.header("authorization"), audience, now).await;
    // A run's token ends with its attempt, whatever its time says: another attempt may be under way elsewhere.
    if let Ok(Principal { run: Some(scope), .. }) = &judged
        && desk::live(&server.store.snapshot(), scope).is_none()
    {
        return Err(Reply::error(ApiError::new(
            403,
            "AuthorizationFailed",
            format!("The attempt {} of run '{}' is over, and so is its token.", scope.attempt, scope.run),
        )));
    }
    judged.map_err(|denied| {
        // The reason, never the token. Not at a level that is kept by default: any local user can cause these,
        // and could fill the disk.
        tracing::debug!(host = call.host, reason = ?denied, "token refused");
        let challenge = format!(
            "Bearer authorization_uri=\"https://login.microsoftonline.com/{}\", error=\"invalid_token\", error_description=\"{}\"",
            server.environment.tenant,
            match denied {
                Denied::Missing => "The authorization header is missing.",
                Denied::Forged => "The access token is invalid.",
                Denied::Expired => "The access token has expired.",
                Denied::NotYetValid => "The access token is not yet valid.",
                Denied::Audience => "The access token is for another audience.",
                Denied::Tenant => "The access token is from the wrong issuer.",
            }
        );
        Reply::error(denied.to_error()).with("WWW-Authenticate", challenge)
    })
}

/// At services that need no token: one that is sent must still be ours, or it is somebody's real one.
pub(crate) async fn foreign(server: &Server, call: &Call) -> Option<Reply> {
    let is_bearer = |value: &str| value.trim().get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer "));
    call.header("authorization").filter(|value| is_bearer(value))?;
    principal(server, call, Audience::Any).await.err()
}
