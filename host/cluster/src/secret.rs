//! Values of Secrets, for whoever must keep them out of what is written.

use crate::connection::Cluster;
use crate::error::Result;
use crate::object::Selection;
use k8s_openapi::api::core::v1::Secret;
use secrecy::SecretString;
use serde_json::Value;
use std::collections::BTreeMap;

impl Cluster {
    /// The values of a Secret by their keys, those left out that are no text. Empty: there is no such Secret.
    ///
    /// # Errors
    /// When it may not be read.
    pub async fn secret_values(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<BTreeMap<String, SecretString>> {
        let found = self.get(&Selection::named("v1", "Secret", namespace, name)).await?;
        Ok(found.into_iter().next().map(values).unwrap_or_default())
    }
}

fn values(secret: Value) -> BTreeMap<String, SecretString> {
    let data = serde_json::from_value::<Secret>(secret).ok().and_then(|secret| secret.data);
    let text = |(key, value): (String, k8s_openapi::ByteString)| {
        Some((key, SecretString::from(String::from_utf8(value.0).ok()?)))
    };
    data.into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use serde_json::json;

    #[test]
    fn values_are_read_as_they_were_before_they_were_encoded() {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "data": {"HF_TOKEN": "aGZfYWJjZGVm", "BYTES": "//4="},
        });
        let values = values(secret);
        assert_eq!(values.len(), 1);
        assert_eq!(values["HF_TOKEN"].expose_secret(), "hf_abcdef");
    }
}
