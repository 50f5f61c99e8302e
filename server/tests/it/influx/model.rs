//! The rules of the line protocol once more, a character after the other: slow, and easy to read.

/// The key, the second and the value of each field, or what is wrong with the line.
pub(crate) type Read = Result<Vec<(String, i64, f64)>, &'static str>;

/// Splits a body into lines.
pub(crate) fn lines(body: &str) -> Vec<String> {
    let chars: Vec<char> = body.chars().collect();
    let (mut lines, mut begin) = (Vec::new(), 0);
    while begin < chars.len() {
        let end = end_of_line(&chars, begin);
        lines.push(chars[begin..end].iter().collect());
        begin = end + 1;
    }
    lines
}

fn end_of_line(chars: &[char], begin: usize) -> usize {
    let mut at = begin;
    while at < chars.len() && is_blank(chars[at]) {
        at += 1;
    }
    let is_comment = chars.get(at) == Some(&'#');
    let (first, mut has_fields) = (at, false);
    while at < chars.len() && chars[at] != '\n' {
        if chars[at] == ' ' && at > first && chars[at - 1] != '\\' {
            has_fields = true;
        }
        let is_value =
            has_fields && !is_comment && chars[at] == '"' && is_equals(&chars[begin..at]);
        at = if is_value { end_of_string(chars, at).unwrap_or(at + 1) } else { at + 1 };
    }
    at
}

fn is_equals(before: &[char]) -> bool {
    let backslashes = before.iter().rev().skip(1).take_while(|&&char| char == '\\').count();
    before.last() == Some(&'=') && backslashes % 2 == 0
}

