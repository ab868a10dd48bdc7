//! What the agent asks of the control plane: boot service, events, REST.
