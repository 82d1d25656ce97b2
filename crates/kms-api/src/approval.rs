//! Requests that wait for the approval of others.

use serde::{Deserialize, Serialize};

use crate::id::ResourceId;
use crate::request::requests;
use crate::response::responses;
use crate::timestamp::Timestamp;

requests! {
    /// Lists the requests that wait: those that the caller may approve, has made, or administers.
    #[derive(Default, Copy)]
    ListApprovalsRequest {}

    /// Describes a request that waits.
    DescribeApprovalRequest {
        /// Its id.
        approval_id: ResourceId = "ApprovalId" id();
    }

    /// Approves a request of somebody else. Approvers of the configuration only.
    ApproveRequestRequest {
        /// Its id.
        approval_id: ResourceId = "ApprovalId" id();
    }

    /// Takes a request that waits off the list: its requester, an approver or an administrator.
    CancelApprovalRequest {
        /// Its id.
        approval_id: ResourceId = "ApprovalId" id();
    }
}

responses! {
    /// A request that waits for approvals.
    Approval {
        /// Its id.
        approval_id: ResourceId,
        /// Name of the operation.
        operation: String,
        /// The members of the request, as JSON.
        parameters: String,
        /// ARNs of the keys that it is about.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        keys: Vec<String>,
        /// Principal that asked.
        requester: String,
        /// Principals that have approved, and whose approvals count.
        approved_by: Vec<String>,
        /// Approvals needed.
        required: u64,
        /// Principals that may approve, now.
        approvers: Vec<String>,
        /// When it was asked for.
        creation_date: Timestamp,
        /// When it lapses.
        end_date: Timestamp,
    }

    /// The requests that wait.
    ListApprovalsResponse {
        /// In the order of their ids.
        approvals: Vec<Approval>,
    }

    /// A request that waits.
    DescribeApprovalResponse {
        /// The request.
        approval: Approval,
    }

    /// The approval is noted.
    ApproveRequestResponse {
        /// The request as it stands now.
        approval: Approval,
    }
}
