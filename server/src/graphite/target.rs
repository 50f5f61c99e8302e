//! The parser of targets: paths, and calls of functions with arguments.

/// An expression of a target.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    /// A pattern of paths, such as `palm.*.cpu`.
    Path(String),
    Call(Call),
    Integer(i64),
    Float(f64),
    /// The text between quotes, unchanged.
    Text(String),
    Bool(bool),
    None,
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) function: String,
    pub(super) args: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
    /// The call as it was written.
    pub(super) text: String,
}

impl Expr {
    /// Parses a target, whose calls are nested at most `max_depth` deep.
    pub(super) fn parse(text: &str, max_depth: usize) -> Result<Self, InvalidTarget> {
        let mut parser = Parser { text, at: 0, depth: 0, max_depth };
        let expr = parser.expression()?;
        parser.skip_spaces();
        if parser.at < text.len() {
            return Err(parser.error("unexpected character"));
        }
        Ok(expr)
    }

    /// Returns the first path of the expression, in which the first argument of each call is looked into.
    pub(super) fn first_path(&self) -> Option<&str> {
        let mut expr = self;
        loop {
            match expr {
                Self::Path(path) => return Some(path),
                Self::Call(call) => expr = call.args.first()?,
                _ => return None,
            }
        }
    }
}

/// The error for a target that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid target at byte {position}: {reason}")]
pub struct InvalidTarget {
    /// Where the parser stopped, in bytes from the beginning.
    pub position: usize,
    reason: &'static str,
}

impl InvalidTarget {
    /// Returns true if its calls are nested too deep, so that it may be valid with a higher limit.
    pub(super) fn is_too_deep(&self) -> bool {
        self.reason == TOO_DEEP
    }
}

const TOO_DEEP: &str = "too many nested calls";

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    max_depth: usize,
}

impl<'a> Parser<'a> {
    /// Parses a path or a call, and the calls behind `|` that it is passed to.
    fn expression(&mut self) -> Result<Expr, InvalidTarget> {
        self.skip_spaces();
        let start = self.at;
        let mut expr = self.path_or_call()?;
        let mut piped = 0;
        loop {
            self.skip_spaces();
            if !self.take('|') {
                return Ok(expr);
            }
            piped += 1;
            if self.depth + piped > self.max_depth {
                return Err(self.error(TOO_DEEP));
            }
            self.skip_spaces();
            match self.path_or_call()? {
                Expr::Call(mut call) => {
                    call.args.insert(0, expr);
                    call.text = self.text[start..self.at].into();
                    expr = Expr::Call(call);
                }
                _ => return Err(self.error("expected a function call behind `|`")),
            }
        }
    }

    fn path_or_call(&mut self) -> Result<Expr, InvalidTarget> {
        let start = self.at;
        let word = self.word()?;
        if !is_identifier(word) {
            return Ok(Expr::Path(word.into()));
        }
        let behind_word = self.at;
        self.skip_spaces();
        if !self.take('(') {
            self.at = behind_word;
            return Ok(Expr::Path(word.into()));
        }
        self.depth += 1;
        if self.depth > self.max_depth {
            return Err(self.error(TOO_DEEP));
        }
        let (mut args, mut named) = (Vec::new(), Vec::new());
        self.skip_spaces();
        if !self.take(')') {
            loop {
                self.skip_spaces();
                if let Some(name) = self.argument_name() {
                    named.push((name.into(), self.argument()?));
                } else if named.is_empty() {
                    args.push(self.argument()?);
                } else {
                    return Err(self.error("positional argument behind a named one"));
                }
                self.skip_spaces();
                if self.take(')') {
                    break;
                }
                if !self.take(',') {
                    return Err(self.error("expected `,` or `)`"));
                }
            }
        }
        self.depth -= 1;
        let text = self.text[start..self.at].into();
        Ok(Expr::Call(Call { function: word.into(), args, named, text }))
    }

