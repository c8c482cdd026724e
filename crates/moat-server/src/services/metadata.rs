//! `GET /metadata/endpoints` of ARM: the list of clouds, public (azureml-mlflow reads it).

use moat_control::Method;
use serde_json::json;

use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::server::Server;

/// The answer, if the call is for this document.
pub(super) fn answer(server: &Server, call: &Call) -> Option<Reply> {
    if call.method != Method::Get || !call.path.trim_end_matches('/').eq_ignore_ascii_case("/metadata/endpoints") {
        return None;
    }
    let tenant = &server.environment.tenant;
    Some(Reply::json(
        200,
        &json!([{
            "name": "AzureCloud",
            "portal": "https://portal.azure.com",
            "authentication": {
                "loginEndpoint": "https://login.microsoftonline.com",
                "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
                "tenant": tenant,
                "identityProvider": "AAD",
            },
            "media": "https://rest.media.azure.net",
            "graphAudience": "https://graph.windows.net/",
            "graph": "https://graph.windows.net/",
            "microsoftGraphResourceId": "https://graph.microsoft.com/",
            "batch": "https://batch.core.windows.net/",
            "resourceManager": "https://management.azure.com/",
            "gallery": "https://gallery.azure.com/",
            "sqlManagement": "https://management.core.windows.net:8443/",
            "suffixes": {
                "acrLoginServer": "azurecr.io",
                "azureDataLakeStoreFileSystem": "azuredatalakestore.net",
                "keyVaultDns": "vault.azure.net",
                "sqlServerHostname": "database.windows.net",
                "storage": "core.windows.net",
            },
        }]),
    ))
}
