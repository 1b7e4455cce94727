//! Draws from the normal and the symmetric beta distribution, with libm's functions so that all
//! machines agree.
//!
//! A beta variate is `x / (x + y)` of two gamma variates, and those are made as in Marsaglia and Tsang,
//! "A simple method for generating gamma variables", ACM TOMS 26, 2000. Logarithms all the way: with a
//! small alpha both gamma variates are often too small for a number.

use crate::order::Draws;

impl Draws {
    /// From Beta(alpha, alpha): in `[0, 1]`, 1/2 on average.
    ///
    /// # Panics
    /// Unless alpha is positive and finite.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        assert!(alpha > 0.0 && alpha.is_finite(), "no beta distribution of {alpha}");
        let (x, y) = (self.log_gamma(alpha), self.log_gamma(alpha));
        1.0 / (1.0 + libm::exp(y - x))
    }

    /// Standard normal by Box and Muller's transform (1958).
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }

    /// Logarithm of a variate of Gamma(alpha, 1).
    fn log_gamma(&mut self, alpha: f64) -> f64 {
        if alpha < 1.0 {
            return self.log_gamma(alpha + 1.0) + libm::log(1.0 - self.unit()) / alpha;
        }
        let d = alpha - 1.0 / 3.0;
        let c = 1.0 / libm::sqrt(9.0 * d);
        loop {
            let x = self.normal();
            let v = 1.0 + c * x;
            if v <= 0.0 {
                continue;
            }
            let v = v * v * v;
            let log_v = libm::log(v);
            if libm::log(1.0 - self.unit()) < 0.5 * x * x + d - d * v + d * log_v {
                return libm::log(d) + log_v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distribution() {
        for alpha in [0.05, 0.2, 0.8, 1.0, 1.5, 20.0] {
            let mut draws = Draws::new(1, 2);
            let values: Vec<f64> = (0..COUNT).map(|_| draws.beta(alpha)).collect();
            assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
            let moment = |power: i32| {
                let central = values.iter().map(|value| (value - 0.5).powi(power));
                central.sum::<f64>() / f64::from(COUNT)
            };
            let variance = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            // Five standard errors; a squared deviation spreads less than that of the normal distribution.
            let chance = 5.0 / f64::from(COUNT).sqrt();
            assert!(moment(1).abs() < chance * variance.sqrt(), "{alpha}: {}", moment(1));
            let ratio = moment(2) / variance;
            assert!(
                (ratio - 1.0).abs() < 1.5 * chance,
                "{alpha}: variance {ratio} of the right one"
            );
        }
    }

    #[test]
    fn an_even_distribution_has_as_many_values_in_each_tenth() {
        let mut draws = Draws::new(3, 4);
        let mut counts = [0; 10];
        for _ in 0..COUNT {
            counts[(draws.beta(1.0) * 10.0) as usize] += 1;
        }
        let expected = COUNT / 10;
        assert!(counts.iter().all(|count| (count - expected).abs() < 5 * 135), "{counts:?}");
    }

    #[test]
    fn the_values_stay_what_they_are() {
        let mut draws = Draws::of_slice(1, 64);
        let values = [0.2, 1.0, 0.001, 5.0].map(|alpha| draws.beta(alpha).to_bits());
        assert_eq!(values, PINNED);
    }

    const COUNT: i32 = 20_000;
    const PINNED: [u64; 4] =
        [4594487946450901395, 4604132004039791387, 4607182418800017408, 4602716807689773123];
}
