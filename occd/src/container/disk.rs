//! What a sandbox takes on its host's disk.

use bollard::query_parameters::InspectContainerOptions;
use jiff::Timestamp;
use occ_proto::container::{DiskUse, SANDBOX_CONTAINER};
use serde_json::Value;

use super::{Docker, DockerError, SandboxError};

/// The first version of the API in which one may ask for volumes alone.
const TYPES: (usize, usize) = (1, 42);

/// Looks at the disk, which makes Docker count all its volumes; nothing where there is no sandbox.
///
/// # Errors
/// When Docker cannot be asked.
pub async fn measure(docker: &Docker) -> Result<Option<DiskUse>, DockerError> {
    let client = docker.client();
    let options = InspectContainerOptions { size: true };
    let looked = client.inspect_container(SANDBOX_CONTAINER, Some(options)).await;
    let container = match looked {
        Ok(container) => container,
        Err(error) => {
            return match SandboxError::from(error) {
                error if error.is_not_found() => Ok(None),
                SandboxError::Docker(error) => Err(error),
                // An answer of Docker's is one of the two.
                _ => Ok(None),
            };
        }
    };
    let size = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    let image = match &container.image {
        Some(image) => client.inspect_image(image).await.map_err(DockerError::from)?.size,
        None => None,
    };
    let version = client.client_version();
    let path = match (version.major_version, version.minor_version) >= TYPES {
        true => "/system/df?type=volume&verbose=true",
        false => "/system/df",
    };
    let all = docker.get(path).await?;
    let mounts = container.mounts.unwrap_or_default();
    let names = mounts.iter().filter_map(|mount| mount.name.as_deref());
    Ok(Some(DiskUse {
        container: size(container.size_rw),
        image: size(image),
        volumes: names.map(|name| volume(&all, name)).sum(),
        as_of: Timestamp::now(),
    }))
}

/// Returns a volume's size in what Docker says of the disk, in either form that it has had.
fn volume(all: &Value, name: &str) -> u64 {
    let volumes = all.get("Volumes").or_else(|| all.pointer("/VolumeUsage/Items"));
    let volumes = volumes.and_then(Value::as_array).into_iter().flatten();
    let named = volumes.filter(|volume| volume.get("Name").and_then(Value::as_str) == Some(name));
    // It is -1 where Docker does not know it.
    named.filter_map(|volume| volume.pointer("/UsageData/Size")?.as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_are_found_in_both_forms() {
        let one = json!([{"Name": "a", "UsageData": {"Size": 7}}, {"Name": "b", "UsageData": {"Size": -1}}]);
        for all in [json!({"Volumes": one}), json!({"VolumeUsage": {"Items": one}})] {
            assert_eq!((volume(&all, "a"), volume(&all, "b"), volume(&all, "c")), (7, 0, 0));
        }
        assert_eq!(volume(&json!({}), "a"), 0);
    }
}
