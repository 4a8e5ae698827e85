//! Named intermediates of one block: which are alive, and how missing ones are rebuilt.
//!
//! A block is a table of [`Site`]s with one rule each ([`Rules`]). Forward and replay are the same call,
//! [`Tape::materialize`], with other targets: it finds which sites are missing, runs their rules in order,
//! and frees each helper after its last reader. Backward asks for what it reads; what was kept is lent, what
//! was not is rebuilt by the same rules. So a method never restates a formula, and what a method keeps is a
//! [`Policy`], two sets of names.

mod policy;
mod site;

use std::ops::Range;

use mesp_device::{Act, Backend, Class, Elem, Label, View, ViewMut};

pub use policy::{Policy, Saved, SavedAs, Tiles};
pub use site::{Site, SiteSet};

/// How sites are computed.
pub trait Rules<B: Backend> {
    /// What a site is computed from. [`Site::BlockIn`] is given and has none.
    fn parents(&self, site: Site) -> SiteSet;
    /// Computes rows of a site from its parents, which are on the tape, and puts it there. Parents in
    /// `spare` are read by nobody else: their buffers may be taken.
    fn evaluate(&self, be: &mut B, tape: &mut Tape, site: Site, rows: Range<usize>, spare: SiteSet);
    /// Rows and columns of a site that covers `rows` tokens.
    fn shape(&self, site: Site, rows: usize) -> (usize, usize);
    /// How a site is stored.
    fn elem(&self, site: Site) -> Elem;
}

#[derive(Debug)]
struct Slot {
    act: Act,
    /// The token that the buffer's first row belongs to.
    base: usize,
    /// Tokens before this one are computed.
    valid: usize,
}

impl Slot {
    fn holds(&self, rows: &Range<usize>) -> bool {
        self.base <= rows.start && rows.end <= self.valid
    }

    #[track_caller]
    fn view_mut(&mut self, site: Site, rows: &Range<usize>) -> ViewMut<'_> {
        if site == Site::Probs {
            self.act.view_mut()
        } else {
            self.act.rows_mut(rows.start - self.base..rows.end - self.base)
        }
    }
}

/// The intermediates of one block that are alive.
#[derive(Debug, Default)]
pub struct Tape {
    slots: [Option<Slot>; Site::ALL.len()],
    /// Sites whose buffers are kept across the sweep: they are labelled as checkpoints.
    checkpoints: SiteSet,
}

impl Tape {
    /// Names the sites that this block keeps until its backward.
    pub fn keep_across(&mut self, sites: SiteSet) {
        self.checkpoints = sites;
    }

    /// The label of a site's buffer.
    pub fn label(&self, site: Site) -> Label {
        // In a forward that does not keep u, its buffer becomes the next block's input.
        let site = if site == Site::Mid && !self.checkpoints.has(site) && self.checkpoints.has(Site::BlockIn)
        {
            Site::BlockIn
        } else {
            site
        };
        let class = if self.checkpoints.has(site) { Class::Checkpoint } else { Class::WithinBlock };
        Label::new(class, site.name())
    }

    /// Puts a whole site there.
    pub fn put(&mut self, site: Site, act: Act) {
        let valid = act.rows();
        self.slots[site.index()] = Some(Slot { act, base: 0, valid });
    }

