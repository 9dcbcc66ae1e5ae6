//! A pure function from observations to a connection's state, who must act and what happens next.
