//! Draws pictures of runs. The colours are the page's: it names a style for each class.

use maud::{Markup, Render, html};

use super::timeline::{Cut, LEFT, Picture, TOP, WIDTH};

/// Text from people, files and servers: shown as it is. What would turn or hide the letters around it is made visible.
pub(super) struct Plain<'a>(pub &'a str);

impl Render for Plain<'_> {
    fn render_to(&self, out: &mut String) {
        let turns = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        let shown: String =
            self.0.chars().map(|c| if turns(c) || (c.is_control() && c != '\n') { '\u{fffd}' } else { c }).collect();
        shown.as_str().render_to(out);
    }
}

/// A number of an SVG: one decimal is finer than any screen.
fn n(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A picture with a title and a description for those who do not see it; `id` tells it from others on the page.
pub(super) fn draw(picture: &Picture, id: &str, title: &str, description: &str) -> Markup {
    let (right, bottom) = (WIDTH - 16.0, picture.height);
    let labels = format!("{id}-title {id}-description");
    html! {
        svg viewBox={ "0 0 " (n(WIDTH)) " " (n(picture.height + 4.0)) } role="img" aria-labelledby=(labels) xmlns="http://www.w3.org/2000/svg" {
            title id={ (id) "-title" } { (Plain(title)) }
            desc id={ (id) "-description" } { (Plain(description)) }
            @if let Some((from, to, text)) = &picture.band {
                rect class="band" x=(n(*from)) y=(n(TOP)) width=(n(to - from)) height=(n(bottom - TOP)) {}
                text class="bandname" x=(n((from + to) / 2.0)) y=(n(TOP - 24.0)) text-anchor="middle" { (Plain(text)) }
                path class="bracket" d={ "M" (n(*from)) " " (n(TOP - 14.0)) "v-5H" (n(*to)) "v5" } {}
            }
            @for tick in &picture.ticks {
                line class="tick" x1=(n(tick.x)) y1=(n(TOP - 4.0)) x2=(n(tick.x)) y2=(n(bottom)) {}
                @let (anchor, x) = if tick.x > right - 30.0 { ("end", right) } else { ("middle", tick.x) };
                text class="time" x=(n(x)) y=(n(TOP - 8.0)) text-anchor=(anchor) { (tick.text) }
            }
            @for (index, row) in picture.rows.iter().enumerate() {
                g {
                    @if index % 2 == 1 {
                        rect class="stripe" x="0" y=(n(row.y)) width=(n(WIDTH)) height=(n(row.height)) {}
                    }
                    text class="name" x=(n(picture.left - 10.0)) y=(n(row.y + row.height / 2.0 + 4.0)) text-anchor="end" { (Plain(&row.name)) }
                    @for bar in &row.bars {
                        g {
                            title { (Plain(&bar.title)) }
                            rect class={ "bar " (bar.class) } x=(n(bar.x)) y=(n(bar.y)) width=(n(bar.width)) height=(n(bar.height)) rx="2" {}
                            @if let Some(text) = &bar.text {
                                text class={ "inside " (bar.class) } x=(n(bar.x + 4.0)) y=(n(bar.y + bar.height - 2.5)) { (Plain(text)) }
                            }
                        }
                    }
                }
            }
            @if let Some(curve) = &picture.curve {
                g {
                    title { (curve.name) ": at most " (curve.most) }
                    text class="name" x=(n(LEFT - 10.0)) y=(n(curve.y + curve.height / 2.0 + 4.0)) text-anchor="end" { (curve.name) }
                    line class="tick" x1=(n(LEFT)) y1=(n(curve.y + curve.height - 2.0)) x2=(n(right)) y2=(n(curve.y + curve.height - 2.0)) {}
                    polyline class="curve" points=(points(&curve.points)) {}
                    @if let Some((x, y)) = curve.points.first() {
                        text class="time" x=(n(x - 4.0)) y=(n(y + 4.0)) text-anchor="end" { (curve.most) }
                    }
                }
            }
            @for cut in &picture.cuts { (line(cut, bottom)) }
        }
    }
}

fn points(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{},{}", n(*x), n(*y))).collect::<Vec<_>>().join(" ")
}

fn line(cut: &Cut, bottom: f64) -> Markup {
    html! {
        g {
            title { (Plain(&cut.title)) }
            line class={ "cut " (cut.class) } x1=(n(cut.x)) y1=(n(TOP)) x2=(n(cut.x)) y2=(n(bottom)) {}
            @if let Some(text) = cut.text {
                text class="endname" x=(n(cut.x)) y=(n(TOP - 24.0)) text-anchor="end" { (Plain(text)) }
            }
        }
    }
}