    /// Takes a site's buffer away.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn take(&mut self, site: Site) -> Act {
        match self.slots[site.index()].take() {
            Some(slot) => slot.act,
            None => panic!("{} is not on the tape", site.name()),
        }
    }

    /// Takes a site's buffer away for a while, so that it can be read or written beside the tape.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn lift(&mut self, site: Site) -> Lifted {
        match self.slots[site.index()].take() {
            Some(slot) => Lifted { site, slot },
            None => panic!("{} is not on the tape", site.name()),
        }
    }

    /// Puts it back.
    pub fn lower(&mut self, lifted: Lifted) {
        self.slots[lifted.site.index()] = Some(lifted.slot);
    }

    /// Frees a site if it is there.
    pub fn free<B: Backend>(&mut self, be: &mut B, site: Site) {
        if let Some(slot) = self.slots[site.index()].take() {
            be.free(slot.act);
        }
    }

    /// Frees several.
    pub fn free_all<B: Backend>(&mut self, be: &mut B, sites: SiteSet) {
        sites.iter().for_each(|s| self.free(be, s));
    }

    /// Whether rows of a site are there.
    pub fn has(&self, site: Site, rows: &Range<usize>) -> bool {
        self.slots[site.index()].as_ref().is_some_and(|s| s.holds(rows))
    }

    /// Sites that have a buffer.
    pub fn alive(&self) -> SiteSet {
        Site::ALL.into_iter().filter(|s| self.slots[s.index()].is_some()).fold(SiteSet::EMPTY, SiteSet::with)
    }

    /// Tokens `rows` of a site.
    ///
    /// # Panics
    /// When they are not there.
    #[track_caller]
    pub fn view(&self, site: Site, rows: &Range<usize>) -> View<'_> {
        view_slot(self.slots[site.index()].as_ref(), site, rows)
    }

    /// Tokens `rows` of a site to write, beside all others to read.
    ///
    /// # Panics
    /// When it has no buffer.
    #[track_caller]
    pub fn split(&mut self, site: Site, rows: &Range<usize>) -> (ViewMut<'_>, Others<'_>) {
        let (before, rest) = self.slots.split_at_mut(site.index());
        let Some((Some(slot), after)) = rest.split_first_mut() else {
            panic!("{} has no buffer", site.name())
        };
        (slot.view_mut(site, rows), Others { before, after })
    }

    /// Tokens `rows` of a site, to write.
    ///
    /// # Panics
    /// When it has no buffer for them.
    #[track_caller]
    pub fn view_mut(&mut self, site: Site, rows: &Range<usize>) -> ViewMut<'_> {
        match &mut self.slots[site.index()] {
            Some(slot) => slot.view_mut(site, rows),
            None => panic!("{} has no buffer", site.name()),
        }
    }

    /// Reserves whole buffers for sites that tiles will fill.
    pub fn reserve<B: Backend>(&mut self, be: &mut B, rules: &impl Rules<B>, sites: SiteSet, rows: usize) {
        for site in sites.iter() {
            if self.slots[site.index()].is_none() {
                let (r, c) = rules.shape(site, rows);
                let act = be.alloc_as(r, c, rules.elem(site), self.label(site));
                self.slots[site.index()] = Some(Slot { act, base: 0, valid: 0 });
            }
        }
    }

    /// Opens a site for writing tokens `rows`, in its reserved buffer or a new one: they count as computed
    /// from here on.
    pub fn open<B: Backend>(&mut self, be: &mut B, rules: &impl Rules<B>, site: Site, rows: &Range<usize>) {
        let label = self.label(site);
        let slot = self.slots[site.index()].get_or_insert_with(|| {
            let (r, c) = rules.shape(site, rows.len());
            let act = be.alloc_as(r, c, rules.elem(site), label);
            Slot { act, base: rows.start, valid: rows.start }
        });
        slot.valid = slot.valid.max(rows.end);
    }

    /// Puts a buffer that was taken from another site, for tokens `rows`.
    pub fn rename(&mut self, from: Site, to: Site, rows: &Range<usize>) {
        if let Some(mut slot) = self.slots[from.index()].take() {
            slot.valid = rows.end;
            self.slots[to.index()] = Some(slot);
        }
    }

    /// Makes tokens `rows` of `targets` present. Missing sites are computed in order; those that are neither
    /// targets nor in `keep` are freed after their last reader.
    pub fn materialize<B: Backend>(
        &mut self,
        be: &mut B,
        rules: &impl Rules<B>,
        targets: SiteSet,
        keep: SiteSet,
        rows: Range<usize>,
    ) {
        let before = self.alive();
        let mut missing = SiteSet::EMPTY;
        let mut wanted = targets;
        for site in Site::ALL.into_iter().rev() {
            if wanted.has(site) && !self.has(site, &rows) {
                missing = missing.with(site);
                wanted = wanted.union(rules.parents(site));
            }
        }
        let mut left = missing;
        for site in missing.iter() {
            left = left.without(SiteSet::of(&[site]));
            if self.has(site, &rows) {
                // Came with another one: attention gives its output and its log-sum-exp together.
                continue;
            }
            let read_later = left.iter().fold(targets.union(keep), |s, next| s.union(rules.parents(next)));
            let ours = |tape: &Self| tape.alive().without(before).without(read_later);
            let spare = ours(self).intersection(rules.parents(site));
            rules.evaluate(be, self, site, rows.clone(), spare);
            let dead = ours(self);
            self.free_all(be, dead);
        }
    }
}

/// A site's buffer beside its tape; see [`Tape::lift`].
#[derive(Debug)]
#[must_use = "a lifted site goes back by `Tape::lower`"]
pub struct Lifted {
    site: Site,
    slot: Slot,
}

impl Lifted {
    /// Tokens `rows`.
    pub fn view(&self, rows: &Range<usize>) -> View<'_> {
        view_slot(Some(&self.slot), self.site, rows)
    }

    /// Tokens `rows`, to write.
    pub fn view_mut(&mut self, rows: &Range<usize>) -> ViewMut<'_> {
        self.slot.view_mut(self.site, rows)
    }
}

/// The other sites of a tape while one is written.
#[derive(Debug)]
pub struct Others<'a> {
    before: &'a [Option<Slot>],
    after: &'a [Option<Slot>],
}

impl<'a> Others<'a> {
    /// Tokens `rows` of a site.
    ///
    /// # Panics
    /// When they are not there, or it is the site being written.
    #[track_caller]
    pub fn view(&self, site: Site, rows: &Range<usize>) -> View<'a> {
        let at = site.index();
        let slot = match at.checked_sub(self.before.len()) {
            None => &self.before[at],
            Some(0) => panic!("{} is being written", site.name()),
            Some(past) => &self.after[past - 1],
        };
        view_slot(slot.as_ref(), site, rows)
    }
}

#[track_caller]
fn view_slot<'a>(slot: Option<&'a Slot>, site: Site, rows: &Range<usize>) -> View<'a> {
    match slot {
        // Probabilities are by head: they are read whole.
        Some(s) if site == Site::Probs => s.act.view(),
        Some(s) if s.holds(rows) => s.act.rows_view(rows.start - s.base..rows.end - s.base),
        _ => panic!("{} {rows:?} is not on the tape", site.name()),
    }
}
