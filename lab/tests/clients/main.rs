//! Application server, load, lost check and demo against a real PostgreSQL, pgbouncer and HAProxy on loopback. Needs root, to run
//! PostgreSQL and pgbouncer as `postgres`.

mod demo;
mod load;
mod stack;
