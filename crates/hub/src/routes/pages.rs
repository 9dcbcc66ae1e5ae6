//! The operations page and the login form: server-rendered, no script, complete without a style sheet.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, RawQuery, State};
use axum::http::Uri;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use palisade_core::forward::Standing;
use palisade_core::health::{Actor, State as Condition, Status};
use palisade_core::store::{
    CallRecord, ConnectionState, DeadLetters, EventRow, FORWARDS_COUNTED_MAX, Halt, NO_CONNECTION, Run, RunMode,
    RunState, StoredDestination, StoredEvent, StreamStatus,
};
use palisade_core::sync::StreamKind;
use palisade_core::worker::{ChoreStatus, Timing};
use palisade_core::{ConnectionId, Timestamp};

use super::Problem;
use super::admin::redirect;
use super::schedules::{next_of, words};
use crate::hub::{Access, Shared};
use crate::overview::{self, ConnectionView, Overview, Reconnect, StreamView};
use crate::time;

/// How often the page loads itself anew, in seconds.
const REFRESH_SECONDS: u32 = 10;

const STYLE: &str = include_str!("style.css");

/// Serves the style sheet. It holds nothing of anybody.
pub(crate) async fn style() -> Response {
    let kind = HeaderValue::from_static("text/css; charset=utf-8");
    let cache = HeaderValue::from_static("public, max-age=3600");
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, cache)], STYLE).into_response()
}

/// Returns the path the router is mounted at, without a trailing slash.
pub(crate) fn base(original: &Uri, inner: &Uri) -> String {
    let whole = original.path().trim_end_matches('/');
    whole.strip_suffix(inner.path().trim_end_matches('/')).unwrap_or_default().to_owned()
}

/// Shows the operations page.
pub(crate) async fn operations(
    State(shared): State<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    RawQuery(query): RawQuery,
    uri: Uri,
) -> Response {
    let paused = query.as_deref() == Some("refresh=off");
    match overview::overview(&shared).await {
        Ok(overview) => {
            let logout = matches!(shared.settings.access, Access::Token(_));
            page(&base(&original, &uri), &overview, paused, logout).into_response()
        }
        Err(error) => Problem::store(&error).into_response(),
    }
}

/// Replays one event and returns to the page.
pub(crate) async fn replay(
    State(shared): State<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    row: Result<Path<i64>, PathRejection>,
    uri: Uri,
) -> Response {
    let Ok(Path(row)) = row else { return Problem::unreadable_address().into_response() };
    match shared.store.replay(EventRow(row), shared.clock.now()).await {
        Ok(true) => redirect(&format!("{}/", base(&original, &uri))),
        Ok(false) => super::inbox::not_replayed_now(&shared, EventRow(row)).await.into_response(),
        Err(error) => Problem::store(&error).into_response(),
    }
}

/// Brings a connection's syncs forward and returns to the page.
pub(crate) async fn sync(
    State(shared): State<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Response {
    let Ok(Path(id)) = id else { return Problem::unreadable_address().into_response() };
    match overview::sync_all(&shared, &ConnectionId::from(id), RunMode::Incremental).await {
        Ok(_) => redirect(&format!("{}/", base(&original, &uri))),
        Err(problem) => problem.into_response(),
    }
}

pub(crate) fn document(base: &str, title: &str, refresh: bool, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if refresh { meta http-equiv="refresh" content=(REFRESH_SECONDS); }
                title { (title) }
                link rel="stylesheet" href={ (base) "/style.css" };
            }
            body { (body) }
        }
    }
}

/// Shows the login form, with what was wrong with the last one.
pub(crate) fn login(base: &str, wrong: Option<&str>) -> Html<String> {
    let body = html! {
        main.login {
            h1 { "Palisade" }
            p { "Enter the admin token of this hub." }
            @if let Some(wrong) = wrong { p.alert role="alert" { (wrong) } }
            form method="post" action={ (base) "/login" } {
                label for="token" { "Admin token" }
                input #token name="token" type="password" autocomplete="current-password" required autofocus;
                button type="submit" { "Log in" }
            }
        }
    };
    Html(document(base, "Log in · Palisade", false, &body).into_string())
}

