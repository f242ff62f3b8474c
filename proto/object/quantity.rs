//! Resource quantities (`100m`, `1.5Gi`, `2e3`): apimachinery's `resource.Quantity`, as exact thousandths.

use std::fmt;

/// An amount in thousandths of its unit (milli-CPUs, milli-bytes). 128 bits hold Ei in thousandths exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    milli: i128,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct Malformed;

impl Quantity {
    pub const ZERO: Self = Self { milli: 0 };

    pub fn from_milli(milli: i128) -> Self {
        Self { milli }
    }

    pub fn from_units(units: i128) -> Self {
        Self { milli: units * 1000 }
    }

    pub fn milli(self) -> i128 {
        self.milli
    }

    /// Whole units, rounded up as Kubernetes rounds.
    pub fn units(self) -> i128 {
        self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) != 0)
    }
}

/// A quantity as Kubernetes writes it back: the largest suffix of its kind that leaves a whole number (`1000m` is `1`,
/// `1.5Gi` is `1536Mi`).
pub fn canonical(text: &str) -> Result<String, Malformed> {
    let Quantity { milli } = text.parse()?;
    let suffix = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
    if matches!(suffix, "n" | "u") {
        return Ok(text.into());
    }
    let step = |mut amount: i128, base: i128, steps: usize| {
        let mut taken = 0;
        while amount != 0 && amount % base == 0 && taken < steps {
            amount /= base;
            taken += 1;
        }
        (amount, taken)
    };
    if suffix.ends_with('i') && milli % 1000 == 0 && (milli / 1000).abs() >= 1024 {
        let (amount, taken) = step(milli / 1000, 1024, 6);
        return Ok(format!("{amount}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][taken]));
    }
    let (amount, taken) = step(milli, 1000, 7);
    if amount == 0 {
        return Ok("0".into());
    }
    let is_exponent = suffix.len() > 1 && suffix.starts_with(['e', 'E']) && !suffix.ends_with('i');
    if is_exponent && taken > 1 {
        return Ok(format!("{amount}e{}", taken * 3 - 3));
    }
    Ok(format!("{amount}{}", ["m", "", "k", "M", "G", "T", "P", "E"][taken]))
}

impl std::str::FromStr for Quantity {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (negative, digits) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) || digits.len() > 24 {
            return Err(Malformed);
        }
        let (numerator, denominator) = multiplier(suffix).ok_or(Malformed)?;
        let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| Malformed)?;
        let scale = 10i128.checked_pow(u32::try_from(fraction.len()).map_err(|_| Malformed)?).ok_or(Malformed)?;
        let scaled = mantissa.checked_mul(numerator).and_then(|n| n.checked_mul(1000)).ok_or(Malformed)?;
        let divisor = scale.checked_mul(denominator).ok_or(Malformed)?;
        let milli = scaled / divisor + i128::from(scaled % divisor != 0);
        Ok(Self { milli: if negative { -milli } else { milli } })
    }
}

fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli % 1000 != 0 {
            return write!(f, "{}m", self.milli);
        }
        let units = self.milli / 1000;
        for (suffix, size) in [("Ti", 1i128 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
            if units != 0 && units % size == 0 {
                return write!(f, "{}{suffix}", units / size);
            }
        }
        write!(f, "{units}")
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { milli: self.milli + other.milli }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { milli: self.milli - other.milli }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_one_canonical_form() {
        let check = |text: &str, expected: &str| assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
        check("1000m", "1");
        check("1.5", "1500m");
        check("1.5Gi", "1536Mi");
        check("0.5Ki", "512");
        check("2000k", "2M");
        check("1e3", "1e3");
        check("0", "0");
        check("100Mi", "100Mi");
        check("1024Mi", "1Gi");
    }

    #[test]
    fn parses_every_suffix() {
        let check = |text: &str, milli: Option<i128>| assert_eq!(text.parse::<Quantity>().ok().map(Quantity::milli), milli, "{text}");
        check("100m", Some(100));
        check("1", Some(1000));
        check("1.5Gi", Some(1_610_612_736_000));
        check("2e3", Some(2_000_000));
        check("1E", Some(1_000_000_000_000_000_000_000));
        check("-1", Some(-1000));
        check("0.1m", Some(1));
        check("", None);
        check("1x", None);
        check("a", None);
        check("1.2.3", None);
    }
}
