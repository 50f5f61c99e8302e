//! The client, against a peer that the test plays, with paused time.

mod basics;
