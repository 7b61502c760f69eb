//! The shape of a profile file.

use super::MOST_SLOTS;
use super::schema::RegisterName;
use crate::suggest::suggest;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use toml::Spanned;

/// What is known of a kernel: what its functions promise, where its current task is, and what is stale by
/// design. Each line has its reason.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Stalemate profile")]
pub(super) struct RawProfile {
    /// What kernels it is of, in one line.
    #[schemars(with = "String")]
    pub summary: Spanned<String>,
    /// A kernel without this symbol is none of the profile's.
    pub symbol: String,
    /// A kernel without these words on its command line is none of the profile's.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// Where a CPU's current task is.
    #[serde(default)]
    #[schemars(with = "Vec<RawCurrent>")]
    pub current: Vec<Spanned<RawCurrent>>,
    /// The mask of user PCIDs that are to be flushed when they are next loaded.
    #[schemars(with = "Option<RawMark>")]
    pub mark: Option<Spanned<RawMark>>,
    /// Whether a CPU runs a kernel thread on the tables of the task before, a byte that is 1 while it does.
    #[schemars(with = "Option<RawCurrent>")]
    pub lazy: Option<Spanned<RawCurrent>>,
    /// Flush primitives.
    #[serde(default)]
    #[schemars(with = "Vec<RawPrimitive>")]
    pub primitive: Vec<Spanned<RawPrimitive>>,
    /// The array of descriptors of frames, by whose addresses `frees` names frames.
    #[schemars(with = "Option<RawDescriptors>")]
    pub descriptors: Option<Spanned<RawDescriptors>>,
    /// Functions that give frames back.
    #[serde(default)]
    #[schemars(with = "Vec<RawFrees>")]
    pub frees: Vec<Spanned<RawFrees>>,
    /// Functions that a task calls when it has done what it was in the middle of.
    #[serde(default)]
    #[schemars(with = "Vec<RawEnds>")]
    pub operation_ends: Vec<Spanned<RawEnds>>,
    /// Where the kernel maps all memory: that a frame is mapped there means nothing.
    #[schemars(with = "Option<RawArea>")]
    pub direct_map: Option<Spanned<RawArea>>,
    /// Addresses whose frames may be given back before they are flushed.
    #[serde(default)]
    #[schemars(with = "Vec<RawArea>")]
    pub stale_by_design: Vec<Spanned<RawArea>>,
}

/// Where the current task is, or whether a CPU is lazy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "current")]
pub(super) struct RawCurrent {
    /// The versions that it is true of: a range either end of which may be left out, `6.1..6.12`, or one
    /// version; all without it.
    #[schemars(with = "Option<String>")]
    pub kernels: Option<Spanned<String>>,
    /// The per-CPU variable.
    pub percpu: String,
    /// How far into it; at its begin without it.
    #[schemars(with = "Option<RawField>")]
    pub field: Option<Spanned<RawField>>,
    /// What in the kernel makes it true.
    #[schemars(with = "String")]
    pub why: Spanned<String>,
}

/// The mask of user PCIDs that are to be flushed when they are next loaded.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawMark {
    /// The versions that it is true of: a range either end of which may be left out, `6.1..6.12`, or one
    /// version; all without it.
    #[schemars(with = "Option<String>")]
    pub kernels: Option<Spanned<String>>,
    /// The per-CPU variable.
    pub percpu: String,
    /// How far into it; at its begin without it.
    #[schemars(with = "Option<RawField>")]
    pub field: Option<Spanned<RawField>>,
    /// Slots for ASIDs that a CPU has: bits of the mask.
    #[schemars(with = "u16", range(min = 1, max = MOST_SLOTS))]
    pub slots: Spanned<u16>,
    /// What in the kernel makes it true.
    #[schemars(with = "String")]
    pub why: Spanned<String>,
}

