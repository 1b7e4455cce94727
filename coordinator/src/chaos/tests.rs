//! The pure parts: what is understood, when faults come, and how recoveries are counted.

use std::time::Duration;

use super::*;
use crate::core::Record;
use crate::journal::Journal;

fn plan(text: &str) -> Plan {
    text.parse().unwrap()
}

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[test]
fn a_plan_is_read_and_what_is_not_understood_is_named() {
    assert_eq!(
        plan(" kill 5s,pause  1500ms , coordinator 2m").to_string(),
        "kill 5000ms, pause 1500ms, coordinator 120000ms"
    );
    for (text, words) in [
        ("murder 5s", "\"murder\" is no fault"),
        ("kill", "\"kill\" is not a fault and the mean time"),
        ("kill 5s pause 2s", "\"kill 5s pause 2s\" is not a fault"),
        ("kill 5s,", "\"\" is not a fault"),
        ("kill 5h", "\"5h\" is no time"),
        ("kill soon", "\"soon\" is no time"),
        ("kill 5", "\"5\" is no time"),
        ("kill 1ms", "\"1ms\" is not between"),
        ("kill 99999999999999999999s", "is no time"),
        ("kill 5s, kill 6s", "kill is there twice"),
    ] {
        let said = text.parse::<Plan>().unwrap_err().to_string();
        assert!(said.contains(words), "{text}: {said}");
        assert!(
            said.contains("kill 5s, pause 20s, coordinator 30s") || words.contains("twice"),
            "{said}"
        );
    }
}

#[test]
fn a_schedule_is_a_function_of_its_seed_and_each_kind_comes_as_often_as_asked() {
    let both = plan("kill 2s, pause 6s");
    let take = |plan: &Plan, seed| Schedule::new(plan, seed).take(4000).collect::<Vec<Blow>>();
    let blows = take(&both, 7);
    assert_eq!(blows, take(&both, 7));
    assert_ne!(blows, take(&both, 8));
    assert!(blows.windows(2).all(|pair| pair[0].at <= pair[1].at));
    let kills: Vec<Blow> = blows.iter().copied().filter(|b| b.fault == Fault::Kill).collect();
    // Another kind beside it moves nothing.
    assert_eq!(take(&plan("kill 2s"), 7)[..kills.len()], kills);
    let mean = kills.last().unwrap().at.as_secs_f64() / kills.len() as f64;
    assert!((1.9..2.1).contains(&mean), "{mean}");
    let share = kills.len() as f64 / blows.len() as f64;
    assert!((0.72..0.78).contains(&share), "{share}");
    for blow in blows.iter().filter(|blow| blow.fault == Fault::Pause) {
        assert!((milliseconds(200)..milliseconds(3000)).contains(&blow.length));
    }
}

fn record(text: &str) -> Record {
    serde_json::from_str(text).unwrap()
}

#[test]
fn all_that_a_journal_holds_is_read_whatever_lies_between() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::open(&path).unwrap().journal;
    let mut watch = Watch::new(path, "a-1".to_owned());
    let boot = record("{\"booted\": {\"boot\": 1, \"generation\": 1}}");
    let quarantined = "{\"quarantined\": {\"job\": \"a-1\", \"train\": [1], \"test\": []}}";
    let ended = "{\"ended\": {\"job\": \"JOB\", \"end\": \"stopped\", \"trained_ms\": 1, \"trained_steps\": 1}}";
    let of_other = record(&ended.replace("JOB", "b-1"));
    for quiet in [boot, record(quarantined), of_other] {
        journal.append(&[quiet]).unwrap();
    }
    assert_eq!(watch.news().unwrap(), None);
    journal.append(&[record(quarantined)]).unwrap();
    journal.append(&[record(&ended.replace("JOB", "a-1"))]).unwrap();
    assert_eq!(watch.news().unwrap(), Some(Seen::Ended(crate::verify::End::Stopped)));
    assert_eq!(watch.news().unwrap(), None);
}

fn injected(fault: Fault, member: bool) -> Injected {
    let victim = Some("w1".to_owned());
    Injected { fault, at_ms: 0, victim, length_ms: 9, member, alone: true, recovery_ms: None }
}

fn commit(recoveries: &mut Recoveries, at: u64, generation: u64, step: u64) {
    recoveries.take(milliseconds(at), &Seen::Committed { generation, step });
}

#[test]
fn a_recovery_ends_with_a_step_that_was_not_under_way() {
    let standing = Standing { now: milliseconds(100), generation: 3, step: 10 };
    let mut kill = Recoveries::default();
    kill.inject(standing, injected(Fault::Kill, true), true);
    commit(&mut kill, 105, 3, 11);
    assert!(!kill.is_settled(), "its report was on its way");
    commit(&mut kill, 250, 4, 12);
    assert!(kill.is_settled());
    assert_eq!(kill.faults[0].recovery_ms, Some(150.0));

    let mut pause = Recoveries::default();
    pause.inject(standing, injected(Fault::Pause, true), true);
    commit(&mut pause, 105, 3, 11);
    commit(&mut pause, 900, 3, 12);
    assert_eq!(pause.faults[0].recovery_ms, Some(800.0));

    let mut bystander = Recoveries::default();
    bystander.inject(standing, injected(Fault::Kill, false), true);
    assert!(bystander.is_settled() && bystander.faults[0].recovery_ms.is_none());
}

