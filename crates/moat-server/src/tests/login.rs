//! Tokens: how they are got, and everything that must not pass for one.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Harness;

/// One route of each kind that demands a token.
const GUARDED: [&str; 6] = [
    "management.azure.com/subscriptions?api-version=2022-12-01",
    "management.azure.com/subscriptions/x/resourcegroups/g?api-version=2024-11-01",
    "management.azure.com/nowhere",
    "westus2.api.azureml.ms/rp/workspaces/subscriptions/x/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/computes?api-version=2020-02-02",
    "westus2.api.azureml.ms/history/v1.0/anything",
    "graph.microsoft.com/v1.0/servicePrincipals",
];

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[test]
fn discovery_leads_to_a_token_that_leads_in() {
    let server = Harness::start();
    let tenant = server.ready.environment.tenant.clone();
    let found = server.call(
        "GET",
        &format!("login.microsoftonline.com/{tenant}/v2.0/.well-known/openid-configuration"),
        &[],
        "",
    );
    assert_eq!(found.json()["token_endpoint"], format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"));
    assert_eq!(found.json()["issuer"], format!("https://login.microsoftonline.com/{tenant}/v2.0"));
    let instance = server.call("GET", "login.microsoftonline.com/common/discovery/instance?api-version=1.1", &[], "");
    assert_eq!(instance.json()["metadata"][0]["aliases"][1], "login.windows.net");

    let token = server.token("https://management.azure.com");
    let claims = part(&token, 1);
    assert_eq!(claims["aud"], "https://management.azure.com");
    assert_eq!(claims["tid"], tenant);
    assert_eq!(claims["iss"], format!("https://sts.windows.net/{tenant}/"));
    let keys = server.call("GET", &format!("login.microsoftonline.com/{tenant}/discovery/v2.0/keys"), &[], "").json();
    assert_eq!(keys["keys"][0]["kid"], part(&token, 0)["kid"]);
    assert_eq!(URL_SAFE_NO_PAD.decode(keys["keys"][0]["n"].as_str().unwrap()).unwrap().len(), 256);
    assert_eq!(keys["keys"][0]["e"], "AQAB");

    let answer = server.call("GET", GUARDED[0], &[("Authorization", &format!("Bearer {token}"))], "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["value"][0]["subscriptionId"], server.ready.environment.subscription);
}

#[test]
fn the_double_slash_of_az_and_the_v1_endpoint_work() {
    let server = Harness::start();
    // az: `https://management.core.windows.net//.default`
    let token = server.token("https://management.core.windows.net/");
    assert_eq!(part(&token, 1)["aud"], "https://management.core.windows.net/");
    assert_eq!(server.call("GET", GUARDED[0], &[("Authorization", &format!("Bearer {token}"))], "").status, 200);

    let environment = &server.ready.environment;
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}&resource=https%3A%2F%2Fmanagement.azure.com%2F",
        environment.client_id,
        environment.client_secret.reveal()
    );
    let v1 = server.call("POST", &format!("login.microsoftonline.com/{}/oauth2/token", environment.tenant), &[], &form);
    assert_eq!(v1.json()["expires_in"], "86399");
    assert_eq!(v1.json()["resource"], "https://management.azure.com/");
}

#[test]
fn wrong_credentials_are_told_in_entras_words() {
    let server = Harness::start();
    type Case = (&'static [(&'static str, &'static str)], u16, &'static str, u32);
    let cases: [Case; 6] = [
        (&[("client_secret", "wrong")], 401, "invalid_client", 7_000_215),
        (&[("client_secret", "")], 401, "invalid_client", 7_000_218),
        (&[("client_id", "00000000-0000-0000-0000-000000000000")], 400, "unauthorized_client", 700_016),
        (&[("grant_type", "password")], 400, "unsupported_grant_type", 70003),
        (&[("scope", "https://management.azure.com/user_impersonation")], 400, "invalid_scope", 1_002_012),
        (&[("scope", "https://example.com/.default")], 400, "invalid_resource", 500_011),
    ];
    for (changes, status, error, number) in cases {
        let answer = server.ask_token(changes);
        assert_eq!(answer.status, status, "{changes:?}");
        let body = answer.json();
        assert_eq!((body["error"].as_str(), body["error_codes"][0].as_u64()), (Some(error), Some(u64::from(number))));
        assert!(body["error_description"].as_str().unwrap().starts_with(&format!("AADSTS{number}: ")));
    }
    let other =
        server.call("GET", "login.microsoftonline.com/other.example/v2.0/.well-known/openid-configuration", &[], "");
    assert_eq!(other.json()["error_codes"][0], 90002);
}