/// A flush primitive.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "primitive")]
pub(super) struct RawPrimitive {
    /// The versions that it is true of: a range either end of which may be left out, `6.1..6.12`, or one
    /// version; all without it.
    #[schemars(with = "Option<String>")]
    pub kernels: Option<Spanned<String>>,
    /// The function.
    pub symbol: String,
    /// What it has flushed when it returns.
    pub promises: Promise,
    /// The address of a pointer to the root of the address space, for a `range`.
    #[schemars(with = "Option<RawValue>")]
    pub space: Option<Spanned<RawValue>>,
    /// The first address, for all but `everything`.
    #[schemars(with = "Option<RawValue>")]
    pub start: Option<Spanned<RawValue>>,
    /// The first address after it, for a `range` and a `kernel-range`.
    #[schemars(with = "Option<RawValue>")]
    pub end: Option<Spanned<RawValue>>,
    /// What it promises is true of one CPU alone.
    #[serde(default)]
    pub one_cpu: bool,
    /// What in the kernel makes it true.
    #[schemars(with = "String")]
    pub why: Spanned<String>,
}

/// What a flush primitive is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(super) enum Promise {
    /// Addresses of one address space, on every CPU.
    Range,
    /// Addresses of the kernel, on every CPU.
    KernelRange,
    /// One page of the kernel, on the CPU that it is called on.
    KernelPageHere,
    /// All that is cached.
    Everything,
}

/// The array of descriptors of frames.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawDescriptors {
    /// The versions that it is true of: a range either end of which may be left out, `6.1..6.12`, or one
    /// version; all without it.
    #[schemars(with = "Option<String>")]
    pub kernels: Option<Spanned<String>>,
    /// The variable that holds the address of the array.
    pub base: String,
    /// Bytes of a descriptor.
    #[schemars(with = "u64", range(min = 1))]
    pub size: Spanned<u64>,
    /// What in the kernel makes it true.
    #[schemars(with = "String")]
    pub why: Spanned<String>,
}

/// A function that gives frames back.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "frees")]
pub(super) struct RawFrees {
    /// The versions that it is true of: a range either end of which may be left out, `6.1..6.12`, or one
    /// version; all without it.
    #[schemars(with = "Option<String>")]
    pub kernels: Option<Spanned<String>>,
    /// The function.
    pub symbol: String,
    /// The address of the first frame's descriptor.
    #[schemars(with = "RawValue")]
    pub page: Spanned<RawValue>,
    /// The binary logarithm of the number of frames; one frame without it.
    #[schemars(with = "Option<RawValue>")]
    pub order: Option<Spanned<RawValue>>,
    /// What in the kernel makes it true.
    #[schemars(with = "String")]
    pub why: Spanned<String>,
}

/// A function that ends what its task was in the middle of.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ends")]
pub(super) struct RawEnds {
    /// The versions that it is true of: a range either end of which may be left out, `6.1..6.12`, or one
    /// version; all without it.
    #[schemars(with = "Option<String>")]
    pub kernels: Option<Spanned<String>>,
    /// The function.
    pub symbol: String,
    /// What in the kernel makes it true.
    #[schemars(with = "String")]
    pub why: Spanned<String>,
}

/// A range of addresses.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "area")]
pub(super) struct RawArea {
    /// The versions that it is true of: a range either end of which may be left out, `6.1..6.12`, or one
    /// version; all without it.
    #[schemars(with = "Option<String>")]
    pub kernels: Option<Spanned<String>>,
    /// The first address, or the variable that holds it.
    #[schemars(with = "RawAddress")]
    pub start: Spanned<RawAddress>,
    /// Bytes.
    #[schemars(with = "u64", range(min = 1))]
    pub size: Spanned<u64>,
    /// What in the kernel makes it true.
    #[schemars(with = "String")]
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
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "pointed")]
pub(super) struct RawPointed {
    #[serde(deserialize_with = "register")]
    /// The register that points to it.
    #[schemars(with = "RegisterName")]
    pub register: usize,
    /// The member.
    pub field: RawField,
}

/// An address, or the variable that holds it.
#[derive(Clone, Debug)]
pub(super) enum RawAddress {
    At(u64),
    ValueOf(String),
}

/// The general-purpose registers, by their numbers in instructions.
pub(super) const REGISTERS: [&str; 16] = [
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
