//! The shape of a profile file.

use crate::suggest::suggest;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use toml::Spanned;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProfile {
    pub summary: Spanned<String>,
    pub symbol: String,
    #[serde(default)]
    pub command_line: Vec<String>,
    #[serde(default)]
    pub current: Vec<Spanned<RawCurrent>>,
    pub mark: Option<Spanned<RawMark>>,
    #[serde(default)]
    pub primitive: Vec<Spanned<RawPrimitive>>,
    pub descriptors: Option<Spanned<RawDescriptors>>,
    #[serde(default)]
    pub frees: Vec<Spanned<RawFrees>>,
    #[serde(default)]
    pub operation_ends: Vec<Spanned<RawEnds>>,
    pub direct_map: Option<Spanned<RawArea>>,
    #[serde(default)]
    pub stale_by_design: Vec<Spanned<RawArea>>,
}

/// Where the current task is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCurrent {
    pub kernels: Option<Spanned<String>>,
    pub percpu: String,
    pub field: Option<Spanned<RawField>>,
    pub why: Spanned<String>,
}

/// The mask of user PCIDs that are to be flushed when they are next loaded.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMark {
    pub kernels: Option<Spanned<String>>,
    pub percpu: String,
    pub field: Option<Spanned<RawField>>,
    pub slots: Spanned<u16>,
    pub why: Spanned<String>,
}

/// A flush primitive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrimitive {
    pub kernels: Option<Spanned<String>>,
    pub symbol: String,
    pub promises: Promise,
    pub space: Option<Spanned<RawValue>>,
    pub start: Option<Spanned<RawValue>>,
    pub end: Option<Spanned<RawValue>>,
    pub why: Spanned<String>,
}

/// What a flush primitive is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Promise {
    Range,
    KernelRange,
    KernelPageHere,
    Everything,
}

/// The array of descriptors of frames.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDescriptors {
    pub kernels: Option<Spanned<String>>,
    pub base: String,
    pub size: Spanned<u64>,
    pub why: Spanned<String>,
}

/// A function that gives frames back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFrees {
    pub kernels: Option<Spanned<String>>,
    pub symbol: String,
    pub page: Spanned<RawValue>,
    pub order: Option<Spanned<RawValue>>,
    pub why: Spanned<String>,
}

/// A function that ends what its task was in the middle of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEnds {
    pub kernels: Option<Spanned<String>>,
    pub symbol: String,
    pub why: Spanned<String>,
}

/// A range of addresses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArea {
    pub kernels: Option<Spanned<String>>,
    pub start: Spanned<RawAddress>,
    pub size: Spanned<u64>,
    pub why: Spanned<String>,
}

/// How far into a structure: in bytes, or by the name of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RawField {
    Offset(u64),
    Member(String, String),
}

/// A register, or what it points to.
#[derive(Clone, Debug)]
pub(super) enum RawValue {
    Register(usize),
    Field(RawPointed),
}

/// A member of the structure that a register points to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPointed {
    #[serde(deserialize_with = "register")]
    pub register: usize,
    pub field: RawField,
}

/// An address, or the variable that holds it.
#[derive(Clone, Debug)]
pub(super) enum RawAddress {
    At(u64),
    ValueOf(String),
}

/// The general-purpose registers, by their numbers in instructions.
const REGISTERS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

fn register_of<E: serde::de::Error>(name: &str) -> Result<usize, E> {
    REGISTERS.iter().position(|known| *known == name).ok_or_else(|| {
        E::custom(format!("`{name}` is no register, expected {}", suggest(name, &REGISTERS)))
    })
}

fn register<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    register_of(&String::deserialize(deserializer)?)
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = RawValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a register, as \"rdi\", or { register = …, field = … }")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<RawValue, E> {
                register_of(name).map(RawValue::Register)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawValue, A::Error> {
                RawPointed::deserialize(MapAccessDeserializer::new(map)).map(RawValue::Field)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for RawField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = RawField;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or \"structure.member\"")
            }
            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<RawField, E> {
                let negative = serde::de::Unexpected::Signed(bytes);
                u64::try_from(bytes)
                    .map(RawField::Offset)
                    .map_err(|_| E::invalid_value(negative, &self))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawField, E> {
                let (of, member) = text
                    .split_once('.')
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
                Ok(RawField::Member(of.to_owned(), member.to_owned()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for RawAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            value_of: String,
        }
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = RawAddress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, as \"0xffffc90000000000\", or { value_of = \"variable\" }")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawAddress, E> {
                let digits = text.strip_prefix("0x").map(|digits| digits.replace('_', ""));
                let address = digits.and_then(|digits| u64::from_str_radix(&digits, 16).ok());
                address
                    .map(RawAddress::At)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawAddress, A::Error> {
                Named::deserialize(MapAccessDeserializer::new(map))
                    .map(|named| RawAddress::ValueOf(named.value_of))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
