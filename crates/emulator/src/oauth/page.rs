//! The pages a browser sees: an authorisation form that needs no JavaScript, and a page for requests gone wrong.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The pages' one style sheet: light and dark by the reader's own choice, no font or image from elsewhere.
const STYLE: &str = "
:root{color-scheme:light dark;--page:#f4f4f6;--card:#fff;--ink:#1c1d22;--soft:#5b5e6b;--line:#d9dae1;--ring:#1b66d6}
@media(prefers-color-scheme:dark){:root{--page:#131418;--card:#1e2026;--ink:#ececf1;--soft:#a6a9b8;--line:#3a3d48;--ring:#7fb2ff}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{width:100%;max-width:31rem;background:var(--card);border:1px solid var(--line);border-radius:14px;padding:1.75rem}
header{display:flex;align-items:center;gap:.65rem;color:var(--soft);font-size:.9rem}
.mark{display:grid;place-items:center;width:2rem;height:2rem;border-radius:8px;background:var(--brand);color:#fff;font-weight:700}
.badge{margin-left:auto;border:1px solid var(--line);border-radius:99px;padding:.05rem .6rem;font-size:.75rem}
h1{font-size:1.35rem;line-height:1.3;margin:1.1rem 0 .4rem}
p{margin:.4rem 0;color:var(--soft)}
fieldset{border:1px solid var(--line);border-radius:10px;margin:1rem 0;padding:.6rem .9rem .8rem}
legend{padding:0 .4rem;font-weight:600}
ul{list-style:none;margin:0;padding:0}
li{padding:.3rem 0}
label{display:flex;gap:.6rem;align-items:flex-start;cursor:pointer}
label:has(input:disabled){cursor:default}
input[type=checkbox],input[type=radio]{margin-top:.3rem;width:1rem;height:1rem;flex:none;accent-color:var(--brand)}
code{display:block;font-size:.78rem;color:var(--soft);overflow-wrap:anywhere}
.buttons{display:flex;gap:.75rem;justify-content:flex-end;margin-top:1.25rem;flex-wrap:wrap}
button{font:inherit;font-weight:600;border-radius:9px;padding:.55rem 1.25rem;border:1px solid var(--line);background:transparent;color:var(--ink);cursor:pointer}
button.go{background:var(--brand);border-color:var(--brand);color:#fff}
:focus-visible{outline:3px solid var(--ring);outline-offset:2px}
dl{display:grid;grid-template-columns:auto 1fr;gap:.2rem .9rem;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
";

/// Whose page it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Brand {
    pub(crate) name: &'static str,
    pub(crate) mark: &'static str,
    /// A CSS colour on which white text is readable.
    pub(crate) colour: &'static str,
}

/// One of several accounts, workspaces or the like.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) value: String,
    pub(crate) label: String,
    pub(crate) detail: String,
    pub(crate) chosen: bool,
}

/// One scope on the page.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) scope: String,
    pub(crate) words: String,
    /// Whether the user may leave it out; else it is shown ticked and fast.
    pub(crate) optional: bool,
}

/// An authorisation page.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) brand: Brand,
    pub(crate) app: &'a str,
    pub(crate) title: String,
    pub(crate) intro: String,
    /// Where the form is posted.
    pub(crate) action: &'a str,
    /// What the form carries along unseen: the authorisation request itself.
    pub(crate) hidden: Vec<(&'a str, &'a str)>,
    /// Legend, field name and what there is to choose from.
    pub(crate) chooser: Option<(&'static str, &'static str, Vec<Choice>)>,
    /// Legend and scopes of each part.
    pub(crate) parts: Vec<(&'static str, Vec<Line>)>,
    pub(crate) target: &'a str,
}

/// Draws an authorisation page.
pub(crate) fn consent(page: &Page<'_>) -> String {
    let body = html! {
        h1 { (page.title) }
        p { (page.intro) }
        form method="post" action=(page.action) {
            @for (name, value) in &page.hidden {
                input type="hidden" name=(name) value=(value);
            }
            @if let Some((legend, name, choices)) = &page.chooser {
                fieldset {
                    legend { (legend) }
                    ul {
                        @for choice in choices {
                            li { label {
                                input type="radio" name=(name) value=(choice.value) checked[choice.chosen] required;
                                span { (choice.label) code { (choice.detail) } }
                            } }
                        }
                    }
                }
            }
            @for (legend, lines) in &page.parts {
                @if !lines.is_empty() {
                    fieldset {
                        legend { (legend) }
                        ul {
                            @for line in lines {
                                li { label {
                                    input type="checkbox" name="grant" value=(line.scope) checked disabled[!line.optional];
                                    span { (line.words) code { (line.scope) } }
                                } }
                            }
                        }
                    }
                }
            }
            p { "You will be sent to " (host(page.target)) "." }
            div class="buttons" {
                button type="submit" name="decision" value="deny" { "Deny" }
                button class="go" type="submit" name="decision" value="allow" { "Allow" }
            }
        }
    };
    frame(page.brand, &format!("{} · {}", page.app, page.brand.name), &body)
}

/// Draws a page for a request that must not be answered by a redirect.
pub(crate) fn problem(brand: Brand, title: &str, words: &str, details: &[(&str, &str)]) -> String {
    let body = html! {
        h1 { (title) }
        p { (words) }
        @if !details.is_empty() {
            dl { @for (name, value) in details { dt { (name) } dd { (value) } } }
        }
        p { "Nothing was connected. Go back to the app you came from and tell its developer what is shown here." }
    };
    frame(brand, title, &body)
}

fn frame(brand: Brand, title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(format!(":root{{--brand:{}}}{STYLE}", brand.colour))) }
            }
            body {
                main {
                    header {
                        span class="mark" aria-hidden="true" { (brand.mark) }
                        span { (brand.name) }
                        span class="badge" { "emulated" }
                    }
                    (body)
                }
            }
        }
    }
    .into_string()
}

/// Gives scheme and authority of a URI, which is what a user should look at.
fn host(uri: &str) -> &str {
    let after = uri.find("://").map_or(0, |at| at + 3);
    let end = uri.get(after..).and_then(|rest| rest.find(['/', '?', '#'])).map_or(uri.len(), |at| after + at);
    uri.get(..end).unwrap_or(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRAND: Brand = Brand { name: "Acme", mark: "A", colour: "#333" };

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let evil = "\"><script>alert(1)</script>";
        let page = Page {
            brand: BRAND,
            app: evil,
            title: evil.to_owned(),
            intro: evil.to_owned(),
            action: "/authorize",
            hidden: vec![("state", evil)],
            chooser: Some((
                "Account",
                "account",
                vec![Choice { value: evil.to_owned(), label: evil.to_owned(), detail: evil.to_owned(), chosen: true }],
            )),
            parts: vec![("Scopes", vec![Line { scope: evil.to_owned(), words: evil.to_owned(), optional: true }])],
            target: evil,
        };
        let text = consent(&page) + &problem(BRAND, evil, evil, &[("state", evil)]);
        assert!(!text.contains("<script"), "fails when a value is written without escaping");
    }

    #[test]
    fn the_host_of_a_uri_is_shown() {
        for (uri, shown) in [
            ("https://app.example/cb?x=1", "https://app.example"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80"),
            ("com.example.app:/cb", "com.example.app:"),
        ] {
            assert_eq!(host(uri), shown);
        }
    }
}
