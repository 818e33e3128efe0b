//! Reads the pages of a checkpoint's file without the library that wrote them.
//!
//! The library does not open a file with a single damaged page. Its format (version 3, described in its
//! `docs/design.md`) allows reading the other pages: every reference to a page has the page's checksum, from
//! the head of the file on. A page with the right checksum is as it was written. Everything that a damaged
//! page led to is lost. A page with one flipped bit is repaired: no other page of its length has its
//! checksum.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_128;

/// A reference to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// The region, the place in the region, and the size, in one number.
    page: u64,
    checksum: u128,
}

/// Counts of the pages that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// The number of pages that could be read.
    pub(crate) pages: u64,
    /// The number of these in which a bit had flipped.
    pub(crate) mended: u64,
    /// The number of pages that could not be read. The pages that they led to are not counted.
    pub(crate) lost: u64,
}

/// The positions of pages in the file.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    page_bytes: u64,
    /// The number of pages before those of a region.
    head_pages: u64,
    region_pages: u64,
}

/// The file, and the counts of what was read.
#[derive(Debug)]
pub(super) struct Pages {
    file: File,
    len: u64,
    geometry: Geometry,
    /// The number of damaged pages that may still be tried for repair.
    attempts_left: u32,
    pub(super) tally: Tally,
}

const HEAD_BYTES: usize = 320;
const SLOTS_AT: usize = 64;
const SLOT_BYTES: usize = 128;
const SLOT_CHECKSUM_AT: usize = 112;
/// The format version of the library that is supported.
pub(super) const VERSION: u8 = 3;
const REFERENCE_BYTES: usize = 24;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// The library's page size.
const PAGE_BYTES: u64 = 4096;
/// The largest size of a page that is repaired. Larger ones take too long.
const MENDED_BYTES_MAX: usize = 8192;
/// The limit of repairs per file. If more pages are damaged, the disk has lost whole pages, which can't be
/// repaired.
const ATTEMPTS_MAX: u32 = 64;
/// The largest page order. The library limits the size of its rows.
const ORDER_MAX: u64 = 20;