#[test]
fn what_is_no_good_token_opens_no_door() {
    let server = Harness::start();
    let good = server.minted(|_| {});
    let (header, claims) = (part(&good, 0), part(&good, 1));
    let signature = good.rsplit('.').next().unwrap();
    let now = jiff::Timestamp::now().as_second();

    let mut admin = claims.clone();
    admin["oid"] = json!("11111111-1111-1111-1111-111111111111");
    let changed = format!("{}.{}.{signature}", encoded(&header), encoded(&admin));
    let none = format!("{}.{}.", encoded(&json!({"alg": "none", "kid": header["kid"]})), encoded(&claims));
    let none_signed =
        format!("{}.{}.{signature}", encoded(&json!({"alg": "none", "kid": header["kid"]})), encoded(&claims));
    // The classic confusion: HMAC with the published key as the secret.
    let tenant = &server.ready.environment.tenant;
    let keys = server.call("GET", &format!("login.microsoftonline.com/{tenant}/discovery/v2.0/keys"), &[], "").json();
    let modulus = URL_SAFE_NO_PAD.decode(keys["keys"][0]["n"].as_str().unwrap()).unwrap();
    let signed = format!("{}.{}", encoded(&json!({"alg": "HS256", "kid": header["kid"]})), encoded(&claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &modulus), signed.as_bytes());
    let hmac = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
    let mut other_kid = header.clone();
    other_kid["kid"] = json!("someone-else");
    let other_kid = format!("{}.{}.{signature}", encoded(&other_kid), encoded(&claims));
    let stranger = Harness::start();
    let foreign = stranger.minted(|c| {
        let ours = server.minted(|_| {});
        *c = serde_json::from_value(part(&ours, 1)).unwrap();
    });

    let cases = [
        ("changed claims", changed, "InvalidAuthenticationToken"),
        ("alg none", none, "InvalidAuthenticationToken"),
        ("alg none with a signature", none_signed, "InvalidAuthenticationToken"),
        ("HMAC with the public key", hmac, "InvalidAuthenticationToken"),
        ("another kid", other_kid, "InvalidAuthenticationToken"),
        ("another environment's key", foreign, "InvalidAuthenticationToken"),
        ("nonsense", "a.b.c".to_owned(), "InvalidAuthenticationToken"),
        ("a huge one", "x".repeat(20_000), "InvalidAuthenticationToken"),
        ("expired", server.minted(|c| c.exp = now - 1), "ExpiredAuthenticationToken"),
        ("from the future", server.minted(|c| c.nbf = now + 3_600), "InvalidAuthenticationToken"),
        (
            "for another service",
            server.minted(|c| c.aud = "https://storage.azure.com".to_owned()),
            "InvalidAuthenticationTokenAudience",
        ),
        ("of another tenant", server.minted(|c| c.tid = "other".to_owned()), "InvalidAuthenticationTokenTenant"),
        (
            "of another issuer",
            server.minted(|c| c.iss = "https://sts.windows.net/other/".to_owned()),
            "InvalidAuthenticationTokenTenant",
        ),
    ];
    for url in GUARDED {
        for (what, token, code) in &cases {
            // Twice: what was judged once must not be remembered as good.
            for _ in 0..2 {
                let answer = server.call("GET", url, &[("Authorization", &format!("Bearer {token}"))], "");
                assert_eq!(answer.refusal(), (401, (*code).to_owned()), "{what} at {url}: {}", answer.text());
                assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer authorization_uri="));
                assert!(!answer.text().contains(token.as_str()), "{what} is echoed");
            }
        }
        assert_eq!(server.call("GET", url, &[], "").refusal(), (401, "AuthenticationFailed".to_owned()), "{url}");
        let basic = server.call("GET", url, &[("Authorization", "Basic eDp5")], "");
        assert_eq!(basic.status, 401, "{url}");
    }
    let for_graph = server.token("https://graph.microsoft.com");
    let answer = server.call("GET", GUARDED[0], &[("Authorization", &format!("Bearer {for_graph}"))], "");
    assert_eq!(answer.refusal().1, "InvalidAuthenticationTokenAudience");
}

#[test]
fn graph_knows_the_environments_own_principal() {
    let server = Harness::start();
    let token = format!("Bearer {}", server.token("https://graph.microsoft.com/"));
    let (app, object) = (&server.ready.environment.client_id, &server.ready.environment.object_id);
    let list = |filter: &str| {
        let url = format!("graph.microsoft.com/v1.0/servicePrincipals?$filter={filter}");
        server.call("GET", &url, &[("Authorization", &token)], "").json()["value"].as_array().unwrap().len()
    };
    assert_eq!(list(&format!("servicePrincipalNames%2Fany%28c%3Ac%20eq%20%27{app}%27%29")), 1);
    assert_eq!(list("servicePrincipalNames%2Fany%28c%3Ac%20eq%20%27other%27%29"), 0);
    let body = json!({"ids": [object, "other"], "types": ["user", "servicePrincipal"]}).to_string();
    let found =
        server.call("POST", "graph.microsoft.com/v1.0/directoryObjects/getByIds", &[("Authorization", &token)], &body);
    assert_eq!(found.json()["value"][0]["@odata.type"], "#microsoft.graph.servicePrincipal");
    assert_eq!(found.json()["value"][0]["id"], object.as_str());
}

#[test]
fn a_runs_token_opens_neither_arm_nor_graph_nor_computes_and_half_a_scope_is_no_token() {
    let server = Harness::start();
    let scope = |workspace: bool| {
        server.minted(|claims| {
            claims.moat_run = Some("r1".to_owned());
            claims.moat_attempt = Some(1);
            claims.moat_workspace = workspace.then(|| "/subscriptions/s/resourceGroups/g/providers/M/w/a".to_owned());
        })
    };
    let ask = |url: &str, token: &str| server.call("GET", url, &[("Authorization", &format!("Bearer {token}"))], "");
    for url in ["management.azure.com/subscriptions?api-version=2024-11-01", "dc.services.visualstudio.com/v2/track"] {
        assert_eq!(ask(url, &scope(true)).refusal(), (403, "AuthorizationFailed".to_owned()), "{url}");
        assert_eq!(ask(url, &scope(false)).status, 401, "{url}");
    }
}
