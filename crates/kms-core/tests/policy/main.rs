//! The policy evaluator: AWS's documented examples, properties, and a second, naive evaluator that
//! every random policy and request must agree with.

mod differential;
mod examples;
mod naive;
mod properties;
mod random;
mod request;
