//! The two forms of CSV files that the original left; times are in seconds.

use std::collections::BTreeMap;

/// A request that was answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// None: the server did not say.
    pub(crate) prompt_tokens: Option<u32>,
    /// None: the server did not say.
    pub(crate) generation_tokens: Option<u32>,
    pub(crate) ttft: f64,
    pub(crate) generation_time: f64,
    pub(crate) session: u64,
    pub(crate) user: u64,
    /// It was the last round of its session.
    pub(crate) ends_session: bool,
    /// Seconds since 1970.
    pub(crate) launch_time: f64,
    /// Seconds since 1970.
    pub(crate) finish_time: f64,
}

/// Rows of `multi-round-qa`: sessions that are over in the order of their ends, then the others in
/// the order of their users; `question_id` counts the rows of a session. `rows` are in the order
/// in which they ended.
pub(crate) fn multi_round(rows: &[Row]) -> String {
    let mut of_session: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        of_session.entry(row.session).or_default().push(row);
    }
    let over = rows.iter().filter(|row| row.ends_session);
    let mut ordered: Vec<Vec<&Row>> =
        over.filter_map(|row| of_session.remove(&row.session)).collect();
    ordered.extend(of_session.into_values());
    let mut text = String::from(
        "prompt_tokens,generation_tokens,ttft,generation_time,user_id,question_id,launch_time,finish_time\n",
    );
    for (row, question) in ordered.iter().flat_map(|rows| rows.iter().zip(1..)) {
        text.push_str(&format!(
            "{},{},{question},{},{}\n",
            measured(row),
            row.user,
            number(row.launch_time),
            number(row.finish_time)
        ));
    }
    text
}

/// Rows of `sharegpt-qa`, in the order in which they left.
pub(crate) fn sharegpt(rows: &[Row]) -> String {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| a.launch_time.total_cmp(&b.launch_time));
    let mut text = String::from(
        "prompt_tokens,generation_tokens,ttft,generation_time,launch_time,finish_time\n",
    );
    for row in rows {
        text.push_str(&format!(
            "{},{},{}\n",
            measured(row),
            number(row.launch_time),
            number(row.finish_time)
        ));
    }
    text
}

fn measured(row: &Row) -> String {
    let count = |count: Option<u32>| count.map_or_else(String::new, |count| count.to_string());
    format!(
        "{},{},{},{}",
        count(row.prompt_tokens),
        count(row.generation_tokens),
        number(row.ttft),
        number(row.generation_time)
    )
}

/// A number as Python prints it: the shortest text that reads back as the same number.
fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-4 {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_python_writes_them() {
        let check = |value: f64, text: &str| assert_eq!(number(value), text);
        check(0.06593728065490723, "0.06593728065490723");
        check(1746594749.1897151, "1746594749.1897151");
        check(1.0, "1.0");
        check(0.0001, "0.0001");
        check(0.00006, "6e-05");
        check(0.0, "0.0");
    }
}