    /// Returns the name of an argument if there is one with its `=`.
    fn argument_name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..len];
        let behind = rest[len..].trim_start();
        if !is_identifier(name) || !behind.starts_with('=') {
            return None;
        }
        self.at = self.text.len() - behind.len() + 1;
        Some(name)
    }

    fn argument(&mut self) -> Result<Expr, InvalidTarget> {
        self.skip_spaces();
        let rest = self.rest();
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            return self.string(quote).map(|text| Expr::Text(text.into()));
        }
        // A literal is followed by the end of the argument: `10.cpu` is a path.
        let len = rest.find([',', ')', '(', '{']).unwrap_or(rest.len());
        if !matches!(rest.as_bytes().get(len), Some(b'(' | b'{'))
            && let Some(literal) = literal(rest[..len].trim_end())
        {
            self.at += rest[..len].trim_end().len();
            return Ok(literal);
        }
        self.expression()
    }

    fn string(&mut self, quote: char) -> Result<&'a str, InvalidTarget> {
        let body = &self.rest()[1..];
        let mut escaped = false;
        for (at, c) in body.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    self.at += at + 2;
                    return Ok(&body[..at]);
                }
                _ => {}
            }
        }
        Err(self.error("string without closing quote"))
    }

    /// Takes what a path may consist of; commas are part of it within braces.
    fn word(&mut self) -> Result<&'a str, InvalidTarget> {
        let rest = self.rest();
        let (mut braces, mut escaped, mut len) = (0_usize, false, rest.len());
        for (at, c) in rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '{' => braces += 1,
                '}' if braces > 0 => braces -= 1,
                ',' | ' ' if braces > 0 => {}
                '(' | ')' | ',' | '|' | '\'' | '"' | '}' => {
                    len = at;
                    break;
                }
                c if c.is_whitespace() => {
                    len = at;
                    break;
                }
                _ => {}
            }
        }
        if len == 0 {
            let reason = if rest.is_empty() { "unexpected end" } else { "unexpected character" };
            return Err(self.error(reason));
        }
        if braces > 0 {
            return Err(self.error("brace without closing brace"));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn error(&self, reason: &'static str) -> InvalidTarget {
        InvalidTarget { position: self.at, reason }
    }
}

