//! Seeded protocol bugs, by which the simulator's checker is itself tried: each is a mistake that somebody might make, and one
//! that the checker must find. Only a build with the feature `mutants` has them, which no program is built with; in every
//! other one `active` is a constant.
//!
//! A mutation test in the sense of DeMillo, Lipton and Sayward, "Hints on test data selection", IEEE Computer 11(4), 1978.

macro_rules! mutants {
    ($($(#[$what:meta])* $name:ident,)*) => {
        /// A bug, named after what it does wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[$what])* $name,)*
        }

        impl Mutant {
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)*];
        }
    };
}

mutants! {
    // Generations.
    /// Numbers of generations that an earlier life of the coordinator formed are used again.
    GenerationReused,
    /// Actions are carried out before the records of their batch are durable.
    ToldBeforeRecorded,
    /// The new generation starts where the old one did.
    BaseOfLastGeneration,
    /// The new generation starts from the watermark, while its holders are a step ahead.
    BaseBehindHolders,
    /// Members count as holders of the base whatever they hold.
    HoldersNotAtBase,
    /// Nobody is named a holder of the base.
    HoldersForgotten,
    /// Runs of slices overlap by one.
    SlicesOverlap,
    /// The last slice is nobody's.
    SliceForgotten,
    // Who takes part.
    /// A worker takes a seat by its name, whichever process it is and whatever it is a member of.
    NameIsIdentity,
    /// A second process of a name replaces the first without its seat being given up.
    NameTakenOver,
    /// A process that can't take part is taken again.
    ExcludedTakenAgain,
    /// A worker that wants to end is taken into the next generation.
    LeavingTakenAgain,
    /// `--on-loss wait` goes on with fewer.
    WaitIgnored,
    /// `--on-loss spare` takes in more.
    SpareGrows,
    /// `--max-workers` is not looked at.
    MaxWorkersIgnored,
    /// `--min-workers` is not looked at.
    MinWorkersIgnored,
    /// When every member is out of reach, the job goes back to a checkpoint at once.
    NoTimeToReturn,
    // Steps.
    /// A step is committed when a majority has reported it.
    CommittedByMajority,
    /// A step that an earlier life committed is committed again.
    CommittedAgain,
    /// Commits are not read back.
    WatermarkForgotten,
    /// What a generation that is over still has to say is taken for the current one's.
    StaleReportCounted,
    // Metrics and evaluations.
    /// Steps that were committed, but not published before the coordinator ended, are not asked for again.
    UnpublishedForgotten,
    /// A generation that is formed after a restart doesn't publish what was committed before it.
    UnpublishedSkipped,
    /// Reports are acknowledged when they are taken, not when their metrics are on disk.
    AcknowledgedTooEarly,
    /// Metrics of steps that are computed again are kept.
    RewoundMetricsKept,
    /// They are kept when the coordinator ended before it forgot them.
    RewoundMetricsKeptAtBoot,
    /// A repeated share of an evaluation is taken for a new one.
    EvaluatedAgain,
    /// Evaluations are not read back.
    EvaluationsForgotten,
    /// A share that is repeated is added to itself.
    ShareCountedTwice,
    /// An evaluation that was lost with a member is not made up for.
    EvaluationNotRedone,
    // Checkpoints.
    /// A checkpoint is made final before its step is committed.
    CheckpointOfUncommitted,
    /// A checkpoint that was lost with a member is not made up for.
    CheckpointNotRedone,
    /// The job goes back to its oldest checkpoint.
    OldestCheckpointTaken,
    /// One checkpoint fewer than asked for is kept.
    OneCheckpointFewer,
    /// The best checkpoint goes like any other.
    BestCheckpointDropped,
    /// The job ends without waiting for its last checkpoint.
    EndedWithoutCheckpoint,
    /// Uploads of a generation that is over stay open.
    UploadsLeftOpen,
    // What makes it go on.
    /// A member without a stream is waited for without end.
    AbsenceWithoutEnd,
    /// An edge that broke between live workers is nobody's concern.
    ComplaintIgnored,
    /// A member that comes back is not told again to run.
    RunNotRepeated,
    /// A member that comes back is not told again to give up.
    SealNotRepeated,
    // Workers.
    /// A worker that promised to contribute no more trains on.
    TrainsAfterSealing,
    /// A worker gives its generation up and doesn't say what it holds.
    SealedWithoutState,
    /// A worker trains as soon as it is ready, before it is told to.
    TrainsUntold,
    /// A worker whose stream broke joins as a member of nothing.
    RejoinsAsStranger,
    /// It doesn't repeat what the old stream may not have delivered.
    OutboxForgotten,
    /// An acknowledged step takes evaluations and all else that is kept with it.
    AcknowledgementForgetsAll,
    /// The last checkpoint of all is not sent again to a coordinator that was away.
    LastUploadNotRepeated,
}

/// Whether the code at hand is to be wrong in this way.
#[cfg(not(feature = "mutants"))]
pub const fn active(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use chosen::{active, with};

#[cfg(feature = "mutants")]
mod chosen {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether the code at hand is to be wrong in this way.
    pub fn active(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(mutant)
    }

    /// What `work` returns when this thread has the bug.
    pub fn with<T>(mutant: Option<Mutant>, work: impl FnOnce() -> T) -> T {
        let before = CHOSEN.replace(mutant);
        let result = work();
        CHOSEN.set(before);
        result
    }
}
