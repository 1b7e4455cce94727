//! `[optimizer]` and `[ema]` as written: how weights change, and how they are averaged.

use serde::{Deserialize, Serialize};

use super::super::*;
use super::{require, short};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOptimizer {
    rule: Option<RawRule>,
    learning_rate: f64,
    momentum: Option<f64>,
    nesterov: Option<bool>,
    weight_decay: Option<f64>,
    trust_coefficient: Option<f64>,
    clip_norm: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawRule {
    Sgd,
    Lars,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEma {
    decay: Option<f64>,
    every: Option<u32>,
}

impl RawOptimizer {
    pub(super) fn resolve(self) -> Result<Optimizer, JobError> {
        let rule = self.resolve_rule()?;
        // Narrowed before they are checked: what passes is what is used and written out again.
        let learning_rate = self.learning_rate as f32;
        let momentum = self.momentum.unwrap_or(0.9) as f32;
        let nesterov = self.nesterov.unwrap_or(false);
        let weight_decay = self.weight_decay.unwrap_or(0.0) as f32;
        let clip_norm = self.clip_norm.map(|norm| norm as f32);
        require(is_positive(learning_rate), "optimizer.learning_rate", "must be positive")?;
        require(
            (0.0..1.0).contains(&momentum),
            "optimizer.momentum",
            "must be at least 0 and below 1",
        )?;
        require(
            !nesterov || momentum > 0.0,
            "optimizer.nesterov",
            "needs optimizer.momentum above 0",
        )?;
        let decays = weight_decay >= 0.0 && weight_decay.is_finite();
        require(decays, "optimizer.weight_decay", "must be at least 0")?;
        require(
            clip_norm.is_none_or(is_positive),
            "optimizer.clip_norm",
            "must be positive; leave it out to clip nothing",
        )?;
        Ok(Optimizer { learning_rate, momentum, nesterov, weight_decay, rule, clip_norm })
    }

    fn resolve_rule(&self) -> Result<Rule, JobError> {
        let key = "optimizer.trust_coefficient";
        match self.rule.unwrap_or(RawRule::Sgd) {
            RawRule::Sgd => {
                let unused = self.trust_coefficient.is_none();
                require(unused, key, "is for rule = \"lars\" only")?;
                Ok(Rule::Sgd)
            }
            RawRule::Lars => {
                let trust_coefficient = self.trust_coefficient.unwrap_or(0.001) as f32;
                require(is_positive(trust_coefficient), key, "must be positive")?;
                Ok(Rule::Lars { trust_coefficient })
            }
        }
    }
}

impl From<&Optimizer> for RawOptimizer {
    fn from(optimizer: &Optimizer) -> RawOptimizer {
        let (rule, trust_coefficient) = match optimizer.rule {
            Rule::Sgd => (RawRule::Sgd, None),
            Rule::Lars { trust_coefficient } => (RawRule::Lars, Some(short(trust_coefficient))),
        };
        RawOptimizer {
            rule: Some(rule),
            learning_rate: short(optimizer.learning_rate),
            momentum: Some(short(optimizer.momentum)),
            nesterov: Some(optimizer.nesterov),
            weight_decay: Some(short(optimizer.weight_decay)),
            trust_coefficient,
            clip_norm: optimizer.clip_norm.map(short),
        }
    }
}

impl RawEma {
    pub(super) fn resolve(self) -> Result<Ema, JobError> {
        let (decay, every) = (self.decay.unwrap_or(0.9999), self.every.unwrap_or(1));
        require((0.0..1.0).contains(&decay), "ema.decay", "must be at least 0 and below 1")?;
        require(
            (1..=EVERY_MAX).contains(&every),
            "ema.every",
            format!("must be 1 to {EVERY_MAX} steps"),
        )?;
        Ok(Ema { decay, every })
    }
}

impl From<&Ema> for RawEma {
    fn from(ema: &Ema) -> RawEma {
        RawEma { decay: Some(ema.decay), every: Some(ema.every) }
    }
}

fn is_positive(value: f32) -> bool {
    value > 0.0 && value.is_finite()
}

/// An average that is updated less often than this has nothing left to smooth.
const EVERY_MAX: u32 = 100_000;