fn page(base: &str, overview: &Overview, paused: bool, logout: bool) -> Html<String> {
    let now = overview.now;
    let body = html! {
        header {
            h1 { "Palisade" span { "Operations" } }
            nav {
                span.muted { "as of " (time::clock(now)) " UTC" }
                @if paused { a href={ (base) "/" } { "refresh by itself" } }
                @else { a href={ (base) "/?refresh=off" } { "stop refreshing" } }
                @if logout { form method="post" action={ (base) "/logout" } { button.quiet type="submit" { "Log out" } } }
            }
        }
        main {
            (verdict(overview))
            (connections(base, overview))
            (inbox(base, overview))
            (destinations(base, overview))
            (super::outbox::section(base, overview))
            (runs(base, overview, now))
            (calls(&overview.calls, now))
            (chores(&overview.chores, now))
        }
        footer.muted { "The same facts as JSON: " a href={ (base) "/api/v1/health" } { "/api/v1/health" } }
    };
    let title = if overview.attention() > 0 {
        format!("({}) Operations · Palisade", overview.attention())
    } else {
        "Operations · Palisade".to_owned()
    };
    Html(document(base, &title, !paused, &body).into_string())
}

fn verdict(overview: &Overview) -> Markup {
    let attention = overview.attention();
    html! {
        @if !overview.not_ready.is_empty() {
            section.banner.bad role="status" {
                h2 { "The hub is not ready" }
                ul { @for reason in &overview.not_ready { li { (reason) } } }
            }
        } @else if attention > 0 {
            section.banner.warn role="status" {
                h2 { (attention) @if attention == 1 { " thing needs" } @else { " things need" } " somebody" }
                p { "Each says below who must act and what comes next." }
            }
        } @else {
            section.banner.good role="status" {
                h2 { "Everything is in order" }
                p { "Nobody has to do anything." }
            }
        }
    }
}

fn connections(base: &str, overview: &Overview) -> Markup {
    html! {
        section {
            h2 { "Connections" span.count { (overview.connections.len()) @if overview.more_connections { "+" } } }
            @if overview.connections.is_empty() {
                p.empty { "There is no connection yet. Add a " code { "[[connection]]" } " or a " code { "[[flow]]" } " to the configuration and start again." }
            }
            div.cards { @for connection in &overview.connections { (card(base, connection, overview.now)) } }
            (flows(base, &overview.flows))
        }
    }
}

/// The ways to connect an account in the browser of whoever looks at the page.
fn flows(base: &str, flows: &[String]) -> Markup {
    html! {
        @for flow in flows {
            form.connect method="get" action={ (base) "/connect/" (flow) } {
                label { "Connect an account at " strong { (flow) } " for the tenant " input name="tenant" required maxlength="128"; }
                button.quiet type="submit" { "Connect" }
            }
        }
    }
}

/// Writes a text as one part of an address.
pub(crate) fn segment(text: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encoding::utf8_percent_encode(text, KEPT).to_string()
}

/// Reconnecting, where it is needed and can be done, and disconnecting. Each is a form: it works without a script.
fn connecting(base: &str, view: &ConnectionView) -> Markup {
    let id = segment(view.connection.id.as_str());
    let (needed, connected) = match view.connection.state {
        ConnectionState::Active | ConnectionState::Paused => (false, true),
        ConnectionState::NeedsReconnect { .. } => (true, true),
        ConnectionState::Disconnected => (true, false),
    };
    html! {
        @if needed {
            @match view.reconnect {
                Reconnect::Flow | Reconnect::Configured => {
                    form method="post" action={ (base) "/connections/" (id) "/reconnect" } {
                        button type="submit" { "Reconnect" }
                    }
                }
                Reconnect::Nothing => p.muted {
                    "To reconnect it, add a " code { "[[flow]]" } " for " (view.connection.provider) " in "
                    (view.connection.environment) " to the configuration."
                }
            }
        }
        @if connected { a.quiet href={ (base) "/connections/" (id) "/disconnect" } { "Disconnect…" } }
    }
}

