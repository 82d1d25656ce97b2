//! TagResource, UntagResource, ListResourceTags. Conditions ask for tags, so changing them changes who may do what.

use kms_api::{
    ApiError, ErrorCode, ListResourceTagsRequest, ListResourceTagsResponse, Response, Tag,
    TagResourceRequest, UntagResourceRequest,
};

use super::{EMPTY, Kms, Outcome, Quotas, World, pages, reply};
use crate::authz::Authorized;
use crate::rows::{Change, KeyRow, Row};
use crate::states::Action;

impl Kms {
    pub(super) fn tag_resource(
        &self,
        auth: &Authorized,
        request: &TagResourceRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Name, key)?;
        let quotas = &world.host.settings.quotas;
        check(&request.tags, quotas)?;
        let mut tags = key.tags.clone();
        for tag in &request.tags {
            match tags.iter_mut().find(|(name, _)| *name == tag.tag_key) {
                Some((_, value)) => value.clone_from(&tag.tag_value),
                None => tags.push((tag.tag_key.clone(), tag.tag_value.clone())),
            }
        }
        if tags.len() > quotas.tags_per_key {
            return Err(too_many());
        }
        Ok(self.put_tags(key, tags, Response::TagResource(EMPTY)))
    }

    pub(super) fn untag_resource(
        &self,
        auth: &Authorized,
        request: &UntagResourceRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Name, key)?;
        let mut tags = key.tags.clone();
        tags.retain(|(name, _)| !request.tag_keys.contains(name));
        Ok(self.put_tags(key, tags, Response::UntagResource(EMPTY)))
    }

    fn put_tags(&self, key: &KeyRow, tags: Vec<(String, String)>, response: Response) -> Outcome {
        if tags == key.tags {
            return reply(response);
        }
        let row = KeyRow {
            tags,
            ..KeyRow::clone(key)
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        self.write(response, changes).tightening().into()
    }

    pub(super) fn list_resource_tags(
        &self,
        auth: &Authorized,
        request: &ListResourceTagsRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Describe, key)?;
        let list = format!("ListResourceTags {}", key.id);
        let after = pages::start(&list, request.marker.as_deref())?;
        let mut tags: Vec<&(String, String)> = key.tags.iter().collect();
        tags.sort();
        let rest = tags
            .into_iter()
            .filter(|(name, _)| after.as_ref().is_none_or(|after| name > after))
            .map(|(name, value)| {
                let tag = Tag {
                    tag_key: name.clone(),
                    tag_value: value.clone(),
                };
                (name.clone(), tag)
            });
        let page = pages::page(&list, request.limit.unwrap_or(50), rest);
        Ok(reply(Response::ListResourceTags(
            ListResourceTagsResponse {
                tags: page.entries,
                next_marker: page.next_marker,
                truncated: page.truncated,
            },
        )))
    }
}

/// What AWS refuses in a list of tags.
pub(super) fn check(tags: &[Tag], quotas: &Quotas) -> Result<(), ApiError> {
    if tags.len() > quotas.tags_per_key {
        return Err(too_many());
    }
    let refuse = |text: &str| Err(ApiError::new(ErrorCode::Tag, text));
    let mut seen = std::collections::BTreeSet::new();
    for tag in tags {
        if tag.tag_key.to_ascii_lowercase().starts_with("aws:") {
            return refuse("Tags beginning with aws: are reserved");
        }
        if !seen.insert(&tag.tag_key) {
            return refuse("Duplicate tag keys");
        }
    }
    Ok(())
}

fn too_many() -> ApiError {
    ApiError::new(ErrorCode::Tag, "Too many tags")
}
