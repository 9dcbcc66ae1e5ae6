//! Workspace checks and chores.
fn main(){}
