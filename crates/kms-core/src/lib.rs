//! Keys, states, rotation and the registry of volumes: a pure state machine.
