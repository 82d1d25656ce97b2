//! The content of a simulated file, in the cache and on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher};
use std::sync::Arc;

use super::crash::Choose;

const PAGE: u64 = 4096;

type Page = Arc<[u8; PAGE as usize]>;
type Pages = BTreeMap<u64, Page>;

#[derive(Clone, Default)]
pub(super) struct Content {
    /// As readers see it; a missing page is a hole.
    pages: Pages,
    size: u64,
    on_disk: Pages,
    size_on_disk: u64,
    /// What pages were since the last fsync, oldest first.
    dirty: BTreeMap<u64, Vec<Option<Page>>>,
    sizes: Vec<u64>,
    /// Pages that an fsync failed to write: in the cache, and clean as far as the next fsync is concerned.
    stuck: BTreeSet<u64>,
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What readers see.
    pub(super) fn hash(&self, hasher: &mut impl Hasher) {
        (self.size, &self.pages).hash(hasher);
    }

    pub(super) fn blocks(&self) -> i64 {
        self.pages.len() as i64 * 8
    }

    pub(super) fn read(&self, out: &mut [u8], offset: u64) -> usize {
        let end = self.size.min(offset.saturating_add(out.len() as u64));
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE, (at % PAGE) as usize);
            let count = (PAGE - at % PAGE).min(end - at) as usize;
            let start = (at - offset) as usize;
            let part = &mut out[start..start + count];
            match self.pages.get(&page) {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + count]),
                None => part.fill(0),
            }
            at += count as u64;
        }
        end.saturating_sub(offset) as usize
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            let count = (PAGE - at % PAGE).min(end - at) as usize;
            let start = (at - offset) as usize;
            let mut page = self.page(at / PAGE);
            let within = (at % PAGE) as usize;
            page[within..within + count].copy_from_slice(&bytes[start..start + count]);
            self.put(at / PAGE, Some(page));
            at += count as u64;
            // A page at a time: a crash may come in between.
            if at > self.size {
                self.set_size(at);
            }
        }
    }

    pub(super) fn truncate(&mut self, size: u64) {
        if size < self.size {
            let kept = size.div_ceil(PAGE);
            let cut: Vec<_> = self.pages.range(kept..).map(|(page, _)| *page).collect();
            for page in cut {
                self.put(page, None);
            }
            self.zero(size, (kept * PAGE).max(size));
        }
        self.set_size(size);
    }

    /// Zeros in place of content; whole pages become holes.
    pub(super) fn punch(&mut self, offset: u64, length: u64) {
        // As in ext4: what reaches the end of the file takes its last page.
        let end = match offset.saturating_add(length) {
            end if end >= self.size => self.size.next_multiple_of(PAGE),
            end => end,
        };
        if offset >= end {
            return;
        }
        let (first, last) = (offset.next_multiple_of(PAGE), end - end % PAGE);
        if first >= last {
            self.zero(offset, end.min(first));
            self.zero(first.max(offset), end);
            return;
        }
        self.zero(offset, first);
        let inside: Vec<_> = self
            .pages
            .range(first / PAGE..last / PAGE)
            .map(|(page, _)| *page)
            .collect();
        for page in inside {
            self.put(page, None);
        }
        self.zero(last, end);
    }

    /// Allocated, and so data for SEEK_DATA.
    pub(super) fn reserve(&mut self, offset: u64, length: u64) {
        for page in offset / PAGE..offset.saturating_add(length).min(self.size).div_ceil(PAGE) {
            if !self.pages.contains_key(&page) {
                self.put(page, Some([0; PAGE as usize]));
            }
        }
    }

    pub(super) fn seek_data(&self, offset: u64) -> Option<u64> {
        let (page, _) = self.pages.range(offset / PAGE..).next()?;
        let found = (page * PAGE).max(offset);
        (found < self.size).then_some(found)
    }

    pub(super) fn seek_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut page = offset / PAGE;
        while self.pages.contains_key(&page) {
            page += 1;
        }
        Some((page * PAGE).max(offset).min(self.size))
    }

    /// Everything in the cache is on the disk now, but for what an earlier fsync gave up.
    pub(super) fn sync(&mut self) {
        self.sizes.clear();
        self.size_on_disk = self.size;
        let written: Vec<_> = self
            .dirty
            .keys()
            .filter(|page| !self.stuck.contains(page))
            .copied()
            .collect();
        for page in written {
            self.dirty.remove(&page);
            match self.pages.get(&page) {
                Some(bytes) => self.on_disk.insert(page, Arc::clone(bytes)),
                None => self.on_disk.remove(&page),
            };
        }
    }

    /// An fsync failed.
    pub(super) fn give_up(&mut self) {
        self.stuck = self.dirty.keys().copied().collect();
    }

    /// A power cut.
    pub(super) fn crash(&mut self, choose: &mut impl Choose) {
        let mut pages = std::mem::take(&mut self.on_disk);
        for (page, versions) in std::mem::take(&mut self.dirty) {
            let choice = choose.below(versions.len() + 1);
            match versions.into_iter().nth(choice) {
                None => {}
                Some(Some(bytes)) => drop(pages.insert(page, bytes)),
                Some(None) => drop(pages.remove(&page)),
            }
        }
        let choice = choose.below(self.sizes.len() + 1);
        let size = self.sizes.get(choice).copied().unwrap_or(self.size_on_disk);
        // Nothing is behind the end.
        pages.retain(|page, _| page * PAGE < size);
        if let Some(last) = pages.get_mut(&(size / PAGE)) {
            Arc::make_mut(last)[(size % PAGE) as usize..].fill(0);
        }
        *self = Content {
            on_disk: pages.clone(),
            pages,
            size,
            size_on_disk: size,
            ..Content::default()
        };
    }

    fn page(&self, page: u64) -> [u8; PAGE as usize] {
        self.pages
            .get(&page)
            .map_or([0; PAGE as usize], |bytes| **bytes)
    }

    fn put(&mut self, page: u64, bytes: Option<[u8; PAGE as usize]>) {
        let bytes = bytes.map(Arc::new);
        self.stuck.remove(&page);
        self.dirty.entry(page).or_default().push(bytes.clone());
        match bytes {
            Some(bytes) => self.pages.insert(page, bytes),
            None => self.pages.remove(&page),
        };
    }

    fn set_size(&mut self, size: u64) {
        if size != self.size {
            self.size = size;
            self.sizes.push(size);
        }
    }

    /// Within one page.
    fn zero(&mut self, from: u64, to: u64) {
        if from < to && self.pages.contains_key(&(from / PAGE)) {
            let mut page = self.page(from / PAGE);
            let start = (from % PAGE) as usize;
            page[start..start + (to - from) as usize].fill(0);
            self.put(from / PAGE, Some(page));
        }
    }
}