impl Pages {
    /// Opens the file and finds the list of tables of its last commit. `None` if no commit can be read.
    pub(super) fn open(path: &Path) -> io::Result<Option<(Pages, Reference)>> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut head = [0; HEAD_BYTES];
        if len < HEAD_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut head, 0)?;
        let written = Geometry {
            page_bytes: word(&head, 12).into(),
            head_pages: word(&head, 16).into(),
            region_pages: word(&head, 20).into(),
        };
        let geometry = written;
        let mut pages = Pages { file, len, geometry, attempts_left: ATTEMPTS_MAX, tally: Tally::default() };
        let slots = slots(&head);
        // The head has no checksum. In a file with one region, only the number of pages before it matters.
        for head_pages in [written.head_pages, 0, 1] {
            for page_bytes in [written.page_bytes, PAGE_BYTES] {
                let is_one_region = written.region_pages == 0 || written.region_pages * page_bytes >= len;
                let region_pages = if is_one_region { len / page_bytes.max(1) } else { written.region_pages };
                pages.geometry = Geometry { page_bytes, head_pages, region_pages };
                for &root in &slots {
                    if pages.geometry.is_possible() && pages.page(root)?.is_some() {
                        pages.tally = Tally::default();
                        return Ok(Some((pages, root)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The format version of a file whose intact commits all have another format than the supported one.
    pub(super) fn other_format(path: &Path) -> io::Result<Option<u8>> {
        let file = File::open(path)?;
        let mut head = [0; HEAD_BYTES];
        if file.metadata()?.len() < HEAD_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut head, 0)?;
        let mut formats = [SLOTS_AT, SLOTS_AT + SLOT_BYTES]
            .map(|at| &head[at..at + SLOT_BYTES])
            .into_iter()
            .filter_map(|slot| {
                let is_sound = slot_checksum(slot) == Some(xxh3_128(&slot[..SLOT_CHECKSUM_AT]));
                is_sound.then_some(slot[0])
            });
        let first = formats.next().filter(|&format| format != VERSION);
        Ok(first.filter(|_| formats.all(|format| format != VERSION)))
    }

    /// Passes on all readable rows below a page, in the order of their keys.
    pub(super) fn walk(
        &mut self,
        root: Reference,
        mut each: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut stack = vec![root];
        // No tree has more pages than the file.
        let mut left = self.len / PAGE_BYTES + 1;
        while let Some(reference) = stack.pop() {
            left = match left.checked_sub(1) {
                Some(left) => left,
                None => return Ok(()),
            };
            let Some(page) = self.page(reference)? else {
                self.tally.lost += 1;
                continue;
            };
            self.tally.pages += 1;
            if page[0] == LEAF {
                for (key, value) in rows(&page) {
                    each(key, value)?;
                }
            } else {
                stack.extend(children(&page).rev());
            }
        }
        Ok(())
    }

    /// A page as it was written, possibly after a repair.
    fn page(&mut self, reference: Reference) -> io::Result<Option<Vec<u8>>> {
        let Some((from, bytes)) = self.geometry.place(reference.page) else { return Ok(None) };
        if from.checked_add(bytes).is_none_or(|to| to > self.len) {
            return Ok(None);
        }
        let mut page = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        // If the disk can't read one place, the rest must still be read.
        if self.file.read_exact_at(&mut page, from).is_err() {
            return Ok(None);
        }
        if checksum_of(&page) == Some(reference.checksum) {
            return Ok(Some(page));
        }
        if page.len() > MENDED_BYTES_MAX || self.attempts_left == 0 {
            return Ok(None);
        }
        self.attempts_left -= 1;
        if mend(&mut page, |page| checksum_of(page) == Some(reference.checksum)) {
            self.tally.mended += 1;
            return Ok(Some(page));
        }
        Ok(None)
    }
}

impl Geometry {
    fn is_possible(self) -> bool {
        self.page_bytes.is_power_of_two()
            && (512..=65_536).contains(&self.page_bytes)
            && self.head_pages < 1 << 20
            && self.region_pages < 1 << 32
    }

    /// The offset and length of a page.
    fn place(self, page: u64) -> Option<(u64, u64)> {
        let order = page >> 59;
        if order > ORDER_MAX {
            return None;
        }
        let index = page & (0x000F_FFFF >> order);
        let region = page >> 20 & 0x000F_FFFF;
        let bytes = self.page_bytes << order;
        let region_bytes = (self.head_pages + self.region_pages) * self.page_bytes;
        let in_region = self.head_pages * self.page_bytes + index * bytes;
        Some((self.page_bytes + region.checked_mul(region_bytes)? + in_region, bytes))
    }
}

/// The roots of the readable commits of the head, the newer one first.
fn slots(head: &[u8; HEAD_BYTES]) -> Vec<Reference> {
    let mut slots = Vec::new();
    for at in [SLOTS_AT, SLOTS_AT + SLOT_BYTES] {
        let mut slot = head[at..at + SLOT_BYTES].to_vec();
        let is_sound = |slot: &[u8]| {
            slot[0] == VERSION && slot_checksum(slot) == Some(xxh3_128(&slot[..SLOT_CHECKSUM_AT]))
        };
        if (is_sound(&slot) || mend(&mut slot, is_sound)) && slot[1] != 0 {
            let transaction = long(&slot, 104);
            slots.extend(reference(&slot[8..]).map(|root| (transaction, root)));
        }
    }
    slots.sort_unstable_by_key(|&(transaction, _)| std::cmp::Reverse(transaction));
    slots.into_iter().map(|(_, root)| root).collect()
}

/// The checksum that a commit records.
fn slot_checksum(slot: &[u8]) -> Option<u128> {
    slot[SLOT_CHECKSUM_AT..].first_chunk().map(|&sum| u128::from_le_bytes(sum))
}

/// The root of a table, from its row in the list of tables. `None` if the table is empty, or if its rows have
/// fixed lengths.
pub(super) fn root_of(definition: &[u8]) -> Option<Reference> {
    let has_root = *definition.get(9)? != 0;
    let has_fixed_lengths = *definition.get(42)? != 0 || *definition.get(47)? != 0;
    if has_root && !has_fixed_lengths { reference(&definition[10..]) } else { None }
}

fn reference(bytes: &[u8]) -> Option<Reference> {
    let (page, rest) = bytes.split_first_chunk::<8>()?;
    let checksum = rest.first_chunk::<16>()?;
    Some(Reference { page: u64::from_le_bytes(*page), checksum: u128::from_le_bytes(*checksum) })
}

/// Flips each bit in turn until the bytes are intact. Returns `false`, with the bytes unchanged, if that does
/// not help.
fn mend(bytes: &mut [u8], is_sound: impl Fn(&[u8]) -> bool) -> bool {
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if is_sound(bytes) {
            return true;
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    false
}

/// The checksum over the used part of a page. `None` if the bytes do not look like a page.
fn checksum_of(page: &[u8]) -> Option<u128> {
    let count = count_of(page);
    let last = count.checked_sub(1)?;
    let ends_at = match page[0] {
        LEAF => 4 + 4 * count,
        BRANCH => 8 + (count + 1) * REFERENCE_BYTES,
        _ => return None,
    };
    let end = usize::try_from(
        page.get(ends_at + 4 * last..)?.first_chunk::<4>().map(|&end| u32::from_le_bytes(end))?,
    );
    Some(xxh3_128(page.get(..end.ok()?)?))
}

/// The number of rows of a leaf, or of keys of a branch.
fn count_of(page: &[u8]) -> usize {
    page.get(2..4).map_or(0, |count| usize::from(u16::from_le_bytes([count[0], count[1]])))
}

/// The rows of a leaf. Its checksum must be right.
fn rows(page: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let count = count_of(page);
    let (key_ends, value_ends) = (4, 4 + 4 * count);
    let keys_from = value_ends + 4 * count;
    let end = |ends_at: usize, row: usize| word(page, ends_at + 4 * row) as usize;
    let values_from = end(key_ends, count.saturating_sub(1));
    (0..count).filter_map(move |row| {
        let start = |ends_at, first| if row == 0 { first } else { end(ends_at, row - 1) };
        let key = page.get(start(key_ends, keys_from)..end(key_ends, row))?;
        let value = page.get(start(value_ends, values_from)..end(value_ends, row))?;
        Some((key, value))
    })
}

/// The references of a branch. Its checksum must be right.
fn children(page: &[u8]) -> impl DoubleEndedIterator<Item = Reference> {
    let children = count_of(page) + 1;
    (0..children).filter_map(move |child| {
        let checksum = page.get(8 + 16 * child..)?.first_chunk::<16>()?;
        let number = page.get(8 + 16 * children + 8 * child..)?.first_chunk::<8>()?;
        Some(Reference { page: u64::from_le_bytes(*number), checksum: u128::from_le_bytes(*checksum) })
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&word| u32::from_le_bytes(word))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&long| u64::from_le_bytes(long))
}
