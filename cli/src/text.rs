//! Text that has to fit into a column.

use ratatui::text::Span;

/// Returns how many columns text takes.
pub(crate) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Returns text that takes at most `width` columns: the middle of a wider one is left out.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    if self::width(text) <= width {
        return text.into();
    }
    let fit = |chars: &mut dyn Iterator<Item = char>, room: usize| {
        let mut used = 0;
        let mut buffer = [0; 4];
        let fits = |char: &char| {
            used += self::width(char.encode_utf8(&mut buffer));
            used <= room
        };
        chars.take_while(fits).collect::<Vec<_>>()
    };
    let room = width.saturating_sub(1);
    let head = fit(&mut text.chars(), room / 2);
    let mut tail = fit(&mut text.chars().rev(), room - room / 2);
    tail.reverse();
    head.into_iter().chain(['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_of_wide_text_is_left_out() {
        for (text, columns, expected) in [
            ("palm.cpu", 8, "palm.cpu"),
            ("palm.cpu", 7, "pal…cpu"),
            ("palm.cpu", 2, "…u"),
            ("palm.cpu", 1, "…"),
            ("長い名前", 5, "長…前"),
            ("長い名前", 4, "…前"),
            ("", 0, ""),
        ] {
            assert_eq!(shortened(text, columns), expected, "{text} in {columns}");
            assert!(width(&shortened(text, columns)) <= columns);
        }
    }
}
