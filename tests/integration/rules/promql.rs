//! What a PromQL expression names: metrics, and labels.
//!
//! Prometheus itself says whether an expression is valid; a metric or label that doesn't exist is
//! valid too, and the answer is just empty for ever. So this finds the names. It is no parser: it
//! knows what precedes and follows a name, which is enough to tell metrics, functions, keywords and
//! labels apart.

use std::collections::BTreeSet;

/// A metric that an expression reads, and the labels that its matchers name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    pub(crate) labels: BTreeSet<String>,
}

/// All that an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) selectors: Vec<Selector>,
    /// Labels in `by (…)`: what the result has.
    pub(crate) by: BTreeSet<String>,
    /// Labels in `without`, `on`, `ignoring` and `group_…`.
    pub(crate) others: BTreeSet<String>,
    /// Labels that `label_replace` makes.
    pub(crate) made: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(String),
}

const LISTS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
const KEYWORDS: &[&str] = &["and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"];
const COMPARISONS: &[&str] = &["==", "!=", ">", "<", ">=", "<="];

/// The names in an expression.
///
/// # Panics
/// If the expression isn't one, or has a selector without a name.
pub(crate) fn names(expression: &str) -> Names {
    let tokens: Vec<_> = tokens(expression).into_iter().map(|(token, _)| token).collect();
    let mut names = Names::default();
    let mut at = 0;
    while at < tokens.len() {
        let next = tokens.get(at + 1);
        match &tokens[at] {
            Token::Word(word) if LISTS.contains(&word.as_str()) => {
                let list =
                    if next == Some(&sign("(")) { words_until(&tokens, at + 2, ")") } else { (vec![], at) };
                let into = if word == "by" { &mut names.by } else { &mut names.others };
                into.extend(list.0);
                at = list.1;
            }
            Token::Word(word) if KEYWORDS.contains(&word.to_lowercase().as_str()) => {}
            // A function, an aggregation, or an aggregation whose `by` comes first.
            Token::Word(word) if next == Some(&sign("(")) => {
                if word == "label_replace" {
                    names.made.insert(second_argument(&tokens, at + 2));
                }
            }
            Token::Word(_) if matches!(next, Some(Token::Word(next)) if next == "by" || next == "without") => {
            }
            Token::Word(word) => {
                let (labels, end) =
                    if next == Some(&sign("{")) { words_until(&tokens, at + 2, "}") } else { (vec![], at) };
                names.selectors.push(Selector { metric: word.clone(), labels: labels.into_iter().collect() });
                at = end;
            }
            Token::Sign(sign) => assert_ne!(sign, "{", "a selector without a name: {expression}"),
            Token::Text(_) => {}
        }
        at += 1;
    }
    names
}

/// The expression with comparisons that say 0 or 1 instead of leaving series out: it answers
/// whether or not it is true.
pub(crate) fn unfiltered(expression: &str) -> String {
    let (mut result, mut done, mut braces) = (String::new(), 0, 0_u32);
    let mut tokens = tokens(expression).into_iter().peekable();
    while let Some((token, end)) = tokens.next() {
        let answers = matches!(tokens.peek(), Some((Token::Word(next), _)) if next == "bool");
        match token {
            Token::Sign(sign) if sign == "{" => braces += 1,
            Token::Sign(sign) if sign == "}" => braces -= 1,
            Token::Sign(sign) if braces == 0 && !answers && COMPARISONS.contains(&sign.as_str()) => {
                result.push_str(&expression[done..end]);
                result.push_str(" bool ");
                done = end;
            }
            _ => {}
        }
    }
    result + &expression[done..]
}

fn sign(text: &str) -> Token {
    Token::Sign(text.to_owned())
}

/// The text that is the second argument of the call whose first one begins there.
fn second_argument(tokens: &[Token], from: usize) -> String {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Sign(sign) if sign == "(" || sign == "{" => depth += 1,
            Token::Sign(sign) if sign == ")" || sign == "}" => depth -= 1,
            Token::Sign(sign) if sign == "," && depth == 0 => {
                let Some(Token::Text(text)) = tokens.get(at + 1) else { break };
                return text.clone();
            }
            _ => {}
        }
    }
    panic!("no second argument in {tokens:?}")
}

