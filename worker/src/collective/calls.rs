//! The order in which a trainer may call an exchange, checked: consecutive steps, each bucket reduced once and then
//! waited for once. The bounds of the queues between workers rest on it. Knows no value.

#[derive(Debug)]
pub(super) struct Calls {
    step: Option<u64>,
    buckets: Vec<Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Idle,
    Reducing,
    Done,
}

impl Calls {
    pub(super) fn new(buckets: usize) -> Calls {
        Calls { step: None, buckets: vec![Progress::Idle; buckets] }
    }

    /// # Panics
    /// Unless `step` is the current step or the one after a complete step, and the bucket is new in it.
    pub(super) fn reduce(&mut self, step: u64, bucket: usize) {
        if self.step != Some(step) {
            assert!(self.is_complete(), "step {step} begins before {:?} was waited for", self.step);
            assert!(self.step.is_none_or(|last| last + 1 == step), "step {step} skips a step");
            self.step = Some(step);
            self.buckets.fill(Progress::Idle);
        }
        let progress = &mut self.buckets[bucket];
        assert_eq!(*progress, Progress::Idle, "bucket {bucket} is reduced once in step {step}");
        *progress = Progress::Reducing;
    }

    /// # Panics
    /// Unless the bucket is being reduced in this step.
    pub(super) fn wait(&mut self, step: u64, bucket: usize) {
        assert_eq!(self.step, Some(step), "waiting in a step that is not the current one");
        let progress = &mut self.buckets[bucket];
        assert_eq!(*progress, Progress::Reducing, "bucket {bucket} of step {step} is not reducing");
        *progress = Progress::Done;
    }

    /// Nothing was begun, or every bucket of the current step was waited for.
    pub(super) fn is_complete(&self) -> bool {
        self.step.is_none() || self.buckets.iter().all(|progress| *progress == Progress::Done)
    }
}