fn is_identifier(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && word.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

fn literal(word: &str) -> Option<Expr> {
    let is = |name: &str| word.eq_ignore_ascii_case(name);
    if is("true") || is("false") {
        return Some(Expr::Bool(is("true")));
    }
    if is("none") {
        return Some(Expr::None);
    }
    if is("inf") {
        return Some(Expr::Float(f64::INFINITY));
    }
    let digits = word.strip_prefix('-').unwrap_or(word);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if digits.bytes().all(|c| c.is_ascii_digit()) {
        let integer = word.parse().map(Expr::Integer).ok();
        return integer.or_else(|| word.parse().map(Expr::Float).ok());
    }
    let is_number =
        digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+'));
    let is_complete = digits.ends_with(|c: char| c.is_ascii_digit());
    (is_number && is_complete).then(|| word.parse().map(Expr::Float).ok()).flatten()
}

/// Parses any text as a target: the body of a fuzz target.
///
/// # Panics
///
/// If a call that was parsed is not found where its text says, or if the text of a call is parsed to another
/// call.
#[doc(hidden)]
pub fn fuzz(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    const MAX_DEPTH: usize = 32;
    let parsed = Expr::parse(text, MAX_DEPTH);
    match parsed {
        Ok(Expr::Call(call)) => {
            assert!(text.contains(&call.text), "the call is part of the target");
            let again = Expr::parse(&call.text, MAX_DEPTH).expect("the text of a call is a target");
            // Not compared by `==`, as NaN differs from itself.
            assert_eq!(format!("{again:?}"), format!("{:?}", Expr::Call(call)));
        }
        Ok(expr) => assert!(matches!(expr, Expr::Path(_)), "a target is a path or a call"),
        Err(error) => assert!(text.is_char_boundary(error.position), "the position is in the text"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Expr {
        Expr::parse(text, 10).unwrap()
    }

    fn call(function: &str, args: Vec<Expr>, text: &str) -> Expr {
        Expr::Call(Call { function: function.into(), args, named: vec![], text: text.into() })
    }

    fn path(text: &str) -> Expr {
        Expr::Path(text.into())
    }

    #[test]
    fn targets_are_paths_and_nested_calls() {
        assert_eq!(parse(" palm.*.cpu[0-3]{a,b c}.x "), path("palm.*.cpu[0-3]{a,b c}.x"));
        assert_eq!(parse("cpu;host=palm"), path("cpu;host=palm"));
        let text = r#"aliasSub(sumSeries(a.*, b.c), "(^.*$)", '\1 A')"#;
        let sum = call("sumSeries", vec![path("a.*"), path("b.c")], "sumSeries(a.*, b.c)");
        let expected = vec![sum, Expr::Text("(^.*$)".into()), Expr::Text(r"\1 A".into())];
        assert_eq!(parse(text), call("aliasSub", expected, text));
        assert_eq!(parse("f( )"), call("f", vec![], "f( )"));
        let piped = call("limit", vec![path("a.b"), Expr::Integer(1)], "a.b | limit(1)");
        let text = "a.b | limit(1)|f()";
        assert_eq!(parse(text), call("f", vec![piped], text));
    }

    #[test]
    fn literals_are_numbers_words_and_strings() {
        let args = "-1, 2.5, 1e3, -1.5E-2, 99999999999999999999, true, FALSE, None, inf";
        let expected = vec![
            Expr::Integer(-1),
            Expr::Float(2.5),
            Expr::Float(1000.0),
            Expr::Float(-0.015),
            Expr::Float(1e20),
            Expr::Bool(true),
            Expr::Bool(false),
            Expr::None,
            Expr::Float(f64::INFINITY),
        ];
        let text = format!("f({args})");
        assert_eq!(parse(&text), call("f", expected, &text));
        // A path may begin as a literal does.
        let text = "f(10.cpu, 1h, trueish, inf.x, 1{2,3})";
        let paths = ["10.cpu", "1h", "trueish", "inf.x", "1{2,3}"].map(path).to_vec();
        assert_eq!(parse(text), call("f", paths, text));
        let text = r#"f("a\"b", 'it"s')"#;
        let strings = vec![Expr::Text(r#"a\"b"#.into()), Expr::Text("it\"s".into())];
        assert_eq!(parse(text), call("f", strings, text));
    }

    #[test]
    fn arguments_may_have_names() {
        let Expr::Call(call) = parse("f(a.b, n = 3, reverse=true)") else { panic!("a call") };
        assert_eq!(call.args, [path("a.b")]);
        let named = [("n".to_owned(), Expr::Integer(3)), ("reverse".to_owned(), Expr::Bool(true))];
        assert_eq!(call.named, named);
    }

    #[test]
    fn errors_name_the_position() {
        for (text, position, reason) in [
            ("", 0, "unexpected end"),
            ("sum(a", 5, "expected `,` or `)`"),
            ("sum(a,", 6, "unexpected end"),
            ("sum(a))", 6, "unexpected character"),
            ("sum(a b)", 6, "expected `,` or `)`"),
            ("f(\"a)", 2, "string without closing quote"),
            ("f(n=1, a)", 7, "positional argument behind a named one"),
            ("a{b,c", 0, "brace without closing brace"),
            ("a|b", 3, "expected a function call behind `|`"),
            ("f(é(", 4, "expected `,` or `)`"),
        ] {
            let error = Expr::parse(text, 10).unwrap_err();
            assert_eq!((error.position, error.reason), (position, reason), "{text}");
        }
        assert_eq!(
            Expr::parse("f(", 10).unwrap_err().to_string(),
            "invalid target at byte 2: unexpected end"
        );
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| "f(".repeat(depth) + "a" + &")".repeat(depth);
        assert!(Expr::parse(&nested(10), 10).is_ok());
        let error = Expr::parse(&nested(11), 10).unwrap_err();
        assert_eq!(error.reason, "too many nested calls");
        assert!(Expr::parse(&nested(100_000), 10).is_err());
        assert!(Expr::parse(&("a".to_owned() + &"|f()".repeat(100_000)), 10).is_err());
    }

    #[test]
    fn first_path_is_that_of_the_first_argument() {
        assert_eq!(parse("f(g(a.b, c), d)").first_path(), Some("a.b"));
        assert_eq!(parse("f('x', d)").first_path(), None);
        assert_eq!(parse("f()").first_path(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_an_error(text in r#"[a-c01.*{}\[\]()|,="'\\ é-]{0,24}"#) {
            fuzz(text.as_bytes());
        }
    }
}