/// Pausing what is connected, and going on with it.
fn pausing(base: &str, view: &ConnectionView) -> Markup {
    let (word, shown) = match view.connection.state {
        ConnectionState::Active => ("pause", "Pause"),
        ConnectionState::Paused => ("resume", "Resume"),
        ConnectionState::NeedsReconnect { .. } | ConnectionState::Disconnected => return html! {},
    };
    html! {
        form method="post" action={ (base) "/actions/connections/" (segment(view.connection.id.as_str())) "/turn/" (word) } {
            button.quiet type="submit" { (shown) }
        }
    }
}

/// Returns the colour a state is shown in.
fn tone(state: Condition) -> &'static str {
    match state {
        Condition::NeedsAttention | Condition::Disconnected => "bad",
        Condition::Delayed | Condition::Paused => "warn",
        Condition::Connected | Condition::CatchingUp => "good",
    }
}

fn condition(state: Condition) -> &'static str {
    match state {
        Condition::Connected => "Connected",
        Condition::CatchingUp => "Catching up",
        Condition::Delayed => "Delayed",
        Condition::NeedsAttention => "Needs attention",
        Condition::Paused => "Paused",
        Condition::Disconnected => "Disconnected",
    }
}

fn actor(who: Actor) -> &'static str {
    match who {
        Actor::User => "The user whose account it is",
        Actor::Operator => "The operator",
        Actor::Provider => "The provider",
        Actor::Nobody => "Nobody",
    }
}

fn calls_in_words(view: &ConnectionView) -> Markup {
    html! {
        @match view.health.status {
            Status::Healthy => "healthy",
            Status::Degraded => strong.warn { "degraded" },
            Status::Down => strong.bad { "down" },
        }
        ", " (grouped(view.calls.calls)) " in 24 h, " (grouped(view.calls.errors)) " failed"
    }
}

fn card(base: &str, view: &ConnectionView, now: Timestamp) -> Markup {
    let tone = tone(view.health.state);
    html! {
        article.card.(tone) {
            header {
                h3 title=(view.connection.id) { (view.connection.id) }
                span.state.(tone) { (condition(view.health.state)) }
            }
            p.muted { (view.title) " · " (view.connection.environment) " · tenant " (view.connection.tenant)
                @if let Some(account) = &view.connection.account { " · " (account) } }
            dl {
                dt { "Who must act" } dd { (actor(view.health.who_acts)) }
                dt { "Next" } dd { (view.health.next_step) }
                @if let Some(until) = view.held_until { dt { "Held until" } dd { (ago(until, now)) } }
                dt { "Fresh" } dd { (moment(view.fresh_at, now, "not complete yet")) }
                dt { "Calls" } dd { (calls_in_words(view)) }
                @if let Some(healed) = &view.healed { dt { "Gaps" } dd { (healed) } }
                @if view.dead_letters > 0 { dt { "Dead letters" } dd { strong.bad { (grouped(view.dead_letters)) } } }
            }
            @if !view.streams.is_empty() {
                table {
                    thead { tr { th { "Stream" } th.number { "Records" } th.number { "Last run" } th.number { "Next run" } } }
                    tbody { @for stream in &view.streams { tr {
                        td { (stream.name)
                            @if stream.status.paused_at.is_some() { span.state.warn { "paused" } }
                            @if let Some(told) = unreadable(&stream.status) { span.muted { " " (told) } }
                        }
                        td.number { @if stream.kind == StreamKind::Records { (grouped(stream.status.records)) } @else { "–" } }
                        td.number { (moment(stream.status.fresh_at, now, "–")) }
                        td.number title=(often(stream)) { (moment(next_of(stream.timings.as_ref()), now, "–")) }
                    } } }
                }
            }
            // Where nothing may be called, a sync would do nothing.
            div.actions {
                @if view.connection.state == ConnectionState::Active {
                    form method="post" action={ (base) "/actions/connections/" (segment(view.connection.id.as_str())) "/sync" } {
                        button.quiet type="submit" { "Sync now" }
                    }
                }
                (pausing(base, view))
                (connecting(base, view))
            }
        }
    }
}

