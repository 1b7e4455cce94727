//! When faults are done: after a calm at the start, or in every other spell, so that both kinds have neighbours of the other
//! one to be compared with. A spell begins and ends with a step that is put on record. Pure: times are arguments.

use std::time::Duration;

use serde::Serialize;

use super::report::Spell;

/// The spells of a run.
#[derive(Debug, Default)]
pub struct Spells {
    /// Of each spell; none for a storm that lasts to the end.
    length: Option<Duration>,
    past: Vec<Stretch>,
    stormy: bool,
    begin: Option<Mark>,
    newest: Mark,
    /// When something was last out of order.
    troubled: Duration,
}

/// A spell, and whether there were faults in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stretch {
    pub stormy: bool,
    #[serde(flatten)]
    pub spell: Spell,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at: Duration,
    commits: u64,
}

impl Spells {
    pub fn new(length: Option<Duration>) -> Spells {
        Spells { length, ..Spells::default() }
    }

    /// So many steps have been put on record since the run began.
    pub fn commit(&mut self, at: Duration, commits: u64) {
        self.newest = Mark { at, commits };
        let begin = *self.begin.get_or_insert(self.newest);
        // What a fault costs belongs to the spell in which it was done.
        let settled = !self.stormy || at.saturating_sub(self.troubled) >= SETTLED_AFTER;
        if settled && self.limit().is_some_and(|limit| at >= begin.at + limit) {
            self.past.extend(self.current());
            (self.stormy, self.begin) = (!self.stormy, Some(self.newest));
        }
    }

    /// Something is out of order.
    pub fn trouble(&mut self, now: Duration) {
        self.troubled = now;
    }

    /// How long faults have been done so far, on the clock that their times are on; `None` while there are to be none.
    pub fn storm_time(&self, now: Duration) -> Option<Duration> {
        let begin = self.begin.filter(|_| self.stormy)?;
        let (spent, limit) = (now.saturating_sub(begin.at), self.limit());
        if limit.is_some_and(|limit| spent > limit) {
            return None;
        }
        let earlier = self.past.iter().filter(|past| past.stormy).count() as u32;
        Some(spent + earlier * limit.unwrap_or_default())
    }

    /// When a step was last put on record.
    pub fn last_commit(&self) -> Duration {
        self.newest.at
    }

    /// All, with the last one as far as it came.
    pub fn all(&self) -> Vec<Stretch> {
        self.past.iter().copied().chain(self.current()).collect()
    }

    fn current(&self) -> Option<Stretch> {
        let begin = self.begin?;
        let time = self.newest.at.saturating_sub(begin.at);
        let spell = Spell::new(self.newest.commits - begin.commits, time);
        Some(Stretch { stormy: self.stormy, spell })
    }

    fn limit(&self) -> Option<Duration> {
        if self.stormy { self.length } else { Some(self.length.unwrap_or(CALM)) }
    }
}

/// All spells of one kind as one.
pub fn total(spells: &[Stretch], stormy: bool) -> Spell {
    let of_kind = spells.iter().filter(|stretch| stretch.stormy == stormy);
    of_kind.fold(Spell::default(), |sum, Stretch { spell, .. }| Spell {
        steps: sum.steps + spell.steps,
        seconds: sum.seconds + spell.seconds,
    })
}

/// Steps a second in the storm by those without: of each stormy spell by the mean of its neighbours, the median of them. The
/// last spell, which the end of the job cut short, counts only where there is no other.
pub fn goodput(spells: &[Stretch]) -> Option<f64> {
    let whole = if spells.len() > 2 { &spells[..spells.len() - 1] } else { spells };
    let mut ratios: Vec<f64> = (0..whole.len())
        .filter(|&index| whole[index].stormy)
        .filter_map(|index| {
            let neighbours = [index.checked_sub(1), Some(index + 1)];
            let rates = neighbours.into_iter().flatten().filter_map(|at| whole.get(at));
            let rates: Vec<f64> = rates.map(|calm| calm.spell.rate()).collect();
            let calm = rates.iter().sum::<f64>() / rates.len() as f64;
            (calm > 0.0).then(|| whole[index].spell.rate() / calm)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let middle = ratios.len() / 2;
    match ratios.len() % 2 {
        1 => Some(ratios[middle]),
        _ => Some((ratios.get(middle.checked_sub(1)?)? + ratios[middle]) / 2.0),
    }
}

/// Steps are counted for this long before a storm that lasts to the end.
const CALM: Duration = Duration::from_secs(2);
/// Workers that come back late are taken in, and a coordinator has caught up, within this time.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
