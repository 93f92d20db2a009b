//! Health checks ↔ requests and answers: pure.

use std::time::Duration;

use crate::model::{HealthCheck, ServerFacts};

/// The URL of a health check at `host:port`.
pub(super) fn url(address: &str, check: &HealthCheck) -> String {
    let slash = if check.path.starts_with('/') { "" } else { "/" };
    format!("http://{address}{slash}{}", check.path)
}

/// What an answer says of a server: healthy is the expected status and nothing else.
pub(super) fn facts(check: &HealthCheck, status: u16, latency: Duration) -> ServerFacts {
    ServerFacts { healthy: status == check.expect, status, latency }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_begins_with_one_slash() {
        for path in ["/health?full=1", "health?full=1"] {
            let check = HealthCheck { path: path.to_owned(), expect: 200, host: "pay.example".to_owned() };
            assert_eq!(url("[::1]:8080", &check), "http://[::1]:8080/health?full=1");
        }
    }

    #[test]
    fn only_the_expected_status_is_healthy() {
        let check = HealthCheck { path: "/".to_owned(), expect: 204, host: "pay.example".to_owned() };
        assert!(facts(&check, 204, Duration::ZERO).healthy);
        assert!(!facts(&check, 200, Duration::ZERO).healthy);
    }
}
