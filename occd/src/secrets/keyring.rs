//! The system's keyring: the Secret Service of the desktop session on Linux
//! (<https://specifications.freedesktop.org/secret-service>), the Keychain on macOS.

use std::time::Duration;

use occ_proto::{HostName, Secret};
use tokio::time::timeout;

use super::Account;

/// How long the keyring may take for an answer. It may be asking a person to open it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the keyring was of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyringError {
    /// There is none in this session.
    #[error("there is no keyring")]
    Unavailable,
    /// It is locked, and has no display to ask on, or nobody opened it.
    #[error("the keyring is locked")]
    Locked,
    /// The same, and what is looked for is in it.
    #[error("the keyring that has one is locked")]
    LockedItem,
    /// It did not answer.
    #[error("the keyring did not answer within {} s", PATIENCE.as_secs())]
    Slow,
    /// It says no.
    #[error("the keyring: {0}")]
    Failed(String),
}

/// Returns whether there is one that can be used.
pub(super) async fn is_there() -> bool {
    within(system::is_there()).await.is_ok()
}

/// Returns a password.
pub(super) async fn get(account: &Account) -> Result<Option<Secret>, KeyringError> {
    within(system::get(account)).await
}

/// Keeps a password in place of the one before.
pub(super) async fn keep(account: &Account, password: &Secret) -> Result<(), KeyringError> {
    within(system::keep(account, password)).await
}

/// Deletes the passwords of a host, and returns how many there were.
pub(super) async fn forget(host: &HostName) -> Result<usize, KeyringError> {
    within(system::forget(host)).await
}

async fn within<T>(work: impl Future<Output = Result<T, KeyringError>>) -> Result<T, KeyringError> {
    timeout(PATIENCE, work).await.unwrap_or(Err(KeyringError::Slow))
}

#[cfg(target_os = "linux")]
mod system {
    use std::collections::HashMap;

    use occ_proto::{HostName, Secret};
    use secret_service::{Collection, EncryptionType, Error, SecretService};

    use super::KeyringError;
    use crate::secrets::{APPLICATION, Account};

    impl From<Error> for KeyringError {
        fn from(error: Error) -> Self {
            match error {
                // No keyring has been made.
                Error::Unavailable | Error::NoResult => Self::Unavailable,
                Error::Locked | Error::Prompt => Self::Locked,
                other => Self::Failed(occ_proto::text::sanitize(&other.to_string())),
            }
        }
    }

    async fn open() -> Result<SecretService<'static>, KeyringError> {
        SecretService::connect(EncryptionType::Dh).await.map_err(|error| {
            tracing::debug!(%error, "there is no Secret Service");
            KeyringError::Unavailable
        })
    }

    /// Returns whether a keyring that is locked can ask a person: without a display its question would wait
    /// for ever.
    fn can_ask() -> bool {
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some())
    }

    pub(super) async fn is_there() -> Result<(), KeyringError> {
        let service = open().await?;
        let collection = service.get_default_collection().await?;
        match can_ask() || !collection.is_locked().await? {
            true => Ok(()),
            false => Err(KeyringError::Locked),
        }
    }

    async fn unlocked<'a>(service: &'a SecretService<'_>) -> Result<Collection<'a>, KeyringError> {
        let collection = service.get_default_collection().await?;
        if collection.is_locked().await? {
            if !can_ask() {
                return Err(KeyringError::Locked);
            }
            collection.unlock().await?;
        }
        Ok(collection)
    }

    pub(super) async fn get(account: &Account) -> Result<Option<Secret>, KeyringError> {
        let service = open().await?;
        let found = service.search_items(attributes(account)).await?;
        if let Some(item) = found.unlocked.first() {
            return secret(item.get_secret().await?).map(Some);
        }
        let Some(item) = found.locked.first() else {
            // A keyring that nobody can open is none.
            return unlocked(&service).await.map(|_| None);
        };
        if !can_ask() {
            return Err(KeyringError::LockedItem);
        }
        item.unlock().await.map_err(|error| match error.into() {
            KeyringError::Locked => KeyringError::LockedItem,
            other => other,
        })?;
        secret(item.get_secret().await?).map(Some)
    }

    fn secret(bytes: Vec<u8>) -> Result<Secret, KeyringError> {
        let text = String::from_utf8(bytes);
        text.map(Secret::new).map_err(|_| KeyringError::Failed("it is not UTF-8".into()))
    }

    pub(super) async fn keep(account: &Account, password: &Secret) -> Result<(), KeyringError> {
        let service = open().await?;
        let collection = unlocked(&service).await?;
        let label = format!("{APPLICATION}: password for {account}");
        let bytes = password.expose().as_bytes();
        let attributes = attributes(account);
        // One that was for the same login and another host key is good for nothing any more.
        let mut any_key = attributes.clone();
        any_key.remove("host_key");
        for item in service.search_items(any_key).await?.unlocked {
            item.delete().await?;
        }
        collection.create_item(&label, attributes, bytes, true, "text/plain").await?;
        Ok(())
    }

    pub(super) async fn forget(host: &HostName) -> Result<usize, KeyringError> {
        let service = open().await?;
        let attributes = HashMap::from([("application", APPLICATION), ("host", host.as_str())]);
        let is_there = !service.search_items(attributes.clone()).await?.locked.is_empty();
        unlocked(&service).await.map_err(|error| match error {
            KeyringError::Locked if is_there => KeyringError::LockedItem,
            other => other,
        })?;
        let found = service.search_items(attributes).await?;
        for item in &found.unlocked {
            item.delete().await?;
        }
        Ok(found.unlocked.len())
    }

    fn attributes(account: &Account) -> HashMap<&str, &str> {
        HashMap::from([
            ("application", APPLICATION),
            ("host", account.host.as_str()),
            ("login", account.login.as_str()),
            ("host_key", account.host_key.as_str()),
        ])
    }
}

