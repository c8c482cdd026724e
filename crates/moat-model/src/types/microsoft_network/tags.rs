//! Service tag names as rules and routes may write them (network-semantics 3).

use crate::resource_type::TypeCtx;

/// Names that people write for tags that are called otherwise (network-semantics 3.11).
const TRAPS: [(&str, &str); 4] = [
    ("ContainerRegistry", "AzureContainerRegistry"),
    ("Keyvault", "AzureKeyVault"),
    ("Frontdoor", "AzureFrontDoor"),
    ("AzureStorage", "Storage"),
];

/// Why `name` is no tag, as the rest of a sentence; `None` if it is one.
pub(super) fn problem(_: &TypeCtx<'_>, name: &str) -> Option<String> {
    let (service, rest) = name.split_once('.').map_or((name, String::new()), |(s, r)| (s, format!(".{r}")));
    TRAPS
        .iter()
        .find(|(wrong, _)| wrong.eq_ignore_ascii_case(service))
        .map(|(_, right)| format!(" The service tag is called {right}{rest}."))
}
