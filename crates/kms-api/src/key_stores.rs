//! Operations of custom key stores, which kmsd does not have. Only what names a store is read: the other members hold
//! passwords and credentials, and nothing here has a use for them.

use serde::{Deserialize, Serialize};

use crate::members::Text;
use crate::request::{MARKER, requests};
use crate::response::responses;

const NAME: Text = Text::len(1, 256);
const ID: Text = Text::len(1, 64);

requests! {
    /// Makes a custom key store.
    CreateCustomKeyStoreRequest {
        /// Its name.
        custom_key_store_name: String = "CustomKeyStoreName" text(NAME);
    }

    /// Connects a custom key store.
    ConnectCustomKeyStoreRequest {
        /// Which.
        custom_key_store_id: String = "CustomKeyStoreId" text(ID);
    }

    /// Disconnects a custom key store.
    DisconnectCustomKeyStoreRequest {
        /// Which.
        custom_key_store_id: String = "CustomKeyStoreId" text(ID);
    }

    /// Describes custom key stores.
    DescribeCustomKeyStoresRequest {
        /// Which, by id.
        custom_key_store_id: Option<String> = "CustomKeyStoreId" opt_text(ID);
        /// Which, by name.
        custom_key_store_name: Option<String> = "CustomKeyStoreName" opt_text(NAME);
        /// Most entries to return.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
    }

    /// Changes a custom key store.
    UpdateCustomKeyStoreRequest {
        /// Which.
        custom_key_store_id: String = "CustomKeyStoreId" text(ID);
        /// Its new name.
        new_custom_key_store_name: Option<String> = "NewCustomKeyStoreName" opt_text(NAME);
    }

    /// Deletes a custom key store.
    DeleteCustomKeyStoreRequest {
        /// Which.
        custom_key_store_id: String = "CustomKeyStoreId" text(ID);
    }
}

responses! {
    /// The new store; never sent.
    CreateCustomKeyStoreResponse {
        /// Its id.
        custom_key_store_id: String,
    }

    /// A page of stores; never sent.
    DescribeCustomKeyStoresResponse {
        /// Whether there is a next page.
        truncated: bool,
    }
}
