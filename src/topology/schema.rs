//! The language as a JSON Schema (draft-07, which editors and `check-jsonschema` read): from the types of `syntax`, with the
//! settings of the providers put in where they stand.
//!
//! It judges the form. Names that do not resolve, shares that do not sum to 100% and the like are found by `handover lint` only.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::field::{Field, Items, Raw, Section};
use super::syntax::{Day, File, Moment, TimeOfDay};
use crate::model::TargetKind;

/// What a name of a facility, service, member and so on looks like.
pub(super) const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";

/// What the keys of a section look like: names, or the domain names of zones.
const KEY: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";

/// What a provider takes as `settings`.
#[derive(Clone, Debug)]
pub struct ProviderSchema {
    /// The provider.
    pub provider: &'static str,
    /// The kind of targets that it speaks to.
    pub kind: TargetKind,
    /// JSON Schema of the settings of one target: an object whose keys are described.
    pub settings: Value,
}

/// Where the settings of a kind of target stand in the file.
struct Site {
    section: &'static str,
    kind: TargetKind,
    /// The provider of an entry that names none.
    usual: &'static str,
    /// The key under which the targets stand, where an entry holds several: their settings are put over the entry's.
    targets: Option<&'static str>,
    /// Whether the settings are keys of the entry itself.
    flat: bool,
}

const SITES: [Site; 6] = {
    const fn site(
        section: &'static str,
        kind: TargetKind,
        usual: &'static str,
        targets: Option<&'static str>,
        flat: bool,
    ) -> Site {
        Site { section, kind, usual, targets, flat }
    }
    [
        site("zones", TargetKind::NameServer, "rfc2136", Some("servers"), false),
        site("proxies", TargetKind::Proxy, "haproxy", None, false),
        site("services", TargetKind::Server, "http", Some("servers"), false),
        site("databases", TargetKind::Member, "postgresql", Some("members"), false),
        site("poolers", TargetKind::Pooler, "pgbouncer", None, false),
        site("jobs", TargetKind::Job, "command", None, true),
    ]
};

/// The JSON Schema of the language, with the settings of these providers.
pub fn schema(providers: &[ProviderSchema]) -> Value {
    let mut settings = SchemaSettings::draft07();
    // Editors show what is written in place; nothing in the language is recursive.
    settings.inline_subschemas = true;
    let formats = RecursiveTransform(|schema: &mut Schema| {
        // `uint32` and the like are words of OpenAPI; the bounds stand there as well.
        schema.remove("format");
    });
    let mut schema = settings.with_transform(formats).into_generator().into_root_schema_for::<File>().to_value();
    schema["title"] = "topology of handover".into();
    for site in &SITES {
        let entry = &mut schema["properties"][site.section]["additionalProperties"];
        let providers: Vec<&ProviderSchema> = providers.iter().filter(|provider| provider.kind == site.kind).collect();
        entry["properties"]["provider"]["enum"] = providers.iter().map(|provider| provider.provider).collect();
        entry["properties"]["provider"]["default"] = site.usual.into();
        entry["allOf"] = providers.into_iter().map(|provider| site.branch(provider)).collect();
    }
    schema
}

impl Site {
    /// What an entry with this provider must look like, beyond what all entries must.
    fn branch(&self, provider: &ProviderSchema) -> Value {
        let mut chosen = json!({ "properties": { "provider": { "const": provider.provider } } });
        if provider.provider != self.usual {
            chosen["required"] = json!(["provider"]);
        }
        let then = match self.targets {
            _ if self.flat => provider.settings.clone(),
            None => {
                let needed = provider.settings.get("required").is_some();
                let mut then = json!({ "properties": { "settings": provider.settings } });
                if needed {
                    then["required"] = json!(["settings"]);
                }
                then
            }
            Some(targets) => {
                // What the one does not say, the other may.
                let mut part = provider.settings.clone();
                part.as_object_mut().map(|part| part.remove("required"));
                let own = json!({ "properties": { "settings": part } });
                json!({ "properties": { "settings": part, targets: { "additionalProperties": own } } })
            }
        };
        // The entry itself refuses unknown keys.
        let then = match then {
            Value::Object(then) if self.flat => then
                .into_iter()
                .filter(|(key, _)| key == "properties" || key == "required")
                .collect::<Map<_, _>>()
                .into(),
            then => then,
        };
        json!({ "if": chosen, "then": then })
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }

    /// Keys may be absent unless they are marked as required.
    fn _schemars_private_is_option() -> bool {
        true
    }
}

impl<T: JsonSchema> JsonSchema for Section<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Section_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": KEY },
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}

impl<T: JsonSchema> JsonSchema for Items<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Items_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>() })
    }
}

impl JsonSchema for Raw {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Settings".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

macro_rules! texts {
    ($($name:ident: $pattern:literal, $about:literal;)*) => {$(
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $about })
            }
        }
    )*};
}

texts! {
    Day: "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "A date such as `2026-10-04`.";
    Moment: "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2})?([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)", "A date and time with offset such as `2026-12-20T00:00-07:00`.";
    TimeOfDay: "^([01][0-9]|2[0-3]):[0-5][0-9]$", "A time of the day such as `02:00`.";
}