#[test]
fn the_pause_in_which_a_worker_is_taken_in_lies_between_two_steps() {
    let mut recoveries = Recoveries::default();
    commit(&mut recoveries, 100, 1, 10);
    recoveries.take(milliseconds(120), &Seen::Formed { generation: 2, grown: true });
    // A step of the old generation, on record late.
    commit(&mut recoveries, 130, 1, 11);
    commit(&mut recoveries, 180, 2, 12);
    recoveries.take(milliseconds(190), &Seen::Formed { generation: 3, grown: false });
    commit(&mut recoveries, 400, 3, 13);
    commit(&mut recoveries, 430, 3, 14);
    assert_eq!(recoveries.taken_in_ms, [50.0]);
    assert_eq!(recoveries.step_ms, [30.0, 30.0]);
}

#[test]
fn faults_that_overlap_are_not_alone() {
    let standing = Standing { now: milliseconds(100), generation: 3, step: 10 };
    let mut recoveries = Recoveries::default();
    recoveries.inject(standing, injected(Fault::Kill, true), true);
    recoveries.inject(standing, injected(Fault::Coordinator, true), true);
    commit(&mut recoveries, 300, 4, 11);
    recoveries.inject(standing, injected(Fault::Kill, true), false);
    commit(&mut recoveries, 300, 4, 11);
    recoveries.inject(standing, injected(Fault::Kill, true), true);
    commit(&mut recoveries, 400, 4, 12);
    let alone: Vec<bool> = recoveries.faults.iter().map(|fault| fault.alone).collect();
    assert_eq!(alone, [false, false, false, true]);
    let summaries = Summary::of(&recoveries.faults);
    assert_eq!(summaries.len(), 2);
    assert_eq!((summaries[0].count, summaries[0].alone.unwrap().count), (3, 1));
    assert!(summaries[0].line().starts_with("3 of kill: recovery p50 300 ms"));
    assert!(summaries[1].line().ends_with("(1 amid others)"), "{}", summaries[1].line());
}

#[test]
fn percentiles_are_those_of_the_nearest_rank() {
    let of = |values: &[f64]| Percentiles::of(values.iter().copied());
    assert_eq!(of(&[]), None);
    let one = of(&[7.0]).unwrap();
    assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
    let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    let found = of(&hundred).unwrap();
    assert_eq!((found.count, found.p50, found.p99, found.max), (100, 50.0, 99.0, 100.0));
}

#[test]
fn spells_with_and_without_faults_take_turns_and_each_pays_for_its_own_faults() {
    let seconds = Duration::from_secs;
    let mut spells = Spells::new(Some(seconds(10)));
    assert_eq!(spells.storm_time(seconds(3)), None);
    // The first one begins with the first step.
    for second in 5..15 {
        spells.commit(seconds(second), 100 * (second - 4));
    }
    assert_eq!(spells.storm_time(seconds(14)), None);
    spells.commit(seconds(15), 1100);
    assert_eq!(spells.storm_time(seconds(19)), Some(seconds(4)));
    // A fault near the end, that takes 3 s: no more faults, but the spell is not over.
    spells.trouble(seconds(27));
    assert_eq!(spells.storm_time(seconds(27)), None);
    spells.commit(seconds(28), 1900);
    spells.commit(seconds(30), 2000);
    // Another calm, and a storm that the job's end cuts short.
    spells.commit(seconds(40), 2900);
    assert_eq!(spells.storm_time(seconds(41)), Some(seconds(11)), "faults go on where they were");
    spells.commit(seconds(41), 2901);
    let all = spells.all();
    let found: Vec<_> = all.iter().map(|s| (s.stormy, s.spell.steps, s.spell.seconds)).collect();
    let expected = [(false, 1000, 10.0), (true, 900, 15.0), (false, 900, 10.0), (true, 1, 1.0)];
    assert_eq!(found, expected);
    assert_eq!(goodput(&all), Some(60.0 / 95.0));
    assert_eq!(total(&all, false), Spell::new(1900, seconds(20)));

    let mut one = Spells::new(None);
    one.commit(seconds(1), 1);
    one.commit(seconds(3), 21);
    one.commit(seconds(400), 21 + 397 * 5);
    assert_eq!(one.storm_time(seconds(400)), Some(seconds(397)), "to the end");
    assert_eq!(goodput(&one.all()), Some(0.5));
    assert_eq!(goodput(&[]), None);
}
