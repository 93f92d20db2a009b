//! The worked example with what it takes to stop and start every server of west: hosts with the commands for it.

/// A topology whose servers in west can be stopped by name.
pub fn powered(text: &str) -> String {
    const COMMANDS: &str = r#"commands: {stop_server: [/srv/units/unit, stop, "{name}"], start_server: [/srv/units/unit, start, "{name}"], check_server: [/srv/units/unit, check, "{name}"]}"#;
    let mut out = String::new();
    for line in text.lines() {
        let own = line.contains("{facility: west,") && !line.contains("host:") && !line.contains("transport:");
        out += &match line.trim_start().split(':').next() {
            _ if own => line.replacen("{facility: west,", "{facility: west, host: west-power,", 1),
            Some("west-db1") => line.replacen('}', &format!(", {COMMANDS}}}"), 1),
            Some("west-job1") => {
                format!("{line}\n  west-power: {{transport: ssh, address: 10.10.0.120, user: root, {COMMANDS}}}")
            }
            _ => line.to_owned(),
        };
        out.push('\n');
    }
    out
}
