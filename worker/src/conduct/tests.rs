//! Scripts: the coordinator's plans in, what the worker is to do out.

use proto::wire::v1::plan::Kind as Plan;
use proto::wire::v1::report::Kind as Report;

use super::*;

/// A worker and the stream that it has.
#[derive(Default)]
struct Script {
    conduct: Conduct,
}

impl Script {
    /// As a member of this generation.
    fn member(generation: u64) -> Script {
        let mut script = Script::default();
        assert_eq!(script.welcome(0), []);
        let formed = script.hear(generation, Plan::Form(v1::Form::default()));
        assert!(
            matches!(formed[..], [Action::Form { generation: Generation(of), .. }] if of == generation)
        );
        script
    }

    fn welcome(&mut self, generation: u64) -> Vec<Action> {
        self.conduct.welcome(Generation(generation))
    }

    fn hear(&mut self, generation: u64, kind: Plan) -> Vec<Action> {
        self.conduct.follow(v1::Plan { generation, kind: Some(kind) }).expect("it is known")
    }

    fn say(&mut self, generation: u64, kind: Report) {
        self.conduct.outbox.push(v1::Report { generation, kind: Some(kind) });
    }

    /// How many reports the current stream takes.
    fn sent(&mut self) -> usize {
        std::iter::from_fn(|| self.conduct.outbox.next()).count()
    }
}

fn seal(attempt: u64) -> Plan {
    Plan::Seal(v1::Seal { attempt })
}

fn abandon() -> Plan {
    Plan::Abandon(v1::Abandon { reason: "w2 is gone".to_owned() })
}

fn done(step: u64) -> Report {
    Report::StepDone(v1::StepDone { step, ..v1::StepDone::default() })
}

fn ready() -> Report {
    Report::Ready(v1::Ready::default())
}

fn give_up(reason: &str) -> Action {
    Action::GiveUp { reason: reason.to_owned() }
}

fn part(generation: u64, cause: &str) -> Action {
    Action::Part { generation: Generation(generation), cause: cause.to_owned() }
}

#[test]
fn a_sealed_member_gives_up_keeps_what_it_holds_and_stays_a_member_until_the_next_formation() {
    let mut script = Script::member(3);
    let sealed = Action::Seal { generation: Generation(3), attempt: 4 };
    let actions = [give_up("the generation was sealed"), sealed];
    assert_eq!(script.hear(3, seal(4)), actions);
    assert_eq!(script.conduct.hello(), Generation(3));
    // A coordinator that did not hear the answer asks again.
    assert_eq!(script.welcome(3), [Action::UploadAgain]);
    assert_eq!(script.hear(3, seal(4)), actions);

    script.say(3, done(7));
    let formed = script.hear(5, Plan::Form(v1::Form::default()));
    assert_eq!(formed[0], give_up("a newer generation was formed"));
    assert!(matches!(formed[1..], [Action::Form { generation: Generation(5), .. }]));
    assert_eq!((script.conduct.hello(), script.sent()), (Generation(5), 0));
}

#[test]
fn plans_for_another_generation_are_late() {
    let mut script = Script::member(3);
    let plans = [
        Plan::Run(v1::Run {}),
        Plan::Stop(v1::Stop {}),
        seal(9),
        abandon(),
        Plan::Release(v1::Release {}),
        Plan::Committed(v1::Committed { step: 1 }),
    ];
    script.say(3, done(1));
    // To one that is no member, every generation is another one.
    let mut idle = Script::default();
    for plan in plans {
        assert_eq!(script.hear(2, plan.clone()), []);
        assert_eq!(script.hear(4, plan.clone()), []);
        assert_eq!(idle.hear(0, plan), []);
    }
    assert_eq!((script.conduct.generation(), script.sent()), (Generation(3), 1));
}

#[test]
fn an_abandoned_member_forgets_what_it_holds_and_is_a_member_of_nothing() {
    let mut script = Script::member(3);
    let forgets = Action::Forget(Generation(3));
    let actions = [give_up("w2 is gone"), part(3, "abandoned: w2 is gone"), forgets];
    assert_eq!(script.hear(3, abandon()), actions);
    assert_eq!(script.hear(3, abandon()), []);
    assert_eq!(script.conduct.hello(), Generation(0));
    assert_eq!(script.welcome(0), []);
}

#[test]
fn a_released_member_ends_in_peace_and_has_nothing_left_to_say() {
    let mut script = Script::member(3);
    script.say(3, done(7));
    let forgets = Action::Forget(Generation(3));
    let release = Plan::Release(v1::Release {});
    assert_eq!(script.hear(3, release), [part(3, "job ended"), forgets]);
    assert_eq!((script.conduct.generation(), script.sent()), (Generation(0), 0));
}

#[test]
fn a_member_that_comes_back_repeats_itself_and_offers_its_last_state() {
    let mut script = Script::member(3);
    script.say(3, ready());
    (1..=4).for_each(|step| script.say(3, done(step)));
    assert_eq!(script.sent(), 5);
    assert_eq!(script.hear(3, Plan::Committed(v1::Committed { step: 2 })), []);
    // While the coordinator is away.
    script.say(3, done(5));
    assert_eq!(script.conduct.hello(), Generation(3));
    assert_eq!(script.welcome(3), [Action::UploadAgain]);
    assert_eq!(script.sent(), 4, "ready and the steps from 3 to 5");
}

#[test]
fn a_member_that_the_cluster_has_gone_on_without_drops_everything() {
    let mut script = Script::member(3);
    script.say(3, done(1));
    let reason = "the cluster has gone on without this worker";
    let forgets = Action::Forget(Generation(3));
    assert_eq!(script.welcome(0), [give_up(reason), part(3, "it is over"), forgets]);
    assert_eq!((script.conduct.hello(), script.sent()), (Generation(0), 0));
}

#[test]
fn what_trains_is_told_of_every_run_and_stop_and_a_strange_plan_is_refused() {
    let mut script = Script::member(3);
    assert_eq!(script.hear(3, Plan::Run(v1::Run {})), [Action::Run(Generation(3))]);
    assert_eq!(script.hear(3, Plan::Stop(v1::Stop {})), [Action::Stop(Generation(3))]);
    let reason = "left in good order".to_owned();
    let goodbye = Plan::Goodbye(v1::Goodbye { reason: reason.clone() });
    assert_eq!(script.hear(0, goodbye), [Action::Leave { reason }]);
    let again = Plan::Welcome(v1::Welcome::default());
    for kind in [Some(again), None] {
        let plan = v1::Plan { generation: 3, kind };
        assert_eq!(script.conduct.follow(plan), Err(UnknownPlan));
    }
}

#[test]
fn a_holder_must_stand_at_the_base() {
    let form = |rank, holders: &[u32]| v1::Form {
        rank,
        base_step: 8,
        base_digest: vec![1; 16],
        holders: holders.to_vec(),
        ..v1::Form::default()
    };
    let at = |step, byte| Some(Mark { generation: Generation(2), step, digest: [byte; 16] });
    assert_eq!(Origin::of(&form(1, &[0, 1]), at(8, 1)), Ok(Origin::Own));
    for held in [None, at(7, 1), at(8, 2)] {
        assert_eq!(Origin::of(&form(1, &[0, 1]), held), Err(NotHeld), "{held:?}");
    }
    assert_eq!(Origin::of(&form(2, &[0, 1]), at(8, 1)), Ok(Origin::Peers));
    assert_eq!(Origin::of(&form(1, &[]), at(8, 1)), Ok(Origin::Store));
}
