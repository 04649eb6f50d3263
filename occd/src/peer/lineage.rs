//! Where a process comes from, to tell a client that waits for an approval, and whatever it starts, from the person
//! who is to give it.
//!
//! A process stands for the terminal that it runs in: its territory is everything below the first process of that
//! terminal. One without a terminal (of an editor, a service) has as its territory whatever else has none and comes from
//! the same program. It is a guard: a program that makes a terminal of its own outside of it, or has another start one,
//! gets by.

/// The territory of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The process itself.
    own: Id,
    /// The outermost process of the territory.
    top: Id,
    /// The sessions (setsid(2)) of both.
    sessions: [u32; 2],
    /// The terminal; 0 for none.
    terminal: i32,
}

/// A process, which no later one with its number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    pid: u32,
    started: u64,
}

/// What the kernel knows of a process.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: Id,
    parent: u32,
    session: u32,
    terminal: i32,
    is_manager: bool,
}

/// The most generations that are looked at.
const GENERATIONS: usize = 256;
/// The most that are named.
const NAMED: usize = 5;

impl Lineage {
    /// Returns the territory of a process; nothing where the system does not tell.
    pub fn of(pid: u32) -> Option<Self> {
        let own = look(pid)?;
        let mut top = own;
        for _ in 0..GENERATIONS {
            let Some(parent) = look(top.parent).filter(|parent| !parent.is_manager) else { break };
            // The terminal's first process is its territory's.
            if top.terminal != 0 && (parent.session, parent.terminal) != (top.session, top.terminal)
            {
                break;
            }
            top = parent;
        }
        Some(Self {
            own: own.id,
            top: top.id,
            // What the top is in, where there is no terminal, may be a whole machine.
            sessions: [own.session, if top.terminal == 0 { own.session } else { top.session }],
            terminal: top.terminal,
        })
    }

    /// Returns whether a process belongs to the territory. One that cannot be told does.
    pub fn covers(&self, pid: u32) -> bool {
        let Some(process) = look(pid) else { return true };
        if self.terminal != 0 && process.terminal == self.terminal {
            return true;
        }
        // 0 is one of another PID namespace.
        if process.session != 0 && self.sessions.contains(&process.session) {
            return true;
        }
        let mut below_own = false;
        let mut below_top = false;
        let mut at = Some(process);
        for _ in 0..GENERATIONS {
            let Some(known) = at else { break };
            below_own |= known.id == self.own;
            below_top |= known.id == self.top;
            at = look(known.parent).filter(|parent| parent.id.pid != known.id.pid);
        }
        // A terminal of an editor's is a person's, though the editor may have started both.
        let is_apart = self.terminal == 0 && process.terminal != 0;
        below_own || (below_top && !is_apart)
    }
}

/// Returns the names of the processes that one comes from, its parent first and the service manager left out, as far
/// as the system tells.
pub fn parents(pid: u32) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = look_named(pid);
    while let Some((known, _)) = at
        && names.len() < NAMED
    {
        at = look_named(known.parent).filter(|(parent, _)| !parent.is_manager);
        names.extend(at.as_ref().map(|(_, name)| name.clone()));
    }
    names
}

fn look(pid: u32) -> Option<Known> {
    look_named(pid).map(|(known, _)| known)
}

#[cfg(target_os = "linux")]
fn look_named(pid: u32) -> Option<(Known, String)> {
    if pid == 0 {
        return None;
    }
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A program's name may have parentheses and spaces in it (proc(5)).
    let (before, rest) = text.rsplit_once(')')?;
    let name = before.split_once('(').map_or("", |(_, name)| name);
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<i64>().ok());
    let known = Known {
        id: Id { pid, started: u64::try_from(number(19)?).ok()? },
        parent: u32::try_from(number(1)?).ok()?,
        session: u32::try_from(number(3)?).ok()?,
        terminal: i32::try_from(number(4)?).ok()?,
        is_manager: pid == 1 || name == "systemd",
    };
    Some((known, name.to_owned()))
}

#[cfg(not(target_os = "linux"))]
fn look_named(_: u32) -> Option<(Known, String)> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_with_the_names_of_those_it_comes_from() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = look_named(std::process::id()).unwrap().1;
        assert_eq!(parents(child.id()).first(), Some(&own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(parents(child.id()), [""; 0]);
    }

    #[test]
    fn a_process_and_its_children_are_of_its_territory() {
        let own = std::process::id();
        let lineage = Lineage::of(own).unwrap();
        assert!(lineage.covers(own));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(lineage.covers(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        // One that is gone cannot be told from it.
        assert!(lineage.covers(child.id()));
    }
}
