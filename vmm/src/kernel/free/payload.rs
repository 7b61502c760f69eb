//! The kernel inside a bzImage, unpacked on the host (Linux, Documentation/arch/x86/boot.rst).

use std::io::{Cursor, Read};

/// What a bzImage's setup header says of the kernel in it.
const HEADER_MAGIC: (usize, &[u8; 4]) = (0x202, b"HdrS");
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first protocol that has a payload's place.
const PROTOCOL: (usize, u16) = (0x206, 0x0208);
/// A kernel is not larger than this when it is unpacked.
const LARGEST: u64 = 1 << 30;

/// Why there is no kernel in a file.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is cut short.
    #[error("a bzImage whose {what} ends at byte {end:#x} of a file of {len:#x}: it is cut short")]
    Truncated {
        /// What lies beyond its end.
        what: &'static str,
        /// Where that ends.
        end: usize,
        /// The file's length.
        len: usize,
    },
    /// Of an older boot protocol.
    #[error("a bzImage of boot protocol {major}.{minor:02}; 2.08 or later is needed")]
    Protocol {
        /// Its major number.
        major: u8,
        /// Its minor number.
        minor: u8,
    },
    /// Packed in a way that is not known.
    #[error("a bzImage packed with {0}; zstd, lz4, gzip, xz and lzma are known")]
    Packed(String),
    /// The packed kernel is damaged.
    #[error("unpacking its {packed} payload failed: {error}")]
    Damaged {
        /// How it is packed.
        packed: &'static str,
        /// What the decompressor says.
        error: String,
    },
}

/// Whether the file is a bzImage.
#[must_use]
pub fn is_bz_image(file: &[u8]) -> bool {
    let (at, magic) = HEADER_MAGIC;
    file.get(at..at + magic.len()) == Some(magic)
}

fn word<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], PayloadError> {
    let bytes = file.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(PayloadError::Truncated { what: "setup header", end: at + N, len: file.len() })
}

/// The kernel that is packed in a bzImage: an ELF file, if all is well.
///
/// # Errors
/// What is wrong with the file.
pub fn unpack(file: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let (at, least) = PROTOCOL;
    let protocol = u16::from_le_bytes(word(file, at)?);
    if protocol < least {
        let [minor, major] = protocol.to_le_bytes();
        return Err(PayloadError::Protocol { major, minor });
    }
    let [sectors] = word(file, SETUP_SECTORS)?;
    let sectors = if sectors == 0 { 4 } else { usize::from(sectors) };
    let offset = u32::from_le_bytes(word(file, PAYLOAD_OFFSET)?) as usize;
    let length = u32::from_le_bytes(word(file, PAYLOAD_LENGTH)?) as usize;
    let begin = (sectors + 1) * 512 + offset;
    let end = begin + length;
    let payload = file.get(begin..end).ok_or(PayloadError::Truncated {
        what: "packed kernel",
        end,
        len: file.len(),
    })?;
    decompress(payload)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    // What the kernel's build appends, the size of what comes out, no decompressor may stumble over.
    let (packed, result) = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", zstd(payload)),
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => ("lz4", lz4(blocks)),
        [0x1f, 0x8b, ..] => ("gzip", read(flate2::read::GzDecoder::new(payload))),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            ("xz", read(lzma_rust2::XzReader::new(Cursor::new(payload), false)))
        }
        [0x5d, 0, 0, ..] => ("lzma", lzma(payload)),
        [0x7f, b'E', b'L', b'F', ..] => return Ok(payload.to_vec()),
        [b'B', b'Z', b'h', ..] => return Err(PayloadError::Packed("bzip2".into())),
        [0x89, b'L', b'Z', b'O', ..] => return Err(PayloadError::Packed("lzo".into())),
        other => {
            let first = &other[..other.len().min(4)];
            return Err(PayloadError::Packed(format!("something that begins {first:02x?}")));
        }
    };
    result.map_err(|error| PayloadError::Damaged { packed, error })
}

/// All that comes out, as far as a kernel may be large.
fn read(from: impl Read) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut out).map_err(|error| error.to_string())?;
    if out.len() as u64 > LARGEST {
        return Err(format!("more than {LARGEST} bytes come out"));
    }
    Ok(out)
}

fn zstd(payload: &[u8]) -> Result<Vec<u8>, String> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(payload);
    read(decoder.map_err(|error| error.to_string())?)
}

fn lzma(payload: &[u8]) -> Result<Vec<u8>, String> {
    let reader = lzma_rust2::LzmaReader::new_mem_limit(Cursor::new(payload), u32::MAX, None);
    read(reader.map_err(|error| error.to_string())?)
}

/// LZ4's legacy frame: blocks, each with its packed size before it and 8 MiB unpacked, but the last.
fn lz4(mut blocks: &[u8]) -> Result<Vec<u8>, String> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    while let Some((size, rest)) = blocks.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        // The unpacked size, which the kernel's build appends, ends the stream.
        if size == out.len() && rest.is_empty() {
            break;
        }
        let block = rest.get(..size).ok_or_else(|| format!("a block of {size:#x} bytes is cut"))?;
        let unpacked =
            lz4_flex::block::decompress(block, BLOCK).map_err(|error| error.to_string())?;
        out.extend(unpacked);
        if out.len() as u64 > LARGEST {
            return Err(format!("more than {LARGEST} bytes come out"));
        }
        blocks = &rest[size..];
    }
    Ok(out)
}
