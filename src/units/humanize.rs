//! Numbers for people, as Prometheus' template functions write them (`template/template.go`).

/// `1234567` → `1.235M`, `0.0234` → `23.4m`.
pub fn humanize(mut v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return general(v);
    }
    if v.abs() < 1.0 {
        return shrink(v);
    }
    let prefix = scale(&mut v, 1_000.0, &["k", "M", "G", "T", "P", "E", "Z", "Y"]);
    format!("{}{prefix}", general(v))
}

/// `1048576` → `1Mi`.
pub fn humanize1024(mut v: f64) -> String {
    if v.abs() <= 1.0 || !v.is_finite() {
        return general(v);
    }
    let prefix = scale(&mut v, 1_024.0, &["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"]);
    format!("{}{prefix}", general(v))
}

/// `0.0234` → `2.34%`.
pub fn humanize_percentage(v: f64) -> String {
    format!("{}%", general(v * 100.0))
}

/// Seconds: `3661` → `1h 1m 1s`, `0.0123` → `12.3ms`.
pub fn humanize_duration(v: f64) -> String {
    if !v.is_finite() {
        return general(v);
    }
    if v == 0.0 {
        return "0s".to_owned();
    }
    if v.abs() < 1.0 {
        return format!("{}s", shrink(v));
    }
    let sign = if v < 0.0 { "-" } else { "" };
    let whole = v.abs() as i64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{sign}{}s", general(v.abs())),
        (0, 0, _) => format!("{sign}{minutes}m {seconds}s"),
        (0, ..) => format!("{sign}{hours}h {minutes}m {seconds}s"),
        _ => format!("{sign}{days}d {hours}h {minutes}m {seconds}s"),
    }
}

fn scale(v: &mut f64, step: f64, prefixes: &[&'static str]) -> &'static str {
    let mut prefix = "";
    for next in prefixes {
        if v.abs() < step {
            break;
        }
        prefix = next;
        *v /= step;
    }
    prefix
}

fn shrink(mut v: f64) -> String {
    let mut prefix = "";
    for next in ["m", "u", "n", "p", "f", "a", "z", "y"] {
        if v.abs() >= 1.0 {
            break;
        }
        prefix = next;
        v *= 1_000.0;
    }
    format!("{}{prefix}", general(v))
}

/// Go's `%.4g`: four significant digits, no trailing zeros, an exponent where it is below -4 or above 3.
fn general(v: f64) -> String {
    if v.is_nan() {
        return "NaN".to_owned();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{v:.3e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if (-4..4).contains(&exponent) {
        return trim(&format!("{v:.*}", (3 - exponent) as usize));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(function: fn(f64) -> String, pairs: &[(f64, &str)]) {
        for (value, expected) in pairs {
            assert_eq!(function(*value), *expected, "{value}");
        }
    }

    #[test]
    fn numbers_read_as_prometheus_writes_them() {
        check(
            humanize,
            &[
                (0.0, "0"),
                (1.0, "1"),
                (1_234_567.0, "1.235M"),
                (-1_234_567.0, "-1.235M"),
                (0.0234, "23.4m"),
                (999.95, "1000"),
                (1e26, "100Y"),
                (1e30, "1e+06Y"),
                (f64::INFINITY, "+Inf"),
                (f64::NAN, "NaN"),
            ],
        );
        check(humanize1024, &[(0.0, "0"), (1.0, "1"), (1_048_576.0, "1Mi"), (1e12, "931.3Gi"), (0.5, "0.5")]);
        check(
            humanize_percentage,
            &[(0.0234, "2.34%"), (-1.0, "-100%"), (0.1234567, "12.35%"), (1234.5, "1.234e+05%")],
        );
    }

    #[test]
    fn durations_read_as_prometheus_writes_them() {
        check(
            humanize_duration,
            &[
                (0.0, "0s"),
                (1.0, "1s"),
                (60.0, "1m 0s"),
                (3600.0, "1h 0m 0s"),
                (3661.0, "1h 1m 1s"),
                (86_400.0 * 10.0 + 3600.0 * 2.0 + 3.0, "10d 2h 0m 3s"),
                (-3661.0, "-1h 1m 1s"),
                (899.99, "14m 59s"),
                (0.1, "100ms"),
                (0.0001, "100us"),
                (12.345, "12.35s"),
                (-0.001, "-1ms"),
            ],
        );
    }
}
