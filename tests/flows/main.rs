//! Flows through the real `handover` on the real servers of the worked example. Needs root and the packages of `lab/install.sh`.

#![allow(clippy::disallowed_methods, reason = "tests read files, start programs and look at the clock")]

mod clients;
mod drain;
mod edited;
mod failures;
mod history;
mod intents;
mod layouts;
mod lost;
mod partial;
mod powered;
mod refusals;
mod resumed;
mod split;
mod world;
