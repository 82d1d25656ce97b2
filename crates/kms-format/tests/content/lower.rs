//! A lower file in memory that remembers what was not synced, and the states that a power cut may leave of it.
//!
//! The model is as weak as FORMAT.md allows: an aligned page is written whole or not at all; beyond that each page may be what
//! it was at the last sync or any of its versions since, whatever happened to the others, and the size may be any of its
//! values since.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use kms_format::content::Lower;

pub(crate) const PAGE: usize = 4096;
pub(crate) type Page = Rc<[u8; PAGE]>;

/// Nothing here fails.
#[derive(Debug)]
pub(crate) enum Never {}

/// What a lower file holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    pub(crate) pages: BTreeMap<u64, Page>,
    pub(crate) size: u64,
}

/// What happened since the last sync.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Page(u64, Page),
    Size(u64),
}

#[derive(Debug, Clone, Default)]
struct State {
    now: Image,
    durable: Image,
    events: Vec<Event>,
    syncs: usize,
    /// What was durable, and what happened since, before each sync; if asked for.
    epochs: Option<Vec<Epoch>>,
    syncs_ignored: bool,
}

/// What was durable at some moment, and what happened since.
pub(crate) type Epoch = (Image, Vec<Event>);

/// The file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Rc<RefCell<State>>);

impl Image {
    fn page(&self, index: u64) -> Page {
        self.pages
            .get(&index)
            .cloned()
            .unwrap_or_else(|| Rc::new([0; PAGE]))
    }

    fn put(&mut self, index: u64, page: Page) {
        if page.iter().all(|byte| *byte == 0) {
            self.pages.remove(&index);
        } else {
            self.pages.insert(index, page);
        }
    }

    /// What lies behind the end is zero once the file grows over it.
    fn cut(&mut self) {
        let end = self.size / PAGE as u64;
        self.pages.split_off(&(end + 1));
        let keep = (self.size % PAGE as u64) as usize;
        if let Some(page) = self.pages.get(&end).cloned() {
            let mut page = *page;
            page[keep..].fill(0);
            self.put(end, Rc::new(page));
        }
    }
}

impl Memory {
    pub(crate) fn of(image: Image) -> Memory {
        let mut image = image;
        image.cut();
        Memory(Rc::new(RefCell::new(State {
            now: image.clone(),
            durable: image,
            ..State::default()
        })))
    }

    /// As somebody finds it who was killed: what happened since the last sync is there, but not durable.
    pub(crate) fn killed(durable: &Image, events: &[Event]) -> Memory {
        let lower = Memory::of(durable.clone());
        events.iter().for_each(|event| lower.change(event.clone()));
        lower
    }

    /// What happened since the last sync, and how often there was one.
    pub(crate) fn events(&self) -> (Vec<Event>, usize) {
        let state = self.0.borrow();
        (state.events.clone(), state.syncs)
    }

    /// Another file with what is in this one now.
    pub(crate) fn clone_of_now(&self) -> Memory {
        Memory::of(self.0.borrow().now.clone())
    }

    /// Which pages are not holes.
    pub(crate) fn pages(&self) -> Vec<u64> {
        self.0.borrow().now.pages.keys().copied().collect()
    }

    pub(crate) fn durable(&self) -> Image {
        self.0.borrow().durable.clone()
    }

    /// From now on what each sync ends is kept.
    pub(crate) fn keep_epochs(&self) {
        self.0.borrow_mut().epochs = Some(Vec::new());
    }

    pub(crate) fn take_epochs(&self) -> Vec<Epoch> {
        self.0.borrow_mut().epochs.take().unwrap_or_default()
    }

    /// From now on a sync makes nothing durable.
    pub(crate) fn ignore_syncs(&self) {
        self.0.borrow_mut().syncs_ignored = true;
    }

    fn change(&self, event: Event) {
        let state = &mut *self.0.borrow_mut();
        apply(&mut state.now, &event);
        state.events.push(event);
    }

    fn set_page(&self, index: u64, page: [u8; PAGE]) {
        self.change(Event::Page(index, Rc::new(page)));
    }
}

pub(crate) fn apply(image: &mut Image, event: &Event) {
    match event {
        Event::Page(index, page) => image.put(*index, Rc::clone(page)),
        Event::Size(size) => image.size = *size,
    }
}

impl Lower for Memory {
    type Error = Never;

    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize, Never> {
        let state = self.0.borrow();
        let end = state.now.size.min(offset + out.len() as u64);
        let mut at = offset;
        while at < end {
            let (index, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let count = (PAGE - within).min((end - at) as usize);
            let page = state.now.page(index);
            let to = (at - offset) as usize;
            out[to..to + count].copy_from_slice(&page[within..within + count]);
            at += count as u64;
        }
        Ok(end.saturating_sub(offset) as usize)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Never> {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            let (index, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let count = (PAGE - within).min((end - at) as usize);
            let mut page = *self.0.borrow().now.page(index);
            let from = (at - offset) as usize;
            page[within..within + count].copy_from_slice(&bytes[from..from + count]);
            self.set_page(index, page);
            at += count as u64;
            // A killed write ends at a page border, and the size with it.
            let size = self.0.borrow().now.size;
            if at > size {
                self.change(Event::Size(at));
            }
        }
        Ok(())
    }

    fn write_pair_at(&self, first: &[u8], second: &[u8], offset: u64) -> Result<(), Never> {
        self.write_at(&[first, second].concat(), offset)
    }

    fn size(&self) -> Result<u64, Never> {
        Ok(self.0.borrow().now.size)
    }

    fn set_size(&self, size: u64) -> Result<(), Never> {
        let before = self.0.borrow().now.size;
        if size == before {
            return Ok(());
        }
        self.change(Event::Size(size));
        if size < before {
            let mut cut = self.0.borrow().now.clone();
            cut.cut();
            let gone: Vec<u64> = {
                let state = self.0.borrow();
                let from = size / PAGE as u64;
                state.now.pages.range(from..).map(|(at, _)| *at).collect()
            };
            for index in gone {
                let page = *cut.page(index);
                if page != *self.0.borrow().now.page(index) {
                    self.set_page(index, page);
                }
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Never> {
        let state = &mut *self.0.borrow_mut();
        if state.syncs_ignored {
            return Ok(());
        }
        if let Some(epochs) = &mut state.epochs {
            epochs.push((state.durable.clone(), state.events.clone()));
        }
        state.durable = state.now.clone();
        state.events.clear();
        state.syncs += 1;
        Ok(())
    }

    fn reserve(&self, _offset: u64, _length: u64) -> Result<bool, Never> {
        Ok(true)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<bool, Never> {
        let end = (offset + length).min(self.0.borrow().now.size.next_multiple_of(PAGE as u64));
        let mut at = offset;
        while at < end {
            let (index, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let count = (PAGE - within).min((end - at) as usize);
            let mut page = *self.0.borrow().now.page(index);
            page[within..within + count].fill(0);
            self.set_page(index, page);
            at += count as u64;
        }
        Ok(true)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>, Never> {
        let state = self.0.borrow();
        let found = state.now.pages.range(offset / PAGE as u64..).next();
        let found = found.map(|(index, _)| (index * PAGE as u64).max(offset));
        Ok(found.filter(|at| *at < state.now.size))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, Never> {
        let state = self.0.borrow();
        if offset >= state.now.size {
            return Ok(None);
        }
        let mut index = offset / PAGE as u64;
        while state.now.pages.contains_key(&index) {
            index += 1;
        }
        let found = (index * PAGE as u64).max(offset);
        Ok(Some(found.min(state.now.size)))
    }
}