fn inbox(base: &str, overview: &Overview) -> Markup {
    let counts = &overview.events;
    let jobs = &overview.jobs;
    html! {
        section {
            h2 { "Inbox" }
            div.figures {
                (figure("waiting", counts.pending, false))
                (figure("handled", counts.done, false))
                (figure("ignored", counts.ignored, false))
                (figure("dead letters", counts.dead, counts.dead > 0))
                (figure("jobs waiting", jobs.waiting, false))
                (figure("jobs running", jobs.running, false))
                (figure("jobs given up", jobs.dead, jobs.dead > 0))
            }
            (halts(base, &overview.halts, overview.now))
            @if !overview.causes.is_empty() {
                h3 { "Dead letters by cause" }
                div.scroll { table {
                    thead { tr { th { "Why" } th { "Type" } th { "Provider" } th.number { "Events" } th { "First" } th { "Last" } th {} } }
                    tbody { @for cause in &overview.causes { (cause_row(base, cause, overview.now)) } }
                } }
            }
            @if !overview.dead.is_empty() {
                h3 { "Dead letters" }
                p.muted { "Given up after their attempts and kept. Mend the cause, then replay; or dismiss what nobody needs." }
                div.scroll { table {
                    thead { tr { th { "Event" } th { "Why" } th { "Type" } th { "Connection" } th { "Arrived" } th {} } }
                    tbody { @for event in &overview.dead { (dead_row(base, event, overview.now)) } }
                } }
            }
        }
    }
}

/// Where events are forwarded to; nothing where there is no destination.
fn destinations(base: &str, overview: &Overview) -> Markup {
    html! {
        @if !overview.destinations.is_empty() {
            section {
                h2 { "Destinations" span.count { (overview.destinations.len()) } }
                div.scroll { table {
                    thead { tr { th { "Destination" } th { "State" } th { "Address" } th { "Delivered" } th.number { "Failures" } th.number { "Waiting" } th.number { "Given up" } th {} } }
                    tbody { @for (row, standing) in &overview.destinations { (destination(base, row, *standing, overview)) } }
                } }
            }
        }
    }
}

fn destination(base: &str, row: &StoredDestination, standing: Standing, overview: &Overview) -> Markup {
    let now = overview.now;
    let counts = overview.forwards.get(&row.name).copied().unwrap_or_default();
    let tone = match standing {
        Standing::Active => "good",
        Standing::Retrying | Standing::Paused => "warn",
        Standing::Failing | Standing::Disabled => "bad",
    };
    let health = &row.health;
    let action = |action: &str| format!("{base}/actions/destinations/{}/{action}", segment(&row.name));
    html! { tr {
        td.first { (row.name) }
        td.reason {
            span.state.(tone) { (standing.as_str()) }
            @if let Some(disabled) = &health.disabled { " since " (ago(disabled.at, now)) ": " (disabled.reason) @if row.paused_at.is_some() { "; paused as well" } }
            @else if let Some(at) = row.paused_at { " since " (ago(at, now)) }
            @else if let Some(since) = health.failing_since { " since " (ago(since, now)) ": " (health.reason.as_deref().unwrap_or("–")) }
        }
        td.id title=(row.spec.url) { (row.spec.url) }
        td { (moment(health.delivered_at, now, "never")) }
        td.number data-label="failures" { (grouped(u64::from(health.failures))) }
        td.number data-label="waiting" { (counted(counts.waiting)) }
        td.number data-label="given up" {
            @if counts.dead == 0 { "0" }
            @else { a href={ (base) "/api/v1/destinations/" (segment(&row.name)) "/dead" } { strong.bad { (counted(counts.dead)) } } }
        }
        td.action {
            @if counts.dead > 0 {
                @if standing != Standing::Disabled {
                    form method="post" action=(action("resend")) { button.quiet type="submit" { "Send again" } }
                }
                form method="post" action=(action("dismiss")) { button.quiet type="submit" { "Dismiss" } }
            }
            form method="post" action=(action("test")) { button.quiet type="submit" { "Send a test event" } }
            @if row.paused_at.is_some() { form method="post" action=(action("resume")) { button.quiet type="submit" { "Resume" } } }
            @else { form method="post" action=(action("pause")) { button.quiet type="submit" { "Pause" } } }
            @if standing == Standing::Disabled { form method="post" action=(action("enable")) { button.quiet type="submit" { "Enable" } } }
            @else { form method="post" action=(action("disable")) { button.quiet type="submit" { "Disable" } } }
        }
    } }
}

