//! Removing objects, the last applied first, until they are gone.

use crate::answer::answered;
use crate::connection::{Cluster, Kind, request};
use crate::error::{Error, Result, cause, has_code};
use crate::object::{ObjectRef, Owner, rank};
use kube::api::{DeleteParams, Preconditions};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is asked whether an object is gone.
const LOOK: Duration = Duration::from_millis(300);

/// What a removal did.
#[derive(Debug, Default)]
pub struct Removal {
    /// Objects that were there and are gone.
    pub removed: Vec<ObjectRef>,
    /// Objects that were gone already.
    pub absent: Vec<ObjectRef>,
    /// Objects of the same name that belong to others, and stay.
    pub foreign: Vec<(ObjectRef, Owner)>,
    /// Objects that are still there.
    pub left: Vec<Left>,
}

/// An object that could not be removed.
#[derive(Debug)]
pub struct Left {
    /// The object.
    pub object: ObjectRef,
    /// Why it is still there.
    pub why: String,
}

/// What became of the request to remove an object.
enum Asked {
    /// It is going, or about to.
    Goes(Kind),
    /// It was gone already.
    Absent,
    /// It belongs to somebody else.
    Foreign(Owner),
}

impl Cluster {
    /// Removes objects of an owner, those first that were applied last, and waits until each is gone with what it made.
    /// What is there under a name and is not the owner's stays, and what does not go is told as left. `timeout` is for all
    /// of them together.
    pub async fn delete(
        &self,
        objects: &[ObjectRef],
        owner: &Owner,
        timeout: Duration,
        progress: &mut (dyn FnMut(&ObjectRef) + Send),
    ) -> Removal {
        let deadline = Instant::now() + timeout;
        let mut removal = Removal::default();
        let mut last_first: Vec<&ObjectRef> = objects.iter().rev().collect();
        last_first.sort_by_key(|object| std::cmp::Reverse(rank(&object.kind)));
        let mut going: Vec<(Kind, &ObjectRef)> = Vec::new();
        let mut is_away = false;
        for (index, object) in last_first.iter().enumerate() {
            let mut left = |why: String| {
                removal.left.push(Left { object: (*object).clone(), why });
            };
            if is_away && Instant::now() >= deadline {
                left("the API server does not answer".to_owned());
            } else {
                match self.request_removal(object, owner).await {
                    Ok(Asked::Goes(kind)) => going.push((kind, object)),
                    Ok(Asked::Absent) => removal.absent.push((*object).clone()),
                    Ok(Asked::Foreign(owner)) => removal.foreign.push(((*object).clone(), owner)),
                    Err(error) => {
                        is_away = error.is_unanswered();
                        left(error.why());
                    }
                }
            }
            // What others need stays until they are gone.
            let is_last_of_rank =
                last_first.get(index + 1).is_none_or(|next| rank(&next.kind) != rank(&object.kind));
            if is_last_of_rank {
                for (kind, object) in going.drain(..) {
                    progress(object);
                    match self.gone(&kind, object, deadline).await {
                        None => removal.removed.push(object.clone()),
                        Some(why) => removal.left.push(Left { object: object.clone(), why }),
                    }
                }
            }
        }
        removal
    }

    /// Asks for an object's removal.
    async fn request_removal(&self, object: &ObjectRef, owner: &Owner) -> Result<Asked> {
        let kind = match self.kind(&object.api_version, &object.kind).await {
            Ok(kind) => kind,
            // Without its definition there is no object.
            Err(Error::UnknownKind { .. }) => return Ok(Asked::Absent),
            Err(error) => return Err(error),
        };
        let api = self.api(&kind, object.namespace.as_deref());
        let found = answered(|| api.get_opt(&object.name)).await.map_err(request("get", object))?;
        let Some(found) = found.map(|found| kind.value(found)) else { return Ok(Asked::Absent) };
        if Owner::of(&found) != *owner {
            return Ok(Asked::Foreign(Owner::of(&found)));
        }
        // In the foreground: what it made goes first.
        let uid = found["metadata"]["uid"].as_str().map(str::to_owned);
        let parameters = DeleteParams::foreground()
            .preconditions(Preconditions { uid, ..Preconditions::default() });
        match answered(|| api.delete(&object.name, &parameters)).await {
            Ok(_) => Ok(Asked::Goes(kind)),
            Err(error) if has_code(&error, 404) => Ok(Asked::Absent),
            Err(error) => Err(request("delete", object)(error)),
        }
    }

    /// Waits until an object is gone. Otherwise says why it is not.
    async fn gone(&self, kind: &Kind, object: &ObjectRef, deadline: Instant) -> Option<String> {
        let api = self.api(kind, object.namespace.as_deref());
        loop {
            let why = match answered(|| api.get_opt(&object.name)).await {
                Ok(None) => return None,
                Ok(Some(found)) => {
                    let found = kind.value(found);
                    if object.uid.is_some()
                        && found["metadata"]["uid"].as_str() != object.uid.as_deref()
                    {
                        return None;
                    }
                    match found["metadata"]["finalizers"].as_array() {
                        Some(held) if !held.is_empty() => {
                            let held: Vec<&str> =
                                held.iter().filter_map(|name| name.as_str()).collect();
                            format!("it is being removed, and held by {}", held.join(", "))
                        }
                        _ => "it is still being removed".to_owned(),
                    }
                }
                Err(error) => cause(&error),
            };
            if Instant::now() >= deadline {
                return Some(why);
            }
            sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Reply};

    #[tokio::test]
    async fn what_cannot_be_asked_for_keeps_nothing_else() {
        let fake = Fake::new(|path| match path {
            "/apis/broken.example/v1" => Reply::status(503, "ServiceUnavailable"),
            "/api/v1/namespaces/ns/configmaps/a" => Reply::status(404, "NotFound"),
            path => Fake::usual(path),
        })
        .await;
        let object = |api_version: &str, kind: &str| ObjectRef {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: Some("ns".to_owned()),
            name: "a".to_owned(),
            uid: None,
        };
        let objects = [object("v1", "ConfigMap"), object("broken.example/v1", "Thing")];
        let cluster = fake.connect().await;
        let owner = Owner::Run("r".to_owned());
        let removal = cluster.delete(&objects, &owner, Duration::from_secs(10), &mut |_| {}).await;
        assert_eq!(removal.absent, objects[..1]);
        let left: Vec<_> = removal.left.iter().map(|left| (&left.object, &*left.why)).collect();
        assert_eq!(left, [(&objects[1], "ServiceUnavailable")]);
    }
}
