//! What single words of the language may look like: names, domain names, addresses. Pure; errors read as "`x`: …".

use std::net::{IpAddr, SocketAddr};

/// Longest name of a facility, service, member and so on.
const NAME: usize = 63;

/// Judges the name of a facility, service, member and so on. It becomes part of target identities (`member/accounts/west-pg1`), file
/// names and commands, hence the narrow choice of characters.
pub(super) fn name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("a name cannot be empty".to_owned());
    }
    if text.len() > NAME {
        return Err(format!("this name is longer than {NAME} characters"));
    }
    if let Some(wrong) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        return Err(format!(
            "`{text}`: a name has only letters, digits, `-`, `_` and `.`, not `{}`",
            wrong.escape_debug()
        ));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("`{text}`: a name begins with a letter or digit"));
    }
    Ok(())
}

/// Judges a name that a target has given, such as a proxy's backend: what could be taken for the end of a name in the target's own
/// command language is refused.
pub(super) fn foreign_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("a name cannot be empty".to_owned());
    }
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.' | ':' | '@' | '+')) {
        Some(wrong) => Err(format!("`{text}`: `{}` cannot be part of this name", wrong.escape_debug())),
        None => Ok(()),
    }
}

/// Judges a domain name and returns it in lower case without the final dot.
///
/// Lengths are those of RFC 1035 §2.3.4 (63 octets a label, 255 on the wire, which is 253 as text), characters those of RFC 1123
/// §2.1 (letters, digits and hyphens, a hyphen neither first nor last).
pub(super) fn domain_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() {
        return Err(format!("`{text}`: a domain name cannot be empty"));
    }
    if name.len() > 253 {
        return Err("a domain name has at most 253 characters".to_owned());
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(format!("`{text}`: a domain name has no empty label"));
        }
        if label.len() > 63 {
            return Err(format!("`{label}`: a label of a domain name has at most 63 characters"));
        }
        if let Some(wrong) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Err(format!(
                "`{text}`: a domain name has only letters, digits, `-` and `.`, not `{}`",
                wrong.escape_debug()
            ));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(format!("`{text}`: a label of a domain name neither begins nor ends with `-`"));
        }
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err(format!("`{text}` is an address, not a domain name"));
    }
    Ok(name)
}

/// Judges `ADDRESS:PORT`, `[V6]:PORT` or `HOST:PORT` and returns it in this form; `port` is for an address without one.
pub(super) fn address(text: &str, port: Option<u16>) -> Result<String, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(format!("`{text}`: port 0 cannot be reached")),
            _ => Ok(address.to_string()),
        };
    }
    let without_port = || {
        port.ok_or_else(|| {
            let form = if text.contains(':') { format!("[{text}]:PORT") } else { format!("{text}:PORT") };
            format!("`{text}`: the port is missing; write `{form}`")
        })
    };
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, without_port()?).to_string());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) => {
            let port = digits.parse::<u16>().ok().filter(|port| *port > 0);
            (host, port.ok_or_else(|| format!("`{text}`: `{digits}` is no port (1 to 65535)"))?)
        }
        None => (text, without_port()?),
    };
    if host.contains(':') {
        return Err(format!("`{text}`: an IPv6 address before a port stands in brackets, as in `[2001:db8::1]:53`"));
    }
    if host.split('.').all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("`{text}`: `{host}` is no IP address"));
    }
    Ok(format!("{}:{port}", domain_name(host)?))
}

/// Judges a published IP address.
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("`{text}` is no IP address such as `10.10.0.80`"))?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(format!("`{text}` cannot be reached by anybody"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_brought_to_one_form() {
        assert_eq!(address("10.10.0.80:80", None).unwrap(), "10.10.0.80:80");
        assert_eq!(address("10.10.0.80", Some(80)).unwrap(), "10.10.0.80:80");
        assert_eq!(address("[::1]:53", None).unwrap(), "[::1]:53");
        assert_eq!(address("2001:db8::1", Some(53)).unwrap(), "[2001:db8::1]:53");
        assert_eq!(address("DB.Example.:5432", None).unwrap(), "db.example:5432");
        for wrong in [
            "10.10.0.300:80",
            "10.10.0.1",
            "a:b",
            "host:0",
            "host:70000",
            "::1:99999",
            "",
            ":80",
            "a b:1",
            "10.1.1.1:0",
        ] {
            assert!(address(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn domain_names_keep_to_the_limits() {
        assert_eq!(domain_name("Pay.Clickbank.Example.").unwrap(), "pay.clickbank.example");
        let label = "a".repeat(63);
        assert!(domain_name(&label).is_ok());
        assert!(domain_name(&format!("{label}a")).is_err());
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(domain_name(&longest).is_ok());
        assert!(domain_name(&format!("{longest}a")).is_err());
        for wrong in ["", ".", "a..b", "-a.b", "a-.b", "a_b.c", "münchen.example", "10.0.0.1", "a/b"] {
            assert!(domain_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_cannot_break_identities_or_commands() {
        assert!(name("west-pg1").is_ok());
        for wrong in ["", "a/b", "a b", "-a", ".", "ä", "a\n", "a;b"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        assert!(foreign_name("accounts-primary").is_ok());
        assert!(foreign_name("a b").is_err());
    }
}
