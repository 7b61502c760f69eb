//! Files that are given as kernels: what is wrong with them is said, whatever they hold.

use super::kernel::kernel;
use super::scripts::{Lacks, tasks};
use stalemate::kernel::free::{Boot, Free, FreeError, Hooks, KernelImage, Settings, Turns};
use std::panic::catch_unwind;

/// The small kernel.
pub fn elf() -> Vec<u8> {
    kernel(&tasks(Lacks::Nothing))
}

const SETUP: usize = 2 * 512;

/// A bzImage that has this payload.
pub fn bz_image(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; SETUP];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    // How long the header is: up to where the protocol's last field ends.
    put(0x201, &[0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x238, &100_u32.to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Reads the file as a kernel, and puts it into memory if it is one; what is wrong with it.
fn loaded(file: &[u8]) -> Result<(), String> {
    let kernel = KernelImage::parse(file).map_err(|error| error.to_string())?;
    let settings = Settings {
        features: stalemate::scenario::CPUS[0].features,
        model: super::MODEL,
        ram: 32 << 20,
        ticks: 1,
        cpus: 1,
        turns: Turns::default(),
        instructions: 0,
        lenient: false,
    };
    match Free::new(
        &Boot { kernel: &kernel, initrd: &[], command_line: "" },
        settings,
        Hooks::default(),
    ) {
        Ok(_) => Ok(()),
        Err(FreeError::Kernel(error)) => Err(error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

/// Deterministic numbers below a bound.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn a_bz_image_is_unpacked_and_loaded_like_the_kernel_in_it() {
    let elf = elf();
    assert_eq!(loaded(&elf), Ok(()));
    for payload in [elf.clone(), gzip(&elf)] {
        let kernel = KernelImage::parse(&bz_image(&payload)).expect("a kernel");
        assert!(*kernel.elf == *elf);
        assert_eq!(kernel.header.map(|header| header.cmdline_size), Some(100));
        assert_eq!(loaded(&bz_image(&payload)), Ok(()));
    }
}

#[test]
fn a_kernel_cut_short_anywhere_is_refused() {
    let elf = elf();
    let images = [elf.clone(), bz_image(&elf), bz_image(&gzip(&elf))];
    let mut numbers = Numbers(1);
    for image in &images {
        let headers = 0..1200.min(image.len());
        let anywhere = (0..100).map(|_| numbers.below(image.len())).collect::<Vec<_>>();
        for len in headers.step_by(7).chain(anywhere) {
            let said = loaded(&image[..len]).expect_err("a part of a kernel is none");
            assert!(!said.is_empty());
        }
    }
}

#[test]
fn whatever_bits_of_a_kernel_are_wrong_it_is_loaded_or_refused() {
    let elf = elf();
    let headers = 64 + 56 * usize::from(elf[56]);
    let images = [
        (elf.clone(), headers),
        (bz_image(&elf), SETUP + headers),
        (bz_image(&gzip(&elf)), SETUP + 64),
    ];
    let mut numbers = Numbers(2);
    let (mut well, mut refused) = (0, 0);
    for (image, headers) in &images {
        for round in 0..400 {
            let mut image = image.clone();
            for _ in 0..1 + round % 3 {
                image[numbers.below(*headers)] ^= 1 << numbers.below(8);
            }
            match catch_unwind(|| loaded(&image)) {
                Ok(Ok(())) => well += 1,
                Ok(Err(_)) => refused += 1,
                Err(_) => panic!("round {round}"),
            }
        }
    }
    assert!(well > 100 && refused > 100, "{well} loaded, {refused} refused");
}
