//! People and the workspace.

use serde_json::json;

use super::{Call, LIMIT_MAX, Outcome, page, paged};
use crate::slack::shape;

/// `users.list`: deactivated people too, oldest first.
pub(crate) fn list(call: &mut Call<'_>) -> Outcome {
    let limit = call.limit(LIMIT_MAX, LIMIT_MAX)?;
    let with_email = call.has("users:read.email");
    let team = call.team.clone();
    let users = &call.world.team(&team).users;
    let (rows, next) = page(users, "user", call.args.get("cursor"), limit)?;
    let members: Vec<_> = rows.into_iter().map(|(id, user)| shape::user(&team, id, user, with_email)).collect();
    Ok(paged(json!({ "ok": true, "members": members, "cache_ts": call.now / 1000 }), &next))
}

/// `users.info`.
pub(crate) fn info(call: &mut Call<'_>) -> Outcome {
    let id = call.required("user")?.to_owned();
    let with_email = call.has("users:read.email");
    let team = call.team.clone();
    let user = call.world.team(&team).users.get(&id).ok_or("user_not_found")?;
    Ok(json!({ "ok": true, "user": shape::user(&team, &id, user, with_email) }))
}

/// `users.lookupByEmail`: nobody who has left.
pub(crate) fn by_email(call: &mut Call<'_>) -> Outcome {
    let email = call.required("email")?.to_owned();
    let team = call.team.clone();
    let mut users = call.world.team(&team).users.iter();
    let of = |address: &Option<String>| address.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(&email));
    let (id, user) = users.find(|(_, user)| !user.deleted && of(&user.email)).ok_or("users_not_found")?;
    Ok(json!({ "ok": true, "user": shape::user(&team, id, user, true) }))
}

/// `team.info`.
pub(crate) fn team(call: &mut Call<'_>) -> Outcome {
    let id = call.team.clone();
    let name = call.world.team(&id).name.clone();
    Ok(json!({ "ok": true, "team": {
        "id": id, "name": name, "domain": name.to_ascii_lowercase().replace(' ', "-"), "email_domain": "",
        "icon": { "image_default": true },
    } }))
}