/// Writes a number of a destination's events, which are not counted beyond a bound.
fn counted(events: u64) -> String {
    if events < u64::from(FORWARDS_COUNTED_MAX) { grouped(events) } else { format!("{} or more", grouped(events)) }
}

/// Whose events are paused, and the way to pause and resume them.
fn halts(base: &str, halts: &[(Halt, Timestamp)], now: Timestamp) -> Markup {
    let all = halts.iter().any(|(halt, _)| *halt == Halt::All);
    html! {
        @for (halt, since) in halts {
            @let (words, query) = match halt {
                Halt::All => ("All events are paused".to_owned(), String::new()),
                Halt::Provider(name) => (format!("Events of {name} are paused"), format!("?provider={}", segment(name))),
                Halt::Connection(id) => (format!("Events of connection {id} are paused"), format!("?connection={}", segment(id.as_str()))),
            };
            form.inline method="post" action={ (base) "/actions/inbox/resume" (query) } {
                span.state.warn { (words) } " since " (ago(*since, now)) ", deliveries are kept "
                button.quiet type="submit" { "Resume" }
            }
        }
        @if !all {
            form.inline method="post" action={ (base) "/actions/inbox/pause" } { button.quiet type="submit" { "Pause all events" } }
        }
    }
}

fn cause_row(base: &str, cause: &DeadLetters, now: Timestamp) -> Markup {
    let DeadLetters { provider, kind, reason, .. } = cause;
    let of_it = format!("provider={}&type={}&reason={}", segment(provider), segment(kind), segment(reason));
    html! { tr {
        td.reason { (cause.reason) }
        td { (cause.kind) }
        td { (cause.provider) }
        td.number data-label="events" { (grouped(cause.events)) }
        td data-label="first" { (ago(cause.first_at, now)) }
        td data-label="last" { (ago(cause.last_at, now)) }
        // Of all other causes there is none to name.
        td.action { @if !kind.is_empty() {
            form method="post" action={ (base) "/actions/dead-letters/dismiss?" (of_it) } { button.quiet type="submit" { "Dismiss all" } }
        } }
    } }
}

fn dead_row(base: &str, event: &StoredEvent, now: Timestamp) -> Markup {
    html! { tr {
        td.id.first { a href={ (base) "/api/v1/events/" (event.row.0) } title=(event.event.id) { (event.event.id) } }
        td.reason { (event.reason.as_deref().unwrap_or("–")) }
        td { (event.event.kind) }
        @if event.connection.as_str() == NO_CONNECTION { td { "none" } } @else { (name(&event.connection)) }
        td { (ago(event.received_at, now)) }
        td.action {
            form method="post" action={ (base) "/actions/events/" (event.row.0) "/replay" } { button.quiet type="submit" { "Replay" } }
            form method="post" action={ (base) "/actions/dead-letters/dismiss?row=" (event.row.0) } { button.quiet type="submit" { "Dismiss" } }
        }
    } }
}