/// The words up to the closing sign, and where that is.
fn words_until(tokens: &[Token], from: usize, close: &str) -> (Vec<String>, usize) {
    let length = tokens[from..].iter().position(|token| *token == sign(close)).expect("it is closed");
    let words = tokens[from..from + length].iter().filter_map(|token| match token {
        Token::Word(word) => Some(word.clone()),
        _ => None,
    });
    (words.collect(), from + length)
}

/// The tokens that matter, each with where it ends: numbers, durations, ranges and comments are
/// left out.
fn tokens(expression: &str) -> Vec<(Token, usize)> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '[' => rest.find(']').expect("a range is closed") + 1,
            '"' | '\'' => quoted(rest, first),
            _ if first.is_ascii_alphabetic() || first == '_' || first == ':' => rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
                .unwrap_or(rest.len()),
            _ if first.is_ascii_digit() => {
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(rest.len())
            }
            '=' | '!' | '<' | '>' if rest[1..].starts_with(['=', '~']) => 2,
            _ => first.len_utf8(),
        };
        let (text, end) = (&rest[..length], expression.len() - rest.len() + length);
        match first {
            '"' | '\'' => tokens.push((Token::Text(text[1..text.len() - 1].to_owned()), end)),
            '#' | '[' => {}
            _ if first.is_ascii_alphabetic() || first == '_' || first == ':' => {
                tokens.push((Token::Word(text.to_owned()), end));
            }
            _ if first.is_ascii_digit() || first.is_whitespace() => {}
            _ => tokens.push((sign(text), end)),
        }
        rest = &rest[length..];
    }
    tokens
}

/// The length of a quoted text with its quotes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    panic!("an open quote: {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn selectors(expression: &str) -> Vec<(String, BTreeSet<String>)> {
        names(expression).selectors.into_iter().map(|selector| (selector.metric, selector.labels)).collect()
    }

    #[test]
    fn finds_metrics_and_labels() {
        let found = names(
            "histogram_quantile(0.95, sum by (le, region) (rate(a_bucket{region=~\"x|y\", b!='{z}'}[5m] offset 1h)))",
        );
        assert_eq!(found.selectors, [Selector { metric: "a_bucket".into(), labels: set(&["region", "b"]) }]);
        assert_eq!((found.by, found.others), (set(&["le", "region"]), set(&[])));
        let found = names(
            "x:y:sum / on (region) group_left () (count(up) without (job) > 0) # and more\nand b == 1e3",
        );
        let metrics: Vec<_> = found.selectors.iter().map(|selector| selector.metric.as_str()).collect();
        assert_eq!(metrics, ["x:y:sum", "up", "b"]);
        assert_eq!(found.others, set(&["region", "job"]));
        assert_eq!(selectors("absent(a) or vector(1) unless NaN"), [("a".into(), set(&[]))]);
        assert_eq!(selectors("count by(a)(b)"), [("b".into(), set(&[]))]);
        let made = names("label_replace(sum by (a, b) (c{d=\"e\"}), \"f\", \"$1\", \"a\", \"(.*)\")").made;
        assert_eq!(made, set(&["f"]));
    }

    #[test]
    #[should_panic(expected = "without a name")]
    fn refuses_a_selector_without_a_name() {
        names("{region=\"us\"}");
    }

    #[test]
    fn comparisons_are_made_to_answer() {
        assert_eq!(
            unfiltered("a{b!=\"c\",d=~\"e\"} >= 2 and f == g"),
            "a{b!=\"c\",d=~\"e\"} >= bool  2 and f == bool  g"
        );
        assert_eq!(unfiltered("a >= bool 2"), "a >= bool 2");
        assert_eq!(unfiltered("a"), "a");
    }
}
