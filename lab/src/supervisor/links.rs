//! The ways between the places: what changes them, and how they are now.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Supervisor;
use crate::control::{LinkChange, LinkStatus};
use crate::ways::Way;

impl Supervisor {
    /// From where to where, as numbers of places; `all` is every other place.
    pub(super) fn ways(&self, a: &str, b: &str) -> Result<Vec<(usize, usize)>> {
        let places = 0..self.layout.places.len();
        Ok(match (a, b) {
            ("all", "all") => bail!("name one of the two places"),
            ("all", b) => {
                let to = self.layout.index(b)?;
                places.filter(|from| *from != to).map(|from| (from, to)).collect()
            }
            (a, "all") => {
                let from = self.layout.index(a)?;
                places.filter(|to| *to != from).map(|to| (from, to)).collect()
            }
            (a, b) => vec![(self.layout.index(a)?, self.layout.index(b)?)],
        })
    }

    pub(super) fn change_link(&self, from: usize, to: usize, one_way: bool, change: LinkChange) {
        self.links.change(from, to, |link| match change {
            LinkChange::Cut(cut) => link.cut = cut,
            LinkChange::DelayMs(ms) => {
                let ms = if one_way { ms } else { ms / 2.0 };
                link.delay = Duration::from_secs_f64(ms.clamp(0.0, 60_000.0) / 1000.0);
            }
            LinkChange::LossPercent(percent) => link.loss = (percent / 100.0).clamp(0.0, 1.0),
        });
    }

    /// Every direction between two places, as it is now.
    pub(super) fn link_status(&self) -> Vec<LinkStatus> {
        let mut links = Vec::new();
        for (from, row) in self.links.snapshot().iter().enumerate() {
            for (to, link) in row.iter().enumerate().filter(|(to, _)| *to != from) {
                links.push(LinkStatus {
                    from: self.layout.places[from].name.clone(),
                    to: self.layout.places[to].name.clone(),
                    delay_ms: link.delay.as_secs_f64() * 1000.0,
                    loss_percent: link.loss * 100.0,
                    cut: link.cut,
                });
            }
        }
        links
    }

    /// The directions in which nothing passes now.
    pub(super) fn closed_ways(&self) -> BTreeSet<Way> {
        let closed = self.link_status().into_iter().filter(|link| link.cut);
        closed.map(|link| (link.from, link.to)).collect()
    }
}