fn runs(base: &str, overview: &Overview, now: Timestamp) -> Markup {
    let runs = &overview.runs;
    html! {
        section {
            h2 { "Runs" }
            @if runs.is_empty() { p.empty { "No sync has run yet." } }
            @else { div.scroll { table {
                thead { tr { th { "Stream" } th { "State" } th { "Connection" } th { "Mode" } th.number { "Pages" } th.number { "Added" } th.number { "Changed" } th.number { "Deleted" } th { "Began" } th { "Progress" } } }
                tbody { @for run in runs { tr {
                    td.first { (run.key.stream) }
                    td.reason { (run_state(base, run, run.is_stalled(now, overview.patience))) }
                    (name(&run.key.connection))
                    td { (match run.mode { RunMode::Full => "full", RunMode::Incremental => "incremental" }) }
                    td.number data-label="pages" { (grouped(run.pages)) }
                    td.number data-label="added" { (grouped(run.counts.added)) }
                    td.number data-label="changed" { (grouped(run.counts.updated)) }
                    td.number data-label="deleted" { (grouped(run.counts.deleted)) }
                    td data-label="began" { (ago(run.started_at, now)) }
                    td data-label="progress" { (progress(run, now)) }
                } } }
            } } }
        }
    }
}

/// How far a run has come: its pace while it works, and the rest where the provider tells how much there is.
fn progress(run: &Run, now: Timestamp) -> Markup {
    let pace = run.per_second().filter(|_| run.state == RunState::Running);
    html! {
        (ago(run.progressed_at, now))
        @if let Some(pace) = pace { span.muted { " · " (format!("{pace:.0}")) " records/s" } }
        @if let Some(total) = run.total { span.muted { " · " (grouped(run.seen())) " of " (grouped(total)) } }
        @if let Some(left) = run.remaining() {
            span.muted { " · " (time::took(u64::try_from(left.as_micros()).unwrap_or(u64::MAX))) " left" }
        }
    }
}

fn run_state(base: &str, run: &Run, stalled: bool) -> Markup {
    let (tone, word) = match &run.state {
        RunState::Running if stalled => ("bad", "stalled"),
        RunState::Running => ("", "running"),
        RunState::Done => ("good", "done"),
        RunState::Review { .. } => ("warn", "review"),
        RunState::Failed { .. } => ("bad", "failed"),
    };
    html! {
        span.state.(tone) { (word) }
        @if run.resumed > 0 { span.muted { " resumed " (run.resumed) "×" } }
        @if run.bad > 0 {
            " " a href={ (base) "/api/v1/connections/" (segment(run.key.connection.as_str())) "/streams/" (run.key.stream) "/unreadable" } {
                (grouped(run.bad)) " unreadable"
            }
        }
        @if run.missed.count > 0 { " " (super::runs::healed(run)) }
        @match &run.state {
            RunState::Running | RunState::Done => {},
            RunState::Review { deletions } => {
                " would delete " a href={ (base) "/api/v1/runs/" (run.id.0) } { (grouped(*deletions)) " records" } " "
                form.inline method="post" action={ (base) "/actions/runs/" (run.id.0) "/approve" } {
                    button.quiet type="submit" { "Approve" }
                }
                form.inline method="post" action={ (base) "/actions/runs/" (run.id.0) "/dismiss" } {
                    button.quiet type="submit" { "Dismiss" }
                }
            },
            RunState::Failed { kind, reason } => { " " (kind.as_str()) ": " (reason) },
        }
        @if let Some(stop) = &run.stop {
            span.muted { " " (stop.sentence()) " " (actor(stop.who_acts())) " must act." }
        }
    }
}

