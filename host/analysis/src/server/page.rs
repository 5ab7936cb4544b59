//! The Prometheus text format (version 0.0.4), as far as inference servers use it.

/// One number of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name: "vllm:num_requests_running".
    pub name: String,
    /// Its labels, in the page's order.
    pub labels: Vec<(String, String)>,
    /// The number; infinities are kept, what is not a number is left out of the page.
    pub value: f64,
}

impl Series {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Name and labels as the page writes them.
    #[must_use]
    pub fn key(&self) -> String {
        let escape =
            |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> =
            self.labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        if labels.is_empty() {
            self.name.clone()
        } else {
            format!("{}{{{}}}", self.name, labels.join(","))
        }
    }
}

/// The series of a page. Comments, lines that cannot be understood, values that are no numbers and
/// the `_created` series, which are times, are left out.
#[must_use]
pub fn parse(page: &str) -> Vec<Series> {
    page.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| {
            let end = if line.contains('{') { line.rfind('}')? + 1 } else { line.find(' ')? };
            let (key, rest) = line.split_at(end);
            // A time stamp may stand behind the value.
            let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
            parse_series(key, value)
        })
        .collect()
}

/// A series from its name and labels. None: they cannot be understood, or mean no quantity.
#[must_use]
pub fn parse_series(key: &str, value: f64) -> Option<Series> {
    let (name, labels) = match key.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (key, Vec::new()),
    };
    let is_quantity = !name.is_empty() && !name.ends_with("_created") && !value.is_nan();
    is_quantity.then(|| Series { name: name.to_owned(), labels, value })
}

fn labels(text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    let mut rest = text.trim().trim_end_matches(',');
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, c) => value.push(c),
            }
        };
        labels.push((name.trim().to_owned(), value));
        rest = after[end + 1..].trim_start_matches([',', ' ']);
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_and_written_back() {
        let page = "# HELP a x\n# TYPE a gauge\na 1\nb{x=\"1\",y=\"q\\\"{}\\n,\"} 2.5 1700000000\nh_bucket{le=\"+Inf\"} +Inf\nc NaN\na_created 1.8e+09\nbroken{x=1} 2\n";
        let series = parse(page);
        let shown: Vec<(String, f64)> = series.iter().map(|s| (s.key(), s.value)).collect();
        let expected = [
            ("a".to_owned(), 1.0),
            ("b{x=\"1\",y=\"q\\\"{}\\n,\"}".to_owned(), 2.5),
            ("h_bucket{le=\"+Inf\"}".to_owned(), f64::INFINITY),
        ];
        assert_eq!(shown, expected);
        assert_eq!(series[1].label("y"), Some("q\"{}\n,"));
        for one in series {
            assert_eq!(parse_series(&one.key(), one.value), Some(one));
        }
    }
}
