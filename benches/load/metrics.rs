//! What the program tells of itself, between two looks.

use std::collections::BTreeMap;

/// The sum of a family's series whose labels hold `label`.
pub fn sum(text: &str, family: &str, label: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(family)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        labels.contains(label).then(|| value.trim().parse::<f64>().ok()).flatten()
    };
    text.lines().filter_map(value).sum()
}

/// A histogram's buckets, of all instances: how many were at most so long.
type Buckets = BTreeMap<u64, (f64, f64)>;

fn buckets(text: &str, family: &str, label: &str) -> Buckets {
    let mut found = Buckets::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(family).and_then(|rest| rest.strip_prefix("_bucket{"))
        else {
            continue;
        };
        let Some((labels, value)) = rest.rsplit_once('}') else { continue };
        let edge = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
        let edge = edge.and_then(|edge| edge.replace("+Inf", "inf").parse::<f64>().ok());
        let (Some(edge), Ok(value)) = (edge, value.trim().parse::<f64>()) else { continue };
        if labels.contains(label) {
            found.entry(edge.to_bits()).or_insert((edge, 0.0)).1 += value;
        }
    }
    found
}

/// Median and 99th percentile of what a histogram counted between two looks, in milliseconds:
/// straight lines within its buckets.
pub fn quantiles(before: &str, after: &str, family: &str, label: &str) -> Option<[f64; 2]> {
    let (before, after) = (buckets(before, family, label), buckets(after, family, label));
    let counted: Vec<(f64, f64)> = after
        .iter()
        .map(|(key, (edge, count))| (*edge, count - before.get(key).map_or(0.0, |(_, old)| *old)))
        .collect();
    let all = counted.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let quantile = |share: f64| {
        let (mut low, mut below) = (0.0, 0.0);
        for (edge, count) in &counted {
            if *count >= share * all {
                if edge.is_infinite() {
                    return low;
                }
                let inside = (share * all - below) / (count - below).max(f64::MIN_POSITIVE);
                return low + (edge - low) * inside.min(1.0);
            }
            (low, below) = (*edge, *count);
        }
        low
    };
    Some([quantile(0.5) * 1000.0, quantile(0.99) * 1000.0])
}
