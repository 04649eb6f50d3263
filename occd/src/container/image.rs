//! The sandbox's image: whether it is there, and having it pulled.

use std::collections::{HashMap, HashSet};

use bollard::errors::Error as BollardError;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions,
};
use futures_util::StreamExt as _;
use occ_proto::operation::PullProgress;
use occ_proto::text::sanitize;

use super::objects::with_tag;
use super::session::Session;
use super::settings::{DEFAULT_IMAGE, FALLBACK_IMAGE};
use super::{DockerError, SandboxError};

/// What a disk says that is full.
pub(super) const FULL: &str = "no space left on device";

/// Returns an image, if it is there.
pub(super) async fn find(
    session: &mut Session,
    image: &str,
) -> Result<Option<ImageInspect>, SandboxError> {
    let found = session.ask(async |docker| docker.inspect_image(image).await).await;
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives an image one more name.
pub(super) async fn tag(
    session: &mut Session,
    image: &str,
    repo: &str,
    tag: &str,
) -> Result<(), SandboxError> {
    let options = TagImageOptions { repo: Some(repo.to_owned()), tag: Some(tag.to_owned()) };
    session.ask(async |docker| docker.tag_image(image, Some(options.clone())).await).await
}

/// Takes a name from an image of that repository that has another one.
pub(super) async fn forget(
    session: &mut Session,
    repo: &str,
    tag: &str,
) -> Result<(), SandboxError> {
    let name = format!("{repo}:{tag}");
    // Without force Docker takes no last name from an image of which there is a container.
    let options = RemoveImageOptions { force: false, noprune: true, ..Default::default() };
    let removed = session.ask(async |docker| {
        docker.remove_image(&name, Some(options.clone()), None).await.map(drop)
    });
    match removed.await {
        Err(error) if error.is_not_found() => Ok(()),
        removed => removed,
    }
}

/// Returns the identifiers of the images that are there, also of those without a name.
pub(super) async fn identifiers(session: &mut Session) -> Result<HashSet<String>, SandboxError> {
    let listed = session.ask(async |docker| docker.list_images(None::<ListImagesOptions>).await);
    Ok(listed.await?.into_iter().map(|image| image.id).collect())
}

/// Removes an image of a repository that an update has left: one that no name means any more, and that no container
/// is made of. Every other one stays, which is no failure.
pub(super) async fn remove_left(
    session: &mut Session,
    id: &str,
    repo: &str,
) -> Result<(), SandboxError> {
    let Some(image) = find(session, id).await? else { return Ok(()) };
    if !is_left(&image, repo) {
        return Ok(());
    }
    // Docker refuses without force where a container is made of it. What it was built on may be somebody's.
    let options = RemoveImageOptions { force: false, noprune: true, ..Default::default() };
    let removed = session
        .ask(async |docker| docker.remove_image(id, Some(options.clone()), None).await.map(drop));
    match removed.await {
        Err(error) if error.refusal().is_some_and(|(status, _)| [404, 409].contains(&status)) => {
            tracing::debug!(id, error = error.for_log(), "an image stays");
            Ok(())
        }
        removed => removed,
    }
}

/// Returns whether an image was pulled from that repository, or pushed there.
pub(super) fn comes_from(image: &ImageInspect, repo: &str) -> bool {
    let mut digests = image.repo_digests.iter().flatten();
    digests.any(|digest| digest.split('@').next() == Some(repo))
}

/// Returns whether no name means an image any more, and it came from no other repository.
fn is_left(image: &ImageInspect, repo: &str) -> bool {
    let is_none = |name: &&String| name.starts_with("<none>");
    let names = image.repo_tags.iter().flatten().filter(|name| !is_none(name)).count();
    let mut digests = image.repo_digests.iter().flatten().filter(|name| !is_none(name));
    names == 0 && digests.all(|digest| digest.split('@').next() == Some(repo))
}

/// Has an image pulled, with its progress told, until that is done or the operation is cancelled.
pub(super) async fn pull(session: &mut Session, image: &str) -> Result<(), SandboxError> {
    let cancel = session.progress.cancelled().clone();
    let pulled = cancel.run_until_cancelled(pull_any(session, image)).await;
    pulled.unwrap_or(Err(SandboxError::Cancelled { undone: false }))
}

/// The existing tool's own image has a second registry.
async fn pull_any(session: &mut Session, image: &str) -> Result<(), SandboxError> {
    let Err(error) = pull_one(session, image).await else { return Ok(()) };
    if image != DEFAULT_IMAGE || !matches!(error, SandboxError::NoImage { .. }) {
        return Err(error);
    }
    session.progress.note(format!("{error}; trying {FALLBACK_IMAGE}"));
    if pull_one(session, FALLBACK_IMAGE).await.is_err() {
        return Err(error);
    }
    let (repo, name) = with_tag(DEFAULT_IMAGE, "latest");
    tag(session, FALLBACK_IMAGE, &repo, &name).await
}

async fn pull_one(session: &mut Session, image: &str) -> Result<(), SandboxError> {
    session.progress.step(format!("pulling {image}"));
    let progress = session.progress.clone();
    let options = CreateImageOptions {
        from_image: Some(image.to_owned()),
        // Without a tag Docker would bring all of them.
        ..CreateImageOptions::default()
    };
    // What has come stays on the host, so a pull that is cut goes on where it was.
    let pulled = session.ask(async |docker| {
        let mut layers = Layers::default();
        let mut told = PullProgress::default();
        let mut stream = docker.create_image(Some(options.clone()), None, None);
        while let Some(info) = stream.next().await {
            layers.take(&info?);
            let now = layers.progress();
            if now != told {
                told = now;
                progress.pull(now);
            }
        }
        Ok(())
    });
    pulled.await.map_err(|error| failed(image, error))
}

fn failed(image: &str, error: SandboxError) -> SandboxError {
    let image = image.to_owned();
    let source = match error {
        SandboxError::Docker(
            error @ (DockerError::Refused { .. } | DockerError::Hung | DockerError::Api(_)),
        ) => error,
        error => return error,
    };
    if crate::ssh::error::chain(&source).contains(FULL) {
        return SandboxError::DiskFull { what: format!("the image {image}") };
    }
    let source = match source {
        // What a registry says may be anything.
        DockerError::Api(BollardError::DockerStreamError { error }) => {
            DockerError::Api(BollardError::DockerStreamError { error: sanitize(&error) })
        }
        source => source,
    };
    SandboxError::NoImage { image, source }
}

/// The layers of an image on their way.
#[derive(Debug, Default)]
struct Layers(HashMap<String, Layer>);

#[derive(Debug, Default, Clone, Copy)]
struct Layer {
    bytes: u64,
    total: u64,
    done: bool,
}

impl Layers {
    /// Takes a line of Docker's: each is of one layer, by its identifier.
    fn take(&mut self, info: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&info.id, info.status.as_deref()) else { return };
        // "Pulling from" names the image and no layer.
        if status.starts_with("Pulling from") {
            return;
        }
        let layer = self.0.entry(id.clone()).or_default();
        let detail = info.progress_detail.clone().unwrap_or_default();
        let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        match status {
            "Downloading" => {
                layer.total = number(detail.total).unwrap_or(layer.total);
                layer.bytes = number(detail.current).unwrap_or(layer.bytes);
            }
            "Download complete" | "Verifying Checksum" | "Extracting" => layer.bytes = layer.total,
            "Pull complete" | "Already exists" => {
                (layer.bytes, layer.done) = (layer.total, true);
            }
            _ => {}
        }
    }

    fn progress(&self) -> PullProgress {
        let layers = self.0.values();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        PullProgress {
            layers: count(self.0.len()),
            layers_done: count(layers.clone().filter(|layer| layer.done).count()),
            bytes: layers.clone().map(|layer| layer.bytes).sum(),
            total: layers.map(|layer| layer.total).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn only_an_image_without_a_name_of_that_repository_is_left() {
        let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        for (tags, digests, left) in [
            (&[][..], &["r:5/a@sha256:0"][..], true),
            (&[], &[], true),
            (&["<none>:<none>"], &["<none>@<none>"], true),
            (&["mine:1"], &["r:5/a@sha256:0"], false),
            (&[], &["r:5/a@sha256:0", "other@sha256:0"], false),
        ] {
            let image = ImageInspect {
                repo_tags: list(tags),
                repo_digests: list(digests),
                ..ImageInspect::default()
            };
            assert_eq!(is_left(&image, "r:5/a"), left, "{tags:?} {digests:?}");
        }
    }

    #[test]
    fn the_lines_of_a_pull_add_up() {
        let mut layers = Layers::default();
        let mut take = |id: &str, status: &str, detail: Option<(i64, i64)>| {
            layers.take(&CreateImageInfo {
                id: Some(id.into()),
                status: Some(status.into()),
                progress_detail: detail.map(|(current, total)| ProgressDetail {
                    current: Some(current),
                    total: Some(total),
                }),
                ..CreateImageInfo::default()
            });
            layers.progress()
        };
        assert_eq!(take("latest", "Pulling from a/b", None), PullProgress::default());
        take("a", "Already exists", None);
        take("b", "Pulling fs layer", None);
        let half = take("b", "Downloading", Some((50, 100)));
        assert_eq!(half, PullProgress { layers: 2, layers_done: 1, bytes: 50, total: 100 });
        take("b", "Download complete", None);
        let all = take("b", "Pull complete", None);
        assert_eq!(all, PullProgress { layers: 2, layers_done: 2, bytes: 100, total: 100 });
    }
}