fn calls(calls: &[CallRecord], now: Timestamp) -> Markup {
    html! {
        section {
            h2 { "Recent calls" }
            @if calls.is_empty() { p.empty { "No call was made yet." } }
            @else { div.scroll { table {
                thead { tr { th { "Operation" } th { "Result" } th { "Connection" } th { "When" } th.number { "Attempts" } th.number { "Took" } th { "Request" } } }
                tbody { @for call in calls { tr {
                    td.first { (call.provider) " " (call.operation) }
                    td { (call_result(call)) }
                    (name(&call.connection))
                    td { (ago(call.at, now)) }
                    td.number data-label="attempts" { (call.attempts) }
                    td.number data-label="took" { (time::took(call.duration_us)) }
                    td.muted { (call.request_id.as_deref().unwrap_or("–")) }
                } } }
            } } }
        }
    }
}

fn call_result(call: &CallRecord) -> Markup {
    html! {
        @match call.error {
            Some(kind) => { span.state.bad { (kind.as_str()) } @if let Some(status) = call.status { " " (status) } },
            None => { span.state.good { "ok" } @if let Some(status) = call.status { " " (status) } },
        }
    }
}

/// Says how often a stream's runs come.
fn often(stream: &StreamView) -> String {
    let Some(timings) = &stream.timings else { return String::new() };
    let said = |name: &str, timing: &Option<Timing>| timing.as_ref().map(|timing| format!("{name} {}", words(timing)));
    let parts = [said("incremental", &timings.incremental), said("full", &timings.full)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn chores(chores: &[ChoreStatus], now: Timestamp) -> Markup {
    html! {
        section {
            h2 { "Chores" }
            div.scroll { table {
                thead { tr { th { "Chore" } th { "Last time" } th { "When" } th { "Next" } th { "How often" } } }
                tbody { @for chore in chores { tr {
                    td.first { (chore.name) }
                    td.reason { @match &chore.last {
                        Some(last) => { span.state.(if last.failed { "bad" } else { "good" }) { (if last.failed { "failed" } else { "done" }) }
                            @if last.outcome != "done" { " " (last.outcome) } },
                        None => "not yet",
                    } }
                    td { (moment(chore.last.as_ref().map(|last| last.ended_at), now, "–")) }
                    td { (moment(chore.next_at, now, "–")) }
                    td.muted { (chore.schedule.words()) }
                } } }
            } }
        }
    }
}

/// A cell with a name that may be long: cut off where there is no room, whole when pointed at.
pub(crate) fn name(id: &ConnectionId) -> Markup {
    html! { td.id title=(id) { (id) } }
}

/// Says how many records of a stream could not be read, also of those that are not kept any more.
fn unreadable(status: &StreamStatus) -> Option<String> {
    let older = match status.bad_older {
        0 => String::new(),
        older => format!(" and {} older", grouped(older)),
    };
    (status.bad > 0 || status.bad_older > 0).then(|| format!("{} unreadable{older}", grouped(status.bad)))
}

pub(crate) fn figure(name: &str, value: u64, bad: bool) -> Markup {
    html! { div.figure.bad[bad] { strong { (grouped(value)) } span { (name) } } }
}

fn moment(at: Option<Timestamp>, now: Timestamp, otherwise: &str) -> Markup {
    match at {
        Some(at) => ago(at, now),
        None => html! { (otherwise) },
    }
}

pub(crate) fn ago(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(time::rfc3339(at)) title=(time::rfc3339(at)) { (time::ago(at, now)) } }
}

/// Writes a number with thin spaces between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_where_the_router_is_mounted() {
        for (original, inner, expected) in [
            ("/", "/", ""),
            ("/login", "/login", ""),
            ("/ops", "/", "/ops"),
            ("/ops/", "/", "/ops"),
            ("/ops/login", "/login", "/ops"),
            ("/a/b/actions/events/1/replay", "/actions/events/1/replay", "/a/b"),
        ] {
            let uri = |text: &str| text.parse::<Uri>().unwrap();
            assert_eq!(base(&uri(original), &uri(inner)), expected, "{original}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{2009}234\u{2009}567");
    }
}