fn end_of_string(chars: &[char], begin: usize) -> Option<usize> {
    let mut at = begin + 1;
    while at < chars.len() {
        match chars[at] {
            '"' => return Some(at + 1),
            '\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

fn is_blank(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\0')
}

/// Reads a line with a timestamp in nanoseconds.
pub(crate) fn read(line: &str, now: i64) -> Read {
    let line = line.trim_start_matches(is_blank);
    let line: Vec<char> = line.strip_suffix('\r').unwrap_or(line).chars().collect();
    if line.is_empty() || line[0] == '#' {
        return Ok(Vec::new());
    }
    // The measurement.
    let end = end_of_name(&line, 0, &[',', ' ']);
    let measurement = unescaped(&line[..end], &[',', ' ', '"']);
    if measurement.is_empty() {
        return Err("missing measurement");
    }
    // The tags.
    let (mut at, mut tags) = (end, Vec::new());
    while line.get(at) == Some(&',') {
        let equals = end_of_name(&line, at + 1, &['=', ',', ' ']);
        if equals == at + 1 {
            return Err("missing tag key");
        }
        let begin = equals + 1;
        if line.get(equals) != Some(&'=') || matches!(line.get(begin), None | Some(',' | ' ')) {
            return Err("missing tag value");
        }
        let is_equals = usize::from(line[begin] == '=');
        let end = end_of_name(&line, begin + is_equals, &['=', ',', ' ']);
        if line.get(end) == Some(&'=') {
            return Err("invalid tag format");
        }
        let escaped = [',', ' ', '='];
        tags.push((
            unescaped(&line[at + 1..equals], &escaped),
            unescaped(&line[begin..end], &escaped),
        ));
        at = end;
    }
    tags.sort();
    if tags.windows(2).any(|two| two[0].0 == two[1].0) {
        return Err("duplicate tags");
    }
    if at == line.len() {
        return Err("missing fields");
    }
    // The fields.
    while at < line.len() && is_blank(line[at]) {
        at += 1;
    }
    let mut fields = Vec::new();
    loop {
        let mut equals = at;
        while equals < line.len() && !matches!(line[equals], '=' | ',' | ' ') {
            equals += if line[equals] == '\\' { 2 } else { 1 };
        }
        if line.get(equals) != Some(&'=') {
            return Err("invalid field format");
        }
        if equals == at {
            return Err("missing field key");
        }
        let name = unescaped(&line[at..equals], &[',', ' ', '=', '"']);
        let begin = equals + 1;
        if line.get(begin) == Some(&'"') {
            at = end_of_string(&line, begin).ok_or("unbalanced quotes")?;
        } else {
            at = begin;
            while at < line.len() && !matches!(line[at], ',' | ' ') {
                at += 1;
            }
            fields.push((name, value(&line[begin..at].iter().collect::<String>())?));
        }
        match line.get(at) {
            Some(',') => at += 1,
            None | Some(' ') => break,
            Some(_) => return Err("invalid field format"),
        }
    }
    // The timestamp.
    let rest: String = line[at..].iter().collect();
    let rest = rest.trim_start_matches(is_blank).trim_end_matches(' ');
    let second = match rest.split_once(' ') {
        _ if rest.is_empty() => now,
        None => second(rest)?,
        Some((timestamp, _)) => return second(timestamp).and(Err("point is invalid")),
    };
    let points = fields.into_iter().map(|(field, value)| {
        let name =
            if field == "value" { measurement.clone() } else { format!("{measurement}.{field}") };
        let key = metrics_client::Key::with_labels(name, tags.clone())
            .map_err(|_| "key is longer than 1024 bytes")?;
        Ok((key.as_str().to_owned(), second, value))
    });
    points.collect()
}

/// Returns where a name ends: at a character of `ends` that has no backslash before it.
fn end_of_name(line: &[char], begin: usize, ends: &[char]) -> usize {
    let mut at = begin;
    while at < line.len() && (!ends.contains(&line[at]) || at > begin && line[at - 1] == '\\') {
        at += 1;
    }
    at
}

fn unescaped(text: &[char], escaped: &[char]) -> String {
    let is_escape =
        |at: usize| text[at] == '\\' && text.get(at + 1).is_some_and(|next| escaped.contains(next));
    (0..text.len()).filter(|&at| !is_escape(at)).map(|at| text[at]).collect()
}

fn value(text: &str) -> Result<f64, &'static str> {
    match text {
        "t" | "T" | "true" | "True" | "TRUE" => return Ok(1.0),
        "f" | "F" | "false" | "False" | "FALSE" => return Ok(0.0),
        "" => return Err("missing field value"),
        _ if text.starts_with(['n', 'N']) => return Err("invalid number"),
        _ if !text.starts_with(|char: char| char.is_ascii_digit() || "-.".contains(char)) => {
            return Err("invalid boolean");
        }
        _ => {}
    }
    if let Some(integer) = text.strip_suffix('i') {
        return integer.parse::<i64>().map(|integer| integer as f64).map_err(|_| "invalid number");
    }
    if let Some(integer) = text.strip_suffix('u') {
        return integer.parse::<u64>().map(|integer| integer as f64).map_err(|_| "invalid number");
    }
    if text.contains(|char: char| !char.is_ascii_digit() && !"-+.eE".contains(char)) {
        return Err("invalid number");
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ if text.contains(['e', 'E']) => Err("invalid float"),
        _ => Err("invalid number"),
    }
}

fn second(timestamp: &str) -> Result<i64, &'static str> {
    let nanoseconds = timestamp.parse::<i64>().ok().filter(|_| !timestamp.starts_with('+'));
    nanoseconds.map(|nanoseconds| nanoseconds.div_euclid(1_000_000_000)).ok_or("bad timestamp")
}

/// Reads any bytes as a body, here and by the parser: the body of the fuzz target `influx_line`.
///
/// # Panics
///
/// If the lines or their readings differ.
pub(crate) fn check(body: &[u8]) {
    metrics_server::influx::fuzz_line(body);
    let Ok(text) = std::str::from_utf8(body) else { return };
    const NOW: i64 = 7;
    let (mut expected, mut wrong) = (Vec::new(), Vec::new());
    for line in lines(text) {
        match read(&line, NOW) {
            Ok(points) => expected.extend(points),
            Err(error) => wrong.push((line, error.to_owned())),
        }
    }
    let (mut points, mut errors) = (Vec::new(), Vec::new());
    metrics_server::influx::read_lines(
        body,
        NOW,
        |key, point| points.push((key.to_owned(), point.timestamp, point.value)),
        |line, error| errors.push((String::from_utf8_lossy(line).into_owned(), error.to_string())),
    );
    assert_eq!(errors, wrong);
    assert_eq!(points, expected);
}
