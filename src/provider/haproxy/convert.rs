//! Texts of the runtime API to facts, and settings to commands. Columns are found by their names, never by their places.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{
    Admission, BackendFacts, ForeignName, Operational, ProxyCapabilities, ProxyFacts, ProxyServerFacts, Saved,
    ServerSetting,
};

/// The largest weight (Configuration Manual §5.2, `weight`).
pub(super) const MAX_WEIGHT: u32 = 256;

/// `srv_admin_state`, Management Guide §9.3 "show servers state": forced and inherited maintenance, and maintenance for want of an
/// address. 0x04, "disabled in the configuration", only records that: it stays when the server is made ready.
const MAINT: u32 = 0x01 | 0x02 | 0x20;
/// The same: forced and inherited drain.
const DRAIN: u32 = 0x08 | 0x10;
/// `srv_check_state` and `srv_agent_state`: a check that is enabled.
const CHECK_ENABLED: u32 = 0x04;

/// True if HAProxy allows it as a name (Configuration Manual §2.2): nothing in it can end a command or begin another.
pub(super) fn is_name(name: &ForeignName) -> bool {
    let name = name.as_str();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// What is asked to learn about some backends; [`facts`] reads the replies.
pub(super) fn questions(backends: &BTreeSet<ForeignName>) -> Vec<String> {
    let mut questions = vec!["show info".to_owned(), "show cli level".to_owned(), FRONTENDS.to_owned()];
    for backend in backends {
        questions.push(format!("show servers state {backend}"));
        // Backends (2) and servers (4), of any number.
        questions.push(format!("show stat {backend} 6 -1"));
    }
    questions
}

/// Reads the replies to [`questions`].
///
/// # Errors
/// What is not as HAProxy answers, or that asking is not permitted.
pub(super) fn facts(
    backends: &BTreeSet<ForeignName>,
    replies: &[String],
    persistent: bool,
) -> Result<ProxyFacts, String> {
    let [info, level, frontends, per_backend @ ..] = replies else { return Err("replies are missing".to_owned()) };
    let info = |key: &str| {
        info.lines()
            .find_map(|line| line.split_once(": ").filter(|(name, _)| *name == key))
            .map(|(_, value)| value.trim())
            .ok_or_else(|| format!("`show info` says nothing of {key}: {}", short(info)))
    };
    let uptime = info("Uptime_sec")?;
    let uptime = uptime.parse().map_err(|_| format!("`show info` gives `{uptime}` as Uptime_sec"))?;
    let connections = info("CurrConns")?;
    let connections = connections.parse().map_err(|_| format!("`show info` gives `{connections}` as CurrConns"))?;
    let mut facts = ProxyFacts {
        version: format!("{} {}", info("Name")?, info("Version")?),
        age: Duration::from_secs(uptime),
        writable: level == "admin",
        connections: Some(connections),
        closed: self::frontends(frontends, true)?,
        backends: BTreeMap::new(),
        capabilities: ProxyCapabilities {
            max_weight: MAX_WEIGHT,
            zero_drains: true,
            cuts_sessions: true,
            closes_frontends: true,
            persistent,
        },
        saved: Saved::No,
    };
    for (name, replies) in backends.iter().zip(per_backend.chunks(2)) {
        let [states, stats] = replies else { return Err("replies are missing".to_owned()) };
        facts.backends.insert(name.clone(), backend(name, states, stats, facts.age)?);
    }
    Ok(facts)
}

/// What is asked to learn the frontends: statistics of type 1 only.
pub(super) const FRONTENDS: &str = "show stat -1 1 -1";

/// The frontends of the reply to [`FRONTENDS`] that have been closed, or those that have not.
///
/// # Errors
/// What is not as HAProxy answers.
pub(super) fn frontends(reply: &str, closed: bool) -> Result<BTreeSet<ForeignName>, String> {
    let rows = table(reply, csv).map_err(|text| format!("`{FRONTENDS}` says: {text}"))?;
    let rows = rows.iter().filter(|row| row.text("svname") == "FRONTEND" && (row.text("status") == "STOP") == closed);
    Ok(rows.map(|row| ForeignName::new(row.text("pxname"))).collect())
}

fn backend(name: &ForeignName, states: &str, stats: &str, age: Duration) -> Result<Option<BackendFacts>, String> {
    if states.starts_with("Can't find backend") {
        return Ok(None);
    }
    // The first line is the version of the format; everything else has its name in the header.
    let (_, states) = states.split_once('\n').unwrap_or(("", states));
    let states = table(states, |line| line.split_ascii_whitespace().map(str::to_owned).collect());
    let states = states.map_err(|text| format!("`show servers state {name}` says: {text}"))?;
    let stats = table(stats, csv).map_err(|text| format!("`show stat {name}` says: {text}"))?;
    let mut facts = BackendFacts::default();
    for row in stats.iter().filter(|row| row.text("pxname") == name.as_str()) {
        let server = row.text("svname");
        if server == "BACKEND" {
            facts.queue += row.count("qcur");
            facts.responses = responses(row);
            facts.connection_errors = row.count("econ");
            facts.response_errors = row.count("eresp");
            continue;
        }
        // The backend's own queue is for any server, each server's is for it alone: all of them wait.
        facts.queue += row.count("qcur");
        let Some(state) = states.iter().find(|row| row.text("srv_name") == server) else {
            return Err(format!("`show servers state {name}` does not know {server}"));
        };
        facts.servers.insert(ForeignName::new(server), self::server(state, row, age)?);
    }
    Ok(Some(facts))
}

fn server(state: &Row, stat: &Row, age: Duration) -> Result<ProxyServerFacts, String> {
    let number = |key: &str| {
        let text = state.text(key);
        text.parse::<u32>().map_err(|_| format!("`show servers state` gives `{text}` as {key}"))
    };
    let admission = admission(number("srv_admin_state")?);
    let checked = (number("srv_check_state")? | number("srv_agent_state")?) & CHECK_ENABLED != 0
        || !stat.text("tracked").is_empty();
    let operational = match number("srv_op_state")? {
        _ if !checked || admission == Admission::Maint => Operational::Unchecked,
        // "UP 1/3": on its way up or down, and so is a server that has just left maintenance until a check has passed.
        _ if between(stat.text("status")) => Operational::Starting,
        0 | 3 => Operational::Down,
        1 => Operational::Starting,
        _ => Operational::Up,
    };
    let (address, port) = (state.text("srv_addr"), state.text("srv_port"));
    let address = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    Ok(ProxyServerFacts {
        address,
        setting: ServerSetting { weight: number("srv_uweight")?, admission },
        operational,
        down_for: (operational == Operational::Down).then(|| down_for(stat, age)).flatten(),
        sessions: stat.count("scur"),
        queue: stat.count("qcur"),
        requests: stat.count("stot"),
        rate: stat.count("rate"),
        responses: responses(stat),
        errors: stat.count("econ") + stat.count("eresp"),
    })
}

/// For how long a server has been down at least: `lastchg`, "number of seconds since the last UP<->DOWN transition" (Management Guide §9.1).
/// That is a difference of whole seconds, so that the last of them may not have passed; and what a state file brought back from another
/// process was watched by nobody while there was none. A change to `drain` or `maint` begins it anew, which only makes it shorter.
fn down_for(stat: &Row, age: Duration) -> Option<Duration> {
    let seconds: u64 = stat.text("lastchg").parse().ok()?;
    Some(Duration::from_secs(seconds.saturating_sub(1)).min(age))
}

fn admission(bits: u32) -> Admission {
    match bits {
        bits if bits & MAINT != 0 => Admission::Maint,
        bits if bits & DRAIN != 0 => Admission::Drain,
        _ => Admission::Ready,
    }
}

/// Whether the text of a state file would bring servers back as they are now.
pub(super) fn saved(facts: &ProxyFacts, text: &str) -> Saved {
    let outdated = |what: String| Saved::Outdated(format!("its state file {what}"));
    let rows = text.split_once('\n').map(|(_, rows)| rows).unwrap_or_default();
    if rows.is_empty() {
        return outdated("is empty or not there".to_owned());
    }
    let split: fn(&str) -> Vec<String> = |line| line.split_ascii_whitespace().map(str::to_owned).collect();
    let Ok(rows) = table(rows, split) else { return outdated("holds something else".to_owned()) };
    let rows: BTreeMap<(&str, &str), &Row> =
        rows.iter().map(|row| ((row.text("be_name"), row.text("srv_name")), row)).collect();
    for (backend, found) in &facts.backends {
        for (name, server) in found.iter().flat_map(|found| &found.servers) {
            let Some(row) = rows.get(&(backend.as_str(), name.as_str())) else {
                return outdated(format!("lacks {backend}/{name}"));
            };
            let number = |key: &str| row.text(key).parse::<u32>();
            let (Ok(weight), Ok(bits)) = (number("srv_uweight"), number("srv_admin_state")) else {
                return outdated(format!("has no numbers for {backend}/{name}"));
            };
            let kept = ServerSetting { weight, admission: admission(bits) };
            if !kept.same_effect(server.setting) {
                return outdated(format!("has {backend}/{name} with {kept}, now it has {}", server.setting));
            }
        }
    }
    Saved::Yes
}

fn between(status: &str) -> bool {
    let counts = status.rsplit_once(' ').and_then(|(_, counts)| counts.split_once('/'));
    counts.is_some_and(|(have, need)| have.parse::<u32>().is_ok() && need.parse::<u32>().is_ok())
}

fn responses(row: &Row) -> BTreeMap<u8, u64> {
    let columns = ["hrsp_other", "hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx"];
    let counts = columns.into_iter().zip(0..).map(|(column, digit)| (digit, row.count(column)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// A line of a table by the names of its columns.
struct Row(BTreeMap<String, String>);

impl Row {
    fn text(&self, column: &str) -> &str {
        self.0.get(column).map_or("", String::as_str)
    }

    /// A counter; what does not apply to a line is empty there.
    fn count(&self, column: &str) -> u64 {
        self.text(column).parse().unwrap_or(0)
    }
}

/// Reads a table whose header begins with `# `; anything else is handed back as the error.
fn table(text: &str, split: fn(&str) -> Vec<String>) -> Result<Vec<Row>, String> {
    let mut lines = text.lines();
    let header = lines.next().and_then(|line| line.strip_prefix("# ")).ok_or_else(|| short(text))?;
    let header = split(header);
    let rows = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(rows.map(|line| Row(header.iter().cloned().zip(split(line)).collect())).collect())
}

/// The fields of a line of comma-separated values; quoted ones hold commas, and quotes twice (RFC 4180 §2).
fn csv(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut characters) = (false, line.chars().peekable());
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => push(&mut fields, other),
        }
    }
    fields
}

fn push(fields: &mut [String], character: char) {
    if let Some(field) = fields.last_mut() {
        field.push(character);
    }
}

/// The first line of a text that was not expected.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or("nothing");
    line.chars().take(200).collect()
}

