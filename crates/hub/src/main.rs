//! Palisade. 
fn main(){}
