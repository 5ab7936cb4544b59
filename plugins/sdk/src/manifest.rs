//! Makes the visiting card of a plugin.

use crate::{Info, Permission};

/// An [`Info`] with name, version, description, licence and homepage of the package that calls it.
#[macro_export]
macro_rules! info {
    () => {
        $crate::Info {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: env!("CARGO_PKG_DESCRIPTION").to_owned(),
            license: env!("CARGO_PKG_LICENSE").to_owned(),
            homepage: env!("CARGO_PKG_HOMEPAGE").to_owned(),
            settings_schema: String::from(
                r#"{"type": "object", "additionalProperties": false, "properties": {}}"#,
            ),
            permissions: Vec::new(),
            memory_mib: None,
            features: Vec::new(),
        }
    };
}

impl Info {
    /// Sets the JSON Schema (2020-12) of the settings. A plugin of several kinds puts the schema of
    /// each under `$defs`, by the name of the kind. The host knows some keywords more:
    /// `"format": "input"` for a path that it attaches, with `"x-template": true` a template that it
    /// fills in before; `"x-setting"` for the variable of a setting of the host that this one follows
    /// unless it is set itself; `"x-aliases"` for other names that users may try for a setting, and
    /// `"x-form"` for what a string stands for, in words.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.settings_schema = schema.into();
        self
    }

    /// Asks for a permission.
    #[must_use]
    pub fn permission(mut self, permission: Permission) -> Self {
        self.permissions.push(permission);
        self
    }

    /// Sets the most linear memory wanted, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = Some(mib);
        self
    }

    /// Names a feature of hosts that the plugin uses where it is there.
    #[must_use]
    pub fn feature(mut self, name: impl Into<String>) -> Self {
        self.features.push(name.into());
        self
    }
}

/// Types for [`Permission::Objects`].
pub mod permission {
    pub use crate::bindings::manifest::exports::llmdbench::plugin::manifest::{
        ObjectPermission, ObjectVerbs,
    };
}