/// Never run: the project is built and tested on Linux.
#[cfg(target_os = "macos")]
mod system {
    use occ_proto::{HostName, Secret};
    use security_framework::base::Error;
    use security_framework::item::{ItemClass, ItemSearchOptions, Limit};
    use security_framework::passwords::{
        delete_generic_password, get_generic_password, set_generic_password,
    };

    use super::KeyringError;
    use crate::blocking::blocking;
    use crate::secrets::{APPLICATION, Account};

    /// `errSecItemNotFound`.
    const NOT_FOUND: i32 = -25300;

    impl From<Error> for KeyringError {
        fn from(error: Error) -> Self {
            Self::Failed(error.to_string())
        }
    }

    /// The service that items of a host belong to. An account is a login at a server.
    fn service(host: &HostName) -> String {
        format!("{APPLICATION}: {host}")
    }

    /// An account of the service.
    fn login(account: &Account) -> String {
        format!("{} {}", account.login, account.host_key)
    }

    pub(super) async fn is_there() -> Result<(), KeyringError> {
        Ok(())
    }

    pub(super) async fn get(account: &Account) -> Result<Option<Secret>, KeyringError> {
        let (service, login) = (service(&account.host), login(account));
        match blocking(move || get_generic_password(&service, &login)).await {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(Secret::new(text))),
                Err(_) => Err(KeyringError::Failed("it is not UTF-8".into())),
            },
            Err(error) if error.code() == NOT_FOUND => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn keep(account: &Account, password: &Secret) -> Result<(), KeyringError> {
        let (service, login) = (service(&account.host), login(account));
        let password = password.clone();
        let keep = move || set_generic_password(&service, &login, password.expose().as_bytes());
        Ok(blocking(keep).await?)
    }

    pub(super) async fn forget(host: &HostName) -> Result<usize, KeyringError> {
        let service = service(host);
        blocking(move || {
            let mut options = ItemSearchOptions::new();
            options.class(ItemClass::generic_password()).service(&service);
            options.load_attributes(true).limit(Limit::All);
            let found = match options.search() {
                Ok(found) => found,
                Err(error) if error.code() == NOT_FOUND => return Ok(0),
                Err(error) => return Err(error.into()),
            };
            let logins = found.iter().filter_map(|item| item.simplify_dict()?.remove("acct"));
            let mut count = 0;
            for login in logins {
                delete_generic_password(&service, &login)?;
                count += 1;
            }
            Ok(count)
        })
        .await
    }
}