/// The present settings of servers.
///
/// # Errors
/// If there is no such backend or server.
pub(super) fn present<'a>(
    backend: &ForeignName,
    facts: &ProxyFacts,
    servers: impl IntoIterator<Item = &'a ForeignName>,
) -> Result<BTreeMap<ForeignName, ServerSetting>, String> {
    let Some(Some(known)) = facts.backends.get(backend) else {
        return Err(format!("there is no backend {backend}"));
    };
    let setting = |name: &ForeignName| match known.servers.get(name) {
        Some(server) => Ok((name.clone(), server.setting)),
        None => Err(format!("backend {backend} has no server {name}")),
    };
    servers.into_iter().map(setting).collect()
}

/// A command that changes a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub server: ForeignName,
    pub text: String,
}

/// The commands that lead from the present settings to the wanted ones, in a safe order: what grows comes before what shrinks, so
/// that at no moment less than both sides have in common can serve; and a server gets its weight before its first request and keeps
/// it until its last.
pub(super) fn orders(
    backend: &ForeignName,
    present: &BTreeMap<ForeignName, ServerSetting>,
    wanted: &BTreeMap<ForeignName, ServerSetting>,
) -> Vec<Order> {
    let effective = |setting: &ServerSetting| if setting.admission == Admission::Ready { setting.weight } else { 0 };
    let changes = wanted.iter().filter_map(|(name, to)| Some((name, present.get(name)?, to)));
    let (grow, shrink): (Vec<_>, Vec<_>) = changes.partition(|(_, from, to)| effective(to) >= effective(from));
    let mut orders = Vec::new();
    for (name, from, to) in grow.into_iter().chain(shrink) {
        let mut texts = Vec::new();
        if from.weight != to.weight {
            texts.push(format!("set server {backend}/{name} weight {}", to.weight));
        }
        if from.admission != to.admission {
            texts.push(format!("set server {backend}/{name} state {}", to.admission));
        }
        if to.admission != Admission::Ready {
            texts.reverse();
        }
        orders.extend(texts.into_iter().map(|text| Order { server: name.clone(), text }));
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(weight: u32, admission: Admission) -> ServerSetting {
        ServerSetting { weight, admission }
    }

    fn settings<const N: usize>(servers: [(&str, u32, Admission); N]) -> BTreeMap<ForeignName, ServerSetting> {
        servers.into_iter().map(|(name, weight, admission)| (name.into(), setting(weight, admission))).collect()
    }

    fn texts(
        present: &BTreeMap<ForeignName, ServerSetting>,
        wanted: &BTreeMap<ForeignName, ServerSetting>,
    ) -> Vec<String> {
        orders(&"b".into(), present, wanted).into_iter().map(|order| order.text).collect()
    }

    #[test]
    fn what_grows_comes_before_what_shrinks() {
        use Admission::{Drain, Maint, Ready};
        let present = settings([("a", 100, Ready), ("b", 1, Maint), ("c", 50, Ready), ("d", 7, Ready)]);
        let wanted = settings([("a", 1, Drain), ("b", 100, Ready), ("c", 60, Ready), ("d", 7, Ready)]);
        let expected = [
            "set server b/b weight 100",
            "set server b/b state ready",
            "set server b/c weight 60",
            "set server b/a state drain",
            "set server b/a weight 1",
        ];
        assert_eq!(texts(&present, &wanted), expected);
        assert_eq!(texts(&wanted, &wanted), Vec::<String>::new());
    }

    proptest::proptest! {
        /// Carried out one by one, the commands end at the wanted settings, and no moment has less weight than both ends.
        #[test]
        fn orders_lead_there_and_never_below_both_ends(
            servers in proptest::collection::vec((0u32..=256, 0usize..3, 0u32..=256, 0usize..3), 1..6)
        ) {
            let admissions = [Admission::Ready, Admission::Drain, Admission::Maint];
            let name = |index: usize| ForeignName::new(format!("s{index}"));
            let mut now: BTreeMap<_, _> =
                servers.iter().enumerate().map(|(i, s)| (name(i), setting(s.0, admissions[s.1]))).collect();
            let wanted: BTreeMap<_, _> =
                servers.iter().enumerate().map(|(i, s)| (name(i), setting(s.2, admissions[s.3]))).collect();
            let total = |servers: &BTreeMap<ForeignName, ServerSetting>| -> u32 {
                servers.values().filter(|s| s.admission == Admission::Ready).map(|s| s.weight).sum()
            };
            let floor = total(&now).min(total(&wanted));
            for order in orders(&"b".into(), &now, &wanted) {
                let server = now.get_mut(&order.server).unwrap();
                match order.text.split(' ').collect::<Vec<_>>()[3..] {
                    ["weight", weight] => server.weight = weight.parse().unwrap(),
                    ["state", "ready"] => server.admission = Admission::Ready,
                    ["state", "drain"] => server.admission = Admission::Drain,
                    ["state", "maint"] => server.admission = Admission::Maint,
                    ref other => panic!("{other:?}"),
                }
                proptest::prop_assert!(total(&now) >= floor);
            }
            proptest::prop_assert_eq!(now, wanted);
        }
    }

    #[test]
    fn values_with_commas_and_quotes_are_one_field() {
        assert_eq!(csv(r#"a,"b,""c""",,d"#), ["a", r#"b,"c""#, "", "d"]);
    }

    #[test]
    fn names_that_could_end_a_command_are_none() {
        for name in ["", "a b", "a;b", "a\nb", "a/b", "é"] {
            assert!(!is_name(&name.into()), "{name:?}");
        }
        assert!(is_name(&"order-form_1.west:80".into()));
    }

    const INFO: &str = "Name: HAProxy\nVersion: 2.6.12\nUptime_sec: 61\nCurrConns: 3\nTainted: 0";
    const STATES: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
        srv_check_state srv_agent_state srv_port\n3 web 1 a 10.0.0.1 2 0 100 100 6 0 8080\n3 web 2 b 10.0.0.2 2 8 0 100 6 0 \
        8080\n3 web 3 c 10.0.0.3 0 1 5 100 14 0 8080\n3 web 4 d fd00::4 2 0 9 100 0 0 8080\n3 web 5 e 10.0.0.5 0 4 9 100 6 0 \
        8080\n3 web 6 f 10.0.0.6 2 0 9 100 6 0 8080";
    const STATS: &str = "# pxname,svname,qcur,scur,stot,econ,eresp,status,lastchg,tracked,rate,hrsp_2xx,hrsp_5xx,last_chk\n\
        web,a,1,2,30,4,5,UP,40,,6,20,1,\"one, two\"\nweb,b,0,1,1,0,0,DRAIN,40,,0,1,0,\nweb,c,0,0,0,0,0,MAINT,40,,0,,,\n\
        web,d,0,0,0,0,0,no check,40,,0,,,\nweb,e,0,0,0,0,0,DOWN,33,,0,,,\nweb,f,0,0,0,0,0,UP 1/3,40,,0,,,\n\
        web,BACKEND,7,3,31,4,5,UP,40,,6,21,1,";

    const FRONTS: &str = "# pxname,svname,status\nin,FRONTEND,OPEN\nold,FRONTEND,STOP";

    fn ask(backends: &[&str], replies: &[&str]) -> Result<ProxyFacts, String> {
        let backends = backends.iter().map(|name| ForeignName::from(*name)).collect();
        facts(&backends, &replies.iter().map(|reply| (*reply).to_owned()).collect::<Vec<_>>(), false)
    }

    #[test]
    fn replies_become_facts() {
        let missing = ["Can't find backend.", "No such proxy."];
        let facts = ask(&["nope", "web"], &[INFO, "admin", FRONTS, missing[0], missing[1], STATES, STATS]).unwrap();
        assert_eq!((facts.version.as_str(), facts.age.as_secs(), facts.writable), ("HAProxy 2.6.12", 61, true));
        assert_eq!(facts.closed, BTreeSet::from(["old".into()]));
        assert_eq!(facts.backends["nope"], None);
        let web = facts.backends["web"].as_ref().unwrap();
        assert_eq!((web.queue, web.connection_errors, web.response_errors), (8, 4, 5));
        assert_eq!(web.responses, BTreeMap::from([(2, 21), (5, 1)]));
        let a = &web.servers["a"];
        assert_eq!((a.address.as_str(), a.setting), ("10.0.0.1:8080", setting(100, Admission::Ready)));
        assert_eq!((a.sessions, a.queue, a.requests, a.rate, a.errors), (2, 1, 30, 6, 9));
        assert_eq!(web.servers["b"].setting, setting(0, Admission::Drain));
        assert_eq!(web.servers["c"].setting, setting(5, Admission::Maint));
        assert_eq!(web.servers["d"].address, "[fd00::4]:8080");
        let operational: Vec<_> = web.servers.values().map(|server| server.operational).collect();
        use Operational::{Down, Starting, Unchecked, Up};
        assert_eq!(operational, [Up, Up, Unchecked, Unchecked, Down, Starting]);
    }

    #[test]
    fn a_server_has_been_down_for_no_longer_than_anybody_has_watched() {
        let down_for = |stats: &str| -> Vec<Option<u64>> {
            let facts = ask(&["web"], &[INFO, "admin", FRONTS, STATES, stats]).unwrap();
            let servers = facts.backends["web"].as_ref().unwrap().servers.values();
            servers.map(|server| server.down_for.map(|time| time.as_secs())).collect()
        };
        let only_e = |seconds| vec![None, None, None, None, seconds, None];
        assert_eq!(down_for(STATS), only_e(Some(32)));
        let lasts = |text: &str| down_for(&STATS.replace("DOWN,33", text));
        assert_eq!(lasts("DOWN,0"), only_e(Some(0)));
        // The process is 61 s old; the rest is what a state file says.
        assert_eq!(lasts("DOWN,86400"), only_e(Some(61)));
        assert_eq!(lasts("DOWN,"), only_e(None));
        // One check has passed again.
        assert_eq!(lasts("DOWN 1/2,33"), only_e(None));
    }

    #[test]
    fn a_state_file_is_good_if_it_brings_everything_back() {
        let facts = ask(&["web"], &[INFO, "admin", FRONTS, STATES, STATS]).unwrap();
        assert_eq!(saved(&facts, STATES), Saved::Yes);
        // The weight of a server that gets no requests does not matter.
        assert_eq!(saved(&facts, &STATES.replace("2 8 0 100", "2 8 7 100")), Saved::Yes);
        let told = |text: &str| match saved(&facts, text) {
            Saved::Outdated(what) => what,
            other => panic!("{other:?}"),
        };
        let lighter = told(&STATES.replace("2 0 100 100", "2 0 99 100"));
        assert_eq!(lighter, "its state file has web/a with weight 99, now it has weight 100");
        assert_eq!(told(&STATES.replace("web 2 b", "web 2 z")), "its state file lacks web/b");
        for (text, what) in [("", "empty"), ("1\n", "empty"), ("1\nhello", "something else"), (&STATES[..300], "")] {
            assert!(told(text).contains(what), "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_never_absence() {
        for replies in [
            &["Permission denied", "user", FRONTS, STATES, STATS][..],
            &[INFO, "user", "Permission denied", STATES, STATS],
            &[INFO, "user", FRONTS, "Permission denied", STATS],
            &[INFO, "user", FRONTS, STATES, "Permission denied"],
            &[INFO, "user", FRONTS, STATES],
            &[INFO],
            &[INFO, "user", FRONTS, "1\n# srv_name\na", STATS],
        ] {
            assert!(ask(&["web"], replies).is_err(), "{replies:?}");
        }
    }
}
